//! `cargo xtask chart`: what is derived from the helm chart, and whether the chart is sound. It needs no cluster. Called
//! by the command line and by `cargo xtask test`.
//!
//! | file | holds |
//! | --- | --- |
//! | documents.rs | the table and the defaults that are made from values.yaml |
//! | helm.rs | helm itself, and what it renders |
//! | cases/ | what must hold for values, names and versions that users have, with a real Prometheus that relabels as the chart's monitors say |

mod cases;
mod documents;
mod helm;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use self::helm::{Helm, Request};
use crate::{monitoring, places};

/// The manifests are for every cluster that the chart allows (kubeVersion in Chart.yaml), so they use no newer field.
const OLDEST_KUBERNETES: &str = "1.25.0";
/// For the goldens of the values files: everything that the chart renders where the cluster can do it.
const NEWEST_KUBERNETES: &str = "1.34.0";

/// Pods of this namespace mount a host directory and hold two capabilities, which only this level admits.
const NAMESPACE_OBJECT: &str = "apiVersion: v1
kind: Namespace
metadata:
  name: podlens
  labels:
    pod-security.kubernetes.io/enforce: privileged
";

/// Whether to write or to compare.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// Write nothing; fail where a file is not as it would be written, or where the chart is not sound
    #[arg(long)]
    check: bool,
}

/// `cargo xtask chart [--check]`.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    chart(choice.check)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the derived files or, with `check`, fails where they are not as they would be written, and tries all cases.
fn chart(check: bool) -> Result<()> {
    let workspace = places::workspace()?;
    for monitoring::Made { path, text } in monitoring::files() {
        settle(&workspace.join(path), &text, check)?;
    }
    let deploy = workspace.join("deploy");
    let chart = deploy.join("chart");
    let values = read(&chart.join("values.yaml"))?;
    // The templates read the defaults, so they come first.
    settle(&chart.join("files/defaults.yaml"), &documents::defaults(&values), check)?;
    let readme = chart.join("README.md");
    settle(&readme, &documents::spliced(&read(&readme)?, &documents::table(&values)?)?, check)?;

    let helm = Helm::new(&chart)?;
    let manifest = format!(
        "# Rendered from deploy/chart with its default values by `cargo xtask chart`; change the chart instead.\n\
         ---\n{NAMESPACE_OBJECT}{}",
        helm.text(&Request { kubernetes: OLDEST_KUBERNETES, tests: false, ..Request::DEFAULT })?
    );
    settle(&deploy.join("manifests/podlens.yaml"), &manifest, check)?;
    for path in values_files(&chart)? {
        let values = read(&path)?;
        helm.lint(&values)?;
        let rendered = helm.text(&Request { kubernetes: NEWEST_KUBERNETES, values: &values, ..Request::DEFAULT })?;
        settle(&golden(&path)?, &rendered, check)?;
    }
    if !check {
        return Ok(());
    }
    monitoring::check(&workspace)?;
    cases::run(&helm, &values)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn values_files(chart: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(chart.join("ci")).context("cannot read the chart's ci folder")? {
        let path = entry?.path();
        if path.is_file() {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!(
            "cannot find values files in {}: there is none, so no feature of the chart would be tried",
            chart.display()
        );
    }
    found.sort();
    Ok(found)
}

/// Where the chart stands as it is rendered with a values file.
fn golden(values_file: &Path) -> Result<PathBuf> {
    let name = values_file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(name) = name.strip_suffix("-values.yaml") else {
        bail!("{} is no values file: name it NAME-values.yaml", values_file.display())
    };
    Ok(values_file.with_file_name("golden").join(format!("{name}.yaml")))
}

fn settle(path: &Path, wanted: &str, check: bool) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|current| current == wanted) {
        return Ok(());
    }
    if check {
        bail!("{} is not as it would be written; run `cargo xtask chart` and commit it", path.display());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(path, wanted).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
