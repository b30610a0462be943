//! Setting keys from texts, whatever their source, and what is said when that fails.

use super::{
    Config, Error, Origin,
    keys::{KEYS, Key, Set},
    value::pairs,
};

/// A key with the collector's name filled in.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) key: &'static Key,
    pub(super) collector: Option<&'a str>,
}

impl Setting<'_> {
    pub(super) fn path(&self) -> String {
        self.key.path.replace("<name>", self.collector.unwrap_or("<name>"))
    }

    /// `PODLENS_LOG_LEVEL` for `log.level`.
    pub(super) fn variable(&self) -> String {
        format!("PODLENS_{}", self.path().replace(['.', '-'], "_").to_uppercase())
    }

    /// Sets the value that a single text gives.
    pub(super) fn set_text(&self, config: &mut Config, text: &str, origin: Origin) -> Result<(), Error> {
        if text.is_empty() {
            return Err(self.no_value(origin));
        }
        let accepted = match self.key.set {
            Set::Value(set) => set(config, text),
            Set::PerCollector(set) => self.collector.and_then(|name| set(config, name, text)),
            Set::Map { clear, put } => {
                clear(config);
                pairs(text).and_then(|pairs| pairs.iter().try_for_each(|(name, text)| put(config, name, text)))
            }
        };
        accepted.ok_or_else(|| {
            // A map's text holds credentials.
            let found = if matches!(self.key.set, Set::Map { .. }) { "malformed".to_owned() } else { quoted(text) };
            self.wrong_value(origin, found)
        })
    }

    pub(super) fn no_value(&self, origin: Origin) -> Error {
        Error::NoValue { origin, key: self.path(), expects: self.key.expects.to_owned() }
    }

    pub(super) fn wrong_value(&self, origin: Origin, found: String) -> Error {
        Error::WrongValue { origin, key: self.path(), found, expects: self.key.expects.to_owned() }
    }
}

/// Every key, with one setting a collector for those that each collector has.
pub(super) fn settings(collectors: &[String]) -> Vec<Setting<'_>> {
    let mut settings = Vec::new();
    for key in KEYS {
        if matches!(key.set, Set::PerCollector(_)) {
            settings.extend(collectors.iter().map(|name| Setting { key, collector: Some(name) }));
        } else {
            settings.push(Setting { key, collector: None });
        }
    }
    settings
}

/// Sets one key from outside the file.
pub(super) fn set(config: &mut Config, path: &str, text: &str, origin: impl Fn() -> Origin) -> Result<(), Error> {
    let collectors = config.collector_names();
    let settings = settings(&collectors);
    match settings.iter().find(|setting| setting.path() == path) {
        Some(setting) => setting.set_text(config, text, origin()),
        None => Err(Error::UnknownKey {
            origin: origin(),
            key: quoted(path),
            nearest: nearest(path, settings.iter().map(Setting::path)),
        }),
    }
}

/// Whether `text` is a valid value of the key `path`; if not, what the value must be. For command lines.
///
/// # Errors
/// What the key expects.
pub fn check_value(path: &'static str, text: &str) -> Result<String, String> {
    match set(&mut Config::defaults(&[]), path, text, || Origin::flag(path)) {
        Ok(()) => Ok(text.to_owned()),
        Err(Error::WrongValue { expects, .. } | Error::NoValue { expects, .. }) => Err(format!("must be {expects}")),
        Err(other) => Err(other.to_string()),
    }
}

/// The candidate that takes the fewest edits. The right last part in a wrong section, or in none, takes none.
pub(super) fn nearest(wrong: &str, candidates: impl Iterator<Item = String>) -> String {
    let last_part = wrong.rsplit('.').next().unwrap_or(wrong);
    let distance = |candidate: &String| {
        let section = candidate.strip_suffix(last_part);
        if section.is_some_and(|section| section.ends_with(['.', '_']) || section.is_empty()) {
            0
        } else {
            strsim::osa_distance(wrong, candidate)
        }
    };
    candidates.min_by_key(distance).unwrap_or_default()
}

/// A value for a message: no control characters, no endless lines.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_CHARACTERS: usize = 60;
    let mut shown: String = text.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARACTERS).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}
