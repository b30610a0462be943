//! Who of several replicas tells: the one that holds a Lease, by the rules of Kubernetes' own components.
//!
//! A replica claims for a shorter time than it holds the Lease for, so that two never claim at once: whoever cannot renew stops
//! in time by itself, whatever the API server does. Only a replica's own clock counts, and of another's entry only whether it
//! changes. With each renewal goes what the holder is about to tell (handover.rs). [`decide`] is pure.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::Method;
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use super::handover::Telling;
use crate::{
    attribution::kubernetes::client::{Client, RequestError},
    log::with_causes,
    signal::lock,
};

/// Others wait so long after the last change before they take the Lease.
const DURATION: Duration = Duration::from_secs(15);
/// So long a claim lasts without a renewal.
const CLAIM: Duration = Duration::from_secs(10);
/// Whoever holds it renews it so often.
const RENEW: Duration = Duration::from_secs(4);
/// Others look so often, and so long a failure is waited out.
const LOOK: Duration = Duration::from_secs(2);
/// One request.
const REQUEST: Duration = Duration::from_secs(4);
/// Not even for news is it renewed more often.
const HASTE: Duration = Duration::from_secs(1);
/// Where marks of what is told stand in it.
const TOLD: &str = "podlens.io/told";
/// A Lease is a few hundred bytes, and 9 for each event of the last 2 minutes.
const LEASE_BYTES: usize = 1 << 20;

/// The claim of this replica.
#[derive(Debug, Default)]
pub struct Claim {
    /// Claims without a Lease, for ever.
    alone: bool,
    until: Mutex<Option<Instant>>,
}

impl Claim {
    /// There are no other replicas.
    #[must_use]
    pub fn alone() -> Self {
        Self { alone: true, until: Mutex::default() }
    }

    /// This replica tells.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.alone || lock(&self.until).is_some_and(|until| Instant::now() < until)
    }

    fn set(&self, until: Option<Instant>) {
        *lock(&self.until) = until;
    }
}

/// A Lease that replicas share.
pub struct Lease {
    client: Client,
    namespace: String,
    name: String,
    identity: String,
    claim: Arc<Claim>,
    telling: Arc<Telling>,
    count: Box<dyn Fn(&'static str) + Send + Sync>,
    seen: Option<Seen>,
}

/// The Lease as this replica last saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The whole object.
    object: Value,
    /// When it was first seen like that.
    since: Instant,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make the Lease, there is none.
    Make,
    /// Renew it, it is this replica's.
    Renew,
    /// Take it, it is nobody's any more.
    Take,
    /// Leave it to another.
    Wait,
}

/// Decides.
#[must_use]
pub fn decide(seen: Option<&Seen>, identity: &str, now: Instant) -> Act {
    let Some(seen) = seen else { return Act::Make };
    let holder = holder(&seen.object);
    let seconds = seen.object.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64).unwrap_or_default();
    match holder {
        holder if holder == identity => Act::Renew,
        "" => Act::Take,
        _ if now.duration_since(seen.since) >= Duration::from_secs(seconds) => Act::Take,
        _ => Act::Wait,
    }
}

impl Seen {
    /// The same entry stays as old as it is.
    fn newer(self, before: Option<Self>) -> Self {
        let spec = |seen: &Self| seen.object.get("spec").cloned();
        match before {
            Some(before) if spec(&before) == spec(&self) => Self { since: before.since, ..self },
            _ => self,
        }
    }
}

impl Lease {
    /// A Lease that nobody has asked for yet. `telling` is told when to tell, `count` what came of each request.
    pub fn new(
        client: Client,
        (namespace, name): (&str, &str),
        identity: &str,
        claim: Arc<Claim>,
        telling: Arc<Telling>,
        count: impl Fn(&'static str) + Send + Sync + 'static,
    ) -> Self {
        let (namespace, name, identity) = (namespace.to_owned(), name.to_owned(), identity.to_owned());
        Self { client, namespace, name, identity, claim, telling, count: Box::new(count), seen: None }
    }

    /// Holds it whenever it can be had. Never ends.
    pub async fn run(&mut self) {
        let (mut held, mut is_failing) = (false, false);
        loop {
            let outcome = tokio::time::timeout(REQUEST, self.step()).await;
            let pause = match outcome {
                Ok(Ok(())) => {
                    if std::mem::take(&mut is_failing) {
                        info!(lease = self.name, "the Lease can be asked for again");
                    }
                    if self.claim.holds() { RENEW } else { LOOK }
                }
                Ok(Err(error)) => {
                    (self.count)(error.result());
                    // Somebody was faster, or it is no longer what it was.
                    if !is_conflict(&error) && !std::mem::replace(&mut is_failing, true) {
                        let (lease, cause) = (&self.name, with_causes(&error));
                        warn!(lease, cause, "the Lease cannot be had; it takes get, create and update on leases");
                    }
                    self.client.renew_after(&error).await;
                    LOOK
                }
                Err(_) => {
                    (self.count)("timeout");
                    if !std::mem::replace(&mut is_failing, true) {
                        warn!(lease = self.name, limit = ?REQUEST, "the API server does not answer about the Lease");
                    }
                    LOOK
                }
            };
            if self.claim.holds() != held {
                held = !held;
                info!(lease = self.name, identity = self.identity, held, "the Lease");
            }
            tokio::time::sleep(HASTE).await;
            let rest = tokio::time::sleep(pause.saturating_sub(HASTE));
            if held {
                tokio::select! {
                    () = rest => {}
                    () = self.telling.news() => {}
                }
            } else {
                rest.await;
            }
        }
    }

    /// Gives it back, so that another has it in a moment.
    pub async fn release(&mut self) {
        let held = self.claim.holds();
        self.claim.set(None);
        let Some(seen) = self.seen.take().filter(|_| held) else { return };
        let mut object = seen.object;
        set(&mut object, "holderIdentity", json!(""));
        set(&mut object, "leaseDurationSeconds", json!(1));
        annotate(&mut object, &self.telling.handover().last_words());
        if let Err(error) = self.ask(Method::PUT, Some(&object)).await {
            debug!(cause = with_causes(&error), "the Lease was not given back and runs out");
        }
    }

    async fn step(&mut self) -> Result<(), RequestError> {
        let began = Instant::now();
        // Whoever holds it knows it, unless somebody meddles, which the version tells.
        if !self.claim.holds() {
            let found = match self.ask(Method::GET, None).await {
                Ok(object) => Some(Seen { object, since: Instant::now() }),
                Err(RequestError::Refused { status: http::StatusCode::NOT_FOUND, .. }) => None,
                Err(error) => return Err(error),
            };
            let before = self.seen.take();
            self.seen = found.map(|found| found.newer(before));
            self.hear();
        }
        let act = decide(self.seen.as_ref(), &self.identity, began);
        let is_vanished = act == Act::Take && self.seen.as_ref().is_some_and(|seen| !holder(&seen.object).is_empty());
        let (words, up_to) = self.telling.words();
        let written = match act {
            Act::Wait => {
                (self.count)("ok");
                return Ok(());
            }
            Act::Make => self.ask(Method::POST, Some(&self.entry(None, act, &words))).await,
            Act::Renew | Act::Take => {
                let object = self.entry(self.seen.as_ref().map(|seen| &seen.object), act, &words);
                self.ask(Method::PUT, Some(&object)).await
            }
        };
        match written {
            Ok(object) => {
                (self.count)("ok");
                self.seen = Some(Seen { object, since: Instant::now() });
                self.claim.set(Some(began + CLAIM));
                if is_vanished {
                    self.telling.handover().take_over();
                }
                self.telling.written(up_to);
                Ok(())
            }
            Err(error) => {
                if is_conflict(&error) {
                    self.claim.set(None);
                }
                Err(error)
            }
        }
    }

    /// Reads what the holder has told.
    fn hear(&self) {
        let Some(Seen { object, .. }) = &self.seen else { return };
        let told = object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(TOLD)?.as_str());
        let Some(told) = told else { return };
        let mut handover = self.telling.handover();
        if holder(object) == self.identity {
            handover.resume(told, Instant::now());
        } else {
            handover.hear(told, Instant::now());
        }
    }

    /// The Lease as this replica wants it, with these words; what else stands in it stays.
    fn entry(&self, before: Option<&Value>, act: Act, words: &str) -> Value {
        let now = micro_time(Timestamp::now());
        let mut object = before.cloned().unwrap_or_else(|| {
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": { "name": self.name, "namespace": self.namespace }, "spec": {},
            })
        });
        if act != Act::Renew {
            let transitions = object.pointer("/spec/leaseTransitions").and_then(Value::as_u64);
            set(&mut object, "acquireTime", json!(now));
            set(&mut object, "leaseTransitions", json!(transitions.map_or(0, |count| count + 1)));
        }
        set(&mut object, "holderIdentity", json!(self.identity));
        set(&mut object, "leaseDurationSeconds", json!(DURATION.as_secs()));
        set(&mut object, "renewTime", json!(now));
        annotate(&mut object, words);
        object
    }

    async fn ask(&self, method: Method, object: Option<&Value>) -> Result<Value, RequestError> {
        let all = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace);
        let path = if method == Method::POST { all } else { format!("{all}/{}", self.name) };
        let whole = self.client.ask(method, &path, object).await?.whole(LEASE_BYTES).await?;
        serde_json::from_slice(&whole)
            .map_err(|source| RequestError::Garbage { server: self.client.server().clone(), source: source.into() })
    }
}

fn is_conflict(error: &RequestError) -> bool {
    matches!(error, RequestError::Refused { status: http::StatusCode::CONFLICT, .. })
}

fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(spec) = member(object, "spec").and_then(Value::as_object_mut) {
        spec.insert(field.to_owned(), value);
    }
}

fn annotate(object: &mut Value, words: &str) {
    let annotations = member(object, "metadata").and_then(|metadata| member(metadata, "annotations"));
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.insert(TOLD.to_owned(), json!(words));
    }
}

/// A member, made if there is none.
fn member<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let member = object.as_object_mut()?.entry(name).or_insert(Value::Null);
    if member.is_null() {
        *member = json!({});
    }
    Some(member)
}

/// Who holds it; nobody if it was given back.
fn holder(object: &Value) -> &str {
    object.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default()
}

/// Kubernetes takes exactly six digits of a second's parts.
fn micro_time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn seen(holder: &str, renewed: &str, since: Instant) -> Seen {
        let spec = json!({ "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed });
        Seen { object: json!({ "spec": spec }), since }
    }

    #[test]
    fn a_lease_is_taken_once_its_holder_is_silent_for_its_time_by_this_clock() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(decide(None, "me", start), Act::Make);
        assert_eq!(decide(Some(&seen("me", "a", start)), "me", at(100)), Act::Renew);
        assert_eq!(decide(Some(&seen("", "a", start)), "me", start), Act::Take);
        assert_eq!(decide(Some(&seen("other", "a", start)), "me", at(14)), Act::Wait);
        assert_eq!(decide(Some(&seen("other", "a", start)), "me", at(15)), Act::Take);
        // The same entry stays as old as it is, and another begins anew.
        let again = seen("other", "a", at(14)).newer(Some(seen("other", "a", start)));
        assert_eq!(decide(Some(&again), "me", at(15)), Act::Take);
        let renewed = seen("other", "b", at(14)).newer(Some(seen("other", "a", start)));
        assert_eq!(decide(Some(&renewed), "me", at(15)), Act::Wait);
    }

    #[test]
    fn a_claim_ends_by_itself_before_others_may_take_the_lease() {
        assert!(CLAIM + REQUEST < DURATION);
        let claim = Claim::default();
        assert!(!claim.holds() && Claim::alone().holds());
        claim.set(Some(Instant::now() + Duration::from_millis(20)));
        assert!(claim.holds());
        std::thread::sleep(Duration::from_millis(30));
        assert!(!claim.holds());
    }

    #[test]
    fn times_have_six_digits_of_a_second() {
        let at = |text: &str| micro_time(text.parse().unwrap());
        assert_eq!(at("2026-01-01T00:00:00Z"), "2026-01-01T00:00:00.000000Z");
        assert_eq!(at("2026-01-01T00:00:00.0000015Z"), "2026-01-01T00:00:00.000001Z");
    }
}
