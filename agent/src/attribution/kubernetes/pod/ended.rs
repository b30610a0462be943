//! The end of a container's instance as a pod's status tells it. Pure decoding, for the events about it.

use std::{sync::Arc, time::SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::{bare_id, nullable};

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The runtime's id of that instance.
    pub id: Arc<str>,
    /// Its exit code.
    pub exit_code: i64,
    /// The signal that ended it, where the runtime tells.
    pub signal: Option<i64>,
    /// Why, in one word; empty if not told.
    pub reason: Arc<str>,
    /// When it began, as the status spells it; empty if not told.
    pub started: Arc<str>,
    /// When it ended, to the second.
    pub finished: SystemTime,
}

/// `state.terminated` in JSON.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WireTerminated {
    #[serde(deserialize_with = "nullable")]
    pub(super) exit_code: i64,
    #[serde(rename = "containerID", deserialize_with = "nullable")]
    pub(super) container_id: String,
    signal: Option<i64>,
    reason: Option<String>,
    started_at: Option<String>,
    finished_at: Option<String>,
}

impl WireTerminated {
    /// None if it does not tell which instance ended, or when.
    pub(super) fn to_ended(&self) -> Option<Ended> {
        let finished: Timestamp = self.finished_at.as_deref()?.parse().ok()?;
        Some(Ended {
            id: bare_id(&self.container_id)?,
            exit_code: self.exit_code,
            signal: self.signal.filter(|signal| *signal != 0),
            reason: self.reason.as_deref().unwrap_or_default().into(),
            started: self.started_at.as_deref().unwrap_or_default().into(),
            finished: finished.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";

    fn ended(json: &str) -> Option<Ended> {
        serde_json::from_str::<WireTerminated>(&json.replace("\"ID\"", &format!("\"containerd://{ID}\"")))
            .unwrap()
            .to_ended()
    }

    #[test]
    fn a_terminated_state_tells_which_instance_ended_how_when_and_why() {
        let full = r#"{"containerID": "ID", "exitCode": 137, "signal": 9, "reason": "OOMKilled",
            "startedAt": "2026-01-02T03:04:05Z", "finishedAt": "1970-01-01T00:01:40Z", "message": "x"}"#;
        let expected = Ended {
            id: ID.into(),
            exit_code: 137,
            signal: Some(9),
            reason: "OOMKilled".into(),
            started: "2026-01-02T03:04:05Z".into(),
            finished: UNIX_EPOCH + Duration::from_secs(100),
        };
        assert_eq!(ended(full), Some(expected.clone()));
        let least = r#"{"containerID": "ID", "exitCode": 0, "signal": 0, "reason": null, "startedAt": null,
            "finishedAt": "1970-01-01T00:01:40Z"}"#;
        let nothing = Ended { exit_code: 0, signal: None, reason: "".into(), started: "".into(), ..expected };
        assert_eq!(ended(least), Some(nothing));
    }

    #[test]
    fn an_end_without_an_instance_or_a_moment_is_none() {
        for json in [
            r#"{"exitCode": 1, "finishedAt": "1970-01-01T00:01:40Z"}"#,
            r#"{"containerID": "ID", "exitCode": 1}"#,
            r#"{"containerID": "ID", "exitCode": 1, "finishedAt": null}"#,
            r#"{"containerID": "ID", "exitCode": 1, "finishedAt": "yesterday"}"#,
            r#"{"containerID": "short", "exitCode": 1, "finishedAt": "1970-01-01T00:01:40Z"}"#,
        ] {
            assert_eq!(ended(json), None, "{json}");
        }
    }
}
