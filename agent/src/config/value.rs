//! Texts to values. None means that the text is not one; the key's list of expectations says what is.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use super::Headers;

pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Option<T> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    choice(text, &[("true", true), ("false", false)])
}

/// Decimal digits only: no sign, no underscore.
pub(super) fn whole(text: &str, range: RangeInclusive<u64>) -> Option<u64> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|value| is_decimal && range.contains(value))
}

/// Whole numbers with the units h, m, s, ms, the largest first, as in `1m30s`.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
    let mut rest = text;
    let mut total_ms = 0_u64;
    let mut smallest_ms = u64::MAX;
    while !rest.is_empty() {
        let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_ms = choice(unit, &[("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)])?;
        if unit_ms >= smallest_ms {
            return None;
        }
        smallest_ms = unit_ms;
        total_ms = total_ms.checked_add(digits.parse::<u64>().ok()?.checked_mul(unit_ms)?)?;
        rest = after;
    }
    let value = Duration::from_millis(total_ms);
    (!text.is_empty() && range.contains(&value)).then_some(value)
}

pub(super) fn absolute_path(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    (path.is_absolute() && !text.contains('\0')).then_some(path)
}

/// An address with or without a port. IPv6 may go without brackets where no port follows.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    let with_port = || text.parse().ok();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    with_port().or_else(|| bare.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, super::PORT)))
}

/// A server's URL. Around an address of IPv4 brackets are dropped: who writes a template for the address of any node puts
/// them there for those with IPv6.
pub(super) fn endpoint(text: &str) -> Option<http::Uri> {
    let mut uri: http::Uri = text.parse().ok().filter(has_plain_authority)?;
    if let Some(in_brackets) = uri.host().and_then(|host| host.strip_prefix('[')) {
        let address = in_brackets.trim_end_matches(']').to_owned();
        if address.parse::<IpAddr>().ok()?.is_ipv4() {
            uri = text.replacen(&format!("[{address}]"), &address, 1).parse().ok()?;
        }
    }
    let has_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    (has_scheme && uri.query().is_none()).then_some(uri)
}

/// A host, and nothing else but a port that there is. The library takes anything else for a lacking port, and would ask at
/// another one. Credentials in a URL would reach logs.
pub(crate) fn has_plain_authority(uri: &http::Uri) -> bool {
    let (Some(authority), Some(host)) = (uri.authority(), uri.host().filter(|host| !host.is_empty())) else {
        return false;
    };
    match authority.as_str().strip_prefix(host) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(':').is_some_and(|port| whole(port, 1..=65_535).is_some()),
        None => false,
    }
}

pub(super) fn is_node_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=253).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Names of metrics with `*` in them.
pub(super) fn patterns(text: &str) -> Option<Vec<String>> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'*');
    let patterns = || text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
    let is_valid = patterns().all(|pattern| pattern.bytes().all(is_allowed) && pattern.len() <= 128);
    // Each `*` may be tried at each place of a name.
    let is_simple = patterns().all(|pattern| pattern.matches('*').count() <= 4);
    (is_valid && is_simple).then(|| patterns().map(str::to_owned).collect())
}

/// A header that HTTP and gRPC metadata can carry as text, its name in lower case.
pub(super) fn header(name: &str, value: &str) -> Option<(String, String)> {
    let name = http::HeaderName::from_bytes(name.as_bytes()).ok()?;
    // gRPC takes the value of a name that ends so for base64.
    let is_binary = name.as_str().ends_with("-bin");
    let is_text = value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    (is_text && !is_binary).then(|| (name.as_str().to_owned(), value.to_owned()))
}

/// Headers that a request has itself, or that are about the connection. A user's value would make it one that no receiver can
/// read, or its answer one that podlens cannot.
const OF_REQUEST: [&str; 13] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Headers {
    /// Why a header of this name, in lower case, is not one to be added, if so.
    #[must_use]
    pub fn refusal(name: &str) -> Option<&'static str> {
        if OF_REQUEST.contains(&name) {
            return Some("each request has it already, or it is the connection's own");
        }
        name.starts_with("grpc-").then_some("names that begin with grpc- are the protocol's own")
    }
}

/// `name=value,name=value` with percent-encoding, as in `OTEL_RESOURCE_ATTRIBUTES`.
pub(super) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let decoded = |text: &str| percent_decoded(text.trim()).filter(|_| is_percent_encoded(text));
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((decoded(name)?, decoded(value)?))
        })
        .collect()
}

/// Each % begins an encoding.
pub(super) fn is_percent_encoded(text: &str) -> bool {
    let is_encoding = |after: &str| after.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    text.split('%').skip(1).all(is_encoding)
}

/// A % that begins no encoding stands for itself. None if the bytes are not UTF-8.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use std::time::Duration;

    use super::{Headers, duration, endpoint, header, pairs, socket_address, whole};

    #[test]
    fn an_address_to_listen_on_may_go_without_a_port() {
        for (text, expected) in [
            ("::", Some("[::]:9464")),
            ("[::]", Some("[::]:9464")),
            ("[::]:80", Some("[::]:80")),
            ("0.0.0.0", Some("0.0.0.0:9464")),
            ("127.0.0.1:9100", Some("127.0.0.1:9100")),
            ("fd00::5", Some("[fd00::5]:9464")),
            ("localhost:80", None),
            (":9464", None),
            ("9464", None),
            ("", None),
        ] {
            assert_eq!(socket_address(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_duration_is_whole_numbers_with_units_the_largest_first() {
        let check = |text: &str, expected_ms: Option<u64>| {
            let parsed = duration(text, Duration::ZERO..=Duration::MAX);
            assert_eq!(parsed, expected_ms.map(Duration::from_millis), "{text:?}");
        };
        check("0s", Some(0));
        check("250ms", Some(250));
        check("15s", Some(15_000));
        check("5m", Some(300_000));
        check("1h30m", Some(5_400_000));
        check("1m30s500ms", Some(90_500));
        for text in [
            "",
            "15",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "1 s",
            "1s1s",
            "1s1m",
            "1d",
            "1S",
            "1µs",
            "1s ",
            "é",
            "99999999999999999999s",
            "9999999999999999999h",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn a_range_holds_both_its_ends() {
        let range = || Duration::from_secs(1)..=Duration::from_secs(3);
        for (text, is_inside) in [("999ms", false), ("1s", true), ("3s", true), ("3001ms", false)] {
            assert_eq!(duration(text, range()).is_some(), is_inside, "{text}");
        }
        for (text, is_inside) in
            [("63", false), ("64", true), ("16384", true), ("16385", false), ("+64", false), ("", false)]
        {
            assert_eq!(whole(text, 64..=16384).is_some(), is_inside, "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_of_http_without_credentials() {
        for (text, expected) in [
            ("http://collector:4317", "http://collector:4317"),
            ("https://[::1]:4318/otlp", "https://[::1]:4318/otlp"),
            ("https://[fd00::5]", "https://[fd00::5]"),
            ("http://10.0.0.1", "http://10.0.0.1"),
            ("http://10.0.0.1:65535/", "http://10.0.0.1:65535/"),
            ("http://10.0.0.1:1", "http://10.0.0.1:1"),
            ("http://[10.0.0.1]:4318/otlp", "http://10.0.0.1:4318/otlp"),
            ("https://[10.0.0.1]", "https://10.0.0.1"),
        ] {
            assert_eq!(endpoint(text).unwrap(), expected.parse::<http::Uri>().unwrap(), "{text}");
        }
        for text in [
            "",
            "collector",
            "collector:4317",
            "/x",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a/?b",
            "http://a b",
            "unix:///x",
            "http://fd00::5",
            "http://fd00::5:4317",
            "http://[collector]:4317",
            "http://[]:4317",
            "http://[fd00::5",
            "http://127.0.0.1:4318x",
            "http://127.0.0.1:99999",
            "http://127.0.0.1:65536",
            "http://127.0.0.1:-1",
            "http://127.0.0.1:+1",
            "http://127.0.0.1:",
            "http://127.0.0.1:0",
            "http://127.0.0.1:1:2",
            "http://[::1]extra:1",
            "http://[::1]:",
            "http://[10.0.0.1]evil:80",
            "http://:80",
            "http://u@a:80",
        ] {
            assert_eq!(endpoint(text), None, "{text}");
        }
    }

    #[test]
    fn pairs_are_percent_decoded() {
        let check = |text: &str, expected: Option<&[(&str, &str)]>| {
            let owned = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>()
            };
            assert_eq!(pairs(text), expected.map(owned), "{text}");
        };
        check("a=b", Some(&[("a", "b")]));
        check(" a = b ,, c=d=e,", Some(&[("a", "b"), ("c", "d=e")]));
        check("authorization=Bearer%20x%2C", Some(&[("authorization", "Bearer x,")]));
        check("a", None);
        check("a=%2", None);
        check("a=%+1", None);
        check("a=%é", None);
        check("a%2Cb=c", Some(&[("a,b", "c")]));
        check("a=100%", None);
        check("a=%ff", None);
    }

    #[test]
    fn a_header_that_would_break_the_request_is_refused() {
        for name in ["content-length", "transfer-encoding", "content-type", "host", "te", "grpc-timeout", "grpc-x"] {
            assert!(Headers::refusal(name).is_some(), "{name}");
        }
        for name in ["authorization", "x-scope-orgid", "user-agent", "x-content-type", "grpcx"] {
            assert_eq!(Headers::refusal(name), None, "{name}");
        }
    }

    #[test]
    fn a_header_is_printable_text_under_a_lower_case_name() {
        assert_eq!(header("X-Scope", "a b"), Some(("x-scope".to_owned(), "a b".to_owned())));
        for (name, value) in [("", "a"), ("a b", "a"), ("a", "b\n"), ("a", "é"), ("trace-bin", "a")] {
            assert_eq!(header(name, value), None, "{name} {value}");
        }
    }
}
