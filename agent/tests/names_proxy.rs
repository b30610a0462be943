//! Names through a connection that is delayed, cut and corrupted at random: late at worst, and never wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod names_parts;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use names_parts::{Act, PATIENCE, Server, chunk, end, event, list, named, pod, requests, truth, unnamed, wait, watch};
use podlens::attribution::kubernetes::{
    Names,
    api::ApiSource,
    client::{Client, Limits},
};
use proptest::{prelude::*, test_runner::TestRunner};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

const PODS: u32 = 20;

/// What the proxy does to the bytes from the server on one connection.
#[derive(Clone, Debug)]
enum Harm {
    None,
    Delay { ms: u64 },
    CutAfter { bytes: usize },
    Flip { at: usize, bit: u8 },
    Drop { at: usize },
    Stall { after: usize },
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = || 0_usize..6000;
    prop_oneof![
        1 => Just(Harm::None),
        1 => (0_u64..60).prop_map(|ms| Harm::Delay { ms }),
        3 => at().prop_map(|bytes| Harm::CutAfter { bytes }),
        4 => (at(), 0_u8..8).prop_map(|(at, bit)| Harm::Flip { at, bit }),
        2 => at().prop_map(|at| Harm::Drop { at }),
        1 => at().prop_map(|after| Harm::Stall { after }),
    ]
}

fn gentle_harm() -> impl Strategy<Value = Harm> {
    let at = || 0_usize..6000;
    prop_oneof![
        1 => (0_u64..60).prop_map(|ms| Harm::Delay { ms }),
        4 => at().prop_map(|bytes| Harm::CutAfter { bytes }),
        1 => at().prop_map(|after| Harm::Stall { after }),
    ]
}

/// Passes connections on, each with the next harm, and without any once they are used up.
async fn proxy(server: SocketAddr, harms: Vec<Harm>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        let mut harms = harms.into_iter();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            connections.spawn(pass(client, server, harms.next().unwrap_or(Harm::None)));
        }
    });
    (address, tasks)
}

async fn pass(client: TcpStream, server: SocketAddr, harm: Harm) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let down = async move {
        let (mut buffer, mut passed) = (vec![0; 4096], 0_usize);
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            let mut part = buffer[..read].to_vec();
            let local = |at: usize| at.checked_sub(passed).filter(|at| *at < read);
            match harm {
                Harm::None => {}
                Harm::Delay { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
                Harm::CutAfter { bytes } => {
                    if let Some(at) = local(bytes) {
                        let _ = to_client.write_all(&part[..at]).await;
                        return;
                    }
                }
                Harm::Flip { at, bit } => {
                    if let Some(at) = local(at) {
                        part[at] ^= 1 << bit;
                    }
                }
                Harm::Drop { at } => {
                    if let Some(at) = local(at) {
                        part.remove(at);
                    }
                }
                Harm::Stall { after } => {
                    if let Some(at) = local(after) {
                        let _ = to_client.write_all(&part[..at]).await;
                        std::future::pending::<()>().await;
                    }
                }
            }
            passed += read;
            if to_client.write_all(&part).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// The cluster's authority and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn acceptor(&self, change: impl FnOnce(&mut CertificateParams)) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(certificate.der().to_vec())], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    fn config(&self, address: SocketAddr) -> kube::Config {
        let mut config = kube::Config::new(format!("https://{address}").parse().unwrap());
        config.root_cert = Some(vec![self.0.der().to_vec()]);
        config
    }
}

/// No slowness of this machine is to be taken for one of the server.
const PATIENT: Limits = Limits { begin: PATIENCE, silence: PATIENCE, whole: PATIENCE };

/// A source at work through `config`.
fn follow(config: &kube::Config, limits: Limits, tasks: &mut JoinSet<()>) -> Arc<Names> {
    let names = Arc::new(Names::new(Duration::from_mins(5)));
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let source = ApiSource::new(Client::new(config, limits).unwrap(), "n1", Arc::clone(&names))
        .with_first_pause(Duration::from_millis(4));
    tasks.spawn(async move {
        source.run(shutdown).await;
        drop(stop);
    });
    names
}

/// Lists the first half of the pods and announces the others, for each of many connections.
fn turns() -> Vec<Vec<Act>> {
    let listed: Vec<_> = (0..PODS / 2).map(|n| pod(n, "5")).collect();
    let announced = |from: u32| -> Vec<Act> {
        let events = (from..PODS).map(|n| event("ADDED", &pod(n, &(10 + n).to_string())));
        [vec![watch()], events.collect(), vec![chunk("\n"), end()]].concat()
    };
    // Whatever is asked for, a list or a watch: the answer to the other question is garbage as well.
    (0..400).map(|turn| if turn % 2 == 0 { list("10", &listed) } else { announced(PODS / 2) }).collect()
}

/// Names come in the end and none of them is wrong; how many requests failed until then, and how long it took.
async fn check(
    config: impl Fn(SocketAddr) -> kube::Config,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    harms: Vec<Harm>,
) -> (u64, Duration) {
    let server = Server::start_at("127.0.0.1:0".parse().unwrap(), turns(), tls).await;
    let (address, mut tasks) = proxy(server.address, harms.clone()).await;
    let names = follow(&config(address), limits, &mut tasks);
    let start = tokio::time::Instant::now();
    let mut complete = false;
    while !complete {
        complete = true;
        for n in 0..PODS {
            let name = named(&names, n);
            let is_whole = name == truth(n);
            assert!(
                is_whole
                    || name == unnamed(n)
                    || (name.0, name.1) == (truth(n).0, truth(n).1) && name.2 == unnamed(n).2,
                "a wrong name after {harms:?}"
            );
            complete &= is_whole;
        }
        assert!(start.elapsed() < PATIENCE, "no names in the end after {harms:?}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    let health = names.health();
    assert_eq!(health.conflicts, 0);
    let failed = health.requests.iter().filter(|(.., result, _)| *result != "ok").map(|(.., count)| count).sum();
    (failed, start.elapsed())
}

fn run_cases(strategy: impl Strategy<Value = Harm>, encrypted: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let authority = Authority::new();
    let run = |limits: Limits, harms| {
        runtime.block_on(async {
            let tls = encrypted.then(|| authority.acceptor(|_| {}));
            let config = |address: SocketAddr| {
                if encrypted {
                    authority.config(address)
                } else {
                    kube::Config::new(format!("http://{address}").parse().unwrap())
                }
            };
            check(config, tls, limits, harms).await
        })
    };
    // What takes longer than ten times all of it without harm has come to a stop, however slow this machine is.
    let (failed, whole) = run(PATIENT, Vec::new());
    assert_eq!(failed, 0, "without harm");
    let limit = Duration::from_millis(150).max(10 * whole);
    let limits = Limits { begin: 2 * limit, silence: limit, whole: 4 * limit };
    let failures = AtomicU64::new(0);
    let cases = ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(cases)
        .run(&prop::collection::vec(strategy, 1..6), |harms| {
            failures.fetch_add(run(limits, harms).0, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    let failures = failures.into_inner();
    assert!(failures > 50, "the proxy did harm: {failures}");
}

#[test]
fn an_encrypted_connection_that_is_harmed_in_any_way_gives_late_names_but_no_wrong_ones() {
    run_cases(harm(), true);
}

#[test]
fn a_plain_connection_that_is_delayed_and_cut_gives_late_names_but_no_wrong_ones() {
    run_cases(gentle_harm(), false);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_verified_gives_no_names_until_it_is_right() {
    let (authority, other) = (Authority::new(), Authority::new());
    let day = |year| rcgen::date_time_ymd(year, 1, 1);
    let wrong: Vec<(&str, TlsAcceptor)> = vec![
        ("another authority", other.acceptor(|_| {})),
        (
            "another name",
            authority.acceptor(|params| *params = CertificateParams::new(vec!["10.0.0.1".to_owned()]).unwrap()),
        ),
        ("over", authority.acceptor(|params| (params.not_before, params.not_after) = (day(2000), day(2001)))),
        // As a node sees it whose clock is behind.
        ("not yet", authority.acceptor(|params| (params.not_before, params.not_after) = (day(2090), day(2095)))),
    ];
    for (what, acceptor) in wrong {
        let server = Server::start_at("127.0.0.1:0".parse().unwrap(), turns(), Some(acceptor)).await;
        let mut tasks = JoinSet::new();
        let names = follow(&authority.config(server.address), PATIENT, &mut tasks);
        wait(|| requests(&names, "list", "certificate") >= 3, what).await;
        assert_eq!(named(&names, 0), unnamed(0), "{what}");
        assert!(server.paths().is_empty(), "{what}: a token would have been sent");
        let address = server.address;
        drop(server);
        let _right = Server::start_at(address, turns(), Some(authority.acceptor(|_| {}))).await;
        wait(|| named(&names, 0) == truth(0), "the right certificate").await;
    }
}
