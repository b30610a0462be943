//! What the compression of OTLP costs and saves: bytes and CPU time of a push with each, of an agent of its own, in turn.
//!
//! With `PODLENS_TEST_FULL=1` of 250 pods of two containers and more pushes. The figures count for an optimised build
//! (`PODLENS_TEST_BINARY`); what is asserted is that each body is what its name says, and smaller than what is in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{
    env, fs,
    io::Read as _,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::{Agent, Load, PATIENCE, TestCgroup, Work, wait_until};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message as _;
use testkit::http::{Reply, Server};

const COMPRESSIONS: [&str; 3] = ["none", "gzip", "zstd"];
const INTERVAL: Duration = Duration::from_secs(1);

/// What one push is on average.
#[derive(Clone, Copy, Debug)]
struct Push {
    bytes: f64,
    /// What they hold.
    unpacked: f64,
    cpu_ms: f64,
}

/// How long the body of a push is, and the OTLP in it.
#[derive(Clone, Copy, Debug)]
struct Body {
    bytes: usize,
    unpacked: usize,
}

impl Body {
    /// Unpacks it as its header says and reads it.
    fn read(body: &[u8], encoding: &str) -> Self {
        let mut unpacked = Vec::new();
        match encoding {
            "none" => unpacked.extend_from_slice(body),
            "gzip" => {
                flate2::read::GzDecoder::new(body).read_to_end(&mut unpacked).expect("a body in gzip");
            }
            "zstd" => unpacked = zstd::decode_all(body).expect("a body in zstd"),
            other => panic!("{other} was never asked for"),
        }
        let request = ExportMetricsServiceRequest::decode(&*unpacked).expect("OTLP");
        assert!(!request.resource_metrics.is_empty(), "a push of nothing");
        Self { bytes: body.len(), unpacked: unpacked.len() }
    }
}

/// CPU time of a process so far.
fn cpu_ns(process: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the agent runs");
    let of_task = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(of_task).sum()
}

/// An agent pushes so often with this compression, after it has settled.
fn measured(compression: &'static str, pushes: usize) -> Push {
    let bodies = Arc::new(Mutex::new(Vec::<Body>::new()));
    let into = Arc::clone(&bodies);
    let server = Server::start(move |request| {
        let encoding = request.header("content-encoding").unwrap_or("none");
        assert_eq!((encoding, &*request.path), (compression, "/v1/metrics"));
        into.lock().unwrap().push(Body::read(&request.body, encoding));
        Reply { content_type: "application/x-protobuf", body: String::new() }
    });
    let agent = Agent::start(&[
        ("PODLENS_OTLP_ENDPOINT", &format!("http://{}", server.address())),
        ("PODLENS_OTLP_PROTOCOL", "http/protobuf"),
        ("PODLENS_OTLP_COMPRESSION", compression),
        ("PODLENS_OTLP_INTERVAL", &format!("{}s", INTERVAL.as_secs())),
        ("PODLENS_SERIES_ALLOW", "default"),
    ]);
    wait_until("the first push", PATIENCE, || {
        if bodies.lock().unwrap().is_empty() { Err("none".to_owned()) } else { Ok(()) }
    });
    thread::sleep(INTERVAL * 3);
    let time = INTERVAL * u32::try_from(pushes).unwrap();
    let (bodies_before, cpu_before) = (bodies.lock().unwrap().len(), cpu_ns(agent.id()));
    thread::sleep(time);
    let cpu_ns = cpu_ns(agent.id()) - cpu_before;
    let bodies = &bodies.lock().unwrap()[bodies_before..];
    let came = bodies.len() as f64;
    let of_each = |of: fn(&Body) -> usize| bodies.iter().map(of).sum::<usize>() as f64 / came;
    Push {
        bytes: of_each(|body| body.bytes),
        unpacked: of_each(|body| body.unpacked),
        cpu_ms: cpu_ns as f64 / 1e6 / came,
    }
}

#[test]
fn a_compressed_push_is_smaller_and_says_how() {
    let is_full = env::var_os("PODLENS_TEST_FULL").is_some();
    let (containers, pushes, rounds) = if is_full { (500, 8, 4) } else { (40, 3, 1) };
    let cgroups: Vec<TestCgroup> = (0..containers).map(|_| TestCgroup::any_container()).collect();
    // Who does nothing has no values.
    for cgroup in &cgroups {
        Load::start(Some(cgroup), Work::Spin(Duration::from_millis(2)), None).run();
    }
    let mut all = COMPRESSIONS.map(|_| Vec::new());
    for _ in 0..rounds {
        for (compression, of_each) in COMPRESSIONS.into_iter().zip(&mut all) {
            of_each.push(measured(compression, pushes));
        }
    }
    // What others do on this machine only adds to it.
    let least =
        all.map(|of_each| of_each.into_iter().min_by(|one, other| one.cpu_ms.total_cmp(&other.cpu_ms)).unwrap());
    for (compression, Push { bytes, unpacked, cpu_ms }) in COMPRESSIONS.iter().zip(least) {
        println!(
            "{compression}: {:.1} KB for {:.1} KB and {cpu_ms:.2} ms of CPU for a push with its sweep",
            bytes / 1e3,
            unpacked / 1e3
        );
    }
    let [_, gzip, zstd] = least;
    for packed in [gzip, zstd] {
        // Of a push as small as this one it is a third or a quarter, by what happens to be in it.
        assert!(packed.bytes < packed.unpacked / 2.0, "{least:?}");
    }
}
