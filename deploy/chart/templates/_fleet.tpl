{{- define "podlens.fleetName" -}}
{{- include "podlens.shortened" (list 57 (include "podlens.fullname" .)) }}-fleet
{{- end -}}

{{- /* Not those of the agents: their DaemonSet and Service must not take the pods for some of theirs. */ -}}
{{- define "podlens.fleetLabels" -}}
app.kubernetes.io/name: {{ include "podlens.shortened" (list 57 (include "podlens.name" .)) }}-fleet
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- /* The agents' file without what concerns a node. */ -}}
{{- define "podlens.fleetConfig" -}}
{{- toYaml (omit (include "podlens.config" . | fromYaml) "cgroup_root") -}}
{{- end -}}

{{- /* A list of a monitor's values and the root. */ -}}
{{- define "podlens.fleetEndpoint" -}}
{{- include "podlens.endpoint" . }}
{{- with index . 0 }}
# The labels namespace and node name the DaemonSet and the node of a value, not the replica's pod.
honorLabels: true
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
metricRelabelings:
  # Where the Prometheus object overrules honorLabels, these names are in exported_ labels.
  {{- range list "namespace" "node" }}
  - { action: replace, sourceLabels: [exported_{{ . }}], regex: (.+), targetLabel: {{ . }} }
  {{- end }}
  {{- with .metricRelabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}
