//! Which culprits get a name where only those are told that cause much.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{CPU, Definition, Entity, Layout, Ledger, Names, entity};
use crate::{
    registry::{Snapshot, Value, ledger::totals::Totals, snapshot::Culprit},
    signal::{ByDefault, EntityKey, Metric, Shown, Since, Split},
};

static HEAVY: Metric = Metric {
    name: "heavy_seconds_total",
    split: Some(Split { of: &CPU, combinations: &[0] }),
    by_default: ByDefault::Heavy,
    ..Metric::BASE
};

const MS: u64 = 1_000_000;

/// An entity that loses time to others.
struct Victim {
    ledger: Ledger,
    layout: Layout,
    now: Instant,
    lost: u64,
    /// What the others without a name had at the last sweep.
    other: u64,
}

impl Victim {
    fn new() -> Self {
        let layout = Layout::new(&[&CPU, &HEAVY]).showing(|_| Shown::ByDefault);
        let definition = Definition { layout: Arc::new(layout.clone()), active: true };
        let ledger = Ledger::new(vec![definition], Duration::from_mins(5));
        Self { ledger, layout, now: Instant::now(), lost: 0, other: 0 }
    }

    /// A sweep 15 s after the last one, in which it lost so much to each. Gives what each culprit with a name has; what all have
    /// is what it lost, and the others' part never decreases.
    #[track_caller]
    fn lose(&mut self, to: &[(&str, u64)]) -> Vec<(String, u64)> {
        let names = Names::default();
        self.now += Duration::from_secs(15);
        self.lost += to.iter().map(|(_, amount)| amount).sum::<u64>();
        let mut row = self.layout.row();
        row.add(&self.layout, &CPU, 0, self.lost);
        self.ledger.begin(self.now, &names);
        let id = self.ledger.entity(&entity("u", "1").into(), Since::NEVER);
        self.ledger.observe(0, id, &row);
        for (culprit, amount) in to {
            let culprit = self.ledger.culprit(&EntityKey::from(Entity::unit(culprit)));
            self.ledger.caused(0, &HEAVY, id, culprit, *amount);
        }
        self.ledger.finish(self.now, &names);
        let snapshot = self.ledger.snapshot(SystemTime::UNIX_EPOCH, "n".into(), &names);
        let (heavy, other) = told(&snapshot);
        assert_eq!(heavy.iter().map(|(_, amount)| amount).sum::<u64>() + other, self.lost);
        assert!(other >= self.other, "{other} after {}", self.other);
        self.other = other;
        heavy
    }
}

fn told(snapshot: &Snapshot) -> (Vec<(String, u64)>, u64) {
    let (mut named, mut other) = (Vec::new(), 0);
    let samples = snapshot.families().filter(|family| *family.metric() == HEAVY);
    for sample in samples.flat_map(crate::registry::Family::samples) {
        let Value::Nanoseconds(amount) = sample.value else { panic!("{sample:?}") };
        match sample.culprit.unwrap() {
            Culprit::Entity(position) => named.push((snapshot.entity(position).unwrap().entity.to_string(), amount)),
            Culprit::Other => other += amount,
        }
    }
    (named, other)
}

fn everybody() -> Vec<(String, u64)> {
    (0..40).map(|number| (format!("unit-{number}"), 2 * MS)).collect()
}

fn borrowed(of: &[(String, u64)]) -> Vec<(&str, u64)> {
    of.iter().map(|(name, amount)| (name.as_str(), *amount)).collect()
}

fn expected(of: &[(&str, u64)]) -> Vec<(String, u64)> {
    of.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
}

#[test]
fn whoever_delays_as_little_as_everybody_has_no_name_and_the_one_who_delays_most_has_one_at_once() {
    let mut victim = Victim::new();
    let everybody = everybody();
    for _ in 0..30 {
        assert_eq!(victim.lose(&borrowed(&everybody)), []);
    }
    let with_noisy = [&borrowed(&everybody)[..], &[("noisy", 70 * MS)]].concat();
    assert_eq!(victim.lose(&with_noisy), expected(&[("noisy", 70 * MS)]));
    assert_eq!(victim.lose(&borrowed(&everybody)), expected(&[("noisy", 70 * MS)]), "a name stays");
    assert_eq!(victim.lose(&[("noisy", MS)]), expected(&[("noisy", 71 * MS)]));
}

#[test]
fn what_lies_long_back_does_not_keep_a_culprit_from_its_name_and_does_not_earn_one() {
    let mut victim = Victim::new();
    let everybody = everybody();
    for _ in 0..10 {
        victim.lose(&borrowed(&everybody));
    }
    assert_eq!(victim.lose(&[("slow", MS / 2)]), []);
    for _ in 0..40 {
        assert_eq!(victim.lose(&[]), []);
    }
    assert_eq!(victim.lose(&[("slow", MS / 2)]), [], "each time too little, with ten minutes between");
    assert_eq!(victim.lose(&[("slow", MS / 2)]), expected(&[("slow", MS / 2)]), "twice within a minute it is enough");
}

#[test]
fn less_than_a_millisecond_is_not_worth_a_name_though_it_is_all_that_was_lost() {
    let mut victim = Victim::new();
    assert_eq!(victim.lose(&[("kernel", MS - 1)]), []);
    assert_eq!(victim.lose(&[("kernel", 5 * MS)]), expected(&[("kernel", 5 * MS)]));
}

#[test]
fn all_culprits_of_several_forgotten_instances_keep_their_names() {
    let layout = Layout::new(&[&CPU, &HEAVY]);
    let mut ledger = Ledger::new(Vec::new(), Duration::ZERO);
    let mut instance = |first: u32| {
        let mut totals = Totals::default();
        for number in first..first + 16 {
            totals.cause(0, ledger.culprit(&Entity::unit(&number.to_string()).into()), 5);
        }
        totals
    };
    let mut carried = instance(0);
    carried.add(&layout, &instance(8));
    assert_eq!(carried.caused().len(), 24);
    assert_eq!(carried.caused().iter().map(|caused| caused.amount).sum::<u64>(), 160);
    (2..20).for_each(|number| carried.add(&layout, &instance(number * 16)));
    assert_eq!(carried.caused().len(), 64, "bounded");
}
