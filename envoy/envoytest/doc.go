// Package envoytest runs a real Envoy on this machine and talks to it byte for byte: it finds the
// binary, turns a shipped bootstrap into one that fits free local ports, starts and stops the
// process, and holds the two ends of a request through it, a raw client and an upstream that says
// what it received.
//
// Tests and `tollgate-demo` use the same code, so nothing here knows package testing.
package envoytest
