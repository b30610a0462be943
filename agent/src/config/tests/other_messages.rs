//! Every message about a wrong variable or flag, word for word.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use super::{
    super::{Inputs, load},
    inputs,
};

#[track_caller]
fn check_variable_message(name: &str, value: &str, expected: &str) {
    let error = load(&inputs(&[(name, value)])).expect_err(name);
    assert_eq!(error.to_string(), expected, "{name}={value}");
}

#[test]
fn a_wrong_variable_is_refused_by_name() {
    for (name, value, expected) in [
        (
            "PODLENS_LISTN",
            "x",
            "environment variable PODLENS_LISTN is unknown; the nearest valid name is PODLENS_LISTEN",
        ),
        (
            "PODLENS_ENDPOINT",
            "x",
            "environment variable PODLENS_ENDPOINT is unknown; the nearest valid name is PODLENS_OTLP_ENDPOINT",
        ),
        (
            "PODLENS_CONFG",
            "x",
            "environment variable PODLENS_CONFG is unknown; the nearest valid name is PODLENS_CONFIG",
        ),
        (
            "PODLENS_COLLECTORS_SCHED",
            "true",
            "environment variable PODLENS_COLLECTORS_SCHED is unknown; the nearest valid name is PODLENS_COLLECTORS_SCHEDULER",
        ),
        (
            "PODLENS_LISTEN",
            "",
            "environment variable PODLENS_LISTEN: `listen` has no value; unset the variable, or give it an IP address and a port, such as 0.0.0.0:9464 or [::]:9464",
        ),
        (
            "PODLENS_SLOTS",
            "10",
            "environment variable PODLENS_SLOTS: `slots` is `10`, but must be auto or a whole number from 64 to 16384",
        ),
        ("PODLENS_CONFIG", "", "environment variable PODLENS_CONFIG is empty; set it or unset it"),
        ("NODE_NAME", "", "environment variable NODE_NAME is empty; set it or unset it"),
        (
            "PODLENS_OTLP_HEADERS",
            "secret",
            "environment variable PODLENS_OTLP_HEADERS: `otlp.headers` is malformed, but must be header names with values of printable ASCII; in a variable name=value,name=value with percent-encoded values",
        ),
    ] {
        check_variable_message(name, value, expected);
    }
    for name in ["PODLENS_NODE", "PODLENS_CONFIG", "NODE_NAME"] {
        let variables = vec![(name.into(), OsString::from_vec(vec![0xff]))];
        let error = load(&Inputs { variables, ..inputs(&[]) }).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("environment variable {name} is not UTF-8 text; set it to plain text or unset it")
        );
    }
}

#[test]
fn of_several_wrong_variables_the_first_by_name_is_refused() {
    let (one, two) = (("PODLENS_A", "1"), ("PODLENS_B", "1"));
    for variables in [[one, two], [two, one]] {
        let message = load(&inputs(&variables)).unwrap_err().to_string();
        assert!(message.starts_with("environment variable PODLENS_A is unknown"), "{message}");
    }
}

#[test]
fn a_flag_is_refused_like_any_source() {
    let flags = vec![("listen", "x".to_owned())];
    let error = load(&Inputs { flags, ..inputs(&[]) }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--listen: `listen` is `x`, but must be an IP address and a port, such as 0.0.0.0:9464 or [::]:9464"
    );
}

#[test]
fn a_node_without_a_name_is_refused() {
    let message = "the node has no valid name: neither NODE_NAME nor the host's name is 1 to 253 letters, digits, dots, dashes or underscores; set `node`, PODLENS_NODE or --node";
    for host_name in ["\n", "a b"] {
        let error = load(&Inputs { host_name: Some(host_name.to_owned()), ..inputs(&[]) }).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let unread = "the node has no name: NODE_NAME is not set, and the host's name could not be read from /proc/sys/kernel/hostname; set `node`, PODLENS_NODE or --node";
    let error = load(&Inputs { host_name: None, ..inputs(&[]) }).unwrap_err();
    assert_eq!(error.to_string(), unread);
    let error = load(&inputs(&[("NODE_NAME", "a b")])).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn a_node_address_that_is_none_is_refused() {
    let error = load(&inputs(&[("NODE_IP", "node-1")])).unwrap_err();
    let message = "environment variable NODE_IP is `node-1`, which is no IP address; set it to the node's own, or unset it and set `kubernetes.kubelet_url`";
    assert_eq!(error.to_string(), message);
}
