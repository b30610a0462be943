//! `cargo xtask chart`: what is derived from the helm chart, and whether the chart is sound. It renders
//! deploy/manifests/podlens.yaml and the table of values in the chart's README, and lints and renders the chart with
//! each values file in ci/. It needs no cluster. Called by the command line and by `cargo xtask test`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};

use crate::{cluster::components, places, process};

const TABLE_BEGIN: &str = "<!-- values: made from values.yaml by `cargo xtask chart` -->\n";
const TABLE_END: &str = "<!-- end of values -->\n";
const NAMESPACE: &str = "podlens";

/// The manifests are for every cluster that the chart allows (kubeVersion in Chart.yaml), so they use no newer field.
const OLDEST_KUBERNETES: &str = "1.25.0";

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
    /// Write nothing; fail where a file is not as it would be written
    #[arg(long)]
    check: bool,
}

/// `cargo xtask chart [--check]`.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    chart(choice.check)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the derived files or, with `check`, fails where they are not as they would be written.
pub(crate) fn chart(check: bool) -> Result<()> {
    let deploy = places::workspace()?.join("deploy");
    let chart = deploy.join("chart");
    let helm = Helm { program: components::helm()?, chart: chart.clone() };
    for values in values_files(&chart)? {
        helm.run(&["lint", "--strict", "--quiet"], Some(&values))?;
        helm.template(Some(&values))?;
    }
    let readme = chart.join("README.md");
    let text = fs::read_to_string(&readme).with_context(|| format!("cannot read {}", readme.display()))?;
    let values = fs::read_to_string(chart.join("values.yaml")).context("cannot read the chart's values")?;
    let manifest = format!(
        "# Rendered from deploy/chart with its default values by `cargo xtask chart`; change the chart instead.\n\
         ---\n{NAMESPACE_OBJECT}{}",
        helm.template(None)?
    );
    settle(&readme, &spliced(&text, &table(&values)?)?, check)?;
    settle(&deploy.join("manifests/podlens.yaml"), &manifest, check)
}

struct Helm {
    program: PathBuf,
    chart: PathBuf,
}

impl Helm {
    fn template(&self, values: Option<&Path>) -> Result<String> {
        self.run(
            &["template", "podlens", "--namespace", NAMESPACE, "--skip-tests", "--kube-version", OLDEST_KUBERNETES],
            values,
        )
    }

    fn run(&self, arguments: &[&str], values: Option<&Path>) -> Result<String> {
        let own = places::component("helm")?;
        let mut helm = Command::new(&self.program);
        helm.env("HELM_CACHE_HOME", own.join("cache"))
            .env("HELM_CONFIG_HOME", own.join("config"))
            .env("HELM_DATA_HOME", own.join("data"))
            .env_remove("KUBECONFIG")
            .args(arguments)
            .arg(&self.chart);
        if let Some(values) = values {
            helm.arg("--values").arg(values);
        }
        process::output(&mut helm)
    }
}

fn values_files(chart: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(chart.join("ci")).context("cannot read the chart's ci folder")? {
        found.push(entry?.path());
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

fn settle(path: &Path, wanted: &str, check: bool) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|current| current == wanted) {
        return Ok(());
    }
    if check {
        bail!("{} is not what the chart gives; run `cargo xtask chart` and commit it", path.display());
    }
    fs::write(path, wanted).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

fn spliced(readme: &str, table: &str) -> Result<String> {
    let parts = readme.split_once(TABLE_BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(TABLE_END)?.1)));
    let Some((before, after)) = parts else {
        bail!("cannot find the place of the table in the chart's README.md: its marks are gone")
    };
    Ok(format!("{before}{TABLE_BEGIN}\n{table}\n{TABLE_END}{after}"))
}

/// The table of all values: each `key: value` line with the comment above it. Values that are maps or lists
/// stand on one line, in braces or brackets, so that a line that ends in a colon is always a group.
fn table(values: &str) -> Result<String> {
    let mut table = String::from("| value | default | |\n| --- | --- | --- |\n");
    let mut groups: Vec<(usize, &str)> = Vec::new();
    let mut comment = String::new();
    for line in values.lines() {
        let text = line.trim_start();
        if text.is_empty() {
            comment.clear();
        } else if let Some(words) = text.strip_prefix("# ") {
            if !comment.is_empty() {
                comment.push(' ');
            }
            comment.push_str(words);
        } else {
            let indentation = line.len() - text.len();
            let Some((key, value)) = text.split_once(':') else {
                bail!("cannot read values.yaml: `{line}` is not `key: value`")
            };
            groups.retain(|(outer, _)| *outer < indentation);
            if value.trim().is_empty() {
                groups.push((indentation, key));
            } else {
                if comment.is_empty() {
                    bail!("cannot read values.yaml: `{key}` has no comment above it");
                }
                let path: String = groups.iter().map(|(_, group)| [group, "."].concat()).collect();
                let value = value.trim().replace('|', "\\|");
                writeln!(table, "| `{path}{key}` | `{value}` | {} |", comment.replace('|', "\\|"))?;
            }
            comment.clear();
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{TABLE_BEGIN, TABLE_END, spliced, table};

    #[test]
    fn a_values_path_goes_through_its_groups() {
        let values = "# Head.\n\n# First.\na: 1\nouter:\n  inner:\n    # Deep,\n    # on two lines.\n    b: [x]\n  # Beside.\n  c: \"\"\n";
        let wanted = "| value | default | |\n| --- | --- | --- |\n| `a` | `1` | First. |\n\
                      | `outer.inner.b` | `[x]` | Deep, on two lines. |\n| `outer.c` | `\"\"` | Beside. |\n";
        assert_eq!(table(values).unwrap(), wanted);
    }

    #[test]
    fn a_value_without_a_comment_is_refused() {
        assert!(table("# Only this one.\na: 1\nb: 2\n").unwrap_err().to_string().contains("`b`"));
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let readme = format!("before\n{TABLE_BEGIN}old\n{TABLE_END}after\n");
        let wanted = format!("before\n{TABLE_BEGIN}\nnew\n\n{TABLE_END}after\n");
        assert_eq!(spliced(&readme, "new\n").unwrap(), wanted);
        assert!(spliced("no marks", "new").is_err());
    }
}
