//! Checks what requests show. A password's hash is slow on purpose, so a password is checked once and remembered, and wrong
//! ones cost a bounded share of one CPU, whoever sends how many.
//!
//! - One password is checked at a time, on a thread that may block: answers go on meanwhile.
//! - After a wrong one the next check waits nine times as long as this one took: a tenth of a CPU at most.
//! - Each address may have one password waiting, and all of them together eight. The same password of several connections is
//!   one. A scraper that is not known yet gets its turn even while somebody else guesses.
//! - What is remembered are digests with a key that only this process has: nothing to be read from its memory, and nothing to
//!   be learned from how long a comparison takes.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use hyper::HeaderMap;
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use tokio::sync::{Semaphore, watch};

use super::{
    WebError,
    credentials::{Credentials, Digest, Shown, shown},
};
use crate::{signal::lock, telemetry::Refusal};

/// Passwords that are remembered, of each kind. Beyond them the oldest are checked again.
const REMEMBERED: usize = 100;
/// Passwords that wait to be checked.
const WAITING: usize = 8;
/// A request waits so long for the check of its password: less than Prometheus waits for an answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Of the time that a wrong password took: for so long none is checked.
const PAUSES: u32 = 9;

pub(super) struct Checker {
    key: hmac::Key,
    known: Mutex<Known>,
    gate: Arc<Semaphore>,
}

#[derive(Default)]
struct Known {
    right: VecDeque<Digest>,
    wrong: VecDeque<Digest>,
    waiting: HashMap<Digest, Waiting>,
}

struct Waiting {
    peer: IpAddr,
    outcome: watch::Receiver<Option<bool>>,
}

/// What is known of a password at once.
enum Verdict {
    Right,
    Wrong,
    /// It will be told here.
    Waits(watch::Receiver<Option<bool>>),
    /// It will be told there, once somebody has checked it.
    ToCheck(watch::Sender<Option<bool>>, watch::Receiver<Option<bool>>),
    TooMany,
}

impl Checker {
    pub(super) fn new() -> Result<Self, WebError> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| WebError::NoRandomness)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Ok(Self { key, known: Mutex::default(), gate: Arc::new(Semaphore::new(1)) })
    }

    /// Of these texts, which no other texts have.
    pub(super) fn digest(&self, texts: &[&[u8]]) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        for text in texts {
            context.update(&text.len().to_le_bytes());
            context.update(text);
        }
        context.sign().as_ref().try_into().unwrap_or_default()
    }

    /// Whether a request with these headers is let in.
    pub(super) async fn check(
        self: &Arc<Self>,
        credentials: &Credentials,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<(), Refusal> {
        let (user, password) = match shown(headers) {
            Shown::Nothing => return Err(Refusal::MissingCredentials),
            Shown::Unreadable => return Err(Refusal::WrongCredentials),
            Shown::Token(token) => {
                let is_known = credentials.has_token(&self.digest(&[token.as_bytes()]));
                return is_known.then_some(()).ok_or(Refusal::WrongCredentials);
            }
            Shown::Password { user, password } => (user, password),
        };
        let Some((hash, is_user)) = credentials.hash(&user, self) else { return Err(Refusal::WrongCredentials) };
        let digest = self.digest(&[user.as_bytes(), hash.as_bytes(), &password]);
        let mut outcome = match self.known().verdict(digest, peer) {
            Verdict::Right => return Ok(()),
            Verdict::Wrong => return Err(Refusal::WrongCredentials),
            Verdict::TooMany => return Err(Refusal::UncheckedCredentials),
            Verdict::Waits(outcome) => outcome,
            Verdict::ToCheck(told, outcome) => {
                let (checker, hash) = (Arc::clone(self), hash.to_owned());
                // Not part of the request: that may be given up, and the check would be without a bound then.
                tokio::spawn(async move { checker.look(digest, password, hash, is_user, &told).await });
                outcome
            }
        };
        let told = tokio::time::timeout(PATIENCE, outcome.wait_for(Option::is_some)).await;
        match told.ok().and_then(Result::ok).and_then(|outcome| *outcome) {
            Some(true) => Ok(()),
            Some(false) => Err(Refusal::WrongCredentials),
            None => Err(Refusal::UncheckedCredentials),
        }
    }

    /// Checks one password when its turn comes, and tells.
    async fn look(
        &self,
        digest: Digest,
        password: Vec<u8>,
        hash: String,
        is_user: bool,
        told: &watch::Sender<Option<bool>>,
    ) {
        // Nobody closes the gate.
        let Ok(_turn) = self.gate.acquire().await else { return };
        let checked = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            (bcrypt::verify(password, &hash).unwrap_or(false), began.elapsed())
        });
        let (matches, took) = checked.await.unwrap_or_default();
        let is_right = matches && is_user;
        self.known().learn(digest, is_right);
        told.send_replace(Some(is_right));
        if !is_right {
            tokio::time::sleep(took * PAUSES).await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

impl Known {
    fn verdict(&mut self, digest: Digest, peer: IpAddr) -> Verdict {
        if self.right.contains(&digest) {
            return Verdict::Right;
        }
        if self.wrong.contains(&digest) {
            return Verdict::Wrong;
        }
        if let Some(waiting) = self.waiting.get(&digest) {
            return Verdict::Waits(waiting.outcome.clone());
        }
        if self.waiting.len() >= WAITING || self.waiting.values().any(|waiting| waiting.peer == peer) {
            return Verdict::TooMany;
        }
        let (told, outcome) = watch::channel(None);
        self.waiting.insert(digest, Waiting { peer, outcome: outcome.clone() });
        Verdict::ToCheck(told, outcome)
    }

    fn learn(&mut self, digest: Digest, is_right: bool) {
        self.waiting.remove(&digest);
        let remembered = if is_right { &mut self.right } else { &mut self.wrong };
        if remembered.len() >= REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(digest);
    }
}
