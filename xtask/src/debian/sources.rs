//! The machine's own list of Debian archives, turned to another release.
//!
//! Pure: texts in, text out. Both of apt's formats are read, one is written.

/// One archive: where it is, which releases it is asked for, and who signs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    locations: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// A file, or a whole key in continuation lines.
    signed_by: Option<String>,
}

/// The format of a file of sources, by its name's ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `.sources`: paragraphs of `Field: value`.
    Paragraphs,
    /// `.list`: lines of `deb [options] location suite component...`.
    Lines,
}

/// All sources of binary packages in one file.
pub(super) fn read(text: &str, format: Format) -> Vec<Source> {
    match format {
        Format::Paragraphs => {
            let paragraphs = text.split("\n\n");
            paragraphs.filter_map(read_paragraph).collect()
        }
        Format::Lines => text.lines().filter_map(read_line).collect(),
    }
}

/// The paragraph that asks the archive of `suite`, found among this machine's sources; `codename` is the
/// machine's own release.
///
/// Security updates live in an archive of their own, so a suite that ends in `-security` is asked for where the
/// machine gets its own security updates.
pub(super) fn paragraph_for(sources: &[Source], codename: &str, suite: &str) -> Option<String> {
    let own = if suite.ends_with("-security") { format!("{codename}-security") } else { codename.to_owned() };
    let source = sources
        .iter()
        .find(|source| source.suites.contains(&own) && source.components.iter().any(|part| part == "main"))?;
    let signed_by = source.signed_by.as_ref().map_or_else(String::new, |key| format!("Signed-By: {key}\n"));
    Some(format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{signed_by}", source.locations))
}

fn read_paragraph(text: &str) -> Option<Source> {
    let mut source = Source::default();
    let mut types = "";
    let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
    while let Some(line) = lines.next() {
        let Some((field, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        match field.to_ascii_lowercase().as_str() {
            "types" => types = value,
            "uris" => value.clone_into(&mut source.locations),
            "suites" => source.suites = words(value),
            "components" => source.components = words(value),
            "enabled" if matches!(value, "no" | "false" | "0") => return None,
            "signed-by" => {
                let mut key = value.to_owned();
                while let Some(more) = lines.next_if(|line| line.starts_with([' ', '\t'])) {
                    key.push('\n');
                    key.push_str(more);
                }
                source.signed_by = Some(key);
            }
            _ => {}
        }
    }
    words(types).iter().any(|kind| kind == "deb").then_some(source)
}

fn read_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracket) => bracket.split_once(']')?,
        None => ("", rest),
    };
    let mut fields = rest.split_whitespace();
    Some(Source {
        locations: fields.next()?.to_owned(),
        suites: vec![fields.next()?.to_owned()],
        components: fields.map(str::to_owned).collect(),
        signed_by: options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned),
    })
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{Format, paragraph_for, read};

    const PARAGRAPHS: &str = "\
# the main archive
Types: deb deb-src
URIs: http://mirror.test/debian
# a comment inside
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main
";
    const LINES: &str = "\
# deb http://commented.test/debian bookworm main
deb http://tools.test/apt bookworm stable
deb-src http://mirror.test/debian bookworm main
deb [arch=amd64 signed-by=/etc/apt/key.gpg] http://mirror.test/debian bookworm main non-free # why
deb http://mirror.test/debian-security bookworm-security main
";

    fn check(text: &str, format: Format, suite: &str, expected: &str) {
        let found = paragraph_for(&read(text, format), "bookworm", suite);
        assert_eq!(found.as_deref().unwrap_or("none"), expected, "{format:?} {suite}");
    }

    #[test]
    fn another_release_is_asked_for_where_the_machine_gets_its_own() {
        check(
            PARAGRAPHS,
            Format::Paragraphs,
            "trixie",
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: trixie\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian.gpg\n",
        );
        check(
            LINES,
            Format::Lines,
            "trixie",
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: trixie\nComponents: main\n\
             Signed-By: /etc/apt/key.gpg\n",
        );
    }

    #[test]
    fn security_updates_come_from_their_own_archive_with_its_key() {
        check(
            PARAGRAPHS,
            Format::Paragraphs,
            "bullseye-security",
            "Types: deb\nURIs: http://mirror.test/debian-security\nSuites: bullseye-security\n\
             Components: main\nSigned-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n",
        );
        check(
            LINES,
            Format::Lines,
            "bullseye-security",
            "Types: deb\nURIs: http://mirror.test/debian-security\nSuites: bullseye-security\n\
             Components: main\n",
        );
    }

    #[test]
    fn archives_that_are_off_or_are_not_debian_s_do_not_count() {
        let off = PARAGRAPHS.rsplit("\n\n").next().unwrap_or_default();
        check(off, Format::Paragraphs, "trixie", "none");
        let foreign = "deb http://tools.test/apt bookworm stable\n";
        check(foreign, Format::Lines, "trixie", "none");
    }
}
