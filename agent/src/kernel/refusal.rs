//! Why the kernel refused something, in one sentence with the way out: missing rights, a lockdown or a seccomp filter, none
//! of which its answer tells apart.
//!
//! The pipeline calls it for a collector's state, and `podlens check` for its report.

use std::{error::Error, fs, io, path::Path};

use aya::programs::ProgramError;

use super::{capabilities::Held, object::ObjectError};
use crate::signal::State;

const LOCKDOWN: &str = "kernel/security/lockdown";
/// The call that hooks programs in at the ends of functions and on tracepoints, in the loader's words.
const ATTACHING: &str = "bpf_raw_tracepoint_open";
/// The call that has the kernel check a program, likewise.
const CHECKING: &str = "BPF_PROG_LOAD";
/// The kernel's own number for what it has not, which libc does not know; it answers so where it cannot call a BPF program at
/// the end of a function.
const ENOTSUPP: i32 = 524;

/// What the process and the kernel say of themselves, as far as it bears on a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Needed capabilities that are not held; none if that is not known.
    missing: Option<Vec<&'static str>>,
    /// The mode of the lockdown; none where the kernel has none or does not show it.
    lockdown: Option<String>,
    /// A seccomp filter judges each system call.
    filtered: bool,
    /// A file's capabilities are not granted.
    no_new_privileges: bool,
}

impl Circumstances {
    /// Reads them anew.
    #[must_use]
    pub fn read(proc: &Path, sys: &Path) -> Self {
        let status = fs::read_to_string(proc.join("self/status")).unwrap_or_default();
        let lockdown = fs::read_to_string(sys.join(LOCKDOWN)).unwrap_or_default();
        let missing = Held::read(proc).ok().map(|held| held.missing().iter().map(|it| it.name).collect());
        Self { missing, ..Self::parse(&status, &lockdown) }
    }

    fn parse(status: &str, lockdown: &str) -> Self {
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        // The mode in force stands in brackets: `none integrity [confidentiality]`.
        let mode = lockdown.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(mode, _)| mode.to_owned());
        Self {
            missing: None,
            lockdown: mode,
            filtered: value("Seccomp:") == Some("2"),
            no_new_privileges: value("NoNewPrivs:") == Some("1"),
        }
    }

    /// The lockdown for a report: its mode, and what to do about the one that stops podlens.
    #[must_use]
    pub fn lockdown(&self) -> String {
        match self.lockdown.as_deref() {
            None => "none that the kernel shows".to_owned(),
            Some("confidentiality") => lockdown_sentence(),
            Some(mode) => mode.to_owned(),
        }
    }

    /// What explains that the kernel refused something with this error; none if nothing here does.
    #[must_use]
    pub fn explain(&self, errno: Option<i32>, text: &str) -> Option<String> {
        if let Some(explanation) = of_process(errno, text) {
            return Some(explanation.to_owned());
        }
        if let Some(missing) = self.missing.as_deref().filter(|missing| !missing.is_empty()) {
            let names = missing.join(", ");
            let from_file = if self.no_new_privileges {
                " (with allowPrivilegeEscalation: false, that is no_new_privs, only root gets them)"
            } else {
                ""
            };
            return Some(format!(
                "the process lacks the capabilities {names}: add them to the container's securityContext.capabilities.add, or start podlens as root{from_file}"
            ));
        }
        // The verifier then does not know the functions that read kernel memory, in its words of before 6.10 and since. The
        // loader has put the older ones, without `_kernel`, in the place of those that it found missing.
        let is_unknown = ["unknown func", "cannot use helper"].iter().any(|words| text.contains(words));
        let is_unread = text.contains("bpf_probe_read") && is_unknown;
        if self.lockdown.as_deref() == Some("confidentiality") || is_unread {
            return Some(lockdown_sentence());
        }
        if is_lack(errno, text) {
            return Some(
                "this kernel cannot run BPF programs at the ends of its functions, as it was built without direct calls of dynamic ftrace (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS)".to_owned(),
            );
        }
        let is_denied = matches!(errno, Some(libc::EPERM | libc::EACCES | libc::ENOSYS));
        // The verifier explains itself; a filter says nothing.
        (is_denied && self.filtered && self.missing.is_some()).then(|| {
            "the process holds the capabilities, but a seccomp filter refuses bpf() or perf_event_open(): set securityContext.seccompProfile to a profile that allows both, such as type: Unconfined".to_owned()
        })
    }
}

/// What explains an error that says nothing of rights or of the kernel.
fn of_process(errno: Option<i32>, text: &str) -> Option<&'static str> {
    match errno {
        Some(libc::EMFILE) => {
            Some("the process may open no more files: raise the limit, by LimitNOFILE= of the unit or by ulimit -n")
        }
        Some(libc::ENOMEM) => Some("there was no memory for it: raise the container's memory limit, or lower `slots`"),
        Some(libc::EAGAIN) if text.contains(CHECKING) => Some(
            "the process was stopped or got signals each time that the kernel checked a program: start podlens where no debugger and no limiter of CPU time does that",
        ),
        Some(libc::EAGAIN) => Some(
            "no thread could be started: more tasks must be allowed, by pids.max of the cgroup (podPidsLimit of the kubelet, TasksMax= of a unit) or by ulimit -u",
        ),
        _ => None,
    }
}

fn lockdown_sentence() -> String {
    "the kernel is locked down for confidentiality (/sys/kernel/security/lockdown), so that no BPF program may read kernel memory: boot with lockdown=integrity or without lockdown=".to_owned()
}

/// An error of the kernel in words, what explains it first.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> String {
    let text = in_one_line(&crate::log::with_causes(error));
    let circumstances = Circumstances::read(Path::new("/proc"), Path::new("/sys"));
    match circumstances.explain(errno(error), &text) {
        Some(explanation) => format!("{explanation}; {text}"),
        None => text,
    }
}

/// What becomes of a collector whose programs were not attached: this kernel lacks what they need, or should take them and
/// does not.
#[must_use]
pub fn state(error: &ObjectError) -> State {
    let told = explain(error);
    let is_lack = matches!(error, ObjectError::NoFunctionEnds { .. }) || is_lack(errno(error), &told);
    if is_lack { State::Unsupported(told) } else { State::Failed(told) }
}

/// The kernel has no way to call a program where it was to be hooked in.
fn is_lack(errno: Option<i32>, text: &str) -> bool {
    text.contains(ATTACHING) && matches!(errno, Some(ENOTSUPP | libc::EOPNOTSUPP))
}

/// The verifier's lines in one, without its statistics.
fn in_one_line(text: &str) -> String {
    const STATISTICS: [&str; 3] = ["verification time ", "stack depth ", "processed "];
    let lines = text.lines().map(str::trim).filter(|line| !STATISTICS.iter().any(|begin| line.starts_with(begin)));
    let mut joined = String::new();
    for line in lines {
        if !joined.is_empty() {
            joined.push_str("; ");
        }
        joined.push_str(line);
    }
    // The loader says so too where the verifier was not asked.
    joined.trim_end_matches(". Verifier output:").to_owned()
}

/// The kernel's number for what went wrong, from the first cause that has one.
fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        let of_program = error.downcast_ref::<Box<ProgramError>>();
        let known = match of_program.map(|of_program| &**of_program) {
            // It speaks for its cause, which is then no cause of its own.
            Some(ProgramError::IOError(cause)) => Some(cause),
            _ => error.downcast_ref::<io::Error>(),
        };
        if let Some(number) = known.and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::io::Error;

    use aya::{programs::ProgramError, sys::SyscallError};

    use super::{ATTACHING, CHECKING, Circumstances, ENOTSUPP, errno, in_one_line, state};
    use crate::kernel::object::ObjectError;

    /// Of kernel 6.12, booted with lockdown=confidentiality.
    const REFUSAL: &str = "the kernel refused the BPF program cgroup_attach: the BPF_PROG_LOAD syscall returned Invalid argument (os error 22). Verifier output: func 'cgroup_attach_task' arg2 has btf_id 112 type STRUCT 'task_struct'
program of this type cannot use helper bpf_probe_read#4
verification time 6974 usec
stack depth 48+8+0+0
processed 75 insns (limit 1000000) max_states_per_insn 0 total_states 7 peak_states 7 mark_read 6
";
    const NO_HELPER: &str = "program of this type cannot use helper bpf_probe_read#4";
    /// Of kernel 5.10.
    const NO_FUNCTION: &str = "unknown func bpf_probe_read_str#45";

    fn circumstances(missing: Option<&[&'static str]>, status: &str, lockdown: &str) -> Circumstances {
        Circumstances { missing: missing.map(<[_]>::to_vec), ..Circumstances::parse(status, lockdown) }
    }

    /// What is named for an error.
    #[track_caller]
    fn check(circumstances: &Circumstances, errno: i32, text: &str, expected: Option<&str>) {
        let found = circumstances.explain(Some(errno), text);
        match (&found, expected) {
            (None, None) => {}
            (Some(found), Some(expected)) => assert!(found.contains(expected), "{found}"),
            _ => panic!("{found:?}, but expected {expected:?}"),
        }
    }

    #[test]
    fn missing_rights_come_first_and_then_a_lockdown_and_then_a_filter() {
        let (filtered, plain) = ("NoNewPrivs:\t0\nSeccomp:\t2\n", "NoNewPrivs:\t0\nSeccomp:\t0\n");
        let (locked, open) = ("none integrity [confidentiality]\n", "[none] integrity confidentiality\n");
        let held: Option<&[&str]> = Some(&[]);
        let lacking: Option<&[&str]> = Some(&["BPF"]);
        check(&circumstances(lacking, filtered, locked), libc::EPERM, "", Some("lacks the capabilities BPF"));
        check(&circumstances(held, filtered, locked), libc::EINVAL, NO_HELPER, Some("boot with lockdown=integrity"));
        check(&circumstances(held, plain, locked), libc::EPERM, "", Some("locked down for confidentiality"));
        check(&circumstances(held, filtered, open), libc::EPERM, "", Some("seccompProfile"));
        check(&circumstances(held, filtered, open), libc::ENOSYS, "", Some("seccompProfile"));
        check(&circumstances(held, plain, open), libc::EPERM, "", None);
        check(&circumstances(held, filtered, open), libc::EINVAL, "R1 invalid mem access", None);
        // A container sees no securityfs, but the verifier's words tell.
        for text in [REFUSAL, NO_HELPER, NO_FUNCTION] {
            check(&circumstances(held, filtered, ""), libc::EINVAL, text, Some("boot with lockdown=integrity"));
        }
        check(&circumstances(None, filtered, ""), libc::EPERM, "", None);
    }

    #[test]
    fn what_the_process_lacks_beside_rights_is_told_with_what_gives_it() {
        let held = circumstances(Some(&[]), "Seccomp:\t2\n", "");
        check(&held, libc::EMFILE, "", Some("raise the limit, by LimitNOFILE="));
        check(&held, libc::ENOMEM, "", Some("raise the container's memory limit"));
        check(&held, libc::EAGAIN, CHECKING, Some("no debugger and no limiter"));
        check(&held, libc::EAGAIN, "", Some("pids.max"));
    }

    #[test]
    fn what_the_verifier_says_is_one_line_without_its_statistics() {
        assert_eq!(
            in_one_line(REFUSAL),
            "the kernel refused the BPF program cgroup_attach: the BPF_PROG_LOAD syscall returned Invalid argument (os error 22). Verifier output: func 'cgroup_attach_task' arg2 has btf_id 112 type STRUCT 'task_struct'; program of this type cannot use helper bpf_probe_read#4"
        );
        assert_eq!(in_one_line("cannot open /proc/x: denied"), "cannot open /proc/x: denied");
        assert_eq!(in_one_line("it returned an error. Verifier output: "), "it returned an error");
    }

    #[test]
    fn integrity_stops_nothing() {
        let integrity = circumstances(Some(&[]), "", "none [integrity] confidentiality\n");
        check(&integrity, libc::EPERM, "", None);
        assert_eq!(integrity.lockdown(), "integrity");
        assert_eq!(circumstances(None, "", "").lockdown(), "none that the kernel shows");
        let locked = circumstances(None, "", "none integrity [confidentiality]\n");
        assert!(locked.lockdown().contains("boot with lockdown=integrity"));
    }

    #[test]
    fn no_new_privileges_is_named_where_rights_are_missing() {
        let told = circumstances(Some(&["PERFMON"]), "NoNewPrivs:\t1\n", "").explain(None, "").unwrap();
        assert!(told.contains("allowPrivilegeEscalation: false"), "{told}");
    }

    #[test]
    fn a_kernel_that_runs_nothing_at_the_ends_of_functions_lacks_it_and_does_not_fail() {
        // As the loader tells it.
        let refused = |number| {
            let io_error = Error::from_raw_os_error(number);
            let source = Box::new(SyscallError { call: ATTACHING, io_error }.into());
            ObjectError::Attach { name: "udp_send_4", source }
        };
        for (number, name) in [
            (ENOTSUPP, "unsupported"),
            (libc::EOPNOTSUPP, "unsupported"),
            (libc::EBUSY, "failed"),
            (libc::EPERM, "failed"),
        ] {
            let found = state(&refused(number));
            assert_eq!(found.name(), name, "{number}: {found:?}");
            assert!(found.reason().is_some_and(|reason| reason.contains("cannot attach the BPF program udp_send_4")));
        }
        let explained = circumstances(Some(&[]), "", "").explain(Some(ENOTSUPP), ATTACHING);
        assert!(explained.is_some_and(|words| words.contains("direct calls of dynamic ftrace")));
        let found = state(&ObjectError::NoFunctionEnds { name: "udp_send_4" });
        assert!(found.name() == "unsupported" && found.reason().is_some_and(|reason| reason.contains("set it to 1")));
        let source = Box::new(ProgramError::IOError(Error::from_raw_os_error(libc::EOPNOTSUPP)));
        let found = state(&ObjectError::Attach { name: "major_fault", source });
        assert_eq!(found.name(), "failed", "it is not at the end of a function: {found:?}");
    }

    #[test]
    fn the_kernels_number_is_found_below_other_errors() {
        let denied = || Error::from_raw_os_error(libc::EPERM);
        let of_program = Box::new(ProgramError::IOError(denied()));
        for outer in [
            ObjectError::Iterate { name: "walk", source: denied() },
            ObjectError::Attach { name: "fault", source: of_program },
        ] {
            assert_eq!(errno(&outer), Some(libc::EPERM), "{outer:?}");
        }
        assert_eq!(errno(&std::fmt::Error), None);
    }
}
