package doctor

import "strconv"

// change is what to change, by how Envoy is run; Any is for all of them.
type change struct {
	Envoy        string `json:"envoy,omitempty"`
	Istio        string `json:"istio,omitempty"`
	EnvoyGateway string `json:"envoy_gateway,omitempty"`
	Any          string `json:"any,omitempty"`
}

// changeServer is for a server that does not answer.
func changeServer() change {
	return change{Any: "give the --http-address of every replica; in Kubernetes forward a port to each pod"}
}

// changeLog has the log sent.
func changeLog() change {
	return change{
		Envoy:        "add the access log envoy.access_loggers.http_grpc of envoy/envoy.yaml to each HTTP connection manager: log_name tollgate, and the cluster of the gRPC port",
		Istio:        "apply k8s/access-log/istio.yaml; its workloadSelector must select the gateways, and its cluster_name name the service and port of Tollgate",
		EnvoyGateway: "apply k8s/access-log/envoy-gateway.yaml; the Gateway must name the EnvoyProxy in infrastructure.parametersRef, and the ReferenceGrant stand in Tollgate's namespace",
	}
}

// changeMetadata has entries carry what was decided.
func changeMetadata() change {
	return change{
		Envoy:        "the ext_authz filter must stand in the same connection manager, ask over grpc_service (http_service gives no metadata), keep enable_dynamic_metadata_ingestion on, and not be disabled for these routes",
		Istio:        "the AuthorizationPolicy (action CUSTOM, provider envoyExtAuthzGrpc) must cover these gateways and paths, see k8s/istio.yaml",
		EnvoyGateway: "each HTTPRoute needs the SecurityPolicy with extAuth.grpc of k8s/envoy-gateway.yaml",
	}
}

// changeFlush has the log sent sooner.
func changeFlush() change {
	return change{
		Envoy:        "set buffer_flush_interval: 0.05s in the common_config of the access log, and have NTP on both machines",
		Istio:        "use the EnvoyFilter of k8s/access-log/istio.yaml; a mesh-wide envoyHttpAls provider cannot say it",
		EnvoyGateway: "apply the EnvoyPatchPolicy of k8s/access-log/envoy-gateway.yaml (buffer_flush_interval); it needs extensionApis.enableEnvoyPatchPolicy",
	}
}

// changeInterval has requests that last told of every so many seconds at most.
func changeInterval(most float64) change {
	every := strconv.FormatFloat(max(float64(int(most)), 1), 'f', -1, 64) + "s"
	return change{
		Envoy:        "set access_log_options: {access_log_flush_interval: " + every + "} or less in the HTTP connection manager, or raise max_duration in the policy",
		Istio:        "set access_log_options.access_log_flush_interval: " + every + " or less in the EnvoyFilter of k8s/access-log/istio.yaml",
		EnvoyGateway: "set /access_log_options to {access_log_flush_interval: " + every + "} or less in the EnvoyPatchPolicy of k8s/access-log/envoy-gateway.yaml",
	}
}
