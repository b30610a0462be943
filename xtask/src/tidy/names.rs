//! What the documents name must exist: paths, Rust items, maps and programs, metrics, tasks of this tool. Pure.
//!
//! | looks like | must be |
//! | --- | --- |
//! | `agent/src/log.rs`, `ledger.rs` | a file or directory, or the end of one's path |
//! | `slots::of_task` | the end of an item's path in the workspace |
//! | `SLOT_OF` | an identifier or a word in a string somewhere outside of documents and comments |
//! | `podlens_lost_total` | a word in a string of the daemon, or generated into docs/metrics.md |
//! | `cargo xtask test --list` | a task with that option |

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Finding, index,
    source::{self, Document, Tree, has_extension},
};

/// Extensions that only files of this repository have.
const OUR_EXTENSIONS: &[&str] = &["rs", "md"];
/// What Prometheus appends to a histogram's name.
const SERIES_SUFFIXES: &[&str] = &["_bucket", "_count", "_sum"];
/// Written by a test from the definitions themselves, which compares them as well.
const GENERATED: &[&str] = &["docs/metrics.md", "docs/config.md"];
/// Where the metrics' names are.
const DAEMON: &str = "agent/src/";
/// Crates that come with the compiler.
const STANDARD: &[&str] = &["std", "core", "alloc"];

/// What exists.
struct Known<'a> {
    paths: &'a [String],
    items: BTreeMap<String, Vec<Vec<String>>>,
    /// Identifiers, words in strings, words in manifests and scripts.
    words: BTreeSet<&'a str>,
    /// Words in the daemon's strings, and in what is generated.
    metrics: BTreeSet<&'a str>,
    tasks: &'a clap::Command,
}

/// What is named and does not exist.
pub(super) fn check(tree: &Tree, tasks: &clap::Command) -> Vec<Finding> {
    let known = Known::of(tree, tasks);
    tree.documents.iter().flat_map(|document| check_document(document, &known)).collect()
}

impl<'a> Known<'a> {
    fn of(tree: &'a Tree, tasks: &'a clap::Command) -> Self {
        let mut items: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        for path in index::items(&tree.sources) {
            if let Some(last) = path.last() {
                items.entry(last.clone()).or_default().push(path);
            }
        }
        let generated = || {
            let documents = tree.documents.iter().filter(|document| GENERATED.contains(&document.path.as_str()));
            documents.flat_map(|document| source::words(&document.text))
        };
        let in_sources = tree.sources.iter().flat_map(|source| source.words.iter().map(|word| word.text.as_str()));
        let in_daemon = tree.sources.iter().filter(|source| source.path.starts_with(DAEMON));
        let quoted = in_daemon.flat_map(|source| source.words.iter().filter(|word| word.quoted));
        Self {
            paths: &tree.paths,
            items,
            words: in_sources.chain(tree.other_words.iter().map(String::as_str)).chain(generated()).collect(),
            metrics: quoted.map(|word| word.text.as_str()).chain(generated()).collect(),
            tasks,
        }
    }
}

fn check_document(document: &Document, known: &Known<'_>) -> Vec<Finding> {
    let mut problems: BTreeSet<(usize, String)> = BTreeSet::new();
    for (number, line) in document.text.lines().enumerate() {
        let mut add = |problem: Option<String>| problems.extend(problem.map(|problem| (number + 1, problem)));
        for target in link_targets(line) {
            add(known.judge_link(&document.path, target));
        }
        for task in line.split("cargo xtask ").skip(1) {
            add(known.judge_task(task.split('`').next().unwrap_or_default()));
        }
        for (in_quotes, part) in line.split('`').enumerate().map(|(at, part)| (at % 2 == 1, part)) {
            if in_quotes {
                add(known.judge_capitals(part));
            }
            for word in part.split(|letter: char| !is_of_word(letter)) {
                add(known.judge_path(word.trim_matches(['.', ':', '/'])).filter(|_| !word.starts_with('/')));
                add(known.judge_metric(word));
                if in_quotes {
                    add(known.judge_item(word));
                }
            }
        }
    }
    problems.into_iter().map(|(line, problem)| Finding::new(&document.path, line, problem)).collect()
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || "_-./:*".contains(letter)
}

/// What `[text](target)` leads to.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

impl Known<'_> {
    fn judge_link(&self, document: &str, target: &str) -> Option<String> {
        let path = target.split('#').next().unwrap_or_default();
        if path.is_empty() || path.contains("://") {
            return None;
        }
        let mut names: Vec<&str> = document.split('/').collect();
        names.pop();
        for name in path.trim_end_matches('/').split('/') {
            match name {
                ".." => drop(names.pop()),
                "." => {}
                name => names.push(name),
            }
        }
        let path = names.join("/");
        (!self.is_path(&path)).then(|| format!("the link to `{target}` leads nowhere"))
    }

    fn judge_path(&self, word: &str) -> Option<String> {
        if word.contains('*') || word.contains("::") || word.contains("://") {
            return None;
        }
        let first = word.split('/').next().unwrap_or_default();
        let below_ours = word.contains('/') && self.is_path(first);
        let ours = OUR_EXTENSIONS.iter().any(|extension| has_extension(word, extension));
        if !below_ours && !ours {
            return None;
        }
        let end = format!("/{word}");
        let exists = self.is_path(word) || (ours && self.paths.iter().any(|path| path.ends_with(&end)));
        (!exists).then(|| format!("there is no `{word}`"))
    }

    fn is_path(&self, path: &str) -> bool {
        self.paths.binary_search_by(|found| found.as_str().cmp(path)).is_ok()
    }

    fn judge_item(&self, word: &str) -> Option<String> {
        let names: Vec<String> = word.trim_end_matches(['.', ':']).split("::").map(str::to_owned).collect();
        let (first, last) = (names.first()?, names.last()?);
        // None begins with a digit, as parts of an address of IPv6 do.
        let is_name = |name: &String| {
            source::words(name).eq([name.as_str()]) && !name.starts_with(|first: char| first.is_ascii_digit())
        };
        if names.len() < 2 || !names.iter().all(is_name) || STANDARD.contains(&first.as_str()) {
            return None;
        }
        let exists = self.items.get(last).is_some_and(|paths| paths.iter().any(|path| path.ends_with(&names)));
        (!exists).then(|| format!("the workspace has no item `{}`", names.join("::")))
    }

    fn judge_capitals(&self, part: &str) -> Option<String> {
        let capitals =
            part.chars().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_');
        let begins_with_letter = part.starts_with(|letter: char| letter.is_ascii_uppercase());
        if !capitals || !begins_with_letter || part.len() < 2 {
            return None;
        }
        (!self.words.contains(part)).then(|| format!("no code has the name `{part}`"))
    }

    fn judge_metric(&self, word: &str) -> Option<String> {
        let name = source::words(word).find(|name| name.starts_with("podlens_"))?;
        // `podlens_names_...` stands for all of them.
        let exists = if name.ends_with('_') {
            self.metrics.range(name..).next().is_some_and(|found| found.starts_with(name))
        } else {
            let base = SERIES_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
            self.metrics.contains(name) || base.is_some_and(|base| self.metrics.contains(base))
        };
        (!exists).then(|| format!("there is no metric `{name}`"))
    }

    /// `words` is what follows `cargo xtask `, up to the end of the quotation or the line.
    fn judge_task(&self, words: &str) -> Option<String> {
        // What follows a lone `--` is for another program, what follows `#` for the reader.
        let mine = words.split(" -- ").next()?.split(" #").next()?;
        let (name, rest) = mine.split_once(' ').unwrap_or((mine, ""));
        let name = name.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
        if name.is_empty()
            || name == "help"
            || words.starts_with('-')
            || !name.starts_with(|letter: char| letter.is_ascii_lowercase())
        {
            return None;
        }
        let Some(task) = self.tasks.find_subcommand(name) else {
            return Some(format!("`cargo xtask` has no task `{name}`"));
        };
        let second = rest.split_whitespace().next().unwrap_or_default();
        let task = task.find_subcommand(second).unwrap_or(task);
        let options = rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
        let missing = options.filter_map(|word| word.strip_prefix("--")).find(|option| {
            !option.is_empty() && task.get_arguments().all(|argument| argument.get_long() != Some(option))
        })?;
        Some(format!("`cargo xtask {name}` has no option `--{missing}`"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::{Arg, Command};

    use super::check;
    use crate::tidy::source::{Document, Source, Tree};

    fn found(text: &str) -> Vec<String> {
        let paths =
            ["README.md", "agent", "agent/src", "agent/src/kernel", "agent/src/kernel/object.rs", "docs", "docs/a.md"];
        let source = "//! It.\nstatic SLOT_OF: u8 = 0; struct Object; impl Object { fn seal() {} } \
                      fn f() { g(\"podlens_lost_total podlens_wait_seconds PODLENS_SLOTS\") }";
        let tree = Tree {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            sources: vec![Source::parse("agent/src/kernel/object.rs", source).unwrap()],
            documents: vec![Document { path: "docs/a.md".to_owned(), text: text.to_owned() }],
            other_words: vec!["NODE_IP".to_owned()],
        };
        let tasks = Command::new("xtask").subcommand(Command::new("test").arg(Arg::new("list").long("list")));
        check(&tree, &tasks).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_that_exist_are_not_named() {
        let text = "agent/src/kernel/ and agent/src/kernel/object.rs, `object.rs`; [this](a.md#part), [that](../README.md),\n\
            [elsewhere](https://example.com/a.rs). `Object::seal`, `kernel::object`, `object::Object`, `std::fs::read`, `[fd00::5]:80`.\n\
            `SLOT_OF`, `PODLENS_SLOTS`, `NODE_IP`; BTF and `4096`. `podlens_lost_total{reason=\"x\"}`,\n\
            podlens_wait_seconds_bucket, `podlens_wait_...`. `cargo xtask test [FILTER] [--list]`, `cargo xtask --help`,\n\
            `cargo xtask test -- --nothing`. `/metrics`, `iter/task`, `cpu.stat`, docs/*.md, read/write, and/or.";
        assert_eq!(found(text), [""; 0]);
    }

    #[test]
    fn each_kind_of_name_that_does_not_exist_is_found_with_its_line() {
        let table = [
            ("agent/src/run.rs", "there is no `agent/src/run.rs`"),
            ("in agent/src/ui/, say", "there is no `agent/src/ui`"),
            ("`ledger.rs`", "there is no `ledger.rs`"),
            ("[this](b.md)", "the link to `b.md` leads nowhere"),
            ("`Object::load`", "the workspace has no item `Object::load`"),
            ("`g(registry::Object, 1)`", "the workspace has no item `registry::Object`"),
            ("`SLOTS_OF`", "no code has the name `SLOTS_OF`"),
            ("`podlens_loss_total`", "there is no metric `podlens_loss_total`"),
            ("podlens_loss_total", "there is no metric `podlens_loss_total`"),
            ("`podlens_names_...`", "there is no metric `podlens_names_`"),
            ("`cargo xtask tests`", "`cargo xtask` has no task `tests`"),
            ("    cargo xtask tests    # all", "`cargo xtask` has no task `tests`"),
            ("`cargo xtask test --lists`", "`cargo xtask test` has no option `--lists`"),
        ];
        for (text, expected) in table {
            let found = found(&format!("A line.\n{text}"));
            assert!(found.contains(&format!("docs/a.md:2: {expected}")), "{text}: {found:?}");
        }
    }
}
