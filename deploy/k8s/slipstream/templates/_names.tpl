{{- define "slipstream.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 52 }}{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 }}{{- end -}}
{{- end -}}

{{- define "slipstream.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "slipstream.labels" -}}
{{ include "slipstream.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* What goes into gateway.yaml: the operator's configuration, and what the chart knows better. */}}
{{- define "slipstream.config" -}}
{{- $given := deepCopy .Values.config -}}
{{- $server := merge (default dict $given.server) (dict "host" "0.0.0.0" "port" 8080 "workers" (int .Values.workers)) -}}
{{- $state := merge (default dict $given.state) (dict "redis_url" "${REDIS_URL:-}" "qdrant_url" "${QDRANT_URL:-}" "data_dir" "/var/lib/slipstream") -}}
{{- $telemetry := merge (default dict $given.telemetry) (dict "otlp_endpoint" "${OTLP_ENDPOINT:-}") -}}
{{- toYaml (merge (dict "server" $server "state" $state "telemetry" $telemetry) $given) -}}
{{- end -}}
