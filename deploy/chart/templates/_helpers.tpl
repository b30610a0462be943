{{- define "podlens.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "podlens.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "podlens.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "podlens.selectorLabels" -}}
app.kubernetes.io/name: {{ include "podlens.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* Not those of the agents: their DaemonSet and Service must not take the pod for one. */ -}}
{{- define "podlens.testLabels" -}}
app.kubernetes.io/name: {{ include "podlens.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "podlens.labels" -}}
{{ include "podlens.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "podlens.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "podlens.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "podlens.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- /* What `kubernetes.source` will be: it decides what the agent is allowed. */ -}}
{{- define "podlens.nameSource" -}}
{{- if and (eq .Values.names.source "bundle") (not .Values.names.bundles.enabled) -}}
{{- fail "names.source: bundle needs names.bundles.enabled: true, or there is nothing to read" -}}
{{- end -}}
{{- dig "kubernetes" "source" .Values.names.source .Values.config -}}
{{- end -}}

{{- /* Whether the agent asks somebody who wants to know who it is. */ -}}
{{- define "podlens.needsToken" -}}
{{- if has (include "podlens.nameSource" .) (list "auto" "api" "kubelet") }}true{{ else }}false{{ end -}}
{{- end -}}

{{- /* The file that podlens reads. What the user wrote under `config` wins over what the chart adds. */ -}}
{{- define "podlens.config" -}}
{{- $added := dict "cgroup_root" "/host/sys/fs/cgroup" -}}
{{- with .Values.otlp.endpoint -}}
{{- $_ := set $added "otlp" (dict "endpoint" .) -}}
{{- end -}}
{{- $names := dict -}}
{{- if ne .Values.names.source "auto" -}}
{{- $_ := set $names "source" .Values.names.source -}}
{{- end -}}
{{- if .Values.names.bundles.enabled -}}
{{- $_ := set $names "bundle_root" "/host/run" -}}
{{- end -}}
{{- with $names -}}
{{- $_ := set $added "kubernetes" . -}}
{{- end -}}
{{- toYaml (mergeOverwrite $added (deepCopy .Values.config)) -}}
{{- end -}}

{{- define "podlens.monitorEndpoint" -}}
port: metrics
path: /metrics
# The labels namespace, pod and container are those of the measured pods, not of the agent's.
honorLabels: true
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
