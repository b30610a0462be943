//! The steps that bring what the tests run against: Prometheus, an OpenTelemetry collector, `VictoriaMetrics`, other kernels.
//!
//! All of it lies in the cache, keyed by version, and nothing of it is installed into the machine. The tests
//! find the components by the same names (testkit/src/components).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    debian, kernels, places, process,
    step::{Purpose, Step},
    toolchain, vm,
};

/// Prometheus of this major version, with `prometheus` and `promtool` in one directory of this name.
const PROMETHEUS_DIRECTORY: &str = "prometheus-3";
/// Each is a Debian package of the same name.
const PROMETHEUS_PROGRAMS: &[&str] = &["prometheus", "promtool"];
/// The oldest Prometheus that the tests are written for: native histograms are stable in it.
const OLDEST_PROMETHEUS: (u32, u32) = (3, 5);
/// Debian's suites that may have what is taken from its packages, the first one preferred.
const SUITES: &[&str] = &["forky", "sid"];

/// The Prometheus that receives OTLP, which Debian's packages leave out, by its module's version: 0.316.0 is Prometheus 3.16.0.
/// `testkit` has the same.
const RECEIVER_MODULE: &str = "github.com/prometheus/prometheus";
const RECEIVER_VERSION: &str = "0.316.0";

/// A receiver of OTLP of another make: a Debian package with the program of the same name, and where it goes.
const VICTORIA_METRICS: &str = "victoria-metrics";
/// By it, what comes over OTLP is named as Prometheus names it.
const VICTORIA_METRICS_FLAG: &str = "-opentelemetry.usePrometheusNaming";

/// Version of the collector's components; its configuration providers are numbered apart.
const COLLECTOR_VERSION: &str = "0.165.0";
const COLLECTOR_PROVIDERS_VERSION: &str = "1.71.0";
const COLLECTOR_MODULES: &str = "go.opentelemetry.io/collector";

/// In the collector's directory: the builder's input, and while it is built, its sources.
const COLLECTOR_PARTS: &str = "builder.yaml";
const COLLECTOR_SOURCES: &str = "sources";

/// The kernels that the tests boot, and whose type information the offset resolver is tested with.
const KERNEL_SERIES: &[&str] = &["5.10", "6.1", "6.12", "7.2"];

/// The Go compiler, which a person installs.
pub(crate) const GO: Step = Step {
    name: "go",
    why: "to build the OpenTelemetry collector, and a Prometheus that receives OTLP",
    purpose: Purpose::Test,
    check: || Ok(process::output(Command::new("go").arg("version"))?.trim().to_owned()),
    act: || bail!("this step installs nothing"),
    remedy: "install Go 1.25 or later",
};

/// Prometheus and promtool.
pub(crate) const PROMETHEUS: Step = Step {
    name: "prometheus",
    why: "to scrape podlens in the tests",
    purpose: Purpose::Test,
    check: check_prometheus,
    act: add_prometheus,
    remedy: "see that Debian's package server can be reached, or put prometheus and promtool 3.5 or later into \
             podlens/prometheus-3 of your cache directory",
};

/// Prometheus with its receiver for OTLP.
pub(crate) const PROMETHEUS_RECEIVER: Step = Step {
    name: "prometheus with its OTLP receiver",
    why: "to receive podlens' push in the tests; Debian's has no receiver",
    purpose: Purpose::Test,
    check: check_receiver,
    act: build_receiver,
    remedy: "see that Go modules can be downloaded and that 2 GB of disk are free",
};

/// The OpenTelemetry collector.
pub(crate) const COLLECTOR: Step = Step {
    name: "opentelemetry collector",
    why: "to receive podlens' push in the tests",
    purpose: Purpose::Test,
    check: check_collector,
    act: build_collector,
    remedy: "see that Go modules can be downloaded and that 2 GB of disk are free",
};

/// `VictoriaMetrics`.
pub(crate) const SECOND_RECEIVER: Step = Step {
    name: VICTORIA_METRICS,
    why: "to compare what it receives with what the collector does",
    purpose: Purpose::Test,
    check: check_victoria_metrics,
    act: add_victoria_metrics,
    remedy: "see that Debian's package server can be reached, or put a newer victoria-metrics into \
             podlens/victoria-metrics of your cache directory",
};

/// Kernel images and their type information.
pub(crate) const KERNELS: Step = Step {
    name: "kernels",
    why: "to test on other kernels than this machine's",
    purpose: Purpose::Vm,
    check: || kernels::present(KERNEL_SERIES).map(|_| KERNEL_SERIES.join(", ")),
    act: || {
        kernels::ensure(KERNEL_SERIES)?;
        vm::busybox().map(|_| ())
    },
    remedy: "see that Debian's package server can be reached and that 2 GB of disk are free",
};

fn collector_directory() -> Result<PathBuf> {
    places::component(&format!("otelcol-{COLLECTOR_VERSION}"))
}

fn check_collector() -> Result<String> {
    let directory = collector_directory()?;
    let printed = process::output(Command::new(cached(&directory, "otelcol")?).arg("--version"))?;
    let version = printed.split_whitespace().last().unwrap_or("unknown");
    if version != COLLECTOR_VERSION {
        bail!("its version is {version}, not {COLLECTOR_VERSION}");
    }
    let built_from = fs::read_to_string(directory.join(COLLECTOR_PARTS)).unwrap_or_default();
    if built_from != collector_configuration(&directory.join(COLLECTOR_SOURCES)) {
        bail!("it was built from other parts");
    }
    Ok(version.to_owned())
}

fn cached(directory: &Path, name: &str) -> Result<PathBuf> {
    let program = directory.join(name);
    if !program.is_file() {
        bail!("the cache has no {name}");
    }
    Ok(program)
}

fn check_prometheus() -> Result<String> {
    let directory = places::component(PROMETHEUS_DIRECTORY)?;
    let mut versions = Vec::new();
    for name in PROMETHEUS_PROGRAMS {
        let printed = process::output(Command::new(cached(&directory, name)?).arg("--version"))?;
        let version = prometheus_version(&printed).with_context(|| format!("{name} --version tells no version"))?;
        if toolchain::major_and_minor(version).is_none_or(|found| found < OLDEST_PROMETHEUS) {
            bail!("{name} is {version}, older than {}.{}", OLDEST_PROMETHEUS.0, OLDEST_PROMETHEUS.1);
        }
        versions.push(format!("{name} {version}"));
    }
    Ok(versions.join(", "))
}

fn receiver_directory() -> Result<PathBuf> {
    places::component(&format!("prometheus-otlp-{RECEIVER_VERSION}"))
}

fn check_receiver() -> Result<String> {
    let printed = process::output(Command::new(cached(&receiver_directory()?, "prometheus")?).arg("--version"))?;
    let version = prometheus_version(&printed).context("prometheus --version tells no version")?;
    if version != RECEIVER_VERSION {
        bail!("its version is {version}, not {RECEIVER_VERSION}");
    }
    Ok(version.to_owned())
}

/// Builds it from the released module, without the many clients of clouds that discover targets.
fn build_receiver() -> Result<()> {
    let directory = receiver_directory()?;
    let sources = directory.join("sources");
    fs::create_dir_all(&sources).with_context(|| format!("cannot make {}", sources.display()))?;
    let module = format!("module podlens/receiver\n\ngo 1.25\n\nrequire {RECEIVER_MODULE} v{RECEIVER_VERSION}\n");
    fs::write(sources.join("go.mod"), module).with_context(|| format!("cannot write into {}", sources.display()))?;
    process::watched(
        "building Prometheus (about 3 minutes)",
        Command::new("go")
            .current_dir(&sources)
            .env("CGO_ENABLED", "0")
            .args(["build", "-mod=mod", "-trimpath", "-tags", "remove_all_sd", "-ldflags"])
            .arg(format!("-s -w -X github.com/prometheus/common/version.Version={RECEIVER_VERSION}"))
            .args(["-o", "prometheus", &format!("{RECEIVER_MODULE}/cmd/prometheus")]),
    )?;
    copy_program(&sources.join("prometheus"), &directory.join("prometheus"))?;
    fs::remove_dir_all(&sources).with_context(|| format!("cannot remove {}", sources.display()))
}

/// Takes the two programs out of Debian's packages.
fn add_prometheus() -> Result<()> {
    add_from_debian(PROMETHEUS_DIRECTORY, PROMETHEUS_PROGRAMS, check_prometheus)
}

/// Debian's build does not tell its version, so what the tests need of it is looked for.
fn check_victoria_metrics() -> Result<String> {
    let program = cached(&places::component(VICTORIA_METRICS)?, VICTORIA_METRICS)?;
    let flags = process::output(Command::new(program).arg("-help"))?;
    if !flags.contains(VICTORIA_METRICS_FLAG) {
        bail!("it has no flag {VICTORIA_METRICS_FLAG}: it is too old");
    }
    Ok(format!("it has {VICTORIA_METRICS_FLAG}"))
}

fn add_victoria_metrics() -> Result<()> {
    add_from_debian(VICTORIA_METRICS, &[VICTORIA_METRICS], check_victoria_metrics)
}

/// Takes programs out of Debian's packages of the same names, of the first suite whose programs pass the check.
fn add_from_debian(component: &str, programs: &[&str], check: fn() -> Result<String>) -> Result<()> {
    let directory = places::component(component)?;
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let take = |suite: &str| -> Result<()> {
        for program in programs {
            let tree = debian::debian_package(suite, program, &places::cache()?)?;
            copy_program(&tree.join("usr/bin").join(program), &directory.join(program))?;
        }
        check().map(|_| ())
    };
    let mut reasons = Vec::new();
    for suite in SUITES {
        match take(suite) {
            Ok(()) => return Ok(()),
            Err(error) => reasons.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("no suite of Debian has a {component} that fits: {}", reasons.join("; "))
}

/// Builds the collector by OpenTelemetry's own builder, and puts it into its place when all is done.
fn build_collector() -> Result<()> {
    let directory = collector_directory()?;
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    process::watched(
        "building the collector's builder",
        Command::new("go")
            .env("GOBIN", &directory)
            .args(["install", &format!("{COLLECTOR_MODULES}/cmd/builder@v{COLLECTOR_VERSION}")]),
    )?;
    let configuration = directory.join(COLLECTOR_PARTS);
    let sources = directory.join(COLLECTOR_SOURCES);
    fs::write(&configuration, collector_configuration(&sources))
        .with_context(|| format!("cannot write {}", configuration.display()))?;
    process::watched(
        "building the collector (about 3 minutes)",
        Command::new(directory.join("builder")).env("CGO_ENABLED", "0").arg("--config").arg(&configuration),
    )?;
    copy_program(&sources.join("otelcol"), &directory.join("otelcol"))?;
    fs::remove_dir_all(&sources).with_context(|| format!("cannot remove {}", sources.display()))
}

/// The builder's input: the few parts of a collector that the tests use.
fn collector_configuration(sources: &Path) -> String {
    let part = |path: &str| format!("  - gomod: {COLLECTOR_MODULES}/{path} v{COLLECTOR_VERSION}\n");
    let provider =
        |name: &str| format!("  - gomod: {COLLECTOR_MODULES}/confmap/provider/{name} v{COLLECTOR_PROVIDERS_VERSION}\n");
    let sections = [
        ("receivers", part("receiver/otlpreceiver")),
        ("processors", part("processor/batchprocessor")),
        ("exporters", part("exporter/debugexporter") + &part("exporter/otlphttpexporter")),
        ("providers", provider("envprovider") + &provider("fileprovider")),
    ];
    let sections: Vec<String> = sections.iter().map(|(name, parts)| format!("{name}:\n{parts}")).collect();
    format!(
        "dist:\n  name: otelcol\n  description: collector for podlens' tests\n  version: {COLLECTOR_VERSION}\n  output_path: {}\n{}",
        sources.display(),
        sections.concat()
    )
}

/// Copies a program so that the place never holds a part of one.
fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    fs::copy(from, &partial).with_context(|| format!("cannot copy {} to {}", from.display(), partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("cannot put {} into its place", to.display()))
}

/// The version in the first line of `prometheus --version`: `prometheus, version 3.5.3+ds (branch: ...)`.
fn prometheus_version(printed: &str) -> Option<&str> {
    printed.lines().next()?.split("version ").nth(1)?.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{collector_configuration, prometheus_version};

    #[test]
    fn the_version_is_read_from_what_prometheus_prints() {
        let printed = "prometheus, version 3.5.3+ds (branch: debian/sid, revision: 3.5.3+ds-1)\n  build user: x\n";
        assert_eq!(prometheus_version(printed), Some("3.5.3+ds"));
        assert_eq!(prometheus_version("no such thing"), None);
    }

    #[test]
    fn the_builder_is_asked_for_both_exporters() {
        let text = collector_configuration(Path::new("out"));
        for part in
            ["output_path: out\n", "exporters:\n", "debugexporter v0.", "otlphttpexporter v0.", "fileprovider v1."]
        {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }
}
