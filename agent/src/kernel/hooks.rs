//! Where a program can be attached, and what the kernel must have for that.

use super::needs::{Answers, Fact};

/// What makes the kernel run a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint, whose arguments the program takes with the kernel's types (`tp_btf`).
    Tracepoint {
        /// Its name.
        name: &'static str,
        /// The arguments that the program takes in any case: the types that they point to, or their own; several with `|`
        /// between them where kernels differ.
        arguments: &'static [&'static str],
    },
    /// The end of a function, of which the program gets the arguments and the result (`fexit`).
    FunctionEnd {
        /// Its name.
        name: &'static str,
    },
    /// A reading by the daemon, of the iterator over tasks (`iter/task`).
    TaskIterator,
    /// The end of a major fault, in its task: a software event of each CPU that is online (`PERF_COUNT_SW_PAGE_FAULTS_MAJ`), which
    /// the daemon gives it.
    MajorFault,
}

impl Hook {
    /// The section of the object in which a program for this hook lies.
    #[must_use]
    pub fn section(self) -> String {
        match self {
            Self::Tracepoint { name, .. } => format!("tp_btf/{name}"),
            Self::FunctionEnd { name } => format!("fexit/{name}"),
            Self::TaskIterator => "iter/task".to_owned(),
            Self::MajorFault => "perf_event".to_owned(),
        }
    }

    /// Why this kernel cannot run a program so, in words; none if it can.
    #[must_use]
    pub fn lack(self, answers: &Answers) -> Option<String> {
        match self {
            Self::Tracepoint { name, arguments } => {
                let arguments = u32::try_from(arguments.len()).unwrap_or(u32::MAX);
                Fact::Tracepoint { name, arguments }.answer(answers.btf()).err().map(|lack| lack.to_string())
            }
            Self::FunctionEnd { name } => answers.btf().function(name).err().map(|lack| lack.to_string()),
            Self::TaskIterator => {
                let is_there = answers.btf().function_exists("bpf_iter_task");
                (!is_there).then(|| "this kernel has no iterator over tasks for BPF programs".to_owned())
            }
            Self::MajorFault => {
                let program = Fact::Member { bytes: Some(8), paths: vec!["perf_event.prog"] };
                program.answer(answers.btf()).err().map(|lack| format!("{lack}, so none for software events"))
            }
        }
    }
}
