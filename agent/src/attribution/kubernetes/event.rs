//! The lines of a watch's answer, and the change that each tells. Pure; `api` cuts and decodes with it.

use serde::Deserialize;

use super::pod::{Pod, PodError, WireListMeta, WirePod};

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
    /// It is no event, or the pod in it has no identity.
    pub fn decode(line: &[u8]) -> Result<Self, PodError> {
        let given = |version: String| (!version.is_empty()).then_some(version);
        Ok(match serde_json::from_slice(line)? {
            WireEvent::Added(mut pod) | WireEvent::Modified(mut pod) => {
                let version = given(std::mem::take(&mut pod.metadata.resource_version));
                Self::Applied { pod: pod.into_pod()?, version }
            }
            WireEvent::Deleted(mut pod) => {
                let version = given(std::mem::take(&mut pod.metadata.resource_version));
                Self::Deleted { pod: pod.into_pod()?, version }
            }
            WireEvent::Bookmark(bookmark) => Self::Bookmark { version: given(bookmark.metadata.resource_version) },
            WireEvent::Error(status) => Self::Refused { code: status.code },
        })
    }
}

#[derive(Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
enum WireEvent {
    Added(Box<WirePod>),
    Modified(Box<WirePod>),
    Deleted(Box<WirePod>),
    Bookmark(WireBookmark),
    Error(WireStatus),
}

#[derive(Deserialize)]
struct WireBookmark {
    metadata: WireListMeta,
}

#[derive(Deserialize)]
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
