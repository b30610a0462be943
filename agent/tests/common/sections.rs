//! The kernel's own sections of stalls for memory, one by one, where a kernel lets probes be put at the functions that begin and end
//! one: in the virtual machines.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::modules::run;

const TRACING: &str = "/sys/kernel/tracing";
/// The probes, and the kernel's functions.
const PROBES: [(&str, &str); 2] = [("section_begins", "psi_memstall_enter"), ("section_ends", "psi_memstall_leave")];
/// The tracepoints at the beginning and at the end of a reclaim.
type Reclaim = [&'static str; 2];
const OF_NODE: Reclaim = ["mm_vmscan_direct_reclaim_begin", "mm_vmscan_direct_reclaim_end"];
const OF_CGROUP: Reclaim = ["mm_vmscan_memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_end"];

/// A recording of one task's sections. It ends with the value.
pub struct Sections(PathBuf, Reclaim);

/// What was recorded, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Sections with a reclaim in them, and how long they lasted.
    pub sections: u64,
    pub whole_ns: u64,
    /// Of that, from the beginning of the reclaim to its end, and from there to the end of the section.
    pub reclaim_ns: u64,
    pub behind_ns: u64,
    /// How long other sections lasted.
    pub others_ns: u64,
}

impl Sections {
    /// Of reclaim of the node's memory. None where the kernel has no such probes.
    pub fn of_node() -> Option<Self> {
        Self::new(OF_NODE)
    }

    /// The same of reclaim for a cgroup's limit.
    pub fn of_cgroup() -> Option<Self> {
        Self::new(OF_CGROUP)
    }

    fn new(reclaim: Reclaim) -> Option<Self> {
        let tracing = Path::new(TRACING);
        if !tracing.join("events").exists() {
            run(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACING]));
        }
        let probes = PROBES.map(|(name, function)| format!("p:podlens/{name} {function}\n")).concat();
        fs::write(tracing.join("kprobe_events"), probes).ok()?;
        let instance = tracing.join("instances/podlens");
        fs::create_dir(&instance).unwrap();
        let sections = Self(instance, reclaim);
        sections.write("buffer_size_kb", "16384");
        sections.write("events/podlens/enable", "1");
        for tracepoint in reclaim {
            sections.write(&format!("events/vmscan/{tracepoint}/enable"), "1");
        }
        Some(sections)
    }

    /// What a shell is to do that becomes the task to be recorded.
    pub fn joined(&self) -> String {
        format!("echo $$ > {}", self.0.join("set_event_pid").display())
    }

    /// What was recorded so far.
    pub fn recorded(&self) -> Recorded {
        added_up(&fs::read_to_string(self.0.join("trace")).unwrap(), self.1)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

impl Drop for Sections {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
        let _ = fs::write(Path::new(TRACING).join("kprobe_events"), "");
    }
}

/// Adds up a trace of one task, of lines like `dd-97 [000] ..... 12.345678: section_begins: (psi_memstall_enter+0x0/0x60)`.
fn added_up(trace: &str, tracepoints: Reclaim) -> Recorded {
    let mut sum = Recorded::default();
    // Sections may lie in one another: the outermost is the kernel's.
    let (mut depth, mut section, mut reclaim) = (0, 0, [0; 2]);
    for line in trace.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace().skip_while(|word| nanoseconds(word).is_none());
        let (Some(now), Some(event)) = (words.next().and_then(nanoseconds), words.next()) else { continue };
        let event = event.trim_end_matches(':');
        if event == PROBES[0].0 {
            depth += 1;
            if depth == 1 {
                (section, reclaim) = (now, [0; 2]);
            }
        } else if event == PROBES[1].0 && depth > 0 {
            depth -= 1;
            if depth == 0 && reclaim[1] != 0 {
                sum.sections += 1;
                sum.whole_ns += now - section;
                sum.reclaim_ns += reclaim[1] - reclaim[0];
                sum.behind_ns += now - reclaim[1];
            } else if depth == 0 {
                sum.others_ns += now - section;
            }
        } else if let Some((_, moment)) =
            tracepoints.iter().zip(&mut reclaim).find(|(tracepoint, _)| **tracepoint == event)
        {
            *moment = now;
        }
    }
    sum
}

/// A time of the trace, in microseconds there.
fn nanoseconds(word: &str) -> Option<u64> {
    let (seconds, microseconds) = word.strip_suffix(':')?.split_once('.')?;
    let digits = microseconds.len() == 6;
    digits.then(|| Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + microseconds.parse::<u64>().ok()? * 1000))?
}

#[test]
fn sections_are_added_up_by_what_is_in_them() {
    let trace = "\
# tracer: nop
              dd-97      [000] .....    12.000100: section_begins: (psi_memstall_enter+0x0/0x60)
              dd-97      [000] .....    12.000102: mm_vmscan_direct_reclaim_begin: order=0 gfp_flags=GFP_KERNEL
              dd-97      [000] .....    12.000110: section_begins: (psi_memstall_enter+0x0/0x60)
              dd-97      [000] .....    12.000111: section_ends: (psi_memstall_leave+0x0/0x60)
              dd-97      [000] .....    12.000202: mm_vmscan_direct_reclaim_end: nr_reclaimed=32
              dd-97      [000] .....    12.000232: section_ends: (psi_memstall_leave+0x0/0x60)
              dd-97      [000] .....    12.000400: section_begins: (psi_memstall_enter+0x0/0x60)
              dd-97      [000] .....    12.000405: section_ends: (psi_memstall_leave+0x0/0x60)
";
    let expected =
        Recorded { sections: 1, whole_ns: 132_000, reclaim_ns: 100_000, behind_ns: 30_000, others_ns: 5_000 };
    assert_eq!(added_up(trace, OF_NODE), expected);
}
