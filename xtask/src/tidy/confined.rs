//! Where `aya` and `unsafe` may be, and that each file begins with what it is. Pure.

use syn::AttrStyle;

use super::{Finding, source::Source};

/// The daemon's contact with the kernel, and the kernel programs.
const HOMES: &[&str] = &["agent/src/kernel/", "agent-ebpf/"];

/// A word of Rust that belongs to the homes only.
struct Confined {
    what: &'static str,
    is: fn(&str) -> bool,
    exceptions: &'static [Exception],
}

/// A file that has it all the same.
struct Exception {
    file: &'static str,
    reason: &'static str,
}

const CONFINED: &[Confined] = &[
    Confined {
        what: "aya",
        is: |word| matches!(word, "aya" | "aya_build" | "aya_ebpf" | "aya_log" | "aya_obj"),
        exceptions: &[
            Exception { file: "agent/build.rs", reason: "aya-build compiles the kernel programs" },
            Exception { file: "agent/benches/scheduler.rs", reason: "attaches an empty program to compare with" },
            Exception { file: "agent/benches/storms.rs", reason: "attaches and detaches the programs in turn" },
            Exception {
                file: "agent/benches/common/mod.rs",
                reason: "takes over the programs that podlens has loaded",
            },
            Exception { file: "agent/tests/programs.rs", reason: "asks the kernel what its verifier went through" },
            Exception { file: "agent/tests/common/statistics.rs", reason: "asks the kernel how long a program ran" },
        ],
    },
    Confined {
        what: "unsafe",
        is: |word| word == "unsafe",
        exceptions: &[
            Exception { file: "agent/build.rs", reason: "sets cargo's variables while it has one thread" },
            Exception {
                file: "agent/benches/common/mod.rs",
                reason: "takes over the programs that podlens has loaded",
            },
            Exception { file: "agent/tests/common/files.rs", reason: "maps a file as only libc can" },
            Exception { file: "agent/tests/common/hog.rs", reason: "asks for memory of one node as only libc can" },
            Exception { file: "agent/tests/common/load.rs", reason: "makes threads and processes as only libc can" },
            Exception { file: "agent/tests/common/datagrams.rs", reason: "calls that the library has no word for" },
            Exception { file: "agent/tests/common/peer.rs", reason: "makes sockets as only libc can" },
            Exception { file: "agent/tests/common/resolver.rs", reason: "calls that the library has no word for" },
            Exception { file: "agent/tests/common/relay.rs", reason: "makes devices in namespaces as only libc can" },
            Exception {
                file: "agent/tests/common/statistics.rs",
                reason: "reads one program's statistics as often as it can",
            },
            Exception { file: "agent/tests/tasks.rs", reason: "makes a process by clone3" },
        ],
    },
];

/// What breaks the rules.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let undescribed = sources.iter().filter(|source| !is_described(source)).map(|source| {
        let problem = "it does not begin with `//!`: say what the file is, what it is not, and who calls it";
        Finding::new(&source.path, 0, problem.to_owned())
    });
    undescribed.chain(CONFINED.iter().flat_map(|confined| misplaced(confined, sources))).collect()
}

fn is_described(source: &Source) -> bool {
    let is_doc =
        |attribute: &syn::Attribute| matches!(attribute.style, AttrStyle::Inner(_)) && attribute.path().is_ident("doc");
    source.syntax.attrs.first().is_some_and(is_doc)
}

/// Files that have the word and may not, and exceptions for files that do not have it.
fn misplaced(confined: &Confined, sources: &[Source]) -> Vec<Finding> {
    let Confined { what, is, exceptions } = confined;
    let outside = sources.iter().filter(|source| HOMES.iter().all(|home| !source.path.starts_with(home)));
    let with_it: Vec<(&Source, usize)> = outside
        .filter_map(|source| {
            let word = source.words.iter().find(|word| !word.quoted && is(&word.text))?;
            Some((source, word.line))
        })
        .collect();
    let is_excepted = |source: &Source| exceptions.iter().any(|exception| exception.file == source.path);
    let strays = with_it.iter().filter(|(source, _)| !is_excepted(source)).map(|(source, line)| {
        let problem = format!("`{what}` outside {}: move it there behind a safe function", HOMES.join(" and "));
        Finding::new(&source.path, *line, problem)
    });
    let idle = exceptions.iter().filter(|exception| with_it.iter().all(|(source, _)| source.path != exception.file));
    let idle = idle.map(|Exception { file, reason }| {
        let problem = format!("it has no `{what}` any more: remove its exception (\"{reason}\") from tidy");
        Finding::new(file, 0, problem)
    });
    strays.chain(idle).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{CONFINED, check};
    use crate::tidy::source::Source;

    /// What is found in these files, beside those that have an exception.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let excepted = CONFINED.iter().flat_map(|confined| {
            confined.exceptions.iter().map(|exception| (exception.file, format!("//! It.\ng!({});", confined.what)))
        });
        let excepted = excepted.filter(|(path, _)| files.iter().all(|(given, _)| given != path));
        let given = files.iter().map(|(path, text)| (*path, (*text).to_owned()));
        let sources: Vec<Source> =
            given.chain(excepted).map(|(path, text)| Source::parse(path, &text).unwrap()).collect();
        check(&sources).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn files_that_keep_the_rules_are_not_named() {
        let kernel = ("agent/src/kernel/object.rs", "//! It.\nuse aya::Ebpf; fn f() { unsafe {} }");
        let other = ("agent/src/views/table.rs", "//! Not unsafe, no aya.\nfn f() { g(\"aya unsafe\") }");
        assert_eq!(found(&[kernel, other]), [""; 0]);
    }

    #[test]
    fn aya_and_unsafe_outside_their_homes_are_found_with_the_line() {
        let imported = found(&[("agent/src/export/json.rs", "//! It.\nuse aya::Ebpf;")]);
        assert_eq!(imported.len(), 1);
        let start = "agent/src/export/json.rs:2: `aya` outside ";
        assert!(imported.iter().all(|text| text.starts_with(start)), "{imported:?}");
        let hidden = found(&[("xtask/src/vm.rs", "//! It.\nfn f() {\n  g!(unsafe { h() })\n}")]);
        assert_eq!(hidden.len(), 1);
        assert!(hidden.iter().all(|text| text.starts_with("xtask/src/vm.rs:3: `unsafe` outside ")), "{hidden:?}");
    }

    #[test]
    fn an_exception_that_does_not_occur_is_found() {
        let found = found(&[("agent/tests/common/load.rs", "//! It.")]);
        assert_eq!(found.len(), 1);
        assert!(found.iter().all(|text| text.contains("remove its exception")), "{found:?}");
    }

    #[test]
    fn a_file_that_does_not_say_what_it_is_is_found() {
        for text in ["fn f() {}", "// It.\nfn f() {}", "/// It.\nfn f() {}", "#![no_std]\n//! It."] {
            let found = found(&[("agent-common/src/slot.rs", text)]);
            assert_eq!(found.len(), 1, "{text}");
            assert!(found.iter().all(|text| text.contains("does not begin with `//!`")), "{found:?}");
        }
    }
}
