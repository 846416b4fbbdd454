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

{{- /*
Metadata of an object. Arguments: root; optional: name (default: the release's), namespace, labels, annotations. Labels of
the chart take precedence over commonLabels.
*/ -}}
{{- define "resnext.metadata" -}}
name: {{ .name | default .root.Release.Name }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- merge (include "resnext.labels" .root | fromYaml) (.labels | default dict) (.root.Values.commonLabels | default dict) | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Fails if an image is not set: the project publishes none, so a default could not be pulled. */ -}}
{{- define "resnext.requireImages" -}}
{{- $missing := list }}
{{- $flags := list }}
{{- range $value, $name := dict "image" "resnext-operator" "trainerImage" "resnext-trainer" }}
{{- if not (index $.Values $value) }}
{{- $missing = append $missing $value }}
{{- $flags = append $flags (printf "--set %s=REGISTRY/%s:TAG" $value $name) }}
{{- end }}
{{- end }}
{{- with $missing }}
{{- fail (printf "%s not set: build the images, push them to your registry (docs/installing.md), and add %s" (join " and " .) (join " " $flags)) }}
{{- end }}
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
