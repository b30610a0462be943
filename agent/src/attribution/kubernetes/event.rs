//! The lines of a watch's answer, and the change that each tells. Pure; `api` cuts and decodes with it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::pod::{Pod, PodError, WireListMeta, decode, describe_odd};

/// What a line says, with the version that a watch goes on from, if the line has one.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A pod is new or has changed.
    Applied {
        /// As it is now.
        pod: Pod,
        /// The version of this change.
        version: Option<String>,
    },
    /// A pod is gone.
    Deleted {
        /// As it was last.
        pod: Pod,
        /// The version of this change.
        version: Option<String>,
    },
    /// Nothing has changed up to a version.
    Bookmark {
        /// That version.
        version: Option<String>,
    },
    /// Something has changed that is no pod: only its version counts.
    Odd {
        /// Which object it is, and why it is no pod.
        what: String,
        /// The version of this change.
        version: Option<String>,
    },
    /// The server ends the watch with an error.
    Refused {
        /// As an HTTP status; 0 if it was not told.
        code: u16,
    },
}

impl Event {
    /// Decodes one line.
    ///
    /// # Errors
    /// It is no event.
    pub fn decode(line: &[u8]) -> Result<Self, PodError> {
        let raw = RawEvent::decode(line)?;
        let (object, version) = (raw.object, || raw.version());
        let changed = |event: fn(Pod, Option<String>) -> Self| match decode(object) {
            Ok(pod) => event(pod, version()),
            Err(cause) => Self::Odd { what: describe_odd(object, &cause), version: version() },
        };
        Ok(match &*raw.kind {
            "ADDED" | "MODIFIED" => changed(|pod, version| Self::Applied { pod, version }),
            "DELETED" => changed(|pod, version| Self::Deleted { pod, version }),
            "BOOKMARK" => Self::Bookmark { version: version() },
            "ERROR" => Self::Refused { code: serde_json::from_str::<WireStatus>(object.get())?.code },
            _ => return Err(PodError::Identity("type of event")),
        })
    }
}

/// A line of any watch, its object not decoded.
#[derive(Debug, Deserialize)]
pub struct RawEvent<'a> {
    /// What has happened to the object.
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// The object.
    #[serde(borrow)]
    pub object: &'a RawValue,
}

impl<'a> RawEvent<'a> {
    /// Decodes one line.
    ///
    /// # Errors
    /// It is no event.
    pub fn decode(line: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// The version of the change, if it has one.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        let WireVersion { metadata } = serde_json::from_str(self.object.get()).unwrap_or_default();
        Some(metadata.resource_version).filter(|version| !version.is_empty())
    }

    /// Of an error: as an HTTP status; 0 if it was not told.
    #[must_use]
    pub fn code(&self) -> u16 {
        serde_json::from_str::<WireStatus>(self.object.get()).unwrap_or_default().code
    }
}

/// Where a watch goes on from.
#[derive(Default, Deserialize)]
#[serde(default)]
struct WireVersion {
    metadata: WireListMeta,
}

#[derive(Default, Deserialize)]
struct WireStatus {
    #[serde(default)]
    code: u16,
}

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// No line ends before this position.
    searched: usize,
}

impl Lines {
    /// The next part of the stream.
    pub fn push(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// The next whole line with its end; none until there is one.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let rest = self.bytes.get(self.searched..)?;
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let after = self.bytes.split_off(self.searched + end + 1);
        self.searched = 0;
        Some(std::mem::replace(&mut self.bytes, after))
    }

    /// Bytes of a line that has not ended.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use serde_json::{Value, json};

    use super::Event;

    fn decode(kind: &str, object: &Value) -> Result<Event, super::PodError> {
        Event::decode(json!({ "type": kind, "object": object }).to_string().as_bytes())
    }

    #[test]
    fn a_change_of_what_is_no_pod_tells_its_version_and_the_watch_goes_on() {
        let odd = json!({ "metadata": { "name": "web-1", "namespace": "shop", "resourceVersion": "7" }, "spec": 5 });
        for kind in ["ADDED", "MODIFIED", "DELETED"] {
            let Event::Odd { what, version } = decode(kind, &odd).unwrap() else { panic!("{kind} is not odd") };
            assert!(what.starts_with("shop/web-1: "), "{what}");
            assert_eq!(version.as_deref(), Some("7"), "{kind}");
        }
        for odd in
            [json!(null), json!([]), json!({ "metadata": null }), json!({ "metadata": { "resourceVersion": null } })]
        {
            let event = decode("ADDED", &odd).unwrap();
            assert!(matches!(event, Event::Odd { version: None, .. }), "{event:?}");
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for line in
            ["", "{}", "[]", "{\"type\":\"ADDED\"}", "{\"type\":\"OTHER\",\"object\":{}}", "{\"type\":1,\"object\":{}}"]
        {
            assert!(Event::decode(line.as_bytes()).is_err(), "{line}");
        }
        assert!(decode("ERROR", &json!("x")).is_err());
        assert_eq!(decode("ERROR", &json!({ "code": 410 })).unwrap(), Event::Refused { code: 410 });
        let bookmark = json!({ "metadata": { "resourceVersion": "9" } });
        assert_eq!(decode("BOOKMARK", &bookmark).unwrap(), Event::Bookmark { version: Some("9".into()) });
    }
}
