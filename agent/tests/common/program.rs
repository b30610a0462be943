//! Programs of others, such as nginx and wrk, in a cgroup and a network namespace of the test's own.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{PATIENCE, TestCgroup, wait_until};

/// A program that runs. Ends with the value.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Starts one in a cgroup, which it is in before it makes its first socket, and in the network namespace of a process; in the
    /// machine's without one.
    pub fn start(cgroup: &TestCgroup, network: Option<u32>, command: &[&str]) -> Self {
        let namespace = network.map(|id| format!("--net=/proc/{id}/ns/net"));
        let enters = namespace.iter().flat_map(|namespace| ["nsenter", namespace.as_str()]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "read -r go && exec \"$@\"", "sh"]).args(enters).args(command);
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("there is a shell");
        cgroup.add(child.id());
        let mut input = child.stdin.take().expect("it is piped");
        writeln!(input, "go").expect("the shell waits for a line");
        Self(child)
    }

    /// Starts one that does nothing, in a network namespace of its own, which lasts as long as it.
    pub fn in_new_network(cgroup: &TestCgroup) -> Self {
        let program = Self::start(cgroup, None, &["unshare", "--net", "sleep", "3600"]);
        let namespace = |id: u32| fs::read_link(format!("/proc/{id}/ns/net")).expect("the process runs");
        wait_until("a network namespace", PATIENCE, || {
            let is_new = namespace(program.id()) != namespace(std::process::id());
            is_new.then_some(()).ok_or_else(|| "it is the machine's".to_owned())
        });
        program
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end; gives what it has printed.
    #[track_caller]
    pub fn output(mut self) -> String {
        let mut printed = String::new();
        let mut output = self.0.stdout.take().expect("it is piped");
        std::io::Read::read_to_string(&mut output, &mut printed).expect("it prints text");
        let status = self.0.wait().expect("it has ended");
        assert!(status.success(), "{status}: {printed}");
        printed
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails only for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A web server: nginx as one process, which answers each request with 1,000 bytes. Ends with the value.
#[derive(Debug)]
pub struct WebServer {
    _process: Program,
    directory: PathBuf,
}

impl WebServer {
    /// Starts it on port 80 of a network namespace.
    pub fn start(cgroup: &TestCgroup, network: u32) -> Self {
        let directory = std::env::temp_dir().join(format!("podlens-nginx-{network}"));
        fs::create_dir_all(&directory).expect("temporary files can be written");
        let configuration = directory.join("nginx.conf");
        let text = format!(
            "daemon off; master_process off; pid {0}/pid; events {{ worker_connections 4096; }}
             http {{ access_log off; keepalive_requests 1000000000;
               server {{ listen 80 backlog=4096; location / {{ return 200 \"{1}\"; }} }} }}",
            directory.display(),
            "x".repeat(1000)
        );
        fs::write(&configuration, text).expect("temporary files can be written");
        let path = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        let command = ["nginx", "-e", "stderr", "-p", &path(&directory), "-c", &path(&configuration)];
        let process = Program::start(cgroup, Some(network), &command);
        wait_until("the web server", PATIENCE, || {
            let listens = super::sockets_in(network, "0A") > 0;
            listens.then_some(()).ok_or_else(|| "it does not listen".to_owned())
        });
        Self { _process: process, directory }
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        // Of no use any more; it stays behind if it cannot be removed.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
