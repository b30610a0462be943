//! Lists of one kind of objects, page by page. One odd object costs nobody else's place; how many there were is told.

use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use super::{
    kinds::{Kind, Object},
    objects::Uid,
    state::Fleet,
};
use crate::attribution::kubernetes::{
    client::{Client, RequestError},
    list_watch::ListWatch,
};

/// Objects of one page. A pod is a few kilobytes.
const PAGE: usize = 500;
/// No honest page is longer: an object has at most 1.5 MB in the API server's store, and most a hundredth of it.
const PAGE_BYTES: usize = 256 << 20;
/// So many pages of one kind are read: five million objects.
const PAGES: usize = 10_000;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// A request failed.
    #[error("cannot list {}{}", .kind.name(), right(*.kind, .source))]
    Request {
        /// What was asked for.
        kind: Kind,
        /// Why.
        #[source]
        source: Box<RequestError>,
    },
    /// The answer is another one.
    #[error(
        "the list of {}, a {}, was asked for, and {server} answered {found}; is that the API server?",
        .kind.name(),
        .kind.list()
    )]
    Other {
        /// What was asked for.
        kind: Kind,
        /// Who answered.
        server: Box<http::Uri>,
        /// What came.
        found: String,
    },
    /// The answer is no list.
    #[error("the answer to the list of {} is none: is that the API server?", .kind.name())]
    Garbage {
        /// What was asked for.
        kind: Kind,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It never ends.
    #[error("the list of {} does not end: more than {PAGES} pages", .0.name())]
    Endless(Kind),
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    kind: Option<String>,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

impl Page<'_> {
    /// What it is instead of a list of these.
    fn other(&self, kind: Kind) -> Option<String> {
        match self.kind.as_deref() {
            None => Some("an object of no kind".to_owned()),
            Some(found) if found == kind.list() => {
                let version = self.metadata.resource_version.as_deref().unwrap_or_default();
                (!ListWatch::is_place(version)).then(|| format!("one with the version `{}`", shown(version)))
            }
            Some(found) => Some(format!("a `{}`", shown(found))),
        }
    }
}

/// Text of a server for a message.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

/// What it takes to be answered, where that was lacking.
fn right(kind: Kind, source: &RequestError) -> String {
    match source {
        RequestError::Refused { status: StatusCode::FORBIDDEN, .. } => {
            format!("; whoever asks needs the verb list on {} in all namespaces", kind.resource())
        }
        _ => String::new(),
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMeta {
    #[serde(rename = "continue")]
    next: Option<String>,
    resource_version: Option<String>,
}

/// What a list shows beside its objects.
#[derive(Debug, Default)]
pub struct Listed {
    /// The version of the last page, from which a watch goes on.
    pub version: String,
    /// Objects that make no sense.
    pub odd: u64,
}

/// One object of a list, or the identity of one that makes no sense, as far as it has one.
pub type Item = Result<Object, Option<Uid>>;

/// Lists all objects of a kind and gives each page to `each`.
///
/// # Errors
/// The list cannot be had whole.
pub async fn list(client: &Client, kind: Kind, mut each: impl FnMut(Vec<Item>)) -> Result<Listed, ListError> {
    let mut listed = Listed::default();
    let mut next = String::new();
    for _ in 0..PAGES {
        let request = format!("{}?limit={PAGE}{}&continue={next}", kind.path(), kind.selector());
        let failed = |source| ListError::Request { kind, source: Box::new(source) };
        let page = client.get(&request).await.map_err(failed)?.whole(PAGE_BYTES).await.map_err(failed)?;
        let page: Page<'_> = serde_json::from_slice(&page).map_err(|source| ListError::Garbage { kind, source })?;
        if let Some(found) = page.other(kind) {
            return Err(ListError::Other { kind, server: Box::new(client.server().clone()), found });
        }
        let items = page.items.unwrap_or_default().into_iter();
        let items: Vec<Item> = items.map(|object| kind.decode(object).map_err(|_| Kind::identity(object))).collect();
        listed.odd += items.iter().filter(|item| item.is_err()).count() as u64;
        each(items);
        listed.version = page.metadata.resource_version.unwrap_or_default();
        next = percent_encoding::utf8_percent_encode(
            &page.metadata.next.unwrap_or_default(),
            percent_encoding::NON_ALPHANUMERIC,
        )
        .to_string();
        if next.is_empty() {
            return Ok(listed);
        }
    }
    Err(ListError::Endless(kind))
}

/// Lists all that is needed, once.
///
/// # Errors
/// A list cannot be had whole.
pub async fn fleet(client: &Client) -> Result<Fleet, ListError> {
    let mut fleet = Fleet::default();
    for kind in Kind::ALL {
        let listed = list(client, kind, |items| {
            let left_out = items.into_iter().flatten().filter_map(|object| fleet.put(object).err()).count();
            if left_out > 0 {
                warn!(
                    kind = kind.name(),
                    objects = left_out,
                    "there are more than podlens keeps: some reasons are not told"
                );
            }
        })
        .await?;
        tell_odd(kind, listed.odd);
    }
    Ok(fleet)
}

/// Tells of objects that were left out.
pub fn tell_odd(kind: Kind, objects: u64) {
    if objects > 0 {
        warn!(kind = kind.name(), objects, "objects that make no sense are left out");
    }
}
