//! What went wrong with a request, and whether and when it is tried again. Pure.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::log::beginning;

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Again, not before the server's own delay if it gave one.
    Retry(Option<Duration>),
    /// Never: the same request would fail again.
    Refused,
    /// Perhaps in smaller requests: this one is too large, or, as some receivers say with the same word, a quota is used up.
    TooLarge,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) verdict: Verdict,
    /// The protocol's own word for it.
    pub(crate) code: String,
    /// The beginning of what the receiver says.
    pub(crate) answer: Option<String>,
    /// What failed on this side and why, such as "tcp connect error: connection refused".
    pub(crate) cause: Option<String>,
}

impl Failure {
    /// No answer within the time for one attempt.
    pub(crate) fn timeout() -> Self {
        Self {
            verdict: Verdict::Retry(None),
            code: "timeout".into(),
            answer: None,
            cause: Some("no answer within the timeout".into()),
        }
    }

    /// The connection failed.
    pub(super) fn here(cause: &(dyn Error + 'static)) -> Self {
        let cause = said(&with_innermost(cause.to_string(), cause));
        Self { verdict: Verdict::Retry(None), code: "connection".into(), answer: None, cause }
    }

    pub(super) fn from_grpc(status: &Status) -> Self {
        // One with a source was made on this side.
        let (answer, cause) = match status.source() {
            None => (said(status.message()), None),
            Some(_) => (None, said(&with_innermost(status.message().to_owned(), status))),
        };
        Self { verdict: verdict(status), code: format!("{:?}", status.code()), answer, cause }
    }

    pub(super) fn from_http(status: StatusCode, headers: &HeaderMap, body: &Bytes) -> Self {
        let verdict = match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Verdict::Retry(retry_after(headers, SystemTime::now())),
            StatusCode::PAYLOAD_TOO_LARGE => Verdict::TooLarge,
            _ => Verdict::Refused,
        };
        Self { verdict, code: status.to_string(), answer: said(&explanation(headers, body)), cause: None }
    }
}

/// The verdict of the OTLP specification for gRPC.
fn verdict(status: &Status) -> Verdict {
    let delay = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    match status.code() {
        // What receivers that are built on tonic say of a message beyond their limit.
        Code::OutOfRange if status.message().contains("message length too large") => Verdict::TooLarge,
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Verdict::Retry(delay),
        // Without a delay it is what most receivers say of a message beyond their limit, which no repetition changes.
        Code::ResourceExhausted => delay.map_or(Verdict::TooLarge, |delay| Verdict::Retry(Some(delay))),
        // A status with a source was made here, because the connection failed, and not by a server.
        _ if status.source().is_some() => Verdict::Retry(None),
        _ => Verdict::Refused,
    }
}

/// Seconds, or a date of which the time from `now` counts.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match value.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok(),
    }
}

/// The message of the `Status` that OTLP wants in an answer, else what is there.
fn explanation(headers: &HeaderMap, body: &Bytes) -> String {
    match tonic_types::pb::Status::decode(body.clone()) {
        Ok(status) if is_protobuf(headers) => status.message,
        _ => String::from_utf8_lossy(body).into_owned(),
    }
}

/// Whether an answer says of itself that it is in protobuf, with parameters or without.
pub(super) fn is_protobuf(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split_once(';').map_or(kind, |(kind, _)| kind);
    kind.trim().eq_ignore_ascii_case("application/x-protobuf")
}

/// What is worth a field of the log.
pub(super) fn said(text: &str) -> Option<String> {
    Some(beginning(text)).filter(|text| !text.is_empty())
}

/// The text of an error and that of its first cause, which it does not show by itself.
fn with_innermost(text: String, error: &(dyn Error + 'static)) -> String {
    let Some(mut cause) = error.source() else { return text };
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let cause = cause.to_string();
    if text.contains(&cause) { text } else { format!("{text}: {cause}") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn codes_are_retried_as_the_specification_lists_them() {
        let retried = [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unavailable,
            Code::DataLoss,
        ];
        for number in 1..=16 {
            let code = Code::from_i32(number);
            let expected = match code {
                Code::ResourceExhausted => Verdict::TooLarge,
                code if retried.contains(&code) => Verdict::Retry(None),
                _ => Verdict::Refused,
            };
            assert_eq!(verdict(&Status::new(code, "")), expected, "{code:?}");
        }
        let too_large =
            Status::out_of_range("Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes");
        assert_eq!(verdict(&too_large), Verdict::TooLarge);
    }

    #[test]
    fn the_servers_delay_is_read_and_makes_an_exhausted_resource_retryable() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(7)));
        for code in [Code::ResourceExhausted, Code::Unavailable] {
            let status = Status::with_error_details(code, "slow down", details.clone());
            assert_eq!(verdict(&status), Verdict::Retry(Some(Duration::from_secs(7))));
        }
        let status = Status::with_error_details(Code::InvalidArgument, "never", details);
        assert_eq!(verdict(&status), Verdict::Refused);
    }

    fn answered(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Failure {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        Failure::from_http(StatusCode::from_u16(status).unwrap(), &headers, &Bytes::copy_from_slice(body))
    }

    #[test]
    fn http_statuses_are_retried_as_the_specification_lists_them() {
        for status in 300..600 {
            let expected = match status {
                413 => Verdict::TooLarge,
                429 | 502 | 503 | 504 => Verdict::Retry(None),
                _ => Verdict::Refused,
            };
            assert_eq!(answered(status, &[], b"").verdict, expected, "{status}");
        }
    }

    #[test]
    fn the_servers_delay_over_http_is_seconds_or_a_date() {
        let delay = |value: &str| {
            let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]), now)
        };
        assert_eq!(delay("7"), Some(Duration::from_secs(7)));
        assert_eq!(delay("Sun, 06 Nov 1994 08:50:07 GMT"), Some(Duration::from_secs(30)));
        for value in ["Sun, 06 Nov 1994 08:49:07 GMT", "soon", "-1", ""] {
            assert_eq!(delay(value), None, "{value}");
        }
        assert_eq!(answered(503, &[("retry-after", "7")], b"").verdict, Verdict::Retry(Some(Duration::from_secs(7))));
        assert_eq!(answered(400, &[("retry-after", "7")], b"").verdict, Verdict::Refused);
    }

    #[test]
    fn an_explanation_is_the_beginning_of_a_statuss_message_or_of_a_text() {
        let answer =
            |status: u16, headers: &[(&'static str, &str)], body: &[u8]| answered(status, headers, body).answer;
        let some = |text: &str| Some(text.to_owned());
        let status = tonic_types::pb::Status { code: 3, message: "too old".into(), details: Vec::new() };
        let protobuf = [("content-type", "application/x-protobuf")];
        assert_eq!(answer(400, &protobuf, &status.encode_to_vec()), some("too old"));
        assert_eq!(answer(404, &[("content-type", "text/plain")], b"not found\n"), some("not found"));
        assert_eq!(answer(413, &protobuf, b"\xff\xff"), some("\u{fffd}\u{fffd}"));
        assert_eq!(answered(413, &[], b"").code, "413 Payload Too Large");
        assert_eq!(answer(413, &[], b"\r\n"), None);
        // However it comes, none of it floods the log.
        let (long, shown) = ("x".repeat(60_000), some(&"x".repeat(200)));
        assert_eq!(answer(413, &[], long.as_bytes()), shown);
        let status = tonic_types::pb::Status { code: 3, message: long.clone(), details: Vec::new() };
        assert_eq!(answer(400, &protobuf, &status.encode_to_vec()), shown);
        assert_eq!(Failure::from_grpc(&Status::invalid_argument(long)).answer, shown);
    }

    #[test]
    fn what_failed_here_is_no_answer_of_the_receiver() {
        let refused = std::io::Error::from_raw_os_error(libc::ECONNREFUSED).to_string();
        let cause = || std::io::Error::other(std::io::Error::from_raw_os_error(libc::ECONNREFUSED));
        let failure = Failure::here(&cause());
        assert_eq!((failure.answer, failure.cause), (None, Some(refused.clone())));
        let failure = Failure::from_grpc(&Status::from_error(cause().into()));
        assert!(failure.answer.is_none() && failure.cause.is_some_and(|cause| cause.contains(&refused)));
    }
}
