//! The work tree as the rules see it: all Rust files parsed, the documents as text, the names of all files.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What is not ours, or not source: cargo's output, inputs found by fuzzing, hidden directories but for these.
const SKIPPED_DIRECTORIES: &[&str] = &["target", "corpus", "node_modules"];
const HIDDEN_BUT_OURS: &[&str] = &[".ci", ".cargo"];

/// The documents whose names are checked; those in docs/adr tell of their time.
const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];
const DOCUMENT_FOLDER: &str = "docs";

/// Everything that the rules look at.
#[derive(Default)]
pub(super) struct Tree {
    /// Relative paths of all files and directories.
    pub(super) paths: Vec<String>,
    pub(super) sources: Vec<Source>,
    pub(super) documents: Vec<Document>,
    /// Words of files that are neither Rust nor a document: manifests, templates, scripts.
    pub(super) other_words: Vec<String>,
}

/// A Rust file.
pub(super) struct Source {
    /// Relative to the workspace.
    pub(super) path: String,
    pub(super) syntax: syn::File,
    /// Its identifiers and the words in its string literals; comments are not among them.
    pub(super) words: Vec<Word>,
}

/// An identifier, or a word in a string literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) line: usize,
    pub(super) quoted: bool,
}

/// A document in Markdown.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) path: String,
    pub(super) text: String,
}

impl Tree {
    /// Reads everything below `root`.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.walk(root, "")?;
        tree.paths.sort();
        Ok(tree)
    }

    fn walk(&mut self, directory: &Path, prefix: &str) -> Result<()> {
        let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            let kind = entry.file_type().with_context(|| format!("cannot tell what {path} is"))?;
            let is_directory = kind.is_dir();
            if kind.is_symlink() {
                // Leads to what is read under its own path.
                self.paths.push(path);
                continue;
            }
            if name.starts_with('.') && !HIDDEN_BUT_OURS.contains(&name.as_str()) {
                continue;
            }
            if is_directory {
                if !SKIPPED_DIRECTORIES.contains(&name.as_str()) {
                    self.walk(&entry.path(), &path)?;
                }
            } else {
                self.take(&entry.path(), &path)?;
            }
            self.paths.push(path);
        }
        Ok(())
    }

    fn take(&mut self, file: &Path, path: &str) -> Result<()> {
        let bytes = fs::read(file).with_context(|| format!("cannot read {path}"))?;
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        if has_extension(path, "rs") {
            self.sources.push(Source::parse(path, &text)?);
        } else if is_document(path) {
            self.documents.push(Document { path: path.to_owned(), text });
        } else if !has_extension(path, "md") {
            self.other_words.extend(words(&text).map(str::to_owned));
        }
        Ok(())
    }
}

impl Source {
    /// Parses a Rust file's text.
    pub(super) fn parse(path: &str, text: &str) -> Result<Self> {
        let parse = || -> syn::Result<Self> {
            // The file as tokens and as a tree: macros have their words in the tokens only.
            let tokens: TokenStream = text.parse()?;
            let mut words = Vec::new();
            collect(tokens.clone(), &mut words);
            Ok(Self { path: path.to_owned(), syntax: syn::parse2(tokens)?, words })
        };
        parse().with_context(|| format!("cannot parse {path}"))
    }
}

/// Whether a path ends with a dot and this extension.
pub(super) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

fn is_document(path: &str) -> bool {
    let in_folder = path.rsplit_once('/').is_some_and(|(folder, _)| folder == DOCUMENT_FOLDER);
    DOCUMENTS.contains(&path) || (in_folder && has_extension(path, "md"))
}

/// Runs of letters, digits and underscores.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}

fn collect(tokens: TokenStream, found: &mut Vec<Word>) {
    let mut after_hash = false;
    for token in tokens {
        let line = token.span().start().line;
        match token {
            TokenTree::Ident(ident) => found.push(Word { text: ident.to_string(), line, quoted: false }),
            TokenTree::Literal(literal) => {
                let literal = literal.to_string();
                if literal.contains('"') {
                    let add = |word: &str| Word { text: word.to_owned(), line, quoted: true };
                    found.extend(words(&literal).map(add));
                }
            }
            TokenTree::Group(group) => {
                let is_comment = after_hash && group.delimiter() == Delimiter::Bracket && is_doc(group.stream());
                if !is_comment {
                    collect(group.stream(), found);
                }
            }
            TokenTree::Punct(sign) => {
                after_hash = sign.as_char() == '#' || (after_hash && sign.as_char() == '!');
                continue;
            }
        }
        after_hash = false;
    }
}

/// A documentation comment is the attribute `doc` for the compiler.
fn is_doc(attribute: TokenStream) -> bool {
    matches!(attribute.into_iter().next(), Some(TokenTree::Ident(name)) if name == "doc")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Source, is_document};

    #[test]
    fn words_come_from_code_and_strings_and_not_from_comments() {
        let text =
            "//! says unsafe\n/// aya\nfn f() {\n  // unsafe\n  g!(aya, \"SLOT_OF x\"); }\n#[doc = \"aya\"] fn g() {}";
        let source = Source::parse("a.rs", text).unwrap();
        let found: Vec<(&str, usize)> = source.words.iter().map(|word| (word.text.as_str(), word.line)).collect();
        assert_eq!(found, [("fn", 3), ("f", 3), ("g", 5), ("aya", 5), ("SLOT_OF", 5), ("x", 5), ("fn", 6), ("g", 6)]);
    }

    #[test]
    fn a_file_that_is_no_rust_is_named() {
        let refused = Source::parse("agent/src/a.rs", "fn {").err().unwrap();
        assert_eq!(refused.to_string(), "cannot parse agent/src/a.rs");
    }

    #[test]
    fn decisions_are_no_documents_of_today() {
        let table = [
            ("README.md", true),
            ("docs/overhead.md", true),
            ("docs/adr/0001-one-object.md", false),
            ("deploy/chart/README.md", false),
            ("docs/overhead.txt", false),
        ];
        for (path, expected) in table {
            assert_eq!(is_document(path), expected, "{path}");
        }
    }
}
