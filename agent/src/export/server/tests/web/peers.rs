//! Peers that dawdle, leave or send too much, over TLS and at the port of the probes.

use super::*;

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_cut_and_keeps_nobody_out() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start_with(FakeSource::new(snapshot(1), false), SHORT);
    let began = Instant::now();
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    // A hello's beginning.
    silent.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.unwrap();
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest).await;
    assert!((SHORT..Duration::from_secs(3)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(count(&running, Refusal::HandshakeTimeout), 1);

    let running = site.start();
    let mut silent = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    let soon = Duration::from_secs(5);
    let answer = tokio::time::timeout(soon, site.get(&running, "/metrics", "")).await.expect("an answer").unwrap();
    assert_eq!(answer.status, "HTTP/1.1 200 OK");
    assert!(count(&running, Refusal::MadeRoom) >= 2 * CONNECTIONS as u64);
    assert!(request(running.health.unwrap(), "GET", "/healthz", "").await.status.contains(" 200 "));
}

#[tokio::test]
async fn who_reads_slowly_over_tls_is_cut_and_acknowledges_nothing() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start_with(FakeSource::new(large(1000, 80), false), SHORT);
    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut piece = [0; 1000];
    stream.read_exact(&mut piece).await.unwrap();
    eventually("the cut", || count(&running, Refusal::SlowReader) == 1).await;
    assert_eq!(running.source.exported(), []);
    // A whole page over TLS is delivered, however large.
    let answer = site.get(&running, "/metrics", "").await.unwrap();
    assert!(answer.text().ends_with('\n') && answer.body.len() > 4_000_000, "{}", answer.body.len());
    let source = Arc::clone(&running.source);
    eventually("the delivery", || source.exported().len() == 1).await;
}

#[tokio::test]
async fn who_goes_away_half_way_sends_slowly_or_sends_too_much_is_told() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start_with(FakeSource::new(large(1000, 80), false), Duration::from_secs(2));
    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut piece = [0; 1000];
    stream.read_exact(&mut piece).await.unwrap();
    drop(stream);
    eventually("the one who is gone", || count(&running, Refusal::Gone) == 1).await;
    assert_eq!(running.source.exported(), []);

    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
    let header = format!("a: {}\r\n", "x".repeat(1000));
    for _ in 0..1000 {
        if stream.write_all(header.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    eventually("the one with a megabyte of headers", || count(&running, Refusal::BadRequest) == 1).await;

    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
    eventually("the slow one", || count(&running, Refusal::SlowRequest) == 1).await;
    // Who ends an idle connection has had everything.
    let mut stream = site.connect(&running, None).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream.read_exact(&mut piece[..12]).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    assert_eq!(site.status(&running, "").await, "HTTP/1.1 200 OK");
    assert_eq!(count(&running, Refusal::Gone), 1);
}

#[tokio::test]
async fn silent_peers_of_the_probes_port_keep_no_probe_out() {
    let site = Site::new();
    site.configure("", "");
    let running = site.start();
    let health = running.health.unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        silent.push(TcpStream::connect(health).await.unwrap());
    }
    let soon = Duration::from_secs(2);
    let answer = tokio::time::timeout(soon, request(health, "GET", "/healthz", "")).await.expect("an answer");
    assert_eq!(answer.status, "HTTP/1.1 200 OK");
}
