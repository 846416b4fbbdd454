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

{{- /* trainerImage becomes RESNEXT_TRAINER_IMAGE. */ -}}
{{- define "resnext.variable" -}}
RESNEXT_{{ . | snakecase | upper }}
{{- end }}

{{- /* The namespaces that the operator serves, as a policy's matchConstraints say it; nothing where it serves all. */ -}}
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
