// Package kubetest runs a Kubernetes to install Tollgate in: a real API server with etcd and the
// real controllers behind it, and one node, which this package plays.
//
// The node does what a kubelet does with the pods that it is given. It takes arguments, environment
// and files from the API's objects, runs the container's program with them under the container's
// user, with a root folder, a network and an address of its own, asks the probes, keeps mounted
// ConfigMaps and Secrets up to date, and reports the status. There are no images and no registry:
// Images says which programs of this machine a container finds in its root. There is no kube-proxy:
// the name of a Service leads to its pods, by the hosts file of each container. Nothing enforces
// NetworkPolicies or limits of memory and CPU.
//
// It needs Linux and root, in namespaces of its own that end with the process: `make test-k8s`.
package kubetest
