//! The command line of `podlens`. It only says what was asked; `main` acts on it.
//!
//! Flags that stand for a configuration key check their values with that key's own rule and are handed on as texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::check_value;

/// Shows what every pod of a Kubernetes node, or every unit of a plain Linux host, takes of CPU, memory, disks and network,
/// how long it waits, and for whom. Counts in the kernel with eBPF, serves Prometheus and pushes OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "podlens", version, term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What podlens is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the agent: measure, serve /metrics, push if an OTLP endpoint is configured
    Run(Run),
    /// Report whether podlens works on this node, what is lacking and how to get it; exit code 0 if it is useful here
    Check(Check),
    /// Measure for a few seconds, print the result once, and end
    Snapshot(Snapshot),
    #[allow(clippy::doc_markdown, reason = "help for the terminal")]
    /// Report which nodes of the cluster lack the pod of a DaemonSet, since when, and why: as metrics and events for as long as
    /// it runs, or once as a table, and then with exit code 0 if none does
    Fleet(Fleet),
    /// Ask agents that run whether they measure; exit code 0 if each one does
    Probe(Probe),
}

/// `podlens run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Run {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Where to serve /metrics [default: [::]:9464]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = |text: &str| check_value("listen", text))]
    pub listen: Option<String>,
    /// Where to serve /healthz and /readyz as well, always open [default: none]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = |text: &str| check_value("health_listen", text))]
    pub health_listen: Option<String>,
    #[allow(clippy::doc_markdown, reason = "help for the terminal")]
    /// TLS and users of the server, as Prometheus' own --web.config.file has them [default: none]
    #[arg(long, alias = "web.config.file", value_name = "FILE", value_parser = |text: &str| path_of("web.config_file", text))]
    pub web_config_file: Option<String>,
    #[allow(clippy::doc_markdown, reason = "help for the terminal")]
    /// The node's name on every series [default: NODE_NAME, else the host's name]
    #[arg(long, value_name = "NAME", value_parser = |text: &str| check_value("node", text))]
    pub node: Option<String>,
}

impl Run {
    /// Key and value of each flag that overrides the configuration.
    #[must_use]
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = self.config.flags();
        flags.extend(
            [
                ("listen", &self.listen),
                ("health_listen", &self.health_listen),
                ("web.config_file", &self.web_config_file),
                ("node", &self.node),
            ]
            .into_iter()
            .filter_map(|(key, value)| Some((key, value.clone()?))),
        );
        flags
    }
}

/// `podlens check`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Check {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Report instead how podlens reads the path of a cgroup: its pod, container or unit, and why; a line of /proc/PID/cgroup
    /// will do
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<String>,
}

/// `podlens snapshot`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Snapshot {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// How to print it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    pub output: Output,
    /// What a row of the table is
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = By::Container)]
    pub by: By,
    /// How long to measure
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
}

/// `podlens fleet`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Fleet {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Look once, print a table, and end; otherwise watch, serve /metrics, and push if an OTLP endpoint is configured
    #[arg(long)]
    pub once: bool,
    /// How to print it
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = FleetOutput::Table, requires = "once")]
    pub output: FleetOutput,
    /// Where to serve /metrics while it watches [default: [::]:9464]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = |text: &str| check_value("listen", text), conflicts_with = "once")]
    pub listen: Option<String>,
    /// The Lease that several replicas share; only the one that holds it reports [default: none, there is one replica]
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = lease, conflicts_with = "once")]
    pub lease: Option<(String, String)>,
}

impl Fleet {
    /// Key and value of each flag that overrides the configuration.
    #[must_use]
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = self.config.flags();
        flags.extend(self.listen.iter().map(|listen| ("listen", listen.clone())));
        flags
    }
}

fn lease(text: &str) -> Result<(String, String), String> {
    let is_name = |name: &str| {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        !name.is_empty() && name.len() <= 253 && name.bytes().all(is_plain)
    };
    match text.split_once('/') {
        Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok((namespace.to_owned(), name.to_owned())),
        _ => Err("must be a namespace and a name, such as monitoring/podlens-fleet".to_owned()),
    }
}

/// The form of a printed fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FleetOutput {
    #[allow(clippy::doc_markdown, reason = "help for the terminal")]
    /// For people: a line for each DaemonSet, then what is lacking.
    Table,
    /// Everything, as one JSON document.
    Json,
}

/// `podlens probe`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Probe {
    /// Where the agents serve; each address that the host's name has is asked
    #[arg(value_name = "URL", default_value = "http://127.0.0.1:9464")]
    pub url: http::Uri,
    /// PEM file of the authorities that may sign the agents' certificates [default: the public ones]
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The name for which the agents' certificates are [default: the URL's host]
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// PEM file of a certificate to show to the agents
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// Ask as this user
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub user: Option<String>,
    /// File of the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// File of a bearer token, in its first line
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    pub token_file: Option<PathBuf>,
}

/// The configuration file and what overrides it in each command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ConfigFile {
    #[allow(clippy::doc_markdown, reason = "help for the terminal")]
    /// YAML configuration file; PODLENS_CONFIG may name it, too [default: none, all keys have defaults]
    #[arg(long = "config", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Kubeconfig file for the API server, outside a cluster [default: none]
    #[arg(long, value_name = "FILE", value_parser = |text: &str| path_of("kubernetes.kubeconfig", text))]
    pub kubeconfig: Option<String>,
}

impl ConfigFile {
    /// Key and value of each flag that overrides the configuration.
    #[must_use]
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        self.kubeconfig.iter().map(|path| ("kubernetes.kubeconfig", path.clone())).collect()
    }
}

/// Unlike in the configuration file, a path may be relative to where the command was typed.
fn path_of(key: &'static str, text: &str) -> Result<String, String> {
    let path = std::path::absolute(text).map_err(|cause| cause.to_string())?;
    check_value(key, path.to_str().ok_or("must be UTF-8 text")?)
}

/// The form of a printed snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people: the busiest pods or units first.
    Table,
    /// Everything, as one JSON document.
    Json,
    /// As /metrics gives it.
    Prometheus,
}

/// What a row of a printed table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Each container and each unit: who is busy, who waits, for whom.
    Container,
    /// Each workload: what its pods cost this node together, beside what they requested.
    Workload,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::{
        fmt::Write as _,
        path::{Path, PathBuf},
    };

    use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

    use super::{By, Check, Cli, Command, ConfigFile, Output, Run, Snapshot};
    use crate::config::Config;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[track_caller]
    fn check_refused(line: &str, kind: ErrorKind, message: &str) {
        let error = parse(line).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line}");
        assert!(error.to_string().contains(message), "{line} says: {error}");
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_reads_as_the_golden_file() {
        let mut root = Cli::command();
        root.build();
        let mut help = root.render_long_help().to_string();
        for command in root.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            writeln!(help, "\n$ podlens {} --help", command.get_name()).unwrap();
            help += &command.render_long_help().to_string();
        }
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
        if std::env::var_os("PODLENS_TEST_UPDATE").is_some() {
            std::fs::write(&golden, &help).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert!(help.contains(&Config::defaults(&[]).listen.to_string()), "the default of --listen");
        assert_eq!(help, expected, "if intended, run the test with PODLENS_TEST_UPDATE=1 and review the file");
    }

    #[test]
    fn flags_of_run_are_handed_on_by_key() {
        let Command::Run(run) = parse("podlens run --config /c.yaml --node n1 --listen 127.0.0.1:1").unwrap().command
        else {
            panic!("run is not run");
        };
        assert_eq!(run.config.file, Some(PathBuf::from("/c.yaml")));
        assert_eq!(run.flags(), [("listen", "127.0.0.1:1".to_owned()), ("node", "n1".to_owned())]);
        for flag in ["--web-config-file", "--web.config.file"] {
            let line = format!("podlens run --health-listen [::]:1 {flag} /w.yaml");
            let Command::Run(run) = parse(&line).unwrap().command else { panic!("run is not run") };
            let wanted = [("health_listen", "[::]:1".to_owned()), ("web.config_file", "/w.yaml".to_owned())];
            assert_eq!(run.flags(), wanted, "{flag}, as Prometheus has it");
        }
        assert_eq!(Run::default().flags(), []);
    }

    #[test]
    fn check_and_snapshot_take_a_configuration_too() {
        let file = ConfigFile { file: Some(PathBuf::from("c.yaml")), kubeconfig: None };
        let check = Command::Check(Check { config: file.clone(), cgroup: None });
        assert_eq!(parse("podlens check --config c.yaml").unwrap().command, check);
        let snapshot = Command::Snapshot(Snapshot { config: file, output: Output::Json, by: By::Workload, seconds: 9 });
        let line = "podlens snapshot --config c.yaml --output json --by workload --seconds 9";
        assert_eq!(parse(line).unwrap().command, snapshot);
        let plain = Command::Snapshot(Snapshot {
            config: ConfigFile::default(),
            output: Output::Table,
            by: By::Container,
            seconds: 5,
        });
        assert_eq!(parse("podlens snapshot").unwrap().command, plain);
    }

    #[test]
    fn check_takes_the_path_of_a_cgroup() {
        let check = Command::Check(Check { cgroup: Some("0::/a".to_owned()), ..Check::default() });
        assert_eq!(parse("podlens check --cgroup 0::/a").unwrap().command, check);
    }

    #[test]
    fn probe_asks_this_machine_unless_told_otherwise() {
        for (line, expected) in
            [("podlens probe", "http://127.0.0.1:9464/"), ("podlens probe http://agents:1", "http://agents:1/")]
        {
            let Command::Probe(probe) = parse(line).unwrap().command else { panic!("{line} is no probe") };
            assert_eq!(probe.url.to_string(), expected, "{line}");
        }
        check_refused("podlens probe http://[", ErrorKind::ValueValidation, "invalid");
        check_refused("podlens probe --user a", ErrorKind::MissingRequiredArgument, "--password-file");
        check_refused("podlens probe --cert-file a", ErrorKind::MissingRequiredArgument, "--key-file");
        let two = "podlens probe --user a --password-file b --token-file c";
        check_refused(two, ErrorKind::ArgumentConflict, "--token-file");
    }

    #[test]
    fn each_command_takes_a_kubeconfig_relative_or_not() {
        let here = std::env::current_dir().unwrap().join("k").to_str().unwrap().to_owned();
        for (line, expected) in [
            ("podlens run --kubeconfig /a/k", "/a/k"),
            ("podlens check --kubeconfig k", &here),
            ("podlens snapshot --kubeconfig k", &here),
            ("podlens fleet --once --kubeconfig k", &here),
        ] {
            let flags = match parse(line).unwrap().command {
                Command::Run(run) => run.flags(),
                Command::Check(check) => check.config.flags(),
                Command::Snapshot(snapshot) => snapshot.config.flags(),
                Command::Fleet(fleet) => fleet.flags(),
                Command::Probe(_) => panic!("{line} is no probe"),
            };
            assert_eq!(flags, [("kubernetes.kubeconfig", expected.to_owned())], "{line}");
        }
    }

    #[test]
    fn wrong_use_is_refused_with_exit_code_2() {
        check_refused(
            "podlens run --listen 9464",
            ErrorKind::ValueValidation,
            "must be an IP address and a port, such as",
        );
        check_refused("podlens run --health-listen 9465", ErrorKind::ValueValidation, "must be none or an IP address");
        check_refused("podlens run --node a/b", ErrorKind::ValueValidation, "must be 1 to 253 letters");
        check_refused("podlens run --node=", ErrorKind::ValueValidation, "must be 1 to 253 letters");
        let lease = "must be a namespace and a name";
        check_refused("podlens fleet --lease podlens", ErrorKind::ValueValidation, lease);
        check_refused("podlens fleet --lease a/b?c", ErrorKind::ValueValidation, lease);
        check_refused("podlens fleet --output json", ErrorKind::MissingRequiredArgument, "--once");
        check_refused("podlens fleet --once --listen [::]:1", ErrorKind::ArgumentConflict, "--once");
        check_refused("podlens snapshot --output xml", ErrorKind::InvalidValue, "table, json, prometheus");
        check_refused("podlens snapshot --seconds 0", ErrorKind::ValueValidation, "1..=3600");
        check_refused("podlens runn", ErrorKind::InvalidSubcommand, "'run'");
        check_refused("podlens run --lisen x", ErrorKind::UnknownArgument, "'--listen'");
        check_refused("podlens", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, "Usage:");
    }

    #[test]
    fn version_is_the_crates() {
        let error = parse("podlens --version").unwrap_err();
        assert_eq!(error.exit_code(), 0);
        assert_eq!(error.to_string(), format!("podlens {}\n", env!("CARGO_PKG_VERSION")));
    }
}
