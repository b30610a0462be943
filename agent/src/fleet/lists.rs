//! The lists that a [`Cluster`] is made from, page by page. One odd object costs nobody else's place; how many there were is
//! told.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tracing::warn;

use super::state::Cluster;
use crate::attribution::kubernetes::client::{Client, RequestError};

/// Objects of one page. A pod is a few kilobytes.
const PAGE: usize = 1000;
/// No honest page is longer.
const PAGE_BYTES: usize = 256 << 20;
/// So many pages of one kind are read: ten million objects.
const PAGES: usize = 10_000;

/// Why there is no view of the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// A request failed.
    #[error(
        "cannot list {kind}; whoever the kubeconfig names needs get, list on daemonsets, controllerrevisions, nodes, pods and events"
    )]
    Request {
        /// What was asked for.
        kind: &'static str,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// The answer is no list.
    #[error("the answer to the list of {kind} is none: is that the API server?")]
    Garbage {
        /// What was asked for.
        kind: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It never ends.
    #[error("the list of {0} does not end: more than {PAGES} pages")]
    Endless(&'static str),
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageMeta {
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// Lists all that is needed.
///
/// # Errors
/// A list cannot be had whole.
pub async fn cluster(client: &Client) -> Result<Cluster, ListError> {
    let only = |kinds: &str| format!("&fieldSelector=involvedObject.kind%3D{kinds}");
    let mut events = list(client, "events", "/api/v1/events", &only("DaemonSet")).await?;
    events.extend(list(client, "events", "/api/v1/events", &only("Pod")).await?);
    Ok(Cluster {
        daemon_sets: list(client, "daemonsets", "/apis/apps/v1/daemonsets", "").await?,
        revisions: list(client, "controllerrevisions", "/apis/apps/v1/controllerrevisions", "").await?,
        nodes: list(client, "nodes", "/api/v1/nodes", "").await?,
        pods: list(client, "pods", "/api/v1/pods", "").await?,
        events,
    })
}

async fn list<T: DeserializeOwned>(
    client: &Client,
    kind: &'static str,
    path: &str,
    selector: &str,
) -> Result<Vec<T>, ListError> {
    let (mut objects, mut odd) = (Vec::new(), 0_usize);
    let mut next = String::new();
    for _ in 0..PAGES {
        let request = format!("{path}?limit={PAGE}{selector}&continue={next}");
        let failed = |source| ListError::Request { kind, source };
        let page = client.get(&request).await.map_err(failed)?.whole(PAGE_BYTES).await.map_err(failed)?;
        let page: Page<'_> = serde_json::from_slice(&page).map_err(|source| ListError::Garbage { kind, source })?;
        for object in page.items.unwrap_or_default() {
            match serde_json::from_str(object.get()) {
                Ok(object) => objects.push(object),
                Err(_) => odd += 1,
            }
        }
        next = percent_encoding::utf8_percent_encode(
            &page.metadata.next.unwrap_or_default(),
            percent_encoding::NON_ALPHANUMERIC,
        )
        .to_string();
        if next.is_empty() {
            if odd > 0 {
                warn!(kind, objects = odd, "objects that make no sense are left out");
            }
            return Ok(objects);
        }
    }
    Err(ListError::Endless(kind))
}
