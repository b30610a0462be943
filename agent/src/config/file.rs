//! The configuration file: YAML, read into a small tree that keeps the place of each key and value.
//!
//! YAML comes in through the parser's events rather than through serde: every key is set by the list in `keys`, which
//! takes texts, so `node: 1e3` stays a name, and a message can give line and column of the key or the value that is
//! wrong. Of YAML's features only mappings and scalars are used; what could expand or hide a value is refused.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::Path,
};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::{
    Config, Error, Origin,
    keys::Set,
    setting::{self, Setting},
};

/// A file of all keys with long headers stays far below.
const LIMIT_BYTES: u64 = 1 << 20;

/// Deeper than any key; bounds the recursion.
const LIMIT_DEPTH: usize = 8;

/// Reads the file at `path` and sets every key that it gives.
pub(super) fn apply(config: &mut Config, path: &Path) -> Result<(), Error> {
    let text = read(path)?;
    apply_text(config, path, &text)
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => Error::MissingFile { path: path.to_owned() },
        ErrorKind::IsADirectory => Error::IsDirectory { path: path.to_owned() },
        _ => Error::ReadFile { path: path.to_owned(), source },
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > LIMIT_BYTES {
        return Err(Error::FileTooLarge { path: path.to_owned(), limit_bytes: LIMIT_BYTES });
    }
    String::from_utf8(bytes).map_err(|_| Error::FileNotUtf8 { path: path.to_owned() })
}

pub(super) fn apply_text(config: &mut Config, path: &Path, text: &str) -> Result<(), Error> {
    let root = Reader { path, parser: Parser::new_from_str(text) }.document()?;
    let collectors = config.collector_names();
    let settings = setting::settings(&collectors);
    Application { path, settings: &settings, config }.section("", &root)
}

#[derive(Clone, Copy)]
struct Place {
    line: usize,
    column: usize,
}

impl Place {
    fn of(span: Span) -> Self {
        Self { line: span.start.line(), column: span.start.col() + 1 }
    }

    fn origin(self, path: &Path) -> Origin {
        Origin::File { path: path.to_owned(), line: self.line, column: self.column }
    }
}

struct Node {
    place: Place,
    content: Content,
}

enum Content {
    Nothing,
    Text(String),
    List,
    Mapping(Vec<Entry>),
}

struct Entry {
    key: String,
    key_place: Place,
    value: Node,
}

struct Reader<'a> {
    path: &'a Path,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn document(mut self) -> Result<Node, Error> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            let place = Place::of(span);
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(self.structure(place, "a second document starts here", "keep one document"));
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                _ => {
                    return Err(self.structure(place, "this stands outside of a document", "remove it"));
                }
            }
        }
        Ok(root.unwrap_or(Node { place: Place { line: 1, column: 1 }, content: Content::Nothing }))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Error> {
        match self.parser.next() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Error> {
        let place = Place::of(span);
        if depth > LIMIT_DEPTH {
            return Err(self.structure(place, "this is nested deeper than any key", "remove it"));
        }
        let content = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") => {
                Content::Nothing
            }
            Event::Scalar(text, ..) => Content::Text(text.into_owned()),
            Event::SequenceStart(..) => {
                self.skip_sequence(depth)?;
                Content::List
            }
            Event::MappingStart(..) => Content::Mapping(self.entries(depth)?),
            Event::Alias(_) => {
                return Err(self.structure(place, "aliases are not supported", "repeat the value"));
            }
            _ => return Err(self.structure(place, "a value is lacking", "give one")),
        };
        Ok(Node { place, content })
    }

    fn skip_sequence(&mut self, depth: usize) -> Result<(), Error> {
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(());
            }
            self.node(event, span, depth + 1)?;
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key_place = Place::of(span);
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(key, ..) => key.into_owned(),
                _ => {
                    return Err(self.structure(key_place, "a key must be a plain word", "correct it"));
                }
            };
            if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let (origin, first_line) = (key_place.origin(self.path), first.key_place.line);
                return Err(Error::DuplicateKey { origin, key: setting::quoted(&key), first_line });
            }
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            entries.push(Entry { key, key_place, value });
        }
    }

    fn structure(&self, place: Place, what: &'static str, remedy: &'static str) -> Error {
        Error::Structure { origin: place.origin(self.path), what, remedy }
    }

    fn syntax(&self, error: &ScanError) -> Error {
        let place = Place { line: error.marker().line(), column: error.marker().col() + 1 };
        Error::Syntax { origin: place.origin(self.path), reason: error.info().to_owned() }
    }
}

struct Application<'a> {
    path: &'a Path,
    settings: &'a [Setting<'a>],
    config: &'a mut Config,
}

impl Application<'_> {
    /// Sets what stands below `prefix`, which is empty or ends in a dot.
    fn section(&mut self, prefix: &str, node: &Node) -> Result<(), Error> {
        let entries = match &node.content {
            Content::Mapping(entries) => entries,
            // A section whose keys are all commented out.
            Content::Nothing => return Ok(()),
            Content::Text(_) | Content::List => {
                let (what, remedy) = ("keys must stand here", "write `key: value` lines");
                return Err(Error::Structure { origin: node.place.origin(self.path), what, remedy });
            }
        };
        entries.iter().try_for_each(|entry| self.entry(prefix, entry))
    }

    fn entry(&mut self, prefix: &str, entry: &Entry) -> Result<(), Error> {
        let path = format!("{prefix}{}", entry.key);
        let below = format!("{path}.");
        let origin = || entry.key_place.origin(self.path);
        let setting = self.settings.iter().find(|setting| setting.path() == path);
        let is_section = self.settings.iter().any(|setting| setting.path().starts_with(&below));
        if entry.key.contains('.') && (setting.is_some() || is_section) {
            let (what, remedy) =
                ("keys are not joined by dots", "write each part on its own line, indented below the one before");
            return Err(Error::Structure { origin: origin(), what, remedy });
        }
        match setting {
            Some(setting) => self.set(setting, entry),
            None if is_section => self.section(&below, &entry.value),
            None => {
                let nearest = setting::nearest(&path, self.settings.iter().map(Setting::path));
                Err(Error::UnknownKey { origin: origin(), key: setting::quoted(&path), nearest })
            }
        }
    }

    fn set(&mut self, setting: &Setting<'_>, entry: &Entry) -> Result<(), Error> {
        let origin = |place: Place| place.origin(self.path);
        match (&entry.value.content, &setting.key.set) {
            (Content::Nothing, _) => Err(setting.no_value(origin(entry.key_place))),
            (Content::List, _) => Err(setting.wrong_value(origin(entry.value.place), "a list".to_owned())),
            (Content::Text(text), Set::Value(_) | Set::PerCollector(_)) => {
                setting.set_text(self.config, text, entry.value.place.origin(self.path))
            }
            (Content::Mapping(_), Set::Value(_) | Set::PerCollector(_)) => {
                Err(setting.wrong_value(origin(entry.value.place), "a mapping".to_owned()))
            }
            (Content::Text(_), Set::Map { .. }) => {
                Err(setting.wrong_value(origin(entry.value.place), "a single value".to_owned()))
            }
            (Content::Mapping(entries), Set::Map { clear, put }) => {
                clear(self.config);
                for entry in entries {
                    let accepted = match &entry.value.content {
                        Content::Text(text) => put(self.config, &entry.key, text),
                        Content::Nothing | Content::List | Content::Mapping(_) => None,
                    };
                    if accepted.is_none() {
                        // The value may be a credential.
                        let found = format!("malformed at {}", setting::quoted(&entry.key));
                        return Err(setting.wrong_value(origin(entry.key_place), found));
                    }
                }
                Ok(())
            }
        }
    }
}
