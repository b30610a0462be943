//! The log of a source of names whose watches lose their places again and again. One test a process: other threads' tests would
//! decide which lines are made at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod names_parts;

use std::{sync::Arc, time::Duration};

use names_parts::{Act, Log, Server, chunk, event, list, pod, reply, requests, wait, watch};
use serde_json::json;

use podlens::attribution::kubernetes::{
    Names,
    api::ApiSource,
    client::{Client, Limits},
};

#[tokio::test]
async fn watches_that_are_lost_at_once_are_told_from_the_second_one_and_so_is_their_end() {
    let (log, _guard) = Log::collect();

    let gone = || event("ERROR", &json!({ "kind": "Status", "code": 410 }));
    let lost = [
        reply("410 Gone", "", "{}"),
        vec![watch(), gone(), Act::Hang],
        vec![watch(), chunk("no event\n"), Act::Hang],
        reply("410 Gone", "", "{}"),
    ];
    let mut turns: Vec<Vec<Act>> = lost.into_iter().flat_map(|turn| [list("10", &[]), turn]).collect();
    turns.extend([list("10", &[]), vec![watch(), event("ADDED", &pod(1, "11")), Act::Hang]]);
    let server = Server::start(turns).await;
    let config = kube::Config::new(format!("http://{}", server.address).parse().unwrap());
    let names = Arc::new(Names::new(Duration::from_mins(5)));
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    let source = ApiSource::new(Client::new(&config, Limits::default()).unwrap(), "n1", Arc::clone(&names));
    tokio::spawn(source.with_first_pause(Duration::from_millis(20)).run(shutdown));
    wait(|| requests(&names, "watch", "gone") == 3, "places that are lost").await;
    assert_eq!(names.synced(), Some(false));
    wait(|| names.synced() == Some(true), "a watch that brings something").await;
    let text = log.text();
    let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
    assert_eq!(count("knows no pod on this node"), 1, "{text}");
    assert_eq!(count("keep their ids for names until"), 1, "{text}");
    assert_eq!(count("come from the API server again"), 1, "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
}
