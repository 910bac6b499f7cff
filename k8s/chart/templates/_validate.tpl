{{- /* What values.schema.json cannot say: values that go, or do not go, together. Each message begins with the path. */}}
{{- define "tollgate.validate" -}}
{{- $v := .Values }}
{{- if not $v.image.repository }}
{{- fail "image.repository: say where you pushed the image that `make image` builds; there is no published one" }}
{{- end }}
{{- include "tollgate.validatePolicy" $v }}
{{- include "tollgate.validateIntegration" . }}
{{- include "tollgate.validateStore" $v }}
{{- include "tollgate.validateBootstrap" . }}
{{- if and $v.tls.existingSecret $v.tls.certManager.enabled }}
{{- fail "tls.existingSecret: not together with tls.certManager.enabled" }}
{{- end }}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) }}
{{- fail "tls.certManager.issuerRef.name: name the Issuer of the certificate" }}
{{- end }}
{{- if and $v.tls.client.enabled (not (include "tollgate.tlsSecret" .)) }}
{{- fail "tls.client.enabled: needs tls.existingSecret or tls.certManager.enabled" }}
{{- end }}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) }}
{{- fail "autoscaling.minReplicas: more than autoscaling.maxReplicas" }}
{{- end }}
{{- if and $v.autoscaling.enabled (not (dig "requests" "cpu" "" (default (dict) $v.resources))) }}
{{- fail "resources.requests.cpu: needed with autoscaling.enabled, which counts per cent of it" }}
{{- end }}
{{- $grace := int $v.drain.terminationGracePeriodSeconds }}
{{- $needed := add (int $v.drain.delaySeconds) (int $v.drain.timeoutSeconds) }}
{{- if and $grace (le $grace (int $needed)) }}
{{- fail (printf "drain.terminationGracePeriodSeconds: must be more than delaySeconds and timeoutSeconds together, which are %d" $needed) }}
{{- end }}
{{- $seen := dict }}
{{- range $i, $e := $v.extraEnv }}
{{- if hasKey $seen $e.name }}
{{- fail (printf "extraEnv[%d].name: %s is there twice" $i $e.name) }}
{{- end }}
{{- $_ := set $seen $e.name true }}
{{- end }}
{{- if and $v.metrics.podMonitor.enabled $v.metrics.serviceMonitor.enabled }}
{{- fail "metrics.serviceMonitor.enabled: not together with metrics.podMonitor.enabled, or each pod is scraped twice" }}
{{- end }}
{{- end }}

{{- define "tollgate.validatePolicy" -}}
{{- if not (or .policy.files .policy.existingConfigMap .policy.existingConfigMaps) }}
{{- fail "policy: give policy.files, policy.existingConfigMap or policy.existingConfigMaps" }}
{{- end }}
{{- $size := 0 }}
{{- range $name, $text := .policy.files }}
{{- $size = add $size (len $text) }}
{{- end }}
{{- if gt (int $size) 262144 }}
{{- fail (printf "policy.files: %d bytes, at most 262144: Helm keeps them in each release. Put them into a ConfigMap of yours, policy.existingConfigMap" $size) }}
{{- end }}
{{- end }}

{{- define "tollgate.validateStore" -}}
{{- if and .redis.existingSecret .redis.bundled.enabled }}
{{- fail "redis.existingSecret: not together with redis.bundled.enabled" }}
{{- end }}
{{- if not (or .redis.existingSecret .redis.bundled.enabled) }}
{{- fail "redis.existingSecret: name the Secret with the URL of your Redis; or redis.bundled.enabled, for a trial" }}
{{- end }}
{{- if and .redis.bundled.enabled (not .redis.bundled.existingSecret) }}
{{- fail "redis.bundled.existingSecret: name the Secret with the password" }}
{{- end }}
{{- if not .pepper.existingSecret }}
{{- fail "pepper.existingSecret: name the Secret with the pepper" }}
{{- end }}
{{- if and (or .keys.apply.enabled .admin.enabled .bootstrap.enabled) (not (or .keys.existingSecret .redis.bundled.enabled)) }}
{{- fail "keys.existingSecret: name the Secret with the store's URL for the command line, which keys.apply, admin and bootstrap use" }}
{{- end }}
{{- if and .keys.apply.enabled (not .keys.apply.existingSecret) }}
{{- fail "keys.apply.existingSecret: name the Secret with the file of keys" }}
{{- end }}
{{- if and .manage.enabled (not (or .manage.existingSecret .redis.bundled.enabled)) }}
{{- fail "manage.existingSecret: name the Secret with the store's URL, as the user of `tollgate store acl manage`" }}
{{- end }}
{{- if and .manage.enabled (not .manage.tlsSecret) }}
{{- fail "manage.tlsSecret: name the Secret with tls.crt and tls.key; tokens do not go over a plain connection" }}
{{- end }}
{{- if and .bootstrap.enabled (not .bootstrap.api) }}
{{- fail "bootstrap.api: name the API of the team" }}
{{- end }}
{{- end }}

{{- /* The Job of bootstrap makes a Secret, and may read it: none that holds something else. */}}
{{- define "tollgate.validateBootstrap" -}}
{{- $v := .Values }}
{{- $secret := default (printf "%s-bootstrap" (include "tollgate.fullname" .)) $v.bootstrap.secretName }}
{{- $others := list $v.pepper.existingSecret $v.redis.existingSecret $v.redis.tlsSecret $v.redis.bundled.existingSecret $v.keys.existingSecret
      $v.keys.apply.existingSecret $v.manage.existingSecret $v.manage.tlsSecret $v.test.existingSecret $v.tls.client.existingCASecret (include "tollgate.tlsSecret" .) (include "tollgate.testSecret" .) }}
{{- if and $v.bootstrap.enabled (has $secret $others) }}
{{- fail (printf "bootstrap.secretName: the Secret %s is for something else, by these values; the token needs one of its own" $secret) }}
{{- end }}
{{- end }}
