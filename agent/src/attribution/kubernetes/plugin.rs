//! The program that a kubeconfig's user names under `exec`: it prints credentials for a while.
//!
//! The library would run it on a thread that serves others, and wait for it without end. What it prints is a credential or may
//! hold one: no message tells any of it.

use std::{
    io::{self, IsTerminal as _, stdin},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::jiff::Timestamp;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};

/// It asks a server of the cloud. Somebody who has to log in at a terminal takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_AT_TERMINAL: Duration = Duration::from_mins(5);
/// A token or a certificate with its key is a few kilobytes.
const OUTPUT_BYTES: u64 = 1 << 20;

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It has no name.
    #[error("the exec of the kubeconfig's user has no command; give it one")]
    NoCommand,
    /// It cannot be started.
    #[error(
        "cannot start the credential plugin {command}; install it where podlens runs, or correct the exec of the kubeconfig's user"
    )]
    Start {
        /// Its name.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not end.
    #[error("the credential plugin {command} did not end within {limit:?} and was killed; start it by hand to see why")]
    Silent {
        /// Its name.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// It has failed.
    #[error("the credential plugin {command} failed ({status}); start it by hand, as podlens' user, to see why")]
    Failed {
        /// Its name.
        command: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It printed something else.
    #[error("the credential plugin {command} printed {what}; start it by hand to see what it prints")]
    Output {
        /// Its name.
        command: String,
        /// What it printed, without any of it.
        what: &'static str,
    },
}

/// What a plugin has printed.
pub(super) struct Login {
    /// The token, or the certificate and its key.
    credentials: Status,
    /// When they run out.
    pub(super) until: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Printed {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

impl Login {
    /// Shows these credentials from now on.
    pub(super) fn enter(self, auth: &mut AuthInfo) {
        let Status { token, client_certificate_data, client_key_data, .. } = self.credentials;
        auth.token = token.map(Into::into);
        auth.client_certificate_data = client_certificate_data.map(|pem| STANDARD.encode(pem));
        auth.client_key_data = client_key_data.map(|pem| STANDARD.encode(pem).into());
    }

    fn decode(text: &[u8]) -> Result<Self, &'static str> {
        let printed: Printed = serde_json::from_slice(text).map_err(|_| "no ExecCredential in JSON")?;
        let credentials = printed.status.ok_or("an ExecCredential without a status")?;
        let until = credentials.expiration_timestamp.as_deref().map(str::parse).transpose();
        let until = until.map_err(|_| "an expirationTimestamp that is no time")?;
        let has_identity = match (&credentials.client_certificate_data, &credentials.client_key_data) {
            (None, None) => false,
            (Some(_), Some(_)) => true,
            _ => return Err("a certificate without its key, or a key alone"),
        };
        match &credentials.token {
            None if !has_identity => Err("neither a token nor a certificate"),
            Some(token) if !token.bytes().all(|byte| matches!(byte, b'!'..=b'~')) => {
                Err("a token with characters that no header can carry")
            }
            _ => Ok(Self { credentials, until }),
        }
    }
}

/// Runs it and reads what it prints.
pub(super) async fn log_in(exec: &ExecConfig) -> Result<Login, PluginError> {
    // Without a terminal, and a kubeconfig that lets it, there is nobody to be asked.
    let is_interactive = exec.interactive_mode != Some(ExecInteractiveMode::Never) && stdin().is_terminal();
    let limit = if is_interactive { PATIENCE_AT_TERMINAL } else { PATIENCE };
    log_in_within(exec, is_interactive, limit).await
}

async fn log_in_within(exec: &ExecConfig, is_interactive: bool, limit: Duration) -> Result<Login, PluginError> {
    let name = exec.command.clone().ok_or(PluginError::NoCommand)?;
    let child = command(&name, exec, is_interactive).spawn();
    let child = child.map_err(|source| PluginError::Start { command: name.clone(), source })?;
    let mut running = Running { child, has_group: !is_interactive };
    let (status, text) = match tokio::time::timeout(limit, running.end()).await {
        Err(_) => return Err(PluginError::Silent { command: name, limit }),
        Ok(Err(source)) => return Err(PluginError::Start { command: name, source }),
        Ok(Ok(ended)) => ended,
    };
    let output = |what| PluginError::Output { command: name.clone(), what };
    match status {
        None => Err(output("more than a megabyte")),
        Some(status) if !status.success() => Err(PluginError::Failed { command: name, status }),
        Some(_) => Login::decode(&text).map_err(output),
    }
}

fn command(name: &str, exec: &ExecConfig, is_interactive: bool) -> Command {
    let mut command = Command::new(name);
    command.args(exec.args.iter().flatten());
    let variables = exec.env.iter().flatten();
    command.envs(variables.filter_map(|variable| Some((variable.get("name")?, variable.get("value")?))));
    let spec = match exec.cluster.as_ref().filter(|_| exec.provide_cluster_info) {
        Some(cluster) => json!({ "interactive": is_interactive, "cluster": cluster }),
        None => json!({ "interactive": is_interactive }),
    };
    let info = json!({ "kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec });
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    for variable in exec.drop_env.iter().flatten() {
        command.env_remove(variable);
    }
    let terminal = || if is_interactive { Stdio::inherit() } else { Stdio::null() };
    command.stdin(terminal()).stderr(terminal()).stdout(Stdio::piped()).kill_on_drop(true);
    if !is_interactive {
        command.process_group(0);
    }
    command
}

/// A plugin at work. It ends, with all that it has started, when nobody waits for it any more.
struct Running {
    child: Child,
    has_group: bool,
}

impl Running {
    /// How it ended and what it printed; no end if that is too much.
    async fn end(&mut self) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
        let mut text = Vec::new();
        if let Some(output) = self.child.stdout.take() {
            output.take(OUTPUT_BYTES + 1).read_to_end(&mut text).await?;
        }
        if text.len() as u64 > OUTPUT_BYTES {
            return Ok((None, text));
        }
        Ok((Some(self.child.wait().await?), text))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // No id: it has ended and was waited for.
        let group = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).filter(|_| self.has_group);
        if let Some(group) = group {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

    use std::{fs, path::Path, time::Instant};

    use super::*;
    use crate::log::with_causes;

    fn shell(script: &str) -> ExecConfig {
        let text = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
            "env": [{ "name": "GIVEN", "value": "given" }],
        });
        serde_json::from_value(text).unwrap()
    }

    async fn fails(script: &str) -> String {
        let error = log_in_within(&shell(script), false, Duration::from_secs(20)).await.err().unwrap();
        with_causes(&error)
    }

    #[tokio::test]
    async fn a_plugin_is_told_who_asks_and_its_credentials_are_shown() {
        let script = r#"test -n "$KUBERNETES_EXEC_INFO" && echo "{\"status\": {\"token\": \"$GIVEN\", \"expirationTimestamp\": \"2026-01-02T03:04:05Z\"}}""#;
        let login = log_in_within(&shell(script), false, Duration::from_secs(20)).await.unwrap();
        assert_eq!(login.until.unwrap().to_string(), "2026-01-02T03:04:05Z");
        let mut auth = AuthInfo::default();
        login.enter(&mut auth);
        assert_eq!(serde_json::to_value(&auth).unwrap()["token"], "given");

        let script = r#"echo '{"status": {"clientCertificateData": "A", "clientKeyData": "B"}}'"#;
        let login = log_in_within(&shell(script), false, Duration::from_secs(20)).await.unwrap();
        login.enter(&mut auth);
        let auth = serde_json::to_value(&auth).unwrap();
        assert_eq!((&auth["client-certificate-data"], &auth["client-key-data"]), (&json!("QQ=="), &json!("Qg==")));
        assert!(auth.get("token").is_none(), "{auth}");
    }

    #[tokio::test]
    async fn what_a_plugin_prints_is_never_told() {
        for (script, told) in [
            ("echo SECRET >&2; echo SECRET; exit 3", "exit status: 3"),
            ("echo SECRET; kill -9 $$", "signal: 9"),
            ("echo 'SECRET {not json'", "no ExecCredential in JSON"),
            ("echo '{\"status\": {\"token\": [\"SECRET\"]}}'", "no ExecCredential in JSON"),
            ("echo '{\"spec\": \"SECRET\"}'", "without a status"),
            ("echo '{\"status\": {\"clientKeyData\": \"SECRET\"}}'", "a key alone"),
            ("echo '{\"status\": {\"token\": \"a SECRET\"}}'", "that no header can carry"),
            ("echo '{\"status\": {\"token\": \"a\", \"expirationTimestamp\": \"SECRET\"}}'", "that is no time"),
            ("echo '{\"status\": {}}'", "neither a token"),
            ("yes SECRET", "more than a megabyte"),
        ] {
            let error = fails(script).await;
            assert!(error.contains("plugin sh ") && error.contains(told) && !error.contains("SECRET"), "{error}");
        }
        let missing = ExecConfig { command: Some("/missing".to_owned()), ..shell("") };
        let error = with_causes(&log_in(&missing).await.err().unwrap());
        assert!(error.contains("cannot start the credential plugin /missing") && error.contains("No such file"));
    }

    #[tokio::test]
    async fn a_plugin_that_does_not_end_is_killed_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let written = directory.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; wait", written.display());
        let began = Instant::now();
        let error = log_in_within(&shell(&script), false, Duration::from_secs(2)).await.err().unwrap();
        assert!(matches!(error, PluginError::Silent { .. }) && began.elapsed() < Duration::from_mins(1), "{error}");
        let below = fs::read_to_string(&written).unwrap();
        let state = || fs::read_to_string(Path::new("/proc").join(below.trim()).join("stat")).unwrap_or_default();
        while !matches!(state().rsplit(") ").next().and_then(|rest| rest.chars().next()), None | Some('Z')) {
            assert!(began.elapsed() < Duration::from_mins(1), "{}", state());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
