//! Which module of the daemon may import which. `LAYERS` is the only place that says so. Pure.
//!
//! Code that is compiled for tests only may put any layers together.

use std::collections::BTreeSet;

use super::{
    Finding,
    imports::{self, Import},
    source::Source,
};

/// Where the modules lie that have layers.
const ROOT: &str = "agent/src/";

/// A module directly below the daemon's root, and what it may import of the others.
#[derive(Clone, Copy)]
struct Layer {
    name: &'static str,
    /// Paths below the daemon's root with all that is below them; `*` stands for any one name.
    imports: &'static [&'static str],
}

/// From the ground up. `LEAVES` come on top of `imports`, but not for `signal`.
const LAYERS: &[Layer] = &[
    Layer { name: "signal", imports: &[] },
    Layer { name: "kernel", imports: &["signal"] },
    Layer { name: "registry", imports: &["signal"] },
    Layer { name: "attribution", imports: &["signal", "kernel::cgroupfs"] },
    Layer { name: "collectors", imports: &["signal", "kernel"] },
    Layer { name: "telemetry", imports: &["signal"] },
    Layer { name: "fleet", imports: &["signal", "attribution::kubernetes", "telemetry"] },
    Layer { name: "export", imports: &["signal", "registry", "telemetry"] },
    Layer { name: "views", imports: &["signal", "registry", "collectors::*::metrics"] },
    Layer {
        name: "pipeline",
        imports: &["signal", "kernel", "registry", "attribution", "collectors", "telemetry", "export", "views"],
    },
    Layer { name: "commands", imports: EVERYTHING },
    Layer { name: "main", imports: EVERYTHING },
    Layer { name: "config", imports: &[] },
    Layer { name: "cli", imports: &[] },
    Layer { name: "log", imports: &[] },
    Layer { name: "backoff", imports: &[] },
    Layer { name: "files", imports: &[] },
];

/// What any layer but the ground floor may import.
const LEAVES: &[&str] = &["config", "cli", "log", "backoff", "files"];
const EVERYTHING: &[&str] = &["*"];
const GROUND: &str = "signal";

/// An import against the table that is there all the same. The list only shrinks: one that no longer occurs is a finding.
struct Exception {
    /// The module that imports, with all below it.
    from: &'static str,
    /// What it imports, with all below it.
    to: &'static str,
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[];

/// What breaks the rules.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    check_by(LAYERS, EXCEPTIONS, sources)
}

fn check_by(layers: &[Layer], exceptions: &[Exception], sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let files = daemon_files(sources);
    for (source, module) in &files {
        let Some(name) = module.first() else { continue };
        seen.insert(name.as_str());
        let Some(layer) = layers.iter().find(|layer| layer.name == name) else {
            let problem = format!("the module `{name}` has no layer: give it a line in LAYERS of tidy");
            findings.push(Finding::new(&source.path, 0, problem));
            continue;
        };
        for import in imports::of_file(module, &source.syntax) {
            if is_allowed(layer, &import) {
                continue;
            }
            let excepted = exceptions.iter().position(|exception| {
                starts_with(&import.module, exception.from) && starts_with(&import.target, exception.to)
            });
            match excepted {
                Some(number) => drop(used.insert(number)),
                None => findings.push(Finding::new(&source.path, import.line, refusal(layer, &import))),
            }
        }
    }
    for layer in layers.iter().filter(|layer| !seen.contains(layer.name)) {
        let problem = format!("there is no module `{}`: remove its line from LAYERS of tidy", layer.name);
        findings.push(Finding::new(ROOT, 0, problem));
    }
    for (_, Exception { from, to, reason }) in exceptions.iter().enumerate().filter(|(at, _)| !used.contains(at)) {
        let problem =
            format!("`{from}` does not import `{to}` any more: remove the exception (\"{reason}\") from tidy");
        findings.push(Finding::new(ROOT, 0, problem));
    }
    findings
}

/// The daemon's files with their modules, without those that are for tests only and the one that lists the modules.
fn daemon_files(sources: &[Source]) -> Vec<(&Source, Vec<String>)> {
    let files: Vec<(&Source, Vec<String>)> = sources
        .iter()
        .filter_map(|source| Some((source, imports::module_of(source.path.strip_prefix(ROOT)?)?)))
        .collect();
    let for_tests: Vec<Vec<String>> = files
        .iter()
        .flat_map(|(source, module)| {
            imports::test_modules(&source.syntax).into_iter().map(|name| [module.as_slice(), &[name]].concat())
        })
        .collect();
    files.into_iter().filter(|(_, module)| !for_tests.iter().any(|tests| module.starts_with(tests))).collect()
}

fn is_allowed(layer: &Layer, import: &Import) -> bool {
    let leaves = if layer.name == GROUND { &[] } else { LEAVES };
    // The root of the crate itself holds nothing but modules.
    import.target.is_empty()
        || starts_with(&import.target, layer.name)
        || layer.imports.iter().chain(leaves).any(|allowed| starts_with(&import.target, allowed))
}

fn starts_with(path: &[String], prefix: &str) -> bool {
    let mut names = path.iter();
    prefix.split("::").all(|wanted| names.next().is_some_and(|name| wanted == "*" || wanted == name))
}

fn refusal(layer: &Layer, import: &Import) -> String {
    let target = import.target.join("::");
    let mut allowed: Vec<&str> = layer.imports.to_vec();
    if layer.name != GROUND {
        allowed.extend(LEAVES);
    }
    let allowed = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
    format!("`{}` may not import `{target}`: of the daemon it may import {allowed}", layer.name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Exception, Layer, check_by};
    use crate::tidy::source::Source;

    const LAYERS: &[Layer] = &[
        Layer { name: "signal", imports: &[] },
        Layer { name: "kernel", imports: &["signal"] },
        Layer { name: "attribution", imports: &["signal", "kernel::hierarchy"] },
        Layer { name: "views", imports: &["collectors::*::metrics"] },
        Layer { name: "config", imports: &[] },
    ];

    /// Findings of these files beside an empty one of each layer.
    fn found_with(exceptions: &[Exception], files: &[(&str, &str)]) -> Vec<String> {
        let mut sources: Vec<Source> =
            files.iter().map(|(path, text)| Source::parse(&format!("agent/src/{path}"), text).unwrap()).collect();
        sources.extend(LAYERS.iter().map(|layer| Source::parse(&format!("agent/src/{}.rs", layer.name), "").unwrap()));
        check_by(LAYERS, exceptions, &sources).iter().map(ToString::to_string).collect()
    }

    fn found(path: &str, text: &str) -> Vec<String> {
        found_with(&[], &[(path, text)])
    }

    #[test]
    fn imports_along_the_layers_are_not_named() {
        let table = [
            (
                "kernel/object.rs",
                "use crate::signal::Metric; use super::btf; use crate::kernel::facts; use crate::config;",
            ),
            ("attribution/mod.rs", "use crate::kernel::hierarchy::{self, Hierarchies}; use crate::signal;"),
            ("views/table.rs", "use crate::collectors::{cpu::metrics as cpu, scheduler::metrics::{self, CPU}};"),
            ("signal/row.rs", "use super::metric::Metric; use std::fmt; #[cfg(test)] use crate::config;"),
            ("lib.rs", "pub mod signal; #[cfg(test)] mod fixture;"),
            ("config/tests/mod.rs", "use crate::views;"),
            ("config/mod.rs", "#[cfg(test)] mod tests;"),
        ];
        assert_eq!(found_with(&[], &table), [""; 0]);
    }

    #[test]
    fn an_import_against_the_layers_is_found_with_its_line() {
        let table = [
            ("signal/row.rs", "use crate::config::Config;", "`signal` may not import `config::Config`"),
            ("kernel/object.rs", "use crate::{signal, views::table};", "`kernel` may not import `views::table`"),
            ("kernel/object.rs", "use super::super::views;", "`kernel` may not import `views`"),
            ("attribution/mod.rs", "use crate::kernel::object;", "`attribution` may not import `kernel::object`"),
            ("attribution/mod.rs", "use crate::kernel;", "`attribution` may not import `kernel`"),
            ("views/mod.rs", "use crate::collectors::ALL;", "`views` may not import `collectors::ALL`"),
            ("config/mod.rs", "use crate::signal;", "`config` may not import `signal`"),
            ("kernel/mod.rs", "fn f() { crate::views::show() }", "`kernel` may not import `views::show`"),
            ("kernel/mod.rs", "fn f() { g!(crate::views::show()) }", "`kernel` may not import `views::show`"),
        ];
        for (path, text, expected) in table {
            let found = found(path, &format!("//! It.\n{text}"));
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            let start = format!("agent/src/{path}:2: {expected}");
            assert!(found.iter().all(|text| text.starts_with(&start)), "{found:?}");
        }
    }

    #[test]
    fn an_exception_holds_for_what_it_names_and_must_occur() {
        let exceptions = [Exception { from: "kernel::object", to: "views", reason: "being moved" }];
        assert_eq!(found_with(&exceptions, &[("kernel/object.rs", "use crate::views::table;")]), [""; 0]);
        let other = found_with(&exceptions, &[("kernel/btf.rs", "use crate::views::table;")]);
        assert_eq!(other.len(), 2, "{other:?}");
        assert!(other.iter().any(|text| text.contains("remove the exception (\"being moved\")")), "{other:?}");
    }

    #[test]
    fn a_module_without_a_layer_and_a_layer_without_a_module_are_found() {
        let unknown = found("network/mod.rs", "");
        assert!(unknown.iter().any(|text| text.contains("`network` has no layer")), "{unknown:?}");
        let findings = check_by(LAYERS, &[], &[]);
        assert_eq!(findings.len(), LAYERS.len());
    }
}
