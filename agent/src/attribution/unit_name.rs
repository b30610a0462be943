//! One name for all units that differ only in what was counted, drawn or connected when they were made, so that the
//! number of series follows what is installed and not what has happened.
//!
//! Pure; `entity` calls it. `podlens check --cgroup` shows what becomes of a name.
//!
//! | unit | name |
//! | --- | --- |
//! | `sshd@12-192.0.2.10:22-198.51.100.7:54321.service` | `sshd@.service`, as systemd calls the template |
//! | `session-128207.scope` | `session-*.scope` |
//! | `run-r0123456789abcdef0123456789abcdef.scope` | `run-*.scope` |
//! | `crio-conmon-` and 64 digits `.scope` | `crio-conmon-*.scope` |
//! | `user@1000.service`, `user-1000.slice` | stay: a node has few users, and their units are told apart by it |

use std::borrow::Cow;

/// From so many hexadecimal digits on a part of any unit's name was drawn or computed.
const DRAWN_DIGITS: usize = 32;
/// The same for a unit that is made for one occasion.
const DRAWN_DIGITS_OF_TRANSIENT: usize = 8;
/// Digits of a UUID's parts.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];

/// The name under which a unit counts.
#[must_use]
pub fn common(name: &str) -> Cow<'_, str> {
    let Some((stem, kind)) = name.rsplit_once('.') else { return name.into() };
    let (stem, template) = match stem.split_once('@') {
        Some((template, instance)) if !instance.is_empty() && !is_user(template, instance) => (template, "@"),
        _ => (stem, ""),
    };
    let is_transient = matches!(kind, "scope" | "mount") || stem.starts_with("run-");
    let stem = without_numbers(stem, is_transient);
    match stem {
        Cow::Borrowed(_) if template.is_empty() => name.into(),
        stem => format!("{stem}{template}.{kind}").into(),
    }
}

fn is_user(template: &str, instance: &str) -> bool {
    template == "user" && instance.bytes().all(|byte| byte.is_ascii_digit())
}

/// The text with `*` for each row of parts that were counted or drawn.
fn without_numbers(text: &str, is_transient: bool) -> Cow<'_, str> {
    let parts = parts(text);
    let mut result = String::new();
    let mut rest = parts.as_slice();
    let mut changed = false;
    while let Some(((part, separator), after)) = rest.split_first() {
        let taken = if is_uuid(rest) { UUID.len() } else { usize::from(is_drawn(part, is_transient)) };
        if taken == 0 {
            result.push_str(part);
            result.push_str(separator);
            rest = after;
            continue;
        }
        changed = true;
        // Neighbours that were counted as well are one with it.
        if let Some(at) = result.rfind('*').filter(|at| is_separator(result.get(at + 1..).unwrap_or_default())) {
            result.truncate(at);
        }
        result.push('*');
        let (separator, after) = match rest.get(taken - 1..).and_then(<[_]>::split_first) {
            Some(((_, separator), after)) => (*separator, after),
            None => ("", after),
        };
        result.push_str(separator);
        rest = after;
    }
    if changed { result.into() } else { text.into() }
}

/// Parts and the separators behind them: dashes, underscores and dots, dashes also as systemd escapes them.
fn parts(text: &str) -> Vec<(&str, &str)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['-', '_', '.', '\\']) {
        let (part, after) = rest.split_at(at);
        let separator = if after.starts_with(r"\x2d") { 4 } else { 1 };
        let (separator, after) = after.split_at(separator);
        parts.push((part, separator));
        rest = after;
    }
    parts.push((rest, ""));
    parts
}

fn is_separator(text: &str) -> bool {
    matches!(text, "-" | "_" | "." | r"\x2d")
}

fn is_uuid(parts: &[(&str, &str)]) -> bool {
    parts.len() >= UUID.len()
        && parts.iter().zip(UUID).all(|((part, _), digits)| part.len() == digits && is_hexadecimal(part))
        && parts.iter().take(UUID.len() - 1).all(|(_, separator)| matches!(*separator, "-" | "_" | r"\x2d"))
}

/// A part that was drawn or counted. systemd-run puts a letter before its numbers, logind before those of containers.
fn is_drawn(part: &str, is_transient: bool) -> bool {
    let number = part.strip_prefix(['r', 'p', 'i', 'u', 'c']).unwrap_or(part);
    if is_long(part) {
        return true;
    }
    let is_counted = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_short_drawn = part.len() >= DRAWN_DIGITS_OF_TRANSIENT
        && is_hexadecimal(part)
        && part.bytes().any(|byte| byte.is_ascii_digit());
    is_transient && (is_counted(number) || is_short_drawn)
}

fn is_long(part: &str) -> bool {
    let digits = part.strip_prefix('r').unwrap_or(part);
    digits.len() >= DRAWN_DIGITS && is_hexadecimal(digits)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::common;

    const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";
    const H: &str = "3f1b0c5a9d7e2468ace013579bdf0246";
    const UUID: &str = "0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e";

    #[track_caller]
    fn check(name: &str, expected: &str) {
        assert_eq!(common(name), expected, "{name}");
    }

    #[test]
    fn all_instances_of_a_template_are_one_without_addresses_and_ports() {
        for instance in [
            "12-192.0.2.10:22-198.51.100.7:54321",
            "3-2001:db8::1:22-2001:db8::2:50000",
            "0-4711-1000",
            "redis:6379",
            "192.0.2.10",
            r"dev-disk-by\x2duuid-1",
            "a@b",
        ] {
            check(&format!("sshd@{instance}.service"), "sshd@.service");
        }
        check("getty@tty1.service", "getty@.service");
        check("systemd-coredump@3-1234-0.service", "systemd-coredump@.service");
        check("dbus-:1.2-org.example.Name@0.service", "dbus-:1.2-org.example.Name@.service");
    }

    #[test]
    fn what_was_counted_or_drawn_is_one_star() {
        check("session-128207.scope", "session-*.scope");
        check("session-c12.scope", "session-*.scope");
        check(&format!("run-r{H}.scope"), "run-*.scope");
        check(&format!("run-r{H}.service"), "run-*.service");
        check("run-p4711-i9999.scope", "run-*.scope");
        check("run-u17.service", "run-*.service");
        check("run-4711.scope", "run-*.scope");
        check(&format!("crio-conmon-{ID}.scope"), "crio-conmon-*.scope");
        check(&format!("libpod-conmon-{ID}.scope"), "libpod-conmon-*.scope");
        check("podman-4711.scope", "podman-*.scope");
        check("4711.scope", "*.scope");
        check("podman-pause-1a2b3c4d.scope", "podman-pause-*.scope");
        check(&format!("machine-libpod_pod_{ID}.slice"), "machine-libpod_pod_*.slice");
        check(&format!("ecstasks-{H}.slice"), "ecstasks-*.slice");
        check("app-gnome-org.gnome.Terminal-4711.scope", "app-gnome-org.gnome.Terminal-*.scope");
        check(r"machine-qemu\x2d17\x2dweb.scope", r"machine-qemu\x2d*\x2dweb.scope");
        check(&format!("vte-spawn-{UUID}.scope"), "vte-spawn-*.scope");
        check(&format!("{UUID}.web.scope"), "*.web.scope");
        check(
            &format!("var-lib-kubelet-pods-{}-volumes-x.mount", UUID.replace('-', r"\x2d")),
            "var-lib-kubelet-pods-*-volumes-x.mount",
        );
        check("run-docker-netns-1a2b3c4d5e6f.mount", "run-docker-netns-*.mount");
        check(&format!("load-{UUID}.service"), "load-*.service");
    }

    #[test]
    fn names_that_people_and_packages_choose_stay() {
        for name in [
            "kubelet.service",
            "system-sshd.slice",
            "user-1000.slice",
            "user@1000.service",
            "sshd@.service",
            "init.scope",
            "web-2.service",
            "postgresql-15.service",
            "run.service",
            "deadbeef.service",
            "a.b",
            "@.service",
            "",
            ".service",
            "-.slice",
        ] {
            check(name, name);
        }
    }

    proptest! {
        #[test]
        fn a_common_name_stays_what_it_is(name in any::<String>()) {
            let once = common(&name).into_owned();
            prop_assert_eq!(common(&once), &*once);
        }

        #[test]
        fn no_number_of_a_connection_or_session_is_in_a_name(number in 0_u32.., port in 1_u16..) {
            let name = format!("sshd@{number}-192.0.2.10:22-198.51.100.7:{port}.service");
            prop_assert_eq!(common(&name), "sshd@.service");
            let name = format!("session-{number}.scope");
            prop_assert!(!common(&name).contains(|c: char| c.is_ascii_digit()));
        }
    }
}
