//! The configuration file: every key that its YAML gives is set by the list in `keys`.

use std::{io::ErrorKind, path::Path};

use super::{
    Config, Error,
    keys::Set,
    setting::{self, Setting},
    yaml::{self, Content, Entry, Node, Place},
};
use crate::files;

/// A file of all keys with long headers stays far below.
const LIMIT_BYTES: u64 = 1 << 20;

/// Reads the file at `path` and sets every key that it gives.
pub(super) fn apply(config: &mut Config, path: &Path) -> Result<(), Error> {
    let text = read(path)?;
    apply_text(config, path, &text)
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => Error::MissingFile { path: path.to_owned() },
        ErrorKind::IsADirectory => Error::IsDirectory { path: path.to_owned() },
        ErrorKind::InvalidInput => Error::IrregularFile { path: path.to_owned(), what: source.to_string() },
        ErrorKind::FileTooLarge => Error::FileTooLarge { path: path.to_owned(), limit_bytes: LIMIT_BYTES },
        _ => Error::ReadFile { path: path.to_owned(), source },
    };
    let bytes = files::read(path, LIMIT_BYTES).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| Error::FileNotUtf8 { path: path.to_owned() })
}

pub(super) fn apply_text(config: &mut Config, path: &Path, text: &str) -> Result<(), Error> {
    let root = yaml::parse(path, text)?;
    let collectors = config.collector_names();
    let settings = setting::settings(&collectors);
    Application { path, settings: &settings, config }.section("", &root)
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
            Content::Text(_) | Content::List(_) => {
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
            (Content::List(_), _) => Err(setting.wrong_value(origin(entry.value.place), "a list".to_owned())),
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
                        Content::Nothing | Content::List(_) | Content::Mapping(_) => None,
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
