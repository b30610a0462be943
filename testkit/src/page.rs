//! A metrics page, read back without loss: values stay texts until the test says what they are.

use std::collections::BTreeMap;

/// One line of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The series' name, `_bucket`, `_sum` or `_count` included.
    pub name: String,
    /// All labels but the empty ones: to Prometheus they are absent.
    pub labels: BTreeMap<String, String>,
    /// The value as written.
    pub text: String,
}

/// A page in the text format.
#[derive(Clone, Debug)]
pub struct Page {
    /// All samples in their order.
    pub samples: Vec<Sample>,
    /// The page as it came.
    pub text: String,
}

impl Sample {
    /// The value of a label, empty if it is not there.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Seconds as nanoseconds, exactly.
    pub fn ns(&self) -> u64 {
        let (whole, part) = self.text.split_once('.').unwrap_or((&self.text, ""));
        let digits = format!("{whole}{part:0<9}");
        assert!(part.len() <= 9, "{self:?} is finer than a nanosecond");
        digits.parse().unwrap_or_else(|error| panic!("{self:?} is no decimal number of seconds: {error}"))
    }

    /// A whole number, exactly.
    pub fn count(&self) -> u64 {
        self.text.parse().unwrap_or_else(|error| panic!("{self:?} is no whole number: {error}"))
    }

    /// The value as Prometheus reads it.
    pub fn value(&self) -> f64 {
        self.text.parse().unwrap_or_else(|error| panic!("{self:?} is no number: {error}"))
    }

    /// Name and labels: the same for the same series on another page.
    pub fn series(&self) -> (String, BTreeMap<String, String>) {
        (self.name.clone(), self.labels.clone())
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.label(name) == *value)
    }
}

impl Page {
    /// Reads a page; panics where it is not in the text format.
    pub fn parse(text: &str) -> Self {
        Self::read(text).unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// The same; says what is not in the text format.
    pub fn read(text: &str) -> Result<Self, String> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).map_err(|refusal| format!("{refusal}: {line}")));
        Ok(Self { samples: samples.collect::<Result<_, _>>()?, text: text.to_owned() })
    }

    /// All samples of that name that have these labels, whatever others they have.
    pub fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.name == name && sample.has(labels)).collect()
    }

    /// The one sample of that name with these labels; none if there is none, and more than one fails the test.
    pub fn one(&self, name: &str, labels: &[(&str, &str)]) -> Option<&Sample> {
        let found = self.all(name, labels);
        assert!(found.len() < 2, "{name}{labels:?} is not one series but {found:?}");
        found.first().copied()
    }

    /// The one sample's seconds, in nanoseconds.
    pub fn ns(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        self.one(name, labels).map(Sample::ns)
    }

    /// The one sample's whole number.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        self.one(name, labels).map(Sample::count)
    }

    /// The one sample's value; it must be there.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.one(name, labels).unwrap_or_else(|| panic!("there is no {name}{labels:?}")).value()
    }

    /// The seconds of all samples of that name with these labels, in nanoseconds; 0 if there is none.
    pub fn sum_ns(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.all(name, labels).into_iter().map(Sample::ns).sum()
    }
}

fn sample(line: &str) -> Result<Sample, String> {
    let (series, text) = line.rsplit_once(' ').ok_or("a sample without a value")?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').ok_or("labels without a closing brace")?),
        None => (series, ""),
    };
    Ok(Sample { name: name.to_owned(), labels: read_labels(labels)?, text: text.to_owned() })
}

/// Reads `name="value",...`, the value with its escapes.
fn read_labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").ok_or_else(|| format!("no label at `{rest}`"))?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next() {
                Some((at, '"')) => break at,
                Some((_, '\\')) => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped)) => value.push(escaped),
                    None => return Err(format!("an escape without end in `{after}`")),
                },
                Some((_, plain)) => value.push(plain),
                None => return Err(format!("a label without end in `{after}`")),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("label {name} twice"));
        }
        rest = after.get(end + 1..).unwrap_or("").trim_start_matches(',');
    }
    labels.retain(|_, value| !value.is_empty());
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::Page;

    #[test]
    fn an_empty_label_is_an_absent_one_as_prometheus_has_it() {
        let page = Page::parse("a{namespace=\"\",pod=\"\",unit=\"x\\\"y\"} 1\na{pod=\"p\"} 2\n");
        assert_eq!(page.count("a", &[("unit", "x\"y"), ("pod", "")]), Some(1));
        assert_eq!(page.count("a", &[("pod", "p")]), Some(2));
        assert_eq!(page.samples[0].labels.len(), 1);
    }

    #[test]
    fn what_is_no_page_is_refused_with_its_line() {
        for (line, part) in [
            ("a", "without a value"),
            ("a{b=\"c\" 1", "closing brace"),
            ("a{b} 1", "no label at `b`"),
            ("a{b=\"c} 1", "without end"),
            ("a{b=\"c\\} 1", "without end"),
            ("a{b=\"c\",b=\"d\"} 1", "label b twice"),
        ] {
            let refusal = Page::read(&format!("# HELP a\nx 1\n{line}\n")).unwrap_err();
            assert!(refusal.contains(part) && refusal.ends_with(line), "{refusal}");
        }
        assert_eq!(Page::read("").unwrap().samples.len(), 0);
    }
}
