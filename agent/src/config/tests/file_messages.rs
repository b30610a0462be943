//! Every message about a wrong file, word for word.

use std::{path::Path, time::Duration};

use proptest::prelude::{Strategy, any, prop_assert, prop_oneof, proptest};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{
    super::{Config, Inputs, file, load},
    COLLECTORS, inputs,
};

/// The file is called `c.yaml` in the expected message.
#[track_caller]
fn check_file_message(yaml: &str, expected: &str) {
    let mut config = Config::defaults(COLLECTORS);
    let error = file::apply_text(&mut config, Path::new("c.yaml"), yaml).expect_err(yaml);
    assert_eq!(error.to_string(), expected, "{yaml}");
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_valid_one() {
    for (yaml, expected) in [
        ("listen: 0.0.0.0:1\nslotz: 5\n", "c.yaml:2:1: unknown key `slotz`; the nearest valid key is `slots`"),
        (
            "otlp:\n  intervall: 5s\n",
            "c.yaml:2:3: unknown key `otlp.intervall`; the nearest valid key is `otlp.interval`",
        ),
        ("endpoint: http://a:1\n", "c.yaml:1:1: unknown key `endpoint`; the nearest valid key is `otlp.endpoint`"),
        ("log: {endpoint: x}\n", "c.yaml:1:7: unknown key `log.endpoint`; the nearest valid key is `otlp.endpoint`"),
        (
            "collectors: {shceduler: true}",
            "c.yaml:1:14: unknown key `collectors.shceduler`; the nearest valid key is `collectors.scheduler`",
        ),
        ("---\n\n# é\n<<: 1", "c.yaml:4:1: unknown key `<<`; the nearest valid key is `node`"),
        ("\"a\\u0007\\n\": 1", "c.yaml:1:1: unknown key `a\\u{7}\\n`; the nearest valid key is `node`"),
        (
            "log.level: debug",
            "c.yaml:1:1: keys are not joined by dots; write each part on its own line, indented below the one before",
        ),
    ] {
        check_file_message(yaml, expected);
    }
}

#[test]
fn a_wrong_value_is_refused_with_its_place_and_what_is_expected() {
    for (yaml, expected) in [
        ("slots: 63", "c.yaml:1:8: `slots` is `63`, but must be auto or a whole number from 64 to 16384"),
        ("slots: 16385", "c.yaml:1:8: `slots` is `16385`, but must be auto or a whole number from 64 to 16384"),
        ("slots: many", "c.yaml:1:8: `slots` is `many`, but must be auto or a whole number from 64 to 16384"),
        ("slots: [1]", "c.yaml:1:8: `slots` is a list, but must be auto or a whole number from 64 to 16384"),
        ("slots:\n  a: 1", "c.yaml:2:3: `slots` is a mapping, but must be auto or a whole number from 64 to 16384"),
        (
            "slots:\nnode: a",
            "c.yaml:1:1: `slots` has no value; remove the line, or give it auto or a whole number from 64 to 16384",
        ),
        (
            "node: ''",
            "c.yaml:1:7: `node` has no value; remove the line, or give it 1 to 253 letters, digits, dots, dashes or underscores",
        ),
        (
            "node: \"a\\u0007\\nb\"",
            "c.yaml:1:7: `node` is `a\\u{7}\\nb`, but must be 1 to 253 letters, digits, dots, dashes or underscores",
        ),
        (
            "listen: 9464",
            "c.yaml:1:9: `listen` is `9464`, but must be an IP address and a port, such as 0.0.0.0:9464 or [::]:9464",
        ),
        ("max_age: 1", "c.yaml:1:10: `max_age` is `1`, but must be a duration from 0s to 1m, such as 500ms or 1s"),
        ("linger: 2h", "c.yaml:1:9: `linger` is `2h`, but must be a duration from 1s to 1h, such as 90s or 5m"),
        ("cgroup_root: sys", "c.yaml:1:14: `cgroup_root` is `sys`, but must be an absolute path"),
        ("collectors: {scheduler: yes}", "c.yaml:1:25: `collectors.scheduler` is `yes`, but must be true or false"),
        ("collectors: [scheduler]", "c.yaml:1:13: keys must stand here; write `key: value` lines"),
        ("log: debug", "c.yaml:1:6: keys must stand here; write `key: value` lines"),
        ("log: {level: loud}", "c.yaml:1:14: `log.level` is `loud`, but must be error, warn, info, debug or trace"),
        ("log: {format: xml}", "c.yaml:1:15: `log.format` is `xml`, but must be text or json"),
    ] {
        check_file_message(yaml, expected);
    }
    let long = "x".repeat(1000);
    let shown = "x".repeat(60);
    check_file_message(
        &format!("log: {{level: {long}}}"),
        &format!("c.yaml:1:14: `log.level` is `{shown}...`, but must be error, warn, info, debug or trace"),
    );
}

#[test]
fn a_wrong_value_of_the_push_is_refused_likewise_and_credentials_are_not_shown() {
    for (yaml, expected) in [
        (
            "otlp:\n  endpoint: collector:4317\n",
            "c.yaml:2:13: `otlp.endpoint` is `collector:4317`, but must be a URL with http:// or https://, without user or query, such as http://collector:4317 or http://[fd00::5]:4317",
        ),
        (
            "otlp: {interval: 0s}",
            "c.yaml:1:18: `otlp.interval` is `0s`, but must be a duration from 100ms to 1h, such as 15s or 1m",
        ),
        (
            "otlp: {timeout: 6m}",
            "c.yaml:1:17: `otlp.timeout` is `6m`, but must be a duration from 100ms to 5m, such as 10s",
        ),
        ("otlp: {compression: snappy}", "c.yaml:1:21: `otlp.compression` is `snappy`, but must be none, gzip or zstd"),
        ("otlp: {client_key: k}", "c.yaml:1:20: `otlp.client_key` is `k`, but must be an absolute path"),
        (
            "otlp:\n  headers:\n    ok: a\n    a b: secret\n",
            "c.yaml:4:5: `otlp.headers` is malformed at `a b`, but must be header names with values of printable ASCII; in a variable name=value,name=value with percent-encoded values",
        ),
        (
            "otlp: {headers: secret}",
            "c.yaml:1:17: `otlp.headers` is a single value, but must be header names with values of printable ASCII; in a variable name=value,name=value with percent-encoded values",
        ),
    ] {
        check_file_message(yaml, expected);
    }
}

#[test]
fn yaml_that_is_broken_or_could_hide_a_value_is_refused_with_its_place() {
    for (yaml, expected) in [
        ("slots: 100\nslots: 200\n", "c.yaml:2:1: key `slots` is given again, after line 1; keep one of them"),
        ("- a\n", "c.yaml:1:1: keys must stand here; write `key: value` lines"),
        ("hello", "c.yaml:1:1: keys must stand here; write `key: value` lines"),
        ("node: &x a\nlog: *x\n", "c.yaml:2:6: aliases are not supported; repeat the value"),
        ("node: a\n---\nnode: b\n", "c.yaml:2:1: a second document starts here; keep one document"),
        ("[a]: b\n", "c.yaml:1:1: a key must be a plain word; correct it"),
        ("a: {b: {c: {d: {e: {f: {g: {h: {i: j}}}}}}}}", "c.yaml:1:36: this is nested deeper than any key; remove it"),
        ("a: [[[[[[[[[[]]]]]]]]]]", "c.yaml:1:12: this is nested deeper than any key; remove it"),
    ] {
        check_file_message(yaml, expected);
    }
    for (yaml, place) in [
        ("node: a\n  slots: 5\n", "c.yaml:2:"),
        ("node: 'a\n", "c.yaml:"),
        ("log: {level: info\n", "c.yaml:"),
        ("log:\n\tlevel: info\n", "c.yaml:2:"),
        ("node: a\n}\n", "c.yaml:2:"),
    ] {
        let mut config = Config::defaults(COLLECTORS);
        let message = file::apply_text(&mut config, Path::new("c.yaml"), yaml).expect_err(yaml).to_string();
        assert!(message.starts_with(place), "{message}");
        assert!(
            message.contains(": not valid YAML: ")
                && message.ends_with("check indentation, colons and quotes up to there"),
            "{message}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().display().to_string();
    let check = |name: &str, expected: String| {
        let error = load(&Inputs { file: Some(directory.path().join(name)), ..inputs(&[]) }).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(
        "none.yaml",
        format!(
            "configuration file {root}/none.yaml does not exist; correct --config or PODLENS_CONFIG, or leave both out to use the defaults"
        ),
    );
    check(".", format!("configuration file {root}/. is a directory; name the file in it"));
    mknodat(CWD, directory.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let what = "cannot be read: it is a pipe and no regular file; name a regular file";
    check("pipe", format!("configuration file {root}/pipe {what}"));

    std::fs::write(directory.path().join("latin1.yaml"), b"node: \xe9").unwrap();
    check("latin1.yaml", format!("configuration file {root}/latin1.yaml is not UTF-8 text; save it as UTF-8"));

    std::fs::write(directory.path().join("big.yaml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    check(
        "big.yaml",
        format!(
            "configuration file {root}/big.yaml is larger than 1048576 bytes; keep nothing but podlens' keys in it"
        ),
    );

    // A link to itself is refused to root, too, which a mode of 000 is not.
    std::os::unix::fs::symlink("loop.yaml", directory.path().join("loop.yaml")).unwrap();
    check(
        "loop.yaml",
        format!("cannot read configuration file {root}/loop.yaml; let the user that runs podlens read it"),
    );
}

/// YAML's own marks and known keys in any order, and any text.
fn any_yaml() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => proptest::sample::select(vec![
            "otlp", "headers", "log", "level", "slots", "listen", "collectors", "scheduler", ": ", ":", "\n", "\n  ", "\t", "- ", "? ", "{", "}",
            "[", "]", ",", "&a ", "*a", "!!str ", "'", "\"", "|\n", ">-\n", "# ", "---\n", "...\n", "%YAML 1.2\n", "<<", "~", "1", "\\", "é", "\u{feff}",
        ]).prop_map(ToOwned::to_owned),
        1 => any::<String>(),
    ];
    proptest::collection::vec(piece, 0..32).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_file_is_either_taken_or_refused_with_a_place_in_one_line(yaml in any_yaml()) {
        let mut config = Config::defaults(COLLECTORS);
        if let Err(error) = file::apply_text(&mut config, Path::new("c.yaml"), &yaml) {
            let message = error.to_string();
            prop_assert!(message.starts_with("c.yaml:"), "{}", message);
            prop_assert!(!message.contains(char::is_control), "{:?}", message);
        }
    }
}

#[test]
fn a_hostile_file_is_refused_soon() {
    for piece in ["[", "{", "- ", "? ", "{a: ", "&a [", "a: &b\n", "!<", "\"", "|\n ", "%", "a\n"] {
        let yaml = piece.repeat((1 << 20) / piece.len());
        let started = std::time::Instant::now();
        assert!(file::apply_text(&mut Config::defaults(COLLECTORS), Path::new("c.yaml"), &yaml).is_err(), "{piece}");
        assert!(started.elapsed() < Duration::from_secs(20), "{piece:?} took {:?}", started.elapsed());
    }
}
