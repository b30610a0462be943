//! Whether and when a failed export is tried again. Pure.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Again, not before the server's own delay if it gave one.
    Retry(Option<Duration>),
    /// Never: the same request would fail again.
    Refused,
}

/// The verdict by the rules of the OTLP specification for gRPC.
pub(super) fn verdict(status: &Status) -> Verdict {
    let delay = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Verdict::Retry(delay),
        // Without a delay it may mean that this request is too large, which no repetition changes.
        Code::ResourceExhausted if delay.is_some() => Verdict::Retry(delay),
        // A status with a source was made here, because the connection failed, and not by a server.
        _ if std::error::Error::source(status).is_some() => Verdict::Retry(None),
        _ => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use tonic_types::{ErrorDetails, StatusExt};

    use super::{Code, Duration, Status, Verdict, verdict};

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
            let expected = if retried.contains(&code) { Verdict::Retry(None) } else { Verdict::Refused };
            assert_eq!(verdict(&Status::new(code, "")), expected, "{code:?}");
        }
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
}
