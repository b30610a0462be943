//! helm itself, without a cluster, and the objects that it renders. Called by the rest of this folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cluster::components, places, process};

/// What to render.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) release: &'a str,
    pub(super) namespace: &'a str,
    pub(super) kubernetes: &'a str,
    /// YAML.
    pub(super) values: &'a str,
    /// With the pod of `helm test`.
    pub(super) tests: bool,
}

impl Request<'static> {
    pub(super) const DEFAULT: Self = Self {
        release: "podlens",
        namespace: "podlens",
        kubernetes: super::NEWEST_KUBERNETES,
        values: "{}",
        tests: true,
    };
}

pub(super) struct Helm {
    program: PathBuf,
    chart: PathBuf,
    /// The values of a call: helm takes texts by their place.
    values: PathBuf,
}

impl Helm {
    pub(super) fn new(chart: &Path) -> Result<Self> {
        let folder = places::target()?.join("chart");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { program: components::helm()?, chart: chart.to_owned(), values: folder.join("values.yaml") })
    }

    pub(super) fn lint(&self, values: &str) -> Result<()> {
        self.run(&["lint", "--strict", "--quiet"], values).map(drop)
    }

    /// The rendered manifests as helm prints them.
    pub(super) fn text(&self, request: &Request<'_>) -> Result<String> {
        let mut arguments = vec!["template", request.release, "--namespace", request.namespace];
        arguments.extend(["--kube-version", request.kubernetes]);
        if !request.tests {
            arguments.push("--skip-tests");
        }
        self.run(&arguments, request.values)
    }

    /// What helm tells whoever has installed the chart.
    pub(super) fn notes(&self, values: &str) -> Result<String> {
        let told = self.run(&["install", "podlens", "--dry-run=client"], values)?;
        let (_, notes) = told.split_once("\nNOTES:\n").context("helm tells no notes")?;
        Ok(notes.to_owned())
    }

    /// The rendered manifests; a key that stands twice is an error.
    pub(super) fn objects(&self, request: &Request<'_>) -> Result<Objects> {
        let text = self.text(request)?;
        let all: Vec<Value> =
            serde_saphyr::from_multiple(&text).map_err(|error| anyhow::anyhow!("helm renders bad YAML: {error}"))?;
        Ok(Objects(all.into_iter().filter(|object| !object.is_null()).collect()))
    }

    fn run(&self, arguments: &[&str], values: &str) -> Result<String> {
        fs::write(&self.values, values).with_context(|| format!("cannot write {}", self.values.display()))?;
        let own = places::component("helm")?;
        let mut helm = Command::new(&self.program);
        helm.env("HELM_CACHE_HOME", own.join("cache"))
            .env("HELM_CONFIG_HOME", own.join("config"))
            .env("HELM_DATA_HOME", own.join("data"))
            .env_remove("KUBECONFIG")
            .args(arguments)
            .arg(&self.chart)
            .arg("--values")
            .arg(&self.values);
        process::output(&mut helm).with_context(|| format!("with the values {values}"))
    }
}

/// What helm has rendered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Objects(pub(super) Vec<Value>);

impl Objects {
    /// The one object of this kind.
    pub(super) fn one(&self, kind: &str) -> Result<&Value> {
        let found: Vec<&Value> = self.0.iter().filter(|object| text(object, "/kind") == kind).collect();
        let [one] = found[..] else { bail!("there are {} objects of kind {kind}, not one", found.len()) };
        Ok(one)
    }

    /// What stands at this place of the agent's pod.
    pub(super) fn agent(&self, pointer: &str) -> Result<&Value> {
        let daemon_set = self.one("DaemonSet")?;
        let found = daemon_set.pointer("/spec/template").and_then(|template| template.pointer(pointer));
        found.with_context(|| format!("the agent's pod has no {pointer}"))
    }

    /// The agent's configuration file.
    pub(super) fn configuration(&self) -> Result<Value> {
        let file = text(self.one("ConfigMap")?, "/data/config.yaml");
        serde_saphyr::from_str(file).map_err(|error| anyhow::anyhow!("the configuration is bad YAML: {error}"))
    }
}

/// The text at a place, empty if there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
