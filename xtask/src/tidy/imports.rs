//! What a Rust file refers to in its own crate, pure: `use` trees, paths in code, paths among a macro's tokens.
//!
//! A path is resolved as far as `crate`, `self` and `super` go; what a path without them means is a matter of the
//! `use` that brought its first name, or of the same module. Called by `layers` and `circles`.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, Path, UseTree, VisRestricted,
    visit::{self, Visit},
};

use super::source::words;

/// One reference from one module to another of its crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// The module that it stands in, below the crate's root.
    pub(super) module: Vec<String>,
    /// What it names, below the crate's root; a glob names the module before it.
    pub(super) target: Vec<String>,
    pub(super) line: usize,
}

/// The module of a file: `pipeline/start.rs` is `pipeline::start`, `pipeline/mod.rs` is `pipeline`.
pub(super) fn module_of(path: &str) -> Option<Vec<String>> {
    let path = path.strip_suffix(".rs")?;
    let mut names: Vec<String> = path.split('/').map(str::to_owned).collect();
    if names.last().is_some_and(|name| name == "mod") || path == "lib" {
        names.pop();
    }
    Some(names)
}

/// All references of a file which is this module. What is compiled for tests only is left out.
pub(super) fn of_file(module: &[String], file: &syn::File) -> Vec<Import> {
    let mut collector = Collector { module: module.to_vec(), imports: Vec::new() };
    collector.visit_file(file);
    collector.imports
}

/// Names of the modules that a file declares for tests only.
pub(super) fn test_modules(file: &syn::File) -> Vec<String> {
    let declared = file.items.iter().filter_map(|item| match item {
        Item::Mod(item) if is_for_tests(&item.attrs) => Some(item.ident.to_string()),
        _ => None,
    });
    declared.collect()
}

struct Collector {
    module: Vec<String>,
    imports: Vec<Import>,
}

impl Collector {
    /// Notes a path if it is told from the crate's root, this module or one above it.
    fn add(&mut self, segments: &[String], span: Span) {
        let mut rest = segments;
        let mut base = match segments.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" | "self" => {}
                "super" => drop(base.pop()),
                _ => break,
            }
            rest = after;
        }
        base.extend(rest.iter().cloned());
        self.imports.push(Import { module: self.module.clone(), target: base, line: span.start().line });
    }

    fn add_tree(&mut self, before: &[String], tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                let before = [before, &[path.ident.to_string()]].concat();
                self.add_tree(&before, &path.tree);
            }
            UseTree::Name(name) => self.add_leaf(before, &name.ident),
            UseTree::Rename(rename) => self.add_leaf(before, &rename.ident),
            UseTree::Glob(glob) => self.add(before, glob.star_token.spans[0]),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(before, tree)),
        }
    }

    fn add_leaf(&mut self, before: &[String], name: &syn::Ident) {
        // `a::{self, b}` names `a`.
        let itself = name == "self" && !before.is_empty();
        let whole = if itself { before.to_vec() } else { [before, &[name.to_string()]].concat() };
        self.add(&whole, name.span());
    }

    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<(String, Span)> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(sign) if sign.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.add_collected(&mut path);
                    }
                    path.push((name.to_string(), name.span()));
                }
                TokenTree::Group(group) => {
                    self.add_collected(&mut path);
                    self.add_tokens(group.stream());
                }
                _ => self.add_collected(&mut path),
            }
            colons = 0;
        }
        self.add_collected(&mut path);
    }

    fn add_collected(&mut self, path: &mut Vec<(String, Span)>) {
        if let Some((_, span)) = path.first() {
            let span = *span;
            let segments: Vec<String> = path.drain(..).map(|(name, _)| name).collect();
            // One name alone is a value such as `self`.
            if segments.len() > 1 {
                self.add(&segments, span);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).is_some_and(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if path.segments.len() > 1 {
            let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            if let Some(first) = path.segments.first() {
                self.add(&segments, first.ident.span());
            }
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        visit::visit_macro(self, item);
        self.add_tokens(item.tokens.clone());
    }

    // `pub(in a::b)` says who may look in; it imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}
}

fn attributes(item: &Item) -> Option<&[Attribute]> {
    match item {
        Item::Const(item) => Some(&item.attrs),
        Item::Enum(item) => Some(&item.attrs),
        Item::Fn(item) => Some(&item.attrs),
        Item::Impl(item) => Some(&item.attrs),
        Item::Mod(item) => Some(&item.attrs),
        Item::Static(item) => Some(&item.attrs),
        Item::Struct(item) => Some(&item.attrs),
        Item::Trait(item) => Some(&item.attrs),
        Item::Use(item) => Some(&item.attrs),
        _ => None,
    }
}

/// `#[cfg(test)]`, also among other conditions of which one is enough; `not(test)` is not for tests.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let condition = list.tokens.to_string();
        let has = |wanted: &str| words(&condition).any(|word| word == wanted);
        has("test") && !has("not")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{module_of, of_file, test_modules};

    fn targets(module: &[&str], text: &str) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|name| (*name).to_owned()).collect();
        let imports = of_file(&module, &syn::parse_file(text).unwrap());
        imports.iter().map(|import| import.target.join("::")).collect()
    }

    #[test]
    fn a_path_is_told_from_the_root_of_the_crate() {
        let table: &[(&str, &[&str])] = &[
            ("use crate::signal::Metric;", &["signal::Metric"]),
            (
                "use crate::{export::{json, otlp::{self, point}}, log};",
                &["export::json", "export::otlp", "export::otlp::point", "log"],
            ),
            ("use super::start;", &["pipeline::start"]),
            ("use super::super::kernel::btf as types;", &["kernel::btf"]),
            ("use super::{super::views::*, Inner};", &["views", "pipeline::Inner"]),
            ("use self::inner::Thing;", &["pipeline::reading::inner::Thing"]),
            ("pub use crate::registry::Ledger as Book;", &["registry::Ledger"]),
            ("use std::fmt; use anyhow::Result;", &[]),
            (
                "fn f(x: &crate::config::Config) -> u8 { crate::kernel::host::cpus() }",
                &["config::Config", "kernel::host::cpus"],
            ),
            ("fn f(&self) { g!(1, h(crate::kernel::host::cpus(), self.x)); }", &["kernel::host::cpus"]),
            ("mod inner { use super::super::Inner; }", &["pipeline::Inner"]),
            ("pub(in crate::pipeline) struct X;", &[]),
            ("impl crate::export::Source for X {}", &["export::Source"]),
        ];
        for (text, expected) in table {
            assert_eq!(targets(&["pipeline", "reading"], text), *expected, "{text}");
        }
    }

    #[test]
    fn what_is_for_tests_only_imports_what_it_likes() {
        let text = "#[cfg(test)] mod tests { use crate::cli::Cli; }
            #[cfg(test)] use crate::export::fixture;
            #[cfg(any(test, fuzzing))] fn f() { crate::cli::parse() }
            #[cfg(not(test))] use crate::log;";
        assert_eq!(targets(&["config"], text), ["log"]);
    }

    #[test]
    fn a_module_in_a_file_of_its_own_is_for_tests_where_its_declaration_says_so() {
        let file = syn::parse_file("#[cfg(test)] mod tests; mod other; #[cfg(test)] pub(crate) mod fixture;").unwrap();
        assert_eq!(test_modules(&file), ["tests", "fixture"]);
    }

    #[test]
    fn the_module_follows_from_the_path() {
        let table = [
            ("pipeline/start.rs", Some("pipeline::start")),
            ("pipeline/mod.rs", Some("pipeline")),
            ("log.rs", Some("log")),
            ("lib.rs", Some("")),
            ("help.txt", None),
        ];
        for (path, expected) in table {
            assert_eq!(module_of(path).map(|names| names.join("::")).as_deref(), expected, "{path}");
        }
    }
}
