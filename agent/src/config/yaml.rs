//! YAML, read into a small tree that keeps the place of each key and value. Read by `file` and `web_file`.
//!
//! YAML comes in through the parser's events rather than through serde: keys take texts, so `node: 1e3` stays a name, and a
//! message can give line and column of the key or the value that is wrong. Of YAML's features only mappings, lists and
//! scalars are used; what could expand or hide a value is refused.

use std::{collections::HashMap, path::Path};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::{Error, Origin, setting};

/// Deeper than any key; bounds the recursion.
const LIMIT_DEPTH: usize = 8;

/// The only document of a text; `path` is its name in messages.
pub(super) fn parse(path: &Path, text: &str) -> Result<Node, Error> {
    Reader { path, parser: Parser::new_from_str(text) }.document()
}

#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) line: usize,
    column: usize,
}

impl Place {
    fn of(span: Span) -> Self {
        Self { line: span.start.line(), column: span.start.col() + 1 }
    }

    pub(super) fn origin(self, path: &Path) -> Origin {
        Origin::File { path: path.to_owned(), line: self.line, column: self.column }
    }
}

pub(super) struct Node {
    pub(super) place: Place,
    pub(super) content: Content,
}

pub(super) enum Content {
    Nothing,
    Text(String),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
}

pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
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
            Event::SequenceStart(..) => Content::List(self.items(depth)?),
            Event::MappingStart(..) => Content::Mapping(self.entries(depth)?),
            Event::Alias(_) => {
                return Err(self.structure(place, "aliases are not supported", "repeat the value"));
            }
            _ => return Err(self.structure(place, "a value is lacking", "give one")),
        };
        Ok(Node { place, content })
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Node>, Error> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            items.push(self.node(event, span, depth + 1)?);
        }
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let mut lines = HashMap::new();
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
            if let Some(first_line) = lines.insert(key.clone(), key_place.line) {
                let origin = key_place.origin(self.path);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::{
        fmt::Write as _,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn many_keys_take_no_time_and_a_second_one_of_a_name_is_found_among_them() {
        let mut text = String::new();
        for key in 0..60_000 {
            writeln!(text, "key{key}: 1").unwrap();
        }
        let began = Instant::now();
        let Content::Mapping(entries) = parse(Path::new("c"), &text).ok().unwrap().content else {
            panic!("no mapping")
        };
        assert_eq!(entries.len(), 60_000);
        text.push_str("key7: 2\n");
        let error = parse(Path::new("c"), &text).err().unwrap();
        assert!(matches!(error, Error::DuplicateKey { first_line: 8, .. }), "{error}");
        // Each looked for among all before it, they take minutes.
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
