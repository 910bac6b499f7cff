// Package k8s holds plain manifests that run Tollgate on Kubernetes (tollgate.yaml, redis.yaml) and
// put it behind Istio (istio.yaml, istio-mesh.yaml) or Envoy Gateway (envoy-gateway.yaml).
//
// Its tests decode every object into the real Go type and refuse unknown fields, hold custom
// resources against the schemas that their projects ship, and follow every reference from one
// object to another. The rules that a resource definition states in CEL are run by the API server
// of `make test-k8s`, which also installs the chart.
//
// It is a module of its own so that the server's go.mod does not grow by Kubernetes, Istio and
// Envoy Gateway.
package k8s
