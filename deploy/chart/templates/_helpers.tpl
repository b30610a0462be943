{{- /*
What every template begins with: it fills in the defaults of values that are null or lacking, and refuses what
would be without effect. A value is null where the user wrote so; it is lacking where `helm upgrade --reuse-values`
brings the values of an older chart.
*/ -}}
{{- define "podlens.begin" -}}
{{- include "podlens.fill" (dict "values" .Values "defaults" (.Files.Get "files/defaults.yaml" | fromYaml)) -}}
{{- include "podlens.dropNulls" .Values.config -}}
{{- include "podlens.refuse" . -}}
{{- end -}}

{{- /* Changes `values` in place. Not sprig's merge, which takes false, 0 and "" for lacking. */ -}}
{{- define "podlens.fill" -}}
{{- $values := .values -}}
{{- range $key, $default := .defaults -}}
{{- $value := index $values $key -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := set $values $key $default -}}
{{- else if and (kindIs "map" $default) (kindIs "map" $value) -}}
{{- include "podlens.fill" (dict "values" $value "defaults" $default) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Changes the map in place: a key of podlens' configuration without a value is one that is not set. */ -}}
{{- define "podlens.dropNulls" -}}
{{- $map := . -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $map $key -}}
{{- else if kindIs "map" $value -}}
{{- include "podlens.dropNulls" $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Settings that something else in the chart would silently overrule, each with the value to use instead. */ -}}
{{- define "podlens.refuse" -}}
{{- if hasKey .Values.config "listen" -}}
{{- fail "config.listen has no effect, since ports and probes follow metrics.address and metrics.port: set those" -}}
{{- end -}}
{{- if hasKey .Values.config "node" -}}
{{- fail "config.node has no effect, since each agent is given the name of its own node: leave it out" -}}
{{- end -}}
{{- range $key, $instead := dict "web" "web.existingSecret" "health_listen" "web.healthPort" -}}
{{- if hasKey $.Values.config $key -}}
{{- fail (printf "config.%s has no effect, since mounts, monitors and probes follow web: set %s" $key $instead) -}}
{{- end -}}
{{- end -}}
{{- $address := .Values.metrics.address | trimPrefix "[" | trimSuffix "]" -}}
{{- if or (hasPrefix "127." $address) (eq $address "::1") -}}
{{- fail (printf "metrics.address is %s, where neither kubelet's probes nor Prometheus reach the agent: leave it empty" $address) -}}
{{- end -}}
{{- $instead := dict "listen" "set metrics.address and metrics.port" "node" "each agent is given the name of its own node" "config" "set config" "health-listen" "set web.healthPort" "web-config-file" "set web.existingSecret" "web.config.file" "set web.existingSecret" -}}
{{- range .Values.extraArgs -}}
{{- $flag := regexFind "^--[a-z.-]+" . | trimPrefix "--" -}}
{{- if hasKey $instead $flag -}}
{{- fail (printf "extraArgs must not contain --%s, which the chart gives itself: %s" $flag (get $instead $flag)) -}}
{{- end -}}
{{- end -}}
{{- $given := dict
      "NODE_NAME" "the chart sets it to the name of the agent's node"
      "NODE_IP" "the chart sets it to the address of the agent's node where names.source needs it"
      "PODLENS_LISTEN" "it has no effect; set metrics.address and metrics.port"
      "PODLENS_NODE" "it has no effect; each agent is given the name of its own node"
      "PODLENS_CONFIG" "it has no effect; set config"
      "PODLENS_WEB_CONFIG_FILE" "monitors and probes follow web; set web.existingSecret"
      "PODLENS_HEALTH_LISTEN" "probes follow web; set web.healthPort"
      "PODLENS_KUBERNETES_SOURCE" "the role depends on the source; set names.source" -}}
{{- if .Values.otlp.endpoint -}}
{{- $_ := set $given "PODLENS_OTLP_ENDPOINT" "it would overrule otlp.endpoint; set one of the two" -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if hasKey $given .name -}}
{{- fail (printf "extraEnv must not contain %s: %s" .name (get $given .name)) -}}
{{- end -}}
{{- end -}}
{{- $configured := dig "otlp" "endpoint" "" .Values.config -}}
{{- if and $configured .Values.otlp.endpoint (ne $configured .Values.otlp.endpoint) -}}
{{- fail (printf "otlp.endpoint is %s and config.otlp.endpoint %s: set one of the two" .Values.otlp.endpoint $configured) -}}
{{- end -}}
{{- $configured = dig "kubernetes" "source" "" .Values.config -}}
{{- if and $configured (ne .Values.names.source "auto") (ne $configured .Values.names.source) -}}
{{- fail (printf "names.source is %s and config.kubernetes.source %s: set names.source alone" .Values.names.source $configured) -}}
{{- end -}}
{{- if and .Values.web.existingSecret (eq (int64 .Values.web.healthPort) (int64 .Values.metrics.port)) -}}
{{- fail "web.healthPort and metrics.port are the same: choose another, or 0 for none" -}}
{{- end -}}
{{- if not .Values.web.existingSecret -}}
{{- if or (ne .Values.web.key "web.yaml") (ne (int64 .Values.web.healthPort) 9465) -}}
{{- fail "web.key and web.healthPort have no effect without web.existingSecret, and everything is served without TLS to everybody: set it" -}}
{{- end -}}
{{- end -}}
{{- $serves := include "podlens.scheme" . -}}
{{- with .Values.tests.url -}}
{{- if not (hasPrefix (printf "%s://" $serves) .) -}}
{{- fail (printf "tests.url is %s, and agents serve %s (web.existingSecret, web.tls): let it begin with %s://" . $serves $serves) -}}
{{- end -}}
{{- end -}}
{{- range $name, $monitor := dict "podMonitor" .Values.podMonitor "serviceMonitor" .Values.serviceMonitor -}}
{{- if and $monitor.enabled (eq $serves "https") (not $monitor.tlsConfig) -}}
{{- fail (printf "%s.tlsConfig is empty, so Prometheus would want a certificate of a public authority for each pod's address: set ca and serverName" $name) -}}
{{- end -}}
{{- if and $monitor.tlsConfig (eq $serves "http") -}}
{{- fail (printf "%s.tlsConfig has no effect without TLS: set web.existingSecret and web.tls" $name) -}}
{{- end -}}
{{- if and (or $monitor.basicAuth $monitor.authorization) (not $.Values.web.existingSecret) -}}
{{- fail (printf "%s.basicAuth or authorization has no effect, since agents ask nobody: set web.existingSecret" $name) -}}
{{- end -}}
{{- if and $monitor.basicAuth $monitor.authorization -}}
{{- fail (printf "%s.basicAuth and %s.authorization are both set, and the operator refuses that: set one of the two" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.fleet.enabled (kindIs "map" .Values.config.otlp) -}}
{{- range $key := list "certificate" "client_certificate" "client_key" -}}
{{- $file := index $.Values.config.otlp $key | default "" -}}
{{- if and (include "podlens.isMounted" (list $file $.Values.extraVolumeMounts)) (not (include "podlens.isMounted" (list $file $.Values.fleet.extraVolumeMounts))) -}}
{{- fail (printf "config.otlp.%s is %s, which is mounted into the agents and not into the fleet: set fleet.extraVolumes and fleet.extraVolumeMounts as well" $key $file) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.names.bundles.enabled -}}
{{- if not (hasPrefix "/host/run" (dig "kubernetes" "bundle_root" "/host/run" .Values.config)) -}}
{{- fail "config.kubernetes.bundle_root leads away from where names.bundles.enabled mounts the bundles: leave it out" -}}
{{- end -}}
{{- else if eq (include "podlens.nameSource" .) "bundle" -}}
{{- fail "names.source: bundle needs names.bundles.enabled: true, or there is nothing to read" -}}
{{- end -}}
{{- range $name, $profile := dict "seccompProfile" .Values.seccompProfile "appArmorProfile" .Values.appArmorProfile -}}
{{- if and (eq ($profile.type | default "") "Localhost") (not $profile.localhostProfile) -}}
{{- fail (printf "%s.type: Localhost needs %s.localhostProfile, which profile of the node it is" $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A list of a file and volume mounts: empty where none of them has the file. */ -}}
{{- define "podlens.isMounted" -}}
{{- $file := index . 0 | toString -}}
{{- range index . 1 -}}
{{- if hasPrefix (printf "%s/" (.mountPath | default "" | toString | trimSuffix "/")) $file -}}
true
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Maps laid over each other: one value for each key, the last one. */ -}}
{{- define "podlens.overlaid" -}}
{{- $all := dict -}}
{{- range . -}}
{{- range $key, $value := . -}}
{{- $_ := set $all $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{- define "podlens.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end -}}

{{- /*
The name of the objects. A Service's must be a DNS label: it begins with a letter and has no dots, whereas a
release's name may have both wrong.
*/ -}}
{{- define "podlens.fullname" -}}
{{- $name := include "podlens.name" . -}}
{{- $release := regexReplaceAll "[^a-z0-9]+" (lower .Release.Name) "-" -}}
{{- $full := printf "%s-%s" $release $name -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if regexMatch "^[^a-z]" $release -}}
{{- $full = printf "%s-%s" $name $release -}}
{{- else if contains $name $release -}}
{{- $full = $release -}}
{{- end -}}
{{- include "podlens.shortened" (list 63 $full) -}}
{{- end -}}

{{- /* A list of a length and a name: the name cut so that it still ends in a letter or a digit. */ -}}
{{- define "podlens.shortened" -}}
{{- regexReplaceAll "-+$" (trunc (index . 0) (index . 1)) "" -}}
{{- end -}}

{{- define "podlens.selectorLabels" -}}
app.kubernetes.io/name: {{ include "podlens.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- /* Not those of the agents: their DaemonSet and Service must not take the pod for one. */ -}}
{{- define "podlens.testLabels" -}}
app.kubernetes.io/name: {{ include "podlens.shortened" (list 58 (include "podlens.name" .)) }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "podlens.chartLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- /*
The labels of an object: a list of the root, the object's own labels from the values, and optionally the name of
the template with the labels that find it, which nothing overrules.
*/ -}}
{{- define "podlens.labels" -}}
{{- $root := index . 0 -}}
{{- $found := "podlens.selectorLabels" -}}
{{- if gt (len .) 2 -}}
{{- $found = index . 2 -}}
{{- end -}}
{{- $chart := include "podlens.chartLabels" $root | fromYaml -}}
{{- include "podlens.overlaid" (list $chart $root.Values.commonLabels (index . 1) (include $found $root | fromYaml)) -}}
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
{{- dig "kubernetes" "source" .Values.names.source .Values.config -}}
{{- end -}}

{{- /* Whether the agent asks somebody who wants to know who it is. */ -}}
{{- define "podlens.needsToken" -}}
{{- if has (include "podlens.nameSource" .) (list "auto" "api" "kubelet") }}true{{ else }}false{{ end -}}
{{- end -}}

{{- /*
Where the agent sees the runtime's bundles. It knows the directory that holds them by its last names, so the host's
may lie anywhere.
*/ -}}
{{- define "podlens.bundlesPath" -}}
{{- $host := .Values.names.bundles.hostPath -}}
{{- if hasSuffix "/k8s.io" $host -}}
/host/run/containerd/io.containerd.runtime.v2.task/k8s.io
{{- else -}}
/host/run/containers/storage/{{ base $host }}
{{- end -}}
{{- end -}}

{{- /*
A list of a port and the root: where the agent listens. Every address is `[::]`, which takes connections over IPv4 as well.
*/ -}}
{{- define "podlens.listen" -}}
{{- $address := (index . 1).Values.metrics.address | trimPrefix "[" | trimSuffix "]" | default "::" -}}
{{- if contains ":" $address -}}
{{- $address = printf "[%s]" $address -}}
{{- end -}}
{{- printf "%s:%d" $address (int64 (index . 0)) -}}
{{- end -}}

{{- /* With what agents are asked for metrics. */ -}}
{{- define "podlens.scheme" -}}
{{- if and .Values.web.existingSecret .Values.web.tls }}https{{ else }}http{{ end -}}
{{- end -}}

{{- /* The port of the probes; empty where they have none of their own. */ -}}
{{- define "podlens.healthPort" -}}
{{- if and .Values.web.existingSecret (int64 .Values.web.healthPort) }}{{ int64 .Values.web.healthPort }}{{ end -}}
{{- end -}}

{{- /* A list of a path and the root: the kubelet's question. It takes any certificate. */ -}}
{{- define "podlens.probe" -}}
{{- $root := index . 1 -}}
path: {{ index . 0 }}
{{- if include "podlens.healthPort" $root }}
port: health
{{- else }}
port: metrics
{{- if eq (include "podlens.scheme" $root) "https" }}
scheme: HTTPS
{{- end }}
{{- end }}
{{- end -}}

{{- /* The pod's seccomp profile; an empty localhostProfile is none. */ -}}
{{- define "podlens.seccompProfile" -}}
type: {{ .Values.seccompProfile.type }}
{{- with .Values.seccompProfile.localhostProfile }}
localhostProfile: {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* A profile by the name that annotations and SecurityContextConstraints have for it. */ -}}
{{- define "podlens.profileName" -}}
{{- if eq .type "Localhost" -}}
localhost/{{ .localhostProfile }}
{{- else if eq .type "Unconfined" -}}
unconfined
{{- else -}}
runtime/default
{{- end -}}
{{- end -}}

{{- /*
Empty where the pod's AppArmor profile, if any, is a field. Before Kubernetes 1.30 it is an annotation, and the field
would be dropped in silence.
*/ -}}
{{- define "podlens.appArmorAnnotation" -}}
{{- if and .Values.appArmorProfile.type (semverCompare "<1.30-0" .Capabilities.KubeVersion.Version) -}}
{{- include "podlens.profileName" .Values.appArmorProfile -}}
{{- end -}}
{{- end -}}

{{- define "podlens.podAnnotations" -}}
{{- $own := dict "kubectl.kubernetes.io/default-container" "podlens" -}}
{{- if .Values.scrapeAnnotations -}}
{{- $port := int64 .Values.metrics.port | toString -}}
{{- $own = dict "prometheus.io/scrape" "true" "prometheus.io/port" $port "prometheus.io/path" "/metrics" | merge $own -}}
{{- if eq (include "podlens.scheme" .) "https" -}}
{{- $_ := set $own "prometheus.io/scheme" "https" -}}
{{- end -}}
{{- end -}}
{{- with include "podlens.appArmorAnnotation" . -}}
{{- $_ := set $own "container.apparmor.security.beta.kubernetes.io/podlens" . -}}
{{- end -}}
{{- /* A running agent does not switch TLS on or off: with `web.tls` come new pods. */ -}}
{{- $checksum := dict "checksum/config" (printf "%s%s" (include "podlens.config" .) (include "podlens.scheme" .) | sha256sum) -}}
{{- include "podlens.overlaid" (list $own .Values.podAnnotations $checksum) -}}
{{- end -}}

{{- /* The affinity, with virtual nodes left out of each term by which a node may be chosen. */ -}}
{{- define "podlens.affinity" -}}
{{- $affinity := deepCopy (.Values.affinity | default dict) -}}
{{- if .Values.virtualNodes -}}
{{- $node := $affinity.nodeAffinity | default dict -}}
{{- $required := $node.requiredDuringSchedulingIgnoredDuringExecution | default dict -}}
{{- $terms := list -}}
{{- range ($required.nodeSelectorTerms | default (list dict)) -}}
{{- $terms = append $terms (set . "matchExpressions" (concat (.matchExpressions | default list) $.Values.virtualNodes)) -}}
{{- end -}}
{{- $_ := set $required "nodeSelectorTerms" $terms -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" $required -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end -}}
{{- if $affinity -}}
{{- toYaml $affinity -}}
{{- end -}}
{{- end -}}

{{- /* The file that podlens reads. */ -}}
{{- define "podlens.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not (hasKey $config "cgroup_root") -}}
{{- $_ := set $config "cgroup_root" "/host/sys/fs/cgroup" -}}
{{- end -}}
{{- with .Values.otlp.endpoint -}}
{{- $_ := set $config "otlp" (set ($config.otlp | default dict) "endpoint" .) -}}
{{- end -}}
{{- if .Values.web.existingSecret -}}
{{- $_ := set $config "web" (dict "config_file" (printf "/etc/podlens-web/%s" .Values.web.key)) -}}
{{- with include "podlens.healthPort" . -}}
{{- $_ := set $config "health_listen" (include "podlens.listen" (list . $)) -}}
{{- end -}}
{{- end -}}
{{- if and (or .Values.rules.enabled .Values.dashboards.enabled) (not (hasKey ($config.series | default dict) "allow")) -}}
{{- /* What rules and dashboards compare with, which is not among the series that agents have by default. */ -}}
{{- $allow := "default, podlens_cpu_request_cores, podlens_memory_request_bytes" -}}
{{- $_ := set $config "series" (set ($config.series | default dict) "allow" $allow) -}}
{{- end -}}
{{- $names := $config.kubernetes | default dict -}}
{{- if ne .Values.names.source "auto" -}}
{{- $_ := set $names "source" .Values.names.source -}}
{{- end -}}
{{- if and .Values.names.bundles.enabled (not (hasKey $names "bundle_root")) -}}
{{- $_ := set $names "bundle_root" "/host/run" -}}
{{- end -}}
{{- with $names -}}
{{- $_ := set $config "kubernetes" . -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* A list of a monitor's values and the root: where it asks, and with what. */ -}}
{{- define "podlens.endpoint" -}}
port: metrics
path: /metrics
{{- if eq (include "podlens.scheme" (index . 1)) "https" }}
scheme: https
{{- end }}
{{- range $field := list "tlsConfig" "basicAuth" "authorization" }}
{{- with index (index $ 0) $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* A list of a monitor's values and the root. */ -}}
{{- define "podlens.monitorEndpoint" -}}
{{- include "podlens.endpoint" . }}
{{- with index . 0 }}
# The labels namespace, pod and container are those of the measured pods, not of the agent's.
honorLabels: true
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
relabelings:
  # An agent's own metrics and `up` get the label node, which its measurements have already. The instance is the node too: a pod's
  # address would change with an update.
  {{- range list "node" "instance" }}
  - { action: replace, sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: {{ . }} }
  {{- end }}
metricRelabelings:
  # What is no pod's must not be taken for the agent's own: units of the node have no pod ...
  {{- range list "namespace" "pod" "container" }}
  - { action: replace, sourceLabels: [unit], regex: .+, targetLabel: {{ . }}, replacement: "" }
  {{- end }}
  # ... and facts about a whole pod no container.
  - { action: replace, sourceLabels: [__name__], regex: podlens_pod_.+, targetLabel: container, replacement: "" }
  # Where the Prometheus object overrules honorLabels, what is measured is in exported_ labels.
  {{- range list "namespace" "pod" "container" }}
  - { action: replace, sourceLabels: [exported_{{ . }}], regex: (.+), targetLabel: {{ . }} }
  {{- end }}
  - { action: labeldrop, regex: exported_pod|exported_container|exported_node }
  {{- with .metricRelabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}
