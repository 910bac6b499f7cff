{{- define "tollgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* At most 40 characters, so that there is room for what is appended: labels have 63. */}}
{{- define "tollgate.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tollgate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "tollgate.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* What selects the pods of a component, of (list . COMPONENT). It never changes. */}}
{{- define "tollgate.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "tollgate.name" $ | toYaml }}
app.kubernetes.io/instance: {{ $.Release.Name | toYaml }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- /* metadata of (list . SUFFIX COMPONENT [ANNOTATIONS]), named for the release. */}}
{{- define "tollgate.metadata" -}}
{{- $ := index . 0 }}
{{- $annotations := dict }}
{{- if gt (len .) 3 }}{{- $annotations = index . 3 }}{{- end }}
{{- include "tollgate.metadataOf" (list $ (printf "%s%s" (include "tollgate.fullname" $) (index . 1)) (index . 2) $annotations) }}
{{- end }}

{{- /* metadata of (list . NAME COMPONENT ANNOTATIONS). */}}
{{- define "tollgate.metadataOf" -}}
{{- $ := index . 0 -}}
name: {{ index . 1 | toYaml }}
namespace: {{ $.Release.Namespace | toYaml }}
labels:
  {{- merge (fromYaml (include "tollgate.selector" (list $ (index . 2)))) (dict
        "helm.sh/chart" (printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
        "app.kubernetes.io/version" ($.Chart.AppVersion | replace "+" "_")
        "app.kubernetes.io/part-of" "tollgate"
        "app.kubernetes.io/managed-by" $.Release.Service) (default (dict) $.Values.commonLabels) | toYaml | nindent 2 }}
{{- with merge (dict) (default (dict) (index . 3)) (default (dict) $.Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tollgate.image" -}}
{{- $repository := .Values.image.repository }}
{{- with .Values.image.registry }}{{- $repository = printf "%s/%s" . $repository }}{{- end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* What the "restricted" profile asks of pods and containers. */}}
{{- define "tollgate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tollgate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "tollgate.pull" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "tollgate.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | toYaml }}
{{- end }}
{{- end }}

{{- /* The policies as one folder, of (list . NAME-OF-THE-CONFIGMAP-OF-policy.files). Mounted whole: behind a subPath a
change would never be seen. */}}
{{- define "tollgate.policyVolume" -}}
{{- $ := index . 0 -}}
name: policies
projected:
  sources:
  {{- if $.Values.policy.files }}
  - configMap: {name: {{ index . 1 | toYaml }}}
  {{- end }}
  {{- with $.Values.policy.existingConfigMap }}
  - configMap: {name: {{ . | toYaml }}}
  {{- end }}
  {{- range $.Values.policy.existingConfigMaps }}
  - configMap: {name: {{ . | toYaml }}}
  {{- end }}
{{- end }}

{{- define "tollgate.pepperVolume" -}}
name: pepper
secret:
  secretName: {{ .Values.pepper.existingSecret | toYaml }}
  defaultMode: 288 # 0440
  items:
  - {key: {{ .Values.pepper.key | quote }}, path: pepper}
  {{- range $i, $key := .Values.pepper.olderKeys }}
  - {key: {{ $key | quote }}, path: older-{{ $i }}}
  {{- end }}
{{- end }}

{{- define "tollgate.olderPeppers" -}}
{{- $files := list }}
{{- range $i, $key := .Values.pepper.olderKeys }}
{{- $files = append $files (printf "/etc/tollgate/pepper/older-%d" $i) }}
{{- end }}
{{- join "," $files }}
{{- end }}

{{- /* TOLLGATE_STORE, of (list . SECRET KEY): in the environment the password stays out of the process list. */}}
{{- define "tollgate.store" -}}
{{- $ := index . 0 }}
{{- if index . 1 -}}
- name: TOLLGATE_STORE
  valueFrom:
    secretKeyRef: {name: {{ index . 1 | toYaml }}, key: {{ index . 2 | quote }}}
{{- else -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ $.Values.redis.bundled.existingSecret | toYaml }}, key: {{ $.Values.redis.bundled.passwordKey | quote }}}
- name: TOLLGATE_STORE
  value: redis://:$(REDIS_PASSWORD)@{{ include "tollgate.fullname" $ }}-redis.{{ $.Release.Namespace }}.svc:6379/0
{{- end }}
{{- end }}

{{- /* What a pod that runs commands has: store, policy, pepper. */}}
{{- define "tollgate.commandEnv" -}}
{{ include "tollgate.store" (list . .Values.keys.existingSecret .Values.keys.urlKey) }}
- {name: TOLLGATE_POLICY, value: /etc/tollgate/policies}
- {name: TOLLGATE_PEPPER_FILE, value: /etc/tollgate/pepper/pepper}
{{- with include "tollgate.olderPeppers" . }}
- {name: TOLLGATE_OLDER_PEPPERS, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "tollgate.commandMounts" -}}
- {name: policies, mountPath: /etc/tollgate/policies, readOnly: true}
- {name: pepper, mountPath: /etc/tollgate/pepper, readOnly: true}
{{- if .Values.redis.tlsSecret }}
- {name: redis-tls, mountPath: /etc/tollgate/redis-tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "tollgate.commandVolumes" -}}
- {{ include "tollgate.policyVolume" (list . (printf "%s-policies" (include "tollgate.fullname" .))) | nindent 2 | trim }}
- {{ include "tollgate.pepperVolume" . | nindent 2 | trim }}
{{- with .Values.redis.tlsSecret }}
- name: redis-tls
  secret: {secretName: {{ . | toYaml }}, defaultMode: 288}
{{- end }}
{{- end }}

{{- define "tollgate.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled }}
{{- include "tollgate.fullname" . }}-tls
{{- else }}
{{- .Values.tls.existingSecret }}
{{- end }}
{{- end }}

{{- /* The certificate with which helm test connects. */}}
{{- define "tollgate.testSecret" -}}
{{- if .Values.tls.client.testCertificateSecret }}
{{- .Values.tls.client.testCertificateSecret }}
{{- else if .Values.tls.certManager.enabled }}
{{- include "tollgate.fullname" . }}-test-tls
{{- end }}
{{- end }}

{{- /* For a command in NOTES.txt a flag with the first name in a list of a policy, of (list FLAG LIST). Whether the policy
is right is for the check to say, so nothing is taken for granted here. */}}
{{- define "tollgate.firstName" -}}
{{- $list := index . 1 }}
{{- if and $list (kindIs "slice" $list) (kindIs "map" (first $list)) }}
{{- with (first $list).name }}{{ printf "%s %v" (index $ 0) . }}{{ end }}
{{- end }}
{{- end }}

{{- define "tollgate.maxReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.maxReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end }}
{{- end }}

{{- define "tollgate.minReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.minReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end }}
{{- end }}

{{- /* Annotations of a hook, of (list EVENTS WEIGHT). A Job that fails goes too, with its log printed by helm, so that
helm uninstall leaves nothing of it. */}}
{{- define "tollgate.hook" -}}
helm.sh/hook: {{ index . 0 }}
helm.sh/hook-weight: {{ index . 1 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
helm.sh/hook-output-log-policy: hook-failed
{{- end }}

{{- /* metadata of what a monitoring selects by labels, of (list . SUFFIX LABELS ANNOTATIONS). */}}
{{- define "tollgate.monitoringMetadata" -}}
{{- $metadata := fromYaml (include "tollgate.metadata" (list (index . 0) (index . 1) "server" (index . 3))) }}
{{- $labels := merge (dict) (default (dict) (index . 2)) $metadata.labels }}
{{- toYaml (set $metadata "labels" $labels) }}
{{- end }}
