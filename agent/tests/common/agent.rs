//! The agent as a process: the built binary on a free port of loopback. Ends with the value.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use testkit::{free_address, page::Page};

use super::{PATIENCE, statistics::programs_of, wait_until};

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

/// Runs `podlens` to its end.
pub fn podlens(under: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = command(&tested_binary(), under, arguments, environment);
    command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

impl Agent {
    /// Starts it and waits until it is ready. The environment is its configuration, as `PODLENS_...` variables.
    ///
    /// What a kernel lacks is known before anything is loaded. A program that it refuses is a fault, and a test that took it
    /// for a lack would find nothing to test.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        let mut agent = Self::start_under(&[], environment);
        agent.wait_for_code("/readyz", 200);
        let log = agent.log();
        assert!(!log.contains("the kernel refused the BPF program"), "{log}");
        agent
    }

    /// Starts this binary, whichever is tested otherwise, and waits until it is ready.
    pub fn start_binary(binary: &Path, environment: &[(&str, &str)]) -> Self {
        let mut agent = Self::spawn_binary(binary, free_address(), &[], environment);
        agent.wait_for_code("/readyz", 200);
        agent
    }

    /// Starts it by another program that takes a command, such as `setpriv`, and waits until it answers at all.
    pub fn start_under(under: &[&str], environment: &[(&str, &str)]) -> Self {
        let address = free_address();
        let mut agent = Self::spawn(address, under, environment);
        agent.wait_for_code("/healthz", 200);
        agent
    }

    /// Starts it on a given address and waits for nothing. It tells all that it measures, unless the environment says
    /// otherwise.
    pub fn spawn(address: SocketAddr, under: &[&str], environment: &[(&str, &str)]) -> Self {
        let environment = [&[("PODLENS_SERIES_ALLOW", "*")], environment].concat();
        Self::spawn_binary(&tested_binary(), address, under, &environment)
    }

    fn spawn_binary(binary: &Path, address: SocketAddr, under: &[&str], environment: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = std::env::temp_dir().join(format!("podlens-agent-{}-{number}.log", std::process::id()));
        let file = || fs::OpenOptions::new().create(true).append(true).open(&log).expect("the log can be written");
        let listen = address.to_string();
        let mut command = command(binary, under, &["run", "--node", "test-node", "--listen", &listen], environment);
        let child = command
            .stdin(Stdio::null())
            .stdout(file())
            .stderr(file())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, address, log }
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The answer's code and body.
    pub fn get(&self, path: &str) -> Result<(u16, String), String> {
        testkit::http::get(self.address, path)
    }

    /// Its metrics page.
    #[track_caller]
    pub fn metrics(&self) -> Page {
        match self.get("/metrics") {
            Ok((200, page)) => Page::parse(&page),
            other => panic!("no metrics: {other:?}; its log:\n{}", self.log()),
        }
    }

    /// Waits until `found` finds its answer on a page.
    pub fn wait_for_metrics<T>(&self, what: &str, found: impl Fn(&Page) -> Result<T, String>) -> T {
        wait_until(what, PATIENCE, || found(&self.metrics()))
    }

    /// Waits until a path answers with that code; panics with the log if the agent ends meanwhile.
    pub fn wait_for_code(&mut self, path: &str, expected: u16) -> String {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                panic!("the agent ended with {status}:\n{}", self.log());
            }
            let answer = self.get(path);
            match answer {
                Ok((code, body)) if code == expected => return body,
                other if start.elapsed() > PATIENCE => panic!("{path}: {other:?}; the log:\n{}", self.log()),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The names of the kernel programs that it holds, as the kernel tells them.
    pub fn programs(&self) -> BTreeSet<String> {
        programs_of(self.id()).filter_map(|program| program.name_as_str().map(str::to_owned)).collect()
    }

    /// Why a collector does not tell all, in the words of the log; nothing where it does.
    pub fn lack(&self, collector: &str) -> String {
        let log = self.log();
        let of_collector = format!("collector=\"{collector}\"");
        let lines = log.lines().filter(|line| line.contains(&of_collector));
        let mut reasons = lines.filter_map(|line| line.split_once("reason=")).map(|(_, reason)| reason);
        reasons.next_back().unwrap_or_default().to_owned()
    }

    /// Everything that it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child's state can be read")
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "the agent is there to get SIG{name}");
    }

    /// Ends it by SIGTERM: its exit status, and how long it took.
    pub fn stop(mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal("TERM");
        (self.wait(), start.elapsed())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_until("the agent's end", PATIENCE, || self.ended().ok_or_else(|| "it runs".to_owned()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
        let _ = fs::remove_file(&self.log);
    }
}

/// The binary that is tested.
pub fn tested_binary() -> PathBuf {
    testkit::tested_binary(env!("CARGO_BIN_EXE_podlens"))
}

/// The variables of the test's own environment must not configure the agent.
fn command(binary: &Path, under: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let under = under.iter().map(OsStr::new);
    let mut words = under.chain([binary.as_os_str()]).chain(arguments.iter().map(OsStr::new));
    let mut command = Command::new(words.next().unwrap_or(binary.as_os_str()));
    command.args(words).env_clear().envs(environment.iter().copied());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}
