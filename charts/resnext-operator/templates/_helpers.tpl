{{- define "resnext.selector" -}}
app.kubernetes.io/name: resnext-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "resnext.labels" -}}
{{ include "resnext.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* Environment variable of a setting: resyncSeconds becomes RESNEXT_RESYNC_SECONDS. */ -}}
{{- define "resnext.variable" -}}
RESNEXT_{{ . | snakecase | upper }}
{{- end }}

{{- /* namespaceSelector of a policy's matchConstraints for the namespaces to watch; empty if all are watched. */ -}}
{{- define "resnext.served" -}}
{{- with .Values.namespaces }}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values:
        {{- toYaml . | nindent 8 }}
{{- end }}
{{- end }}
