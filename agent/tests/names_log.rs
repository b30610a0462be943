//! The log of a source of names. One test a process: other threads' tests would decide which lines are made at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod names_parts;

use std::{sync::Arc, time::Duration};

use names_parts::{Act, Log, Server, event, list, named, pod, requests, truth, unnamed, wait, watch};
use podlens::attribution::kubernetes::{
    Names,
    api::ApiSource,
    client::{Client, Limits},
};

#[tokio::test]
async fn a_server_that_is_missing_at_first_and_dies_later_costs_one_log_line_each_way() {
    let (log, _guard) = Log::collect();

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // No silence of a busy machine is to be taken for one of the server.
    let patient = Duration::from_secs(10);
    let limits = Limits { begin: patient, silence: patient, whole: patient };
    let config = kube::Config::new(format!("http://{free}").parse().unwrap());
    let names = Arc::new(Names::new(Duration::from_mins(5)));
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    let source = ApiSource::new(Client::new(&config, limits).unwrap(), "n1", Arc::clone(&names));
    tokio::spawn(source.with_first_pause(Duration::from_millis(20)).run(shutdown));
    wait(|| requests(&names, "list", "unreachable") >= 4, "attempts").await;
    assert_eq!(names.health().synced, Some(false));
    assert_eq!(named(&names, 1), unnamed(1));
    for round in 1_u32..3 {
        // A server that was away is asked for what has changed, not for all anew.
        let turns = if round == 1 {
            vec![list("10", &[pod(1, "5")]), vec![watch(), Act::Hang]]
        } else {
            vec![vec![watch(), event("ADDED", &pod(round, "11")), Act::Hang]]
        };
        let server = Server::start_at(free, turns, None).await;
        wait(|| named(&names, round) == truth(round), "the server's return").await;
        wait(|| names.health().synced == Some(true), "the watch").await;
        // As long as it takes to count as a success.
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(server);
        let before = requests(&names, "watch", "unreachable");
        wait(|| requests(&names, "watch", "unreachable") >= before + 3, "its death").await;
    }
    let text = log.text();
    let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
    assert_eq!(count("keep their ids for names until"), 3, "{text}");
    assert_eq!(count("come from the API server again"), 2, "{text}");
    assert_eq!(text.lines().count(), 5, "{text}");
}
