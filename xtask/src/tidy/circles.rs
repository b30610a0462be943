//! No modules of this tool that lie side by side import each other in a circle, at any depth. Pure.
//!
//! Between a module and those inside it there may be one: they are one thing in several files.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, imports, source::Source};

const ROOT: &str = "xtask/src/";

/// Which of the modules that lie side by side imports which.
type Siblings = BTreeMap<String, BTreeSet<String>>;

/// One finding for each module that has a circle inside it.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let files: Vec<(Vec<String>, &Source)> = sources
        .iter()
        .filter_map(|source| Some((imports::module_of(source.path.strip_prefix(ROOT)?)?, source)))
        .collect();
    let modules: BTreeSet<&[String]> =
        files.iter().flat_map(|(module, _)| (1..=module.len()).filter_map(|length| module.get(..length))).collect();
    let mut below: BTreeMap<Vec<String>, Siblings> = BTreeMap::new();
    for (module, source) in &files {
        for import in imports::of_file(module, &source.syntax) {
            let shared = import.module.iter().zip(&import.target).take_while(|(one, other)| one == other).count();
            let (parent, inside) = import.target.split_at(shared);
            let ends = (import.module.get(shared), inside.first(), import.target.get(..=shared));
            if let (Some(from), Some(to), Some(whole)) = ends
                && modules.contains(whole)
            {
                below.entry(parent.to_vec()).or_default().entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    let circles = below.iter().filter_map(|(parent, siblings)| {
        let circle = siblings.keys().find_map(|start| way_back(siblings, start))?;
        let problem = format!("modules import each other in a circle: {}; move what they share", circle.join(" -> "));
        Some(Finding::new(&format!("{ROOT}{}", parent.join("/")), 0, problem))
    });
    circles.collect()
}

/// The shortest way from a module to itself.
fn way_back(siblings: &Siblings, start: &str) -> Option<Vec<String>> {
    let mut ways = vec![vec![start.to_owned()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in way.last().and_then(|last| siblings.get(last)).into_iter().flatten() {
                let whole = [way.as_slice(), std::slice::from_ref(next)].concat();
                if next == start {
                    return Some(whole);
                }
                if seen.insert(next) {
                    longer.push(whole);
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::check;
    use crate::tidy::source::Source;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let parse = |(path, text): &(&str, &str)| Source::parse(&format!("xtask/src/{path}"), text).unwrap();
        check(&files.iter().map(parse).collect::<Vec<_>>()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_tree_of_imports_has_no_circle() {
        let files = [
            ("main.rs", "mod setup; use crate::setup::run;"),
            ("setup.rs", "use crate::{step::Step, vm};"),
            ("step.rs", "use std::fmt; #[cfg(test)] use crate::setup;"),
            ("vm/mod.rs", "mod guest; use self::guest::Guest; use crate::step;"),
            ("vm/guest.rs", "use super::Kernel; use crate::step;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn circles_are_found_through_several_modules_and_inside_a_folder() {
        let outer = [
            ("setup.rs", "use crate::components;"),
            ("components.rs", "use crate::vm::busybox;"),
            ("vm/mod.rs", ""),
            ("vm/guest.rs", "use crate::setup::Purpose;"),
        ];
        let circle = "xtask/src/: modules import each other in a circle: components -> vm -> setup -> components";
        assert!(found(&outer).iter().all(|text| text.starts_with(circle)), "{:?}", found(&outer));
        assert_eq!(found(&outer).len(), 1);
        let inner = [("e2e/world.rs", "use super::names::Name;"), ("e2e/names.rs", "use crate::e2e::world::World;")];
        let circle = "xtask/src/e2e: modules import each other in a circle: names -> world -> names";
        assert!(found(&inner).iter().all(|text| text.starts_with(circle)), "{:?}", found(&inner));
        assert_eq!(found(&inner).len(), 1);
    }
}
