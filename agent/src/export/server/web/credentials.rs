//! Who may ask, and what a request shows of itself. Pure.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{HeaderMap, header};

use super::{WebError, checker::Checker, files::Contents};

/// A keyed digest of something secret: it can be compared and kept without care.
pub(super) type Digest = [u8; 32];

/// Shorter tokens could be guessed, since they are checked at once.
const LEAST_TOKEN: usize = 16;

/// Everybody who may ask.
pub(super) struct Credentials {
    /// bcrypt hashes by user.
    users: BTreeMap<String, String>,
    tokens: Vec<Digest>,
}

/// What the `Authorization` header has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    Password {
        user: String,
        password: Vec<u8>,
    },
    Token(String),
    /// Of another scheme, or malformed.
    Unreadable,
}

impl Credentials {
    /// None: nobody has to show anything.
    pub(super) fn new(contents: &Contents, checker: &Checker) -> Result<Option<Self>, WebError> {
        if !contents.web.asks_for_credentials() {
            return Ok(None);
        }
        let mut tokens = Vec::new();
        if let Some(path) = &contents.web.token_file {
            let wrong = |what| WebError::Tokens { path: path.clone(), what, least: LEAST_TOKEN };
            let text = std::str::from_utf8(contents.of(path)).map_err(|_| wrong("is no text"))?;
            for token in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
                if token.len() < LEAST_TOKEN {
                    return Err(wrong("has a short token"));
                }
                if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(wrong("has a line that is no token"));
                }
                tokens.push(checker.digest(&[token.as_bytes()]));
            }
            if tokens.is_empty() {
                return Err(wrong("has no token"));
            }
        }
        Ok(Some(Self { users: contents.web.users.0.clone(), tokens }))
    }

    pub(super) fn has_token(&self, token: &Digest) -> bool {
        self.tokens.contains(token)
    }

    /// The user's hash and true, or that of somebody else and false: whether a user exists is not told by the time that a
    /// wrong password takes, even where hashes differ in cost. None: there are no users at all.
    pub(super) fn hash(&self, user: &str, checker: &Checker) -> Option<(&str, bool)> {
        if let Some(hash) = self.users.get(user) {
            return Some((hash, true));
        }
        let [first, second, ..] = checker.digest(&[b"nobody", user.as_bytes()]);
        let at = usize::from(u16::from_le_bytes([first, second])).checked_rem(self.users.len())?;
        self.users.values().nth(at).map(|hash| (hash.as_str(), false))
    }

    pub(super) fn challenges(&self) -> impl Iterator<Item = &'static str> + use<> {
        let basic = (!self.users.is_empty()).then_some("Basic realm=\"podlens\", charset=\"UTF-8\"");
        let bearer = (!self.tokens.is_empty()).then_some("Bearer realm=\"podlens\"");
        basic.into_iter().chain(bearer)
    }
}

pub(super) fn shown(headers: &HeaderMap) -> Shown {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Shown::Nothing };
    let read = || {
        let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Shown::Token(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = STANDARD.decode(rest).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        let (user, password) = pair.split_at_checked(colon)?;
        let user = std::str::from_utf8(user).ok()?.to_owned();
        Some(Shown::Password { user, password: password.get(1..)?.to_vec() })
    };
    // Two headers would leave it open which one counts.
    if all.next().is_some() { Shown::Unreadable } else { read().unwrap_or(Shown::Unreadable) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

    use hyper::{
        HeaderMap,
        header::{AUTHORIZATION, HeaderValue},
    };

    use super::{Shown, shown};

    fn of(values: &[&str]) -> Shown {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        shown(&headers)
    }

    #[test]
    fn what_a_request_shows_is_read_as_rfc_7617_and_6750_have_it() {
        let password = |user: &str, password: &[u8]| Shown::Password { user: user.into(), password: password.into() };
        assert_eq!(of(&[]), Shown::Nothing);
        assert_eq!(of(&["Basic cHJvbTpzZWNyZXQ="]), password("prom", b"secret"));
        assert_eq!(of(&["basic  cHJvbTphOmI="]), password("prom", b"a:b"), "the first colon divides");
        assert_eq!(of(&["BASIC Og=="]), password("", b""));
        assert_eq!(of(&["Bearer abc.def"]), Shown::Token("abc.def".into()));
        for unreadable in ["", "Basic", "Basic !", "Basic cHJvbQ==", "Basic /zo=", "Digest x", "Bearer"] {
            assert_eq!(of(&[unreadable]), Shown::Unreadable, "{unreadable:?}");
        }
        assert_eq!(of(&["Bearer a", "Bearer a"]), Shown::Unreadable);
    }
}
