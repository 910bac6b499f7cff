{{- /* metadata of an object beside the gateways, of (list . SUFFIX NAMESPACE). */}}
{{- define "tollgate.besideGateway" -}}
{{- $metadata := fromYaml (include "tollgate.metadata" (list (index . 0) (index . 1) "integration")) }}
{{- toYaml (set $metadata "namespace" (index . 2)) }}
{{- end }}

{{- /* The Service that finds the pods behind it: gateways balance over all of them. */}}
{{- define "tollgate.host" -}}
{{ include "tollgate.fullname" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "tollgate.backendRef" -}}
{group: "", kind: Service, name: {{ include "tollgate.fullname" . }}, namespace: {{ .Release.Namespace }}, port: 9001}
{{- end }}

{{- /* Which of Istio's gateways, of (list . FIELD): FIELD is what labels are written under. */}}
{{- define "tollgate.istioTarget" -}}
{{- $ := index . 0 }}
{{- if $.Values.istio.targetRefs -}}
targetRefs:
{{- range $.Values.istio.targetRefs }}
- {group: gateway.networking.k8s.io, kind: Gateway, name: {{ .name }}}
{{- end }}
{{- else -}}
{{ index . 1 }}
  {{- range $name, $value := $.Values.istio.selector }}
    {{ $name }}: {{ $value | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* What values.schema.json cannot say of the gateways' side. */}}
{{- define "tollgate.validateIntegration" -}}
{{- $v := .Values }}
{{- if and (eq $v.integration "istio") (not (or $v.istio.selector $v.istio.targetRefs)) }}
{{- fail "istio.selector: name the labels of the gateways' pods, or the Gateways in istio.targetRefs" }}
{{- end }}
{{- if and (eq $v.integration "envoyGateway") (not (and $v.envoyGateway.gateway.name $v.envoyGateway.gateway.namespace)) }}
{{- fail "envoyGateway.gateway: give the name and the namespace of the Gateway that is to ask Tollgate" }}
{{- end }}
{{- if and (eq $v.integration "envoyGateway") $v.envoyGateway.patches (not $v.envoyGateway.gateway.listeners) }}
{{- fail "envoyGateway.gateway.listeners: name them; envoyGateway.patches changes each" }}
{{- end }}
{{- if eq $v.integration "gatewayApi" }}
{{- include "tollgate.validateController" $v.gatewayApi.controller }}
{{- if not (or $v.gatewayApi.routes $v.gatewayApi.namespaces) }}
{{- fail "gatewayApi.routes: give the routes that are to ask Tollgate, or in gatewayApi.namespaces where yours are" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tollgate.validateController" -}}
{{- $known := list "io.cilium/gateway-controller" "kind.sigs.k8s.io/gateway-controller" }}
{{- if eq . "gateway.envoyproxy.io/gatewayclass-controller" }}
{{- fail "gatewayApi.controller: Envoy Gateway does not implement the filter ExternalAuth: set integration: envoyGateway" }}
{{- else if eq . "istio.io/gateway-controller" }}
{{- fail "gatewayApi.controller: Istio does not implement the filter ExternalAuth: set integration: istio" }}
{{- else if not (has . $known) }}
{{- fail (printf "gatewayApi.controller: %q: give the controllerName of your GatewayClass; those known to ask an ext_authz server over gRPC are %s" . (join ", " $known)) }}
{{- end }}
{{- end }}
