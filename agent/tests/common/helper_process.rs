//! This test binary once more, as a process that does what it is told: one command a line, and one line for each answer.
//!
//! What such a process does is one ignored "test", which ends at once unless it finds [`orders`] and else goes on in [`follow`].

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    process::{self, Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio},
};

const ORDERS: &str = "PODLENS_TEST_HELPER";
/// Before each answer: other lines are the test runner's, or of a panic.
const ANSWER: &str = "helper: ";

/// A process of the test's own. Ends with the value.
#[derive(Debug)]
pub struct HelperProcess {
    child: Child,
    /// None once nothing more is to be told.
    input: Option<ChildStdin>,
    output: BufReader<ChildStderr>,
}

impl HelperProcess {
    /// Starts it at the "test" of this path, crate included, below another program and its arguments if there are any, and waits
    /// until it is ready.
    pub fn start(under: &[&str], test: &str, orders: &str) -> Self {
        let (_, test) = test.split_once("::").expect("the path begins with the crate");
        let itself = env::current_exe().expect("a test knows its own file");
        let itself = itself.to_str().expect("cargo's directory has a plain name");
        let words = [under, &[itself, test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]].concat();
        let (program, arguments) = words.split_first().expect("it is this binary at least");
        let mut command = Command::new(program);
        command.args(arguments).env(ORDERS, orders);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stderr.take().expect("it is a pipe"));
        let mut process = Self { child, input, output };
        process.answer().unwrap_or_else(|said| panic!("{test} does not start: {said}"));
        process
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do something; returns at once.
    pub fn tell(&mut self, command: &str) {
        let input = self.input.as_mut().expect("it is to go on");
        writeln!(input, "{command}").expect("it waits for commands");
    }

    /// Its next answer, or, where it has ended instead, all else that it has said.
    pub fn answer(&mut self) -> Result<String, String> {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("its output can be read") == 0 {
                return Err(said);
            }
            if let Some(answer) = line.strip_prefix(ANSWER) {
                return Ok(answer.trim_end().to_owned());
            }
            said.push_str(&line);
        }
    }

    /// Tells it to do something and waits for the answer.
    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer().unwrap_or_else(|said| panic!("{command}: it has ended and said:\n{said}"))
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }

    /// Lets it end by itself and waits for that.
    pub fn end(mut self) {
        self.input = None;
        let status = self.wait();
        assert!(status.success(), "it ended with {status}");
    }
}

impl Drop for HelperProcess {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this process was told at its start; none if it is no helper, but the tests themselves.
pub fn orders() -> Option<String> {
    env::var(ORDERS).ok()
}

/// Is ready, answers each command, and ends the process when there are no more.
pub fn follow(mut act: impl FnMut(&str) -> String) -> ! {
    eprintln!("{ANSWER}ready");
    for command in io::stdin().lines().map_while(Result::ok) {
        let answer = act(&command);
        eprintln!("{ANSWER}{answer}");
    }
    process::exit(0)
}
