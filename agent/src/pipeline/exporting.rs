//! A snapshot on its way to the exporters: the budget of series, by the configuration. Called by the pipeline.

use std::sync::Arc;

use tracing::{info, warn};

use super::{Pipeline, facts};
use crate::{
    collectors::{ALL, scheduler},
    config::{self, Series, Wanted},
    registry::{Budget, Detail, Rules, Snapshot},
    signal::{Shown, lock},
};

/// What of the metric of this name the configuration lets out.
pub(super) fn shown(series: &Series, name: &str) -> Shown {
    match series.wanted(name) {
        Wanted::All => Shown::All,
        Wanted::ByDefault => Shown::ByDefault,
        Wanted::Nothing => Shown::Nothing,
    }
}

/// What the configuration says of metrics that there are not, in words.
#[must_use]
pub fn strays(series: &Series) -> Vec<String> {
    let of_collectors = ALL.iter().flat_map(|spec| spec.metrics).map(|metric| metric.name);
    series.strays(&of_collectors.chain(facts::names()).collect::<Vec<_>>())
}

/// The budget that the configuration asks for.
pub(super) fn budget(series: &Series) -> Budget {
    let detail = |detail: config::Detail| match detail {
        config::Detail::Container => Detail::Container,
        config::Detail::Pod => Detail::Pod,
        config::Detail::Workload => Detail::Workload,
    };
    Budget::new(Rules {
        detail: detail(series.detail),
        details: ALL
            .iter()
            .filter_map(|spec| Some((*spec.metrics.first()?, detail(series.collectors.get(spec.name).copied()??))))
            .collect(),
        most_series: series.limit,
        activity: &scheduler::metrics::CPU,
    })
}

impl Pipeline {
    /// A view of now for the exporters, made by the caller's thread.
    pub(super) fn export(&self) -> Arc<Snapshot> {
        let snapshot = self.sweep();
        let mut budget = lock(&self.budget);
        let before = budget.spent().map_or(0, |spent| spent.folded);
        let snapshot = budget.apply(&snapshot);
        if let Some(spent) = budget.spent() {
            match (before, spent.folded) {
                (0, 1..) => warn!(
                    spent.folded,
                    spent.series,
                    "more series than series.limit: the least active containers are folded into their workloads"
                ),
                (1.., 0) => info!(spent.series, "no container is folded any more"),
                _ => {}
            }
        }
        snapshot
    }
}
