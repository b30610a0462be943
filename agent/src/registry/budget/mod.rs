//! How many series leave the node: the step between a snapshot and all of its readers that folds containers into their
//! pods or workloads. What of each metric leaves the node at all stands in the sections' layouts.
//!
//! Pure but for what it remembers: counters of a fold never decrease, so what its members had that are gone is kept for as
//! long as it has members (kept.rs), and who is folded stays where it is (homes.rs). Whose values go where is found in
//! targets.rs. The pipeline calls it; it knows no metric by name but the one that tells who is active, which it is given.

mod homes;
mod kept;
mod targets;

use std::{collections::HashSet, sync::Arc};

use self::{
    homes::Homes,
    kept::{Kept, instance},
    targets::Targets,
};
use super::{EntityState, Family, Section, Snapshot};
use crate::signal::{Entity, Metric};

/// How finely what runs in pods is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Each container.
    #[default]
    Container,
    /// Each pod.
    Pod,
    /// Each workload; a pod of which none is known counts as itself.
    Workload,
}

/// What is wanted.
pub struct Rules {
    /// Unless `details` says otherwise.
    pub detail: Detail,
    /// By the first metric of a collector.
    pub details: Vec<(&'static Metric, Detail)>,
    /// Beyond so many series containers are folded into their workloads, the least active first. A distribution is one.
    pub most_series: Option<usize>,
    /// What tells how active a container is.
    pub activity: &'static Metric,
}

/// What it came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Series of the last snapshot, each distribution as one.
    pub series: usize,
    /// Containers that are folded since there would be too many series.
    pub folded: usize,
}

/// The rules, and what is remembered between snapshots.
pub struct Budget {
    rules: Rules,
    /// Containers without instances that are folded for the limit. They stay so: to take their values out again would
    /// make the workload's counters decrease.
    folded: HashSet<Entity>,
    /// Their instances in the last snapshot, which may be called differently in the next one.
    folded_instances: HashSet<Arc<str>>,
    homes: Homes,
    kept: Kept,
    spent: Option<Spent>,
}

/// A snapshot's sections with their rows where they belong.
struct Folded {
    sections: Vec<Section>,
    /// For each section and entity whose row its values went to.
    into: Vec<Vec<u32>>,
}

impl Budget {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            folded: HashSet::new(),
            folded_instances: HashSet::new(),
            homes: Homes::default(),
            kept: Kept::default(),
            spent: None,
        }
    }

    /// What the last snapshot came to; none without a limit.
    #[must_use]
    pub fn spent(&self) -> Option<Spent> {
        self.spent
    }

    /// The snapshot as its readers get it: the very same where nothing is to be changed. To be called for each snapshot, in
    /// their order.
    pub fn apply(&mut self, raw: &Arc<Snapshot>) -> Arc<Snapshot> {
        let details: Vec<Detail> = raw.sections.iter().map(|section| self.detail(section)).collect();
        let folds = details.iter().any(|detail| *detail != Detail::Container);
        if !folds && self.rules.most_series.is_none() {
            return Arc::clone(raw);
        }
        self.homes.learn(raw);
        let mut targets = Targets::of(raw, &self.homes);
        // Whoever is folded for the limit stays so under another name.
        if !self.folded_instances.is_empty() {
            let renamed = instances(raw).filter(|(id, _)| self.folded_instances.contains(*id));
            self.folded.extend(renamed.map(|(_, series)| series));
        }
        let mut folded = self.fold(raw, &targets, &details);
        if let Some(most) = self.rules.most_series {
            loop {
                let series = count(&folded.sections);
                let present = self.folded.iter().filter(|series| targets.has(series));
                self.spent = Some(Spent { series, folded: present.count() });
                if series <= most || !self.fold_more(raw, &details, &folded, series - most) {
                    break;
                }
                folded = self.fold(raw, &targets, &details);
            }
            let instances = instances(raw).filter(|(_, series)| self.folded.contains(series));
            self.folded_instances = instances.map(|(id, _)| Arc::clone(id)).collect();
        }
        self.kept.settle(raw, &mut targets, &mut folded);
        // What is kept of someone may be carried on when it comes again: where it was before.
        self.folded.retain(|series| targets.has(series) || self.kept.has(series));
        self.homes.forget(raw, &self.kept.pods());
        let infos = raw.infos.iter().filter(|info| {
            let is_shown = |section: &Vec<u32>| {
                let into = at(section, info.entity);
                into == Some(info.entity) || info.metric.of_pod && into == at(&targets.pod, info.entity)
            };
            folded.into.iter().any(is_shown)
        });
        Arc::new(Snapshot {
            infos: infos.cloned().collect(),
            sections: folded.sections,
            entities: if folds || !self.folded.is_empty() {
                Arc::new(targets.entities)
            } else {
                Arc::clone(&raw.entities)
            },
            node: Arc::clone(&raw.node),
            ..**raw
        })
    }

    fn detail(&self, section: &Section) -> Detail {
        let first = section.layout().columns().first().map(|column| column.metric);
        let detail = self.rules.details.iter().find(|(metric, _)| first == Some(metric));
        detail.map_or(self.rules.detail, |(_, detail)| *detail)
    }

    fn fold(&self, raw: &Snapshot, targets: &Targets, details: &[Detail]) -> Folded {
        let mut all = Folded { sections: Vec::new(), into: Vec::new() };
        for (section, detail) in raw.sections.iter().zip(details) {
            let itself = |position: u32| position;
            let of_limit = |position: u32| {
                let state = raw.entity(position);
                state.is_some_and(|state| !self.folded.is_empty() && self.folded.contains(&state.entity.series()))
            };
            let into: Vec<u32> = (0_u32..)
                .take(targets.entities.len())
                .map(|position| match detail {
                    Detail::Container if of_limit(position) => targets.workload(position),
                    Detail::Container => itself(position),
                    Detail::Pod => targets.pod(position),
                    Detail::Workload => targets.workload(position),
                })
                .collect();
            let merged = if (0_u32..).zip(&into).all(|(position, into)| position == *into) {
                section.clone()
            } else {
                let is_past = |position: u32| {
                    let gone = raw.entity(position).is_none_or(|state| state.gone || state.carried);
                    let target = at(&into, position).and_then(|into| targets.entities.get(usize::try_from(into).ok()?));
                    gone && at(&into, position) != Some(position) && target.is_some_and(|target| !target.gone)
                };
                section.merged(&into, is_past, |culprit| {
                    Some(match detail {
                        Detail::Container => culprit,
                        Detail::Pod => targets.pod(culprit),
                        Detail::Workload => targets.workload(culprit),
                    })
                })
            };
            all.sections.push(merged);
            all.into.push(into);
        }
        all
    }

    /// Folds the least active containers that still have series of their own, until so many are gone as far as can be told
    /// before. False if there is none.
    fn fold_more(&mut self, raw: &Snapshot, details: &[Detail], folded: &Folded, excess: usize) -> bool {
        let mut candidates: Vec<(u64, Entity, usize)> = Vec::new();
        for (position, state) in (0_u32..).zip(&*raw.entities) {
            let series = state.entity.series();
            if !matches!(*state.entity, Entity::Container(_)) || self.folded.contains(&series) {
                continue;
            }
            let own = folded.sections.iter().zip(details).filter(|(_, detail)| **detail == Detail::Container);
            let own: usize = own.map(|(section, _)| count_of(section, position)).sum();
            if own > 0 {
                candidates.push((self.activity(raw, position), series, own));
            }
        }
        candidates.sort_unstable();
        let mut over = excess;
        for (_, series, own) in &candidates {
            self.folded.insert(series.clone());
            over = over.saturating_sub(*own);
            if over == 0 {
                break;
            }
        }
        !candidates.is_empty()
    }

    fn activity(&self, raw: &Snapshot, position: u32) -> u64 {
        raw.sections.iter().find_map(|section| section.total(self.rules.activity, position)).unwrap_or(0)
    }
}

/// Each instance of a container, and what it is called without it.
fn instances(raw: &Snapshot) -> impl Iterator<Item = (&Arc<str>, Entity)> {
    let instances = raw.entities.iter().filter(|state| !state.carried);
    instances.filter_map(|state| Some((instance(&state.entity)?, state.entity.series())))
}

fn count(sections: &[Section]) -> usize {
    sections.iter().flat_map(Section::families).flat_map(Family::samples).count()
}

fn count_of(section: &Section, position: u32) -> usize {
    section.families().flat_map(|family| family.samples_of(position)).count()
}

fn at(list: &[u32], position: u32) -> Option<u32> {
    list.get(usize::try_from(position).ok()?).copied()
}

#[cfg(test)]
mod tests;
