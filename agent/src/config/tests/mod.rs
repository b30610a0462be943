//! What the tests of the configuration share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod file_messages;
mod other_messages;
mod sources;
mod standard;
mod web_file;

use super::{Config, Error, Inputs, Loaded, load};

const COLLECTORS: &[&str] = &["scheduler"];

fn inputs(variables: &[(&str, &str)]) -> Inputs<'static> {
    Inputs {
        collectors: COLLECTORS,
        variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        host_name: Some("host-1\n".to_owned()),
        ..Inputs::default()
    }
}

fn load_file(yaml: &str, variables: &[(&str, &str)]) -> Result<Loaded, Error> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yaml");
    std::fs::write(&path, yaml).unwrap();
    load(&Inputs { file: Some(path), ..inputs(variables) })
}

fn config(yaml: &str, variables: &[(&str, &str)]) -> Config {
    load_file(yaml, variables).unwrap_or_else(|error| panic!("{yaml}: {error}")).config
}

fn expected_defaults() -> Config {
    Config { node: "host-1".to_owned(), ..Config::defaults(COLLECTORS) }
}
