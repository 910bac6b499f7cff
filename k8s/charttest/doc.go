// Package charttest tests the Helm chart (../chart) without a cluster: it renders the chart with
// Helm's own engine for many values, decodes every object into the real Go type, and judges what
// is in it. It writes ../chart/README.md and ../tollgate.yaml, too (go test -update).
//
// It is a module of its own, so that neither the server nor the tests of the manifests compile
// Helm: `make test-chart` runs it.
package charttest
