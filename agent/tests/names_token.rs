//! A service account's token rotates: the file gets a new one, and the API server stops to accept the old one.
//!
//! Takes a minute, since that is how long a token is kept before the file is read again; the real one is rotated
//! many minutes before it expires.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod names_parts;

use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use names_parts::{named, pod, truth, wait};
use podlens::attribution::kubernetes::{
    Names,
    api::ApiSource,
    client::{Client, Limits},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Once a minute at least, and some time for a machine that is busy.
const READ_AGAIN_WITHIN: Duration = Duration::from_secs(90);

/// What the server accepts, how many pods it knows, and what it was shown.
struct Account {
    token: &'static str,
    pods: u32,
    shown: Vec<String>,
}

#[tokio::test]
async fn a_rotated_token_is_read_again_and_names_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let account = Arc::new(Mutex::new(Account { token: "first", pods: 1, shown: Vec::new() }));
    let of_server = Arc::clone(&account);
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, &of_server).await;
        }
    });

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "first").unwrap();
    let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
    config.auth_info.token_file = Some(file.to_str().unwrap().to_owned());
    let names = Arc::new(Names::new(Duration::from_mins(5)));
    let client = Client::new(&config, Limits::default()).unwrap();
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    let source = ApiSource::new(client, "n1", Arc::clone(&names)).with_first_pause(Duration::from_millis(200));
    let source = tokio::spawn(source.run(shutdown));
    wait(|| named(&names, 1) == truth(1), "the first name").await;

    // As kubelet does it: the file is replaced, never half a token.
    fs::write(directory.path().join("next"), "second").unwrap();
    fs::rename(directory.path().join("next"), &file).unwrap();
    {
        let mut account = account.lock().unwrap();
        (account.token, account.pods) = ("second", 2);
    }
    let rotated = Instant::now();
    while named(&names, 2) != truth(2) {
        assert!(rotated.elapsed() < READ_AGAIN_WITHIN, "shown were {:?}", account.lock().unwrap().shown);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(named(&names, 1), truth(1), "a refusal takes no name away");
    let refused = names.health().requests.iter().any(|(_, _, result, count)| *result == "unauthorized" && *count > 0);
    assert!(refused, "the old token was never refused, so nothing was shown");
    source.abort();
    server.abort();
}

/// Lists the pods and ends each watch at once, to whoever has the right token.
async fn answer(mut stream: TcpStream, account: &Mutex<Account>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let shown = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap_or_default();
    let (status, body) = {
        let mut account = account.lock().unwrap();
        account.shown.push(shown.to_owned());
        let pods: Vec<_> = (1..=account.pods).map(|n| pod(n, "5")).collect();
        let list = json!({ "kind": "PodList", "metadata": { "resourceVersion": "10" }, "items": pods });
        if shown != account.token {
            ("401 Unauthorized", "{}".to_owned())
        } else if head.contains("watch=true") {
            // Its changes are no longer there, so that a list follows.
            ("410 Gone", "{}".to_owned())
        } else {
            ("200 OK", list.to_string())
        }
    };
    let text = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(text.as_bytes()).await;
}
