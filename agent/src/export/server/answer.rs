//! From a request to its answer.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
};

use super::{
    Content, Verdict,
    connection::{Delivery, Payload},
    pages::{Form, Pages},
};
use crate::{
    export::{
        SnapshotSource,
        prometheus::{Filter, Format, Style},
    },
    telemetry::Refusal,
};

/// Everything that answers are made of.
pub(super) struct Answers<S> {
    pub(super) content: Content<S>,
    pub(super) pages: Pages,
}

impl<S: SnapshotSource> Answers<S> {
    pub(super) async fn answer(&self, request: &Request<Incoming>, delivery: &Arc<Delivery>) -> Response<Payload> {
        let path = request.uri().path();
        if !["/", "/metrics", "/healthz", "/readyz"].contains(&path) {
            return text(StatusCode::NOT_FOUND, "not found; see / for what there is\n");
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return not_allowed();
        }
        match path {
            "/metrics" => self.metrics(request, delivery).await,
            "/healthz" => verdict((self.content.alive)()),
            "/readyz" => verdict((self.content.ready)()),
            _ => self.index(),
        }
    }

    /// Where nothing but the probes is served.
    pub(super) fn probe(&self, request: &Request<Incoming>) -> Response<Payload> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return not_allowed();
        }
        match request.uri().path() {
            "/healthz" => verdict((self.content.alive)()),
            "/readyz" => verdict((self.content.ready)()),
            _ => text(StatusCode::NOT_FOUND, "not found; there are /healthz and /readyz\n"),
        }
    }

    async fn metrics(&self, request: &Request<Incoming>, delivery: &Arc<Delivery>) -> Response<Payload> {
        let began = Instant::now();
        let form = Form {
            style: Style {
                format: Format::preferred(&joined(request.headers(), &header::ACCEPT)),
                classic: self.content.classic_histograms,
            },
            gzip: takes_gzip(&joined(request.headers(), &header::ACCEPT_ENCODING)),
        };
        let snapshot = self.content.source.snapshot().await;
        let sequence = snapshot.sequence;
        let telemetry = &self.content.telemetry;
        let payload = match filter(request.uri().query().unwrap_or_default()) {
            Some(filter) => self.pages.filtered(snapshot, filter, form).await.map(Payload::new),
            None => self
                .pages
                .whole(snapshot, Arc::clone(telemetry), form)
                .await
                .map(|page| Payload::acknowledged(page, Arc::clone(delivery), sequence)),
        };
        let answer = match payload {
            Ok(payload) => Response::new(payload),
            Err(error) => {
                tracing::error!(%error, "a page could not be encoded");
                return text(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be encoded\n");
            }
        };
        telemetry.observe_scrape(began.elapsed());
        let answer = with_header(answer, header::CONTENT_TYPE, form.style.format.content_type());
        let answer = with_header(answer, header::VARY, "accept, accept-encoding");
        if form.gzip { with_header(answer, header::CONTENT_ENCODING, "gzip") } else { answer }
    }

    fn index(&self) -> Response<Payload> {
        let node = escaped(&self.content.node);
        let version = env!("CARGO_PKG_VERSION");
        let page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
             <title>podlens on {node}</title></head>\n<body>\n<h1>podlens {version}</h1>\n\
             <p>Node <b>{node}</b></p>\n<ul>\n\
             <li><a href=\"/metrics\">/metrics</a>: all values; /metrics?namespace=NS&amp;pod=NAME for one pod</li>\n\
             <li><a href=\"/readyz\">/readyz</a>: what is measured and what is not</li>\n\
             <li><a href=\"/healthz\">/healthz</a>: whether podlens itself runs</li>\n\
             </ul>\n</body>\n</html>\n"
        );
        let answer = Response::new(Payload::new(page.into()));
        with_header(answer, header::CONTENT_TYPE, "text/html; charset=utf-8")
    }
}

/// For a request that is not let in.
pub(super) fn refused(refusal: Refusal, challenges: impl Iterator<Item = &'static str>) -> Response<Payload> {
    if refusal == Refusal::UncheckedCredentials {
        let answer = text(StatusCode::TOO_MANY_REQUESTS, "too many passwords wait to be checked; try again\n");
        return with_header(answer, header::RETRY_AFTER, "10");
    }
    let mut answer = text(StatusCode::UNAUTHORIZED, "credentials are lacking or wrong\n");
    for challenge in challenges {
        answer.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    answer
}

fn not_allowed() -> Response<Payload> {
    with_header(text(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n"), header::ALLOW, "GET, HEAD")
}

fn verdict(verdict: Verdict) -> Response<Payload> {
    let status = if verdict.good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, verdict.text)
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Payload> {
    let mut answer = Response::new(Payload::new(body.into()));
    *answer.status_mut() = status;
    with_header(answer, header::CONTENT_TYPE, "text/plain; charset=utf-8")
}

fn with_header(mut answer: Response<Payload>, name: HeaderName, value: &'static str) -> Response<Payload> {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

/// All values of a header as the one list that they stand for.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

fn takes_gzip(accept_encoding: &str) -> bool {
    accept_encoding.split(',').any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let quality = parameters.trim().strip_prefix("q=").map(str::trim);
        let refused = quality.is_some_and(|quality| quality.parse() == Ok(0.0_f32));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// The filter that a query asks for; none if it asks for none.
fn filter(query: &str) -> Option<Filter> {
    let mut filter = Filter::default();
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match key {
            "pod" => filter.pod = Some(decoded(value)),
            "namespace" => filter.namespace = Some(decoded(value)),
            _ => {}
        }
    }
    (filter != Filter::default()).then_some(filter)
}

/// A query's value without its percent encoding. What is not valid is kept as it is: it matches no pod.
fn decoded(value: &str) -> String {
    percent_encoding::percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use super::{Filter, filter, takes_gzip};

    #[test]
    fn gzip_is_used_only_where_the_client_takes_it() {
        for (accept_encoding, expected) in [
            ("", false),
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("br, zstd", false),
        ] {
            assert_eq!(takes_gzip(accept_encoding), expected, "{accept_encoding:?}");
        }
    }

    #[test]
    fn a_query_becomes_a_filter() {
        let check = |query: &str, pod: Option<&str>, namespace: Option<&str>| {
            let wanted = Filter { pod: pod.map(String::from), namespace: namespace.map(String::from) };
            let wanted = (wanted != Filter::default()).then_some(wanted);
            assert_eq!(filter(query), wanted, "{query:?}");
        };
        check("", None, None);
        check("debug=1&x", None, None);
        check("pod=web-1", Some("web-1"), None);
        check("namespace=shop&pod=web%2d1", Some("web-1"), Some("shop"));
        check("pod=a%zz%4", Some("a%zz%4"), None);
        check("pod=%C3%A4+b", Some("\u{e4} b"), None);
        check("pod=", Some(""), None);
    }
}
