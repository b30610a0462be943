//! `PODLENS_*` environment variables: one for each key, named after its path.

use std::ffi::{OsStr, OsString};

use super::{
    Config, Error, Origin,
    setting::{self, Setting},
};

const PREFIX: &str = "PODLENS_";

/// Names the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "PODLENS_CONFIG";

/// Left to the project's tests.
const TEST_PREFIX: &str = "PODLENS_TEST_";

/// The environment, to be asked by name.
pub(super) struct Variables<'a>(&'a [(OsString, OsString)]);

impl<'a> Variables<'a> {
    pub(super) fn new(variables: &'a [(OsString, OsString)]) -> Self {
        Self(variables)
    }

    pub(super) fn raw(&self, name: &str) -> Option<&'a OsStr> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// The value of a variable that podlens itself defines: an empty one is a mistake.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, Error> {
        match self.raw(name).map(OsStr::to_str) {
            None => Ok(None),
            Some(None) => Err(Error::VariableNotUtf8 { name: name.to_owned() }),
            Some(Some("")) => Err(Error::VariableEmpty { name: name.to_owned() }),
            Some(Some(text)) => Ok(Some(text)),
        }
    }
}

/// Sets every key that has a variable, in the order of their names so that the first error is always the same.
pub(super) fn apply(config: &mut Config, variables: &Variables<'_>) -> Result<(), Error> {
    let collectors = config.collector_names();
    let settings = setting::settings(&collectors);
    let mut ours: Vec<(String, &OsStr)> = variables
        .0
        .iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.as_os_str()))
        .filter(|(name, _)| name.starts_with(PREFIX) && name != CONFIG_VARIABLE && !name.starts_with(TEST_PREFIX))
        .collect();
    ours.sort();
    for (name, value) in ours {
        match settings.iter().find(|setting| setting.variable() == name) {
            Some(setting) => {
                let text = value.to_str().ok_or_else(|| Error::VariableNotUtf8 { name: name.clone() })?;
                setting.set_text(config, text, Origin::Variable(name))?;
            }
            None if is_service_link(&name, value) => {}
            None => {
                let known = settings.iter().map(Setting::variable).chain([CONFIG_VARIABLE.to_owned()]);
                let without_prefix = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
                let nearest = setting::nearest(&without_prefix(&name), known.map(|name| without_prefix(&name)));
                let name = name.escape_debug().to_string();
                return Err(Error::UnknownVariable { name, nearest: format!("{PREFIX}{nearest}") });
            }
        }
    }
    Ok(())
}

/// Kubernetes sets variables such as `PODLENS_SERVICE_HOST` and `PODLENS_PORT_9464_TCP` in every pod of a namespace
/// that has a Service called podlens or podlens-SOMETHING. They are nobody's mistake.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    let Some(value) = value.to_str() else {
        return false;
    };
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let Some((_, link)) = name.split_once('_') else {
        return false;
    };
    let link = format!("_{link}");
    if link.ends_with("_SERVICE_HOST") {
        return value.parse::<std::net::IpAddr>().is_ok();
    }
    if link.ends_with("_SERVICE_PORT") || link.contains("_SERVICE_PORT_") {
        return is_port(value);
    }
    if link.ends_with("_PORT") {
        return is_url || of_port(&link).is_some() && is_port(value);
    }
    match of_port(&link) {
        Some("") => is_url,
        Some("_PROTO") => matches!(value, "tcp" | "udp" | "sctp"),
        Some("_ADDR") => value.parse::<std::net::IpAddr>().is_ok(),
        _ => false,
    }
}

/// What follows `_PORT_<digits>_<protocol>`.
fn of_port(link: &str) -> Option<&str> {
    let (_, after) = link.rsplit_once("_PORT_")?;
    let (digits, after) = after.split_once('_')?;
    digits.parse::<u16>().ok()?;
    ["TCP", "UDP", "SCTP"].iter().find_map(|protocol| after.strip_prefix(protocol))
}
