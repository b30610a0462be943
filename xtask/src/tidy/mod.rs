//! `cargo xtask tidy`: rules of this repository that no compiler knows. A stage of `cargo xtask test`.
//!
//! | file | rule |
//! | --- | --- |
//! | layers.rs | which module of the daemon may import which |
//! | circles.rs | which modules of this tool do not import each other |
//! | confined.rs | `aya` and `unsafe` stay where they are reviewed; each file says what it is |
//! | names.rs, index.rs | what the documents name exists |
//!
//! source.rs reads the tree once, imports.rs takes the imports out of a file; all rules are pure.

mod circles;
mod confined;
mod imports;
mod index;
mod layers;
mod names;
mod source;

use std::{fmt, process::ExitCode};

use anyhow::Result;

use self::source::Tree;
use crate::places;

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the workspace.
    file: String,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    /// What is wrong, and what to do.
    problem: String,
}

impl Finding {
    fn new(file: &str, line: usize, problem: String) -> Self {
        Self { file: file.to_owned(), line, problem }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, problem } = self;
        if *line == 0 { write!(formatter, "{file}: {problem}") } else { write!(formatter, "{file}:{line}: {problem}") }
    }
}

/// Checks the work tree. `tasks` is this tool's own command line, which the documents quote.
pub(crate) fn run(tasks: &clap::Command) -> Result<ExitCode> {
    let tree = Tree::read(&places::workspace()?)?;
    let mut findings = layers::check(&tree.sources);
    findings.extend(circles::check(&tree.sources));
    findings.extend(confined::check(&tree.sources));
    findings.extend(names::check(&tree, tasks));
    findings.sort();
    for finding in &findings {
        println!("tidy: {finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} Rust files and {} documents hold to the rules", tree.sources.len(), tree.documents.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: findings: {}", findings.len());
    Ok(ExitCode::FAILURE)
}
