//! The documentation of all keys, made from their list. `cargo xtask docs` writes it to docs/config.md.

use std::fmt::Write as _;

use super::{
    keys::{KEYS, Key},
    otel,
    setting::Setting,
};

/// All keys as a table in Markdown, examples as variables take them.
#[must_use]
pub fn reference() -> String {
    let mut table = String::from(
        "| key | variable | value | default | example | meaning |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for key in KEYS {
        let variable = Setting { key, collector: None }.variable();
        let default = match key.default.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
            Some(prose) => prose.to_owned(),
            None => format!("`{}`", key.default),
        };
        let mut meaning = key.help.to_owned();
        let standard: Vec<String> = otel::variables_of(key.path).map(|name| format!("`{name}`")).collect();
        if !standard.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(meaning, ". Where it is not set: {}", standard.join(", else "));
        }
        let Key { path, expects, example, .. } = key;
        let _ = writeln!(table, "| `{path}` | `{variable}` | {expects} | {default} | `{example}` | {meaning} |");
    }
    table
}
