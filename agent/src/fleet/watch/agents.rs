//! podlens' own agents that are not ready, asked why. What the node's kernel or rights lack stands on their `/readyz`; the kubelet
//! tells of a probe that failed only the status.
//!
//! An agent is asked when it is seen not to be ready and when another probe has failed, never by a clock. Where it cannot be asked
//! (credentials, a network policy, a person's own machine) the kubelet's words stand.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tracing::debug;

use crate::fleet::state::Fleet;

/// The path that says what an agent measures.
const PATH: &str = "/readyz";
const LIMIT: Duration = Duration::from_secs(2);
/// A line for each collector.
const BYTES: usize = 64 << 10;

/// Asks all that there is a question for, and enters what they say. Tells whether anything was said.
pub async fn ask_all(fleet: &mut Fleet) -> bool {
    let mut is_told = false;
    for question in fleet.questions() {
        if let Some(words) = ask(question.address).await {
            fleet.answer(question.pod, &words);
            is_told = true;
        }
    }
    is_told
}

/// What the agent at this address lacks, in its own words.
pub(super) async fn ask(address: SocketAddr) -> Option<String> {
    let uri = Uri::builder().scheme("http").authority(address.to_string()).path_and_query(PATH).build().ok()?;
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let asked = async {
        let answer =
            client.get(uri).await.map_err(|cause| debug!(%address, %cause, "an agent cannot be asked")).ok()?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BYTES).collect().await.ok()?.to_bytes();
        (status == StatusCode::SERVICE_UNAVAILABLE).then(|| lacks(&String::from_utf8_lossy(&body)))?
    };
    tokio::time::timeout(LIMIT, asked).await.ok()?
}

/// Collectors that lack the same stand together. Each line is `collector: state: reason`, or without a reason.
fn lacks(page: &str) -> Option<String> {
    let mut alike = BTreeMap::<&str, Vec<&str>>::new();
    for line in page.lines() {
        let Some((collector, state)) = line.split_once(": ") else { continue };
        if state.contains(": ") {
            alike.entry(state).or_default().push(collector);
        }
    }
    // Each longest list is about the most.
    let mut alike: Vec<_> = alike.into_iter().collect();
    alike.sort_by_key(|(_, collectors)| std::cmp::Reverse(collectors.len()));
    let told = alike.iter().map(|(state, collectors)| match &collectors[..] {
        [one] => format!("{one}: {state}"),
        [one, other] => format!("{one} and {other}: {state}"),
        [one, rest @ ..] => format!("{one} and {} more: {state}", rest.len()),
        [] => String::new(),
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn what_collectors_lack_is_told_once_with_how_many_lack_it() {
        let page = "cpu: unsupported: the process lacks the capabilities BPF: grant them\n\
                    dns: disabled\n\
                    memory: unsupported: the process lacks the capabilities BPF: grant them\n\
                    oom: degraded: no member x\n\
                    tcp: unsupported: the process lacks the capabilities BPF: grant them\n";
        let told = lacks(page).unwrap();
        let words = "unsupported: the process lacks the capabilities BPF: grant them";
        assert_eq!(told, format!("cpu and 2 more: {words}; oom: degraded: no member x"));
        assert_eq!(lacks("cpu: running\ndns: disabled\n"), None);
        assert_eq!(lacks("<html>"), None);
    }

    #[tokio::test]
    async fn who_does_not_answer_or_is_ready_says_nothing() {
        let serve = |status: &'static str| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = listener.local_addr().unwrap();
            std::thread::spawn(move || {
                use std::io::{Read as _, Write as _};
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let body = "cpu: failed: no room\n";
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            });
            address
        };
        assert_eq!(ask(serve("503 Service Unavailable")).await.as_deref(), Some("cpu: failed: no room"));
        assert_eq!(ask(serve("200 OK")).await, None);
        assert_eq!(ask(serve("401 Unauthorized")).await, None);
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        assert_eq!(ask(closed).await, None);
    }
}
