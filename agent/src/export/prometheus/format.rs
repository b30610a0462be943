//! What a page is written in, and which of it a scraper asks for. Pure.

use crate::config::ClassicHistograms;

/// What a page is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus text 0.0.4.
    #[default]
    Text,
    /// `OpenMetrics` text 1.0.0. [`super::write_samples`] leaves its closing `# EOF` to [`Format::end`].
    OpenMetrics,
    /// Messages `io.prometheus.client.MetricFamily`, each behind its length. It alone carries native histograms.
    Protobuf,
}

/// How a page is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// What it is written in.
    pub format: Format,
    /// Whether distributions have classic buckets.
    pub classic: ClassicHistograms,
}

impl Style {
    /// Classic buckets are written.
    pub(super) fn has_classic(self) -> bool {
        match self.classic {
            ClassicHistograms::Auto => self.format != Format::Protobuf,
            ClassicHistograms::Always => true,
            ClassicHistograms::Never => false,
        }
    }
}

impl From<Format> for Style {
    fn from(format: Format) -> Self {
        Self { format, ..Self::default() }
    }
}

impl Format {
    /// The value of the header `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// What closes a page.
    #[must_use]
    pub fn end(self) -> &'static str {
        match self {
            Self::Text | Self::Protobuf => "",
            Self::OpenMetrics => "# EOF\n",
        }
    }

    /// The format that the value of a header `Accept` prefers. Text wins a tie and is the answer to anything
    /// that is not understood, as Prometheus' own clients do.
    #[must_use]
    pub fn preferred(accept: &str) -> Self {
        let mut best = (Self::Text, 0.0_f32);
        for (format, quality) in accept.split(',').filter_map(offered) {
            // Of those that are liked alike the simplest is taken, whatever their order.
            if quality > best.1 || (quality >= best.1 && format.rank() < best.0.rank()) {
                best = (format, quality);
            }
        }
        best.0
    }

    fn rank(self) -> u8 {
        match self {
            Self::Text => 0,
            Self::OpenMetrics => 1,
            Self::Protobuf => 2,
        }
    }
}

/// One range of a header `Accept`: the format that it takes, and how much it is liked. None for what is not served here.
fn offered(range: &str) -> Option<(Format, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    let (mut quality, mut version, mut message, mut encoding) = (1.0, None, None, None);
    for parameter in parts {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        let value = value.trim_matches('"');
        match name {
            "q" => quality = value.parse().unwrap_or(0.0),
            "version" => version = Some(value),
            "proto" => message = Some(value),
            "encoding" => encoding = Some(value),
            _ => {}
        }
    }
    let is = |name: &str| media_type.eq_ignore_ascii_case(name);
    let format = if is("application/vnd.google.protobuf") {
        let is_ours = message == Some("io.prometheus.client.MetricFamily") && encoding == Some("delimited");
        is_ours.then_some(Format::Protobuf)
    } else if is("application/openmetrics-text") {
        version.is_none_or(|version| version == "1.0.0").then_some(Format::OpenMetrics)
    } else if ["text/plain", "text/*", "*/*"].into_iter().any(is) {
        version.is_none_or(|version| version == "0.0.4").then_some(Format::Text)
    } else {
        None
    };
    format.filter(|_| quality > 0.0).map(|format| (format, quality))
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[track_caller]
    fn check(accept: &str, expected: Format) {
        assert_eq!(Format::preferred(accept), expected, "{accept:?}");
    }

    #[test]
    fn the_accept_header_decides_the_format() {
        check("", Format::Text);
        check("*/*", Format::Text);
        check("text/html", Format::Text);
        check("application/openmetrics-text", Format::OpenMetrics);
        check("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics);
        check("application/openmetrics-text;version=\"1.0.0\"", Format::OpenMetrics);
        check("application/openmetrics-text;version=0.0.1", Format::Text);
        check("application/openmetrics-text;q=0", Format::Text);
        check("application/openmetrics-text;q=0.2,text/plain;q=0.3", Format::Text);
        check("application/openmetrics-text,*/*", Format::Text);
    }

    #[test]
    fn a_scraper_that_takes_native_histograms_gets_protobuf() {
        // What Prometheus 3 sends, without and with protobuf in front.
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                          text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        check(prometheus, Format::OpenMetrics);
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        check(&format!("{protobuf};q=0.6,{prometheus}"), Format::Protobuf);
        check(&format!("{protobuf};q=0.1,{prometheus}"), Format::OpenMetrics);
        check(protobuf, Format::Protobuf);
        check(&format!("{protobuf};q=0"), Format::Text);
        check(&format!("{protobuf},*/*"), Format::Text);
        for other in ["encoding=text", "encoding=compact-text"] {
            check(
                &format!("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;{other}"),
                Format::Text,
            );
        }
        check("application/vnd.google.protobuf;proto=other.Message;encoding=delimited", Format::Text);
    }
}
