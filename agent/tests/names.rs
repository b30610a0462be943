//! Names from an API server that answers rightly, wrongly, late or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod names_parts;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use names_parts::{
    Act, PATIENCE, Server, chunk, end, event, list, named, pod, reply, requests, truth, unnamed, wait, watch,
};
use podlens::attribution::kubernetes::{
    Names,
    api::ApiSource,
    client::{Client, Limits},
};
use serde_json::json;
use tokio::{sync::watch::Sender, task::JoinHandle};

const LIST: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&resourceVersion=0";

/// No slowness of this machine is to be taken for one of the server.
fn patient() -> Limits {
    Limits { begin: PATIENCE, silence: PATIENCE, whole: PATIENCE }
}

/// A source at work against a server.
struct Running {
    names: Arc<Names>,
    _stop: Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn follow(address: SocketAddr) -> Running {
    follow_within(address, patient())
}

fn follow_within(address: SocketAddr, limits: Limits) -> Running {
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let names = Arc::new(Names::new(Duration::from_mins(5)));
    let client = Client::new(&config, limits).unwrap();
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let source = ApiSource::new(client, "n1", Arc::clone(&names)).with_first_pause(Duration::from_millis(20));
    let task = tokio::spawn(source.run(shutdown));
    Running { names, _stop: stop, task }
}

fn is_watch_from(path: &str, version: &str) -> bool {
    path.starts_with("/api/v1/pods?watch=true&allowWatchBookmarks=true&")
        && path.ends_with("&fieldSelector=spec.nodeName%3Dn1")
        && path.contains(&format!("&resourceVersion={version}&timeoutSeconds="))
}

#[tokio::test]
async fn one_list_and_one_watch_follow_all_changes() {
    let server = Server::start(vec![
        list("10", &[pod(1, "5"), pod(2, "6")]),
        vec![
            watch(),
            event("ADDED", &pod(3, "11")),
            event("MODIFIED", &pod(1, "12")),
            event("DELETED", &pod(2, "13")),
            event("BOOKMARK", &json!({ "kind": "Pod", "metadata": { "resourceVersion": "20" } })),
            end(),
        ],
        // An event that is sent in many parts.
        [
            vec![watch()],
            format!("{}\n", json!({ "type": "ADDED", "object": pod(4, "21") }))
                .as_bytes()
                .chunks(7)
                .map(|part| chunk(std::str::from_utf8(part).unwrap()))
                .collect(),
            vec![Act::Hang],
        ]
        .concat(),
    ])
    .await;
    let running = follow(server.address);
    wait(|| named(&running.names, 4) == truth(4), "the last event").await;
    for n in 1..=4 {
        assert_eq!(named(&running.names, n), truth(n), "a deleted pod keeps its names for a while");
    }
    assert_eq!(running.names.health().pods, Some(3));
    assert_eq!(running.names.health().synced, Some(true));
    let paths = server.paths();
    assert_eq!(paths[0], LIST);
    assert!(is_watch_from(&paths[1], "10") && is_watch_from(&paths[2], "20"), "{paths:?}");
    assert_eq!(paths.len(), 3, "a watch that ended is no reason to list anew");
    let requests = running.names.health().requests;
    let made: Vec<_> = requests.into_iter().filter(|(.., count)| *count > 0).collect();
    assert_eq!(made, [("api", "list", "ok", 1), ("api", "watch", "ok", 2)]);
}

#[tokio::test]
async fn changes_that_are_no_longer_kept_lead_to_a_new_list() {
    let gone = json!({ "kind": "Status", "code": 410, "reason": "Expired" });
    for refusal in [reply("410 Gone", "", &gone.to_string()), vec![watch(), event("ERROR", &gone), Act::Hang]] {
        let server = Server::start(vec![
            list("10", &[pod(1, "5")]),
            refusal,
            list("30", &[pod(2, "29")]),
            vec![watch(), Act::Hang],
        ])
        .await;
        let running = follow(server.address);
        server.wait_for_requests(4).await;
        let paths = server.paths();
        assert_eq!((&*paths[0], &*paths[2]), (LIST, LIST));
        assert!(is_watch_from(&paths[1], "10") && is_watch_from(&paths[3], "30"), "{paths:?}");
        assert_eq!((named(&running.names, 1), named(&running.names, 2)), (truth(1), truth(2)));
        assert_eq!(requests(&running.names, "watch", "gone"), 1);
        wait(|| running.names.health().synced == Some(true), "the second watch").await;
        assert_eq!(running.names.health().pods, Some(1));
    }
}

#[tokio::test]
async fn refusals_are_waited_out() {
    for (status, result) in [
        ("401 Unauthorized", "unauthorized"),
        ("403 Forbidden", "forbidden"),
        ("429 Too Many Requests", "throttled"),
        ("500 Internal Server Error", "server_error"),
        ("503 Service Unavailable", "server_error"),
        ("404 Not Found", "refused"),
        ("302 Found", "refused"),
    ] {
        let no = || reply(status, "", "{}");
        let server = Server::start(vec![
            no(),
            no(),
            list("10", &[pod(1, "5")]),
            no(),
            vec![watch(), event("ADDED", &pod(2, "11")), Act::Hang],
        ])
        .await;
        let running = follow(server.address);
        wait(|| named(&running.names, 2) == truth(2), status).await;
        assert_eq!(requests(&running.names, "list", result), 2, "{status}");
        assert_eq!(requests(&running.names, "watch", result), 1, "{status}");
        let paths = server.paths();
        assert!(is_watch_from(&paths[3], "10") && is_watch_from(&paths[4], "10"), "{paths:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_busy_is_left_alone_as_long_as_it_wants() {
    let server = Server::start(vec![reply("429 Too Many Requests", "Retry-After: 1\r\n", ""), list("10", &[])]).await;
    let _running = follow(server.address);
    server.wait_for_requests(2).await;
    let seen = server.seen.lock().unwrap().clone();
    let pause = seen[1].at - seen[0].at;
    assert!((Duration::from_secs(1)..Duration::from_secs(10)).contains(&pause), "{pause:?}");
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed() {
    // Where this machine takes as long for an answer, it takes a longer limit to tell that from a server that hangs.
    let mut limit = Duration::from_millis(400);
    while !is_told_from_answers(limit).await {
        limit *= 4;
        assert!(limit < PATIENCE, "what has not hung was given up as well");
    }
}

/// A server hangs in each way; false if an answer did not come within the limit either.
async fn is_told_from_answers(limit: Duration) -> bool {
    let half = |text: &str| Act::Send(text.as_bytes().to_vec());
    let server = Server::start(vec![
        vec![Act::Hang],
        vec![half("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"kind\""), Act::Hang],
        list("10", &[pod(1, "5")]),
        vec![Act::Hang],
        vec![watch(), event("ADDED", &pod(2, "11")), Act::Hang],
        vec![watch(), event("ADDED", &pod(3, "12")), Act::Hang],
    ])
    .await;
    let running = follow_within(server.address, Limits { begin: limit, silence: limit, whole: limit * 5 });
    let given_up = || ["list", "watch"].map(|verb| requests(&running.names, verb, "timeout"));
    let is_too_short = || given_up().iter().any(|count| *count > 2);
    wait(|| named(&running.names, 3) == truth(3) || is_too_short(), "the watch after the silence").await;
    if is_too_short() {
        return false;
    }
    assert_eq!(given_up(), [2, 2]);
    let paths = server.paths();
    assert!(is_watch_from(&paths[5], "11"), "it goes on where the silence began: {paths:?}");
    true
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let whole = json!({ "type": "ADDED", "object": pod(2, "11") }).to_string();
    let Act::Send(listed) = list("10", &[pod(1, "5")]).remove(0) else { unreachable!() };
    let server = Server::start(vec![
        vec![Act::Send(listed[..listed.len() - 3].to_vec())],
        list("10", &[pod(1, "5")]),
        // The line is cut, and the answer still ends in order.
        vec![watch(), chunk(&whole[..whole.len() - 1]), end()],
        // The chunk is cut.
        vec![watch(), Act::Send(format!("{:x}\r\n{}", whole.len() + 1, &whole[..50]).into_bytes())],
        vec![watch(), event("ADDED", &pod(3, "12")), Act::Hang],
    ])
    .await;
    let running = follow(server.address);
    wait(|| named(&running.names, 3) == truth(3), "the last watch").await;
    assert_eq!(named(&running.names, 1), truth(1));
    assert_eq!(named(&running.names, 2), unnamed(2), "a pod of which only a part came");
    assert_eq!(requests(&running.names, "list", "broken"), 1);
    let paths = server.paths();
    assert!(is_watch_from(&paths[4], "10"), "{paths:?}");
}

#[tokio::test]
async fn garbage_is_not_believed_and_a_new_list_settles_it() {
    let ok = |body: &str| reply("200 OK", "", body);
    let server = Server::start(vec![
        ok("<html>please log in</html>"),
        ok("{\"kind\":\"Status\",\"status\":\"Failure\"}"),
        vec![Act::Send(vec![0xff; 64])],
        list("10", &[pod(1, "5")]),
        vec![watch(), event("ADDED", &pod(2, "11")), chunk("\u{1}garbage\n"), event("ADDED", &pod(4, "12"))],
        list("20", &[pod(1, "5"), pod(2, "11")]),
        vec![watch(), event("SOMETHING", &pod(5, "21")), Act::Hang],
        list("30", &[pod(3, "25")]),
        // What is no pod costs no other its name.
        vec![
            watch(),
            event("ADDED", &json!({ "metadata": { "name": "x" } })),
            event("ADDED", &pod(6, "26")),
            Act::Hang,
        ],
    ])
    .await;
    let running = follow(server.address);
    wait(|| named(&running.names, 6) == truth(6), "the pod after what is no pod").await;
    assert_eq!(running.names.health().odd, 1);
    assert_eq!(requests(&running.names, "list", "garbage"), 2);
    assert_eq!(requests(&running.names, "watch", "garbage"), 2);
    for n in [1, 2, 3] {
        assert_eq!(named(&running.names, n), truth(n));
    }
    assert_eq!((named(&running.names, 4), named(&running.names, 5)), (unnamed(4), unnamed(5)));
}

#[tokio::test]
async fn a_version_that_is_none_leads_to_a_list_and_no_other_query() {
    let bookmark = |version: &str| event("BOOKMARK", &json!({ "metadata": { "resourceVersion": version } }));
    let server = Server::start(vec![
        list("a b", &[pod(1, "5")]),
        list("5&fieldSelector=&limit=1#", &[pod(1, "5")]),
        vec![watch(), bookmark("7 x\n"), end()],
        list("8", &[pod(1, "5"), pod(2, "6")]),
        vec![watch(), Act::Hang],
    ])
    .await;
    let running = follow(server.address);
    server.wait_for_requests(5).await;
    wait(|| named(&running.names, 2) == truth(2), "the list after it").await;
    assert_eq!((requests(&running.names, "list", "garbage"), requests(&running.names, "watch", "garbage")), (1, 1));
    let paths = server.paths();
    assert!(is_watch_from(&paths[2], "5%26fieldSelector%3D%26limit%3D1%23"), "{}", paths[2]);
    assert!(is_watch_from(&paths[4], "8"), "{}", paths[4]);
}

#[tokio::test]
async fn a_stop_ends_the_source_at_once() {
    let server = Server::start(vec![list("10", &[]), vec![watch(), Act::Hang]]).await;
    let config = kube::Config::new(format!("http://{}", server.address).parse().unwrap());
    let names = Arc::new(Names::new(Duration::from_mins(5)));
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let source = ApiSource::new(Client::new(&config, Limits::default()).unwrap(), "n1", names);
    let task = tokio::spawn(source.run(shutdown));
    server.wait_for_requests(2).await;
    stop.send_replace(true);
    // Sooner than the silence of the watch would end it.
    assert!(PATIENCE < Limits::default().silence);
    tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn what_is_not_encrypted_or_not_verified_is_refused() {
    let check = |config: &kube::Config, expected: &str| {
        let error = Client::new(config, patient()).err().expect(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&kube::Config::new("http://10.0.0.1:6443".parse().unwrap()), "is not https");
    check(&kube::Config::new("http://api.example.org".parse().unwrap()), "is not https");
    let mut config = kube::Config::new("https://10.0.0.1:6443".parse().unwrap());
    config.accept_invalid_certs = true;
    check(&config, "insecure-skip-tls-verify");
}
