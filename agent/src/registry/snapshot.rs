//! One immutable view of all values, and its parts.
//!
//! Values stand as the ledger added them up, one row per entity and section. Whoever wants them by metric walks
//! [`Snapshot::families`], whoever wants each metric once [`Snapshot::grouped_families`].

use std::{sync::Arc, time::SystemTime};

use super::by_default::is_by_default;
use crate::signal::{Column, EntityKey, Histogram, InfoMetric, Kind, Layout, Metric, Row, Shown, Since, Unit};

/// Everything podlens knows about the node's entities at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows by one with every snapshot; exporters acknowledge it.
    pub sequence: u64,
    /// The moment of the sweep.
    pub taken: SystemTime,
    /// Label `node` and resource attribute `k8s.node.name`.
    pub node: Arc<str>,
    /// All entities, in the order of their names but for culprits that have no values of their own, which stand behind;
    /// a sample refers to its entity by position.
    pub entities: Arc<Vec<EntityState>>,
    /// Values, one part per collector, in the collectors' order.
    pub sections: Vec<Section>,
    /// Facts about entities.
    pub infos: Arc<[Info]>,
}

/// Facts about an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The definition.
    pub metric: &'static InfoMetric,
    /// Position in [`Snapshot::entities`].
    pub entity: u32,
    /// Label names and values, the same names in the same order for each of one metric. An empty value is not known.
    pub labels: Vec<(&'static str, Arc<str>)>,
}

/// An entity in a snapshot.
#[derive(Clone, Debug)]
pub struct EntityState {
    /// Who it is, by the names that are known.
    pub entity: EntityKey,
    /// Who it is, whatever it is called: the same in each snapshot that has it. The names of its cgroup as a rule.
    pub id: EntityKey,
    /// When its first cgroup was made, or that it was there when podlens began: the start of its counters.
    pub since: Since,
    /// Its last cgroup is gone: these are its final values.
    pub gone: bool,
    /// What instances that are gone and delivered have used under the same namespace, pod and container as one
    /// that lives. Series that are not told apart by the instance go on from there; others leave it out.
    pub carried: bool,
}

/// The values of one collector's metrics. An entity that has none takes no room.
#[derive(Clone, Debug, Default)]
pub struct Section {
    layout: Arc<Layout>,
    /// Each entity's row, by its position in [`Snapshot::entities`].
    row_of: Vec<Option<u32>>,
    /// The bits of the metrics that each row has.
    present: Vec<u64>,
    /// All rows, one behind the other.
    cells: Vec<u64>,
    /// Values split by who caused them, in the order of the entities.
    caused: Vec<Caused>,
}

/// What one entity lost to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caused {
    /// Position in [`Snapshot::entities`] of who lost it.
    pub entity: u32,
    /// Position of the split metric among the section's columns.
    pub column: u32,
    /// Who caused it.
    pub culprit: Culprit,
    /// How much.
    pub amount: u64,
}

/// Who caused a part of somebody else's loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Culprit {
    /// Position in [`Snapshot::entities`].
    Entity(u32),
    /// All those that have no sample of their own.
    Other,
}

/// All samples of one metric.
#[derive(Clone, Copy, Debug)]
pub struct Family<'a> {
    section: &'a Section,
    column: &'a Column,
    number: u32,
}

/// One value of one entity.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Position in [`Snapshot::entities`].
    pub entity: u32,
    /// Which combination of the metric's own labels, see [`Column::values`].
    pub combination: usize,
    /// For values split by who caused them.
    pub culprit: Option<Culprit>,
    /// The value.
    pub value: Value<'a>,
}

/// A value, exact as the kernel counted it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A number of things or bytes.
    Integer(u64),
    /// A duration, exported in seconds.
    Nanoseconds(u64),
    /// A ratio or a fraction.
    Float(f64),
    /// A distribution.
    Histogram(Histogram<'a>),
}

static NO_OBSERVATION: [u64; Histogram::CELLS] = [0; Histogram::CELLS];

impl Value<'_> {
    /// The value of this kind when nothing has happened.
    #[must_use]
    pub fn none(self) -> Self {
        match self {
            Self::Integer(_) => Self::Integer(0),
            Self::Nanoseconds(_) => Self::Nanoseconds(0),
            Self::Float(_) => Self::Float(0.0),
            Self::Histogram(_) => Self::Histogram(Histogram::new(&NO_OBSERVATION)),
        }
    }
}

impl Snapshot {
    /// One without any value: what there is before the first sweep, or where nothing is measured.
    #[must_use]
    pub fn empty(node: Arc<str>, sequence: u64, taken: SystemTime) -> Self {
        let (entities, sections, infos) = (Arc::default(), Vec::new(), Arc::new([]));
        Self { sequence, taken, node, entities, sections, infos }
    }

    /// The entity of that position.
    #[must_use]
    pub fn entity(&self, position: u32) -> Option<&EntityState> {
        self.entities.get(usize::try_from(position).ok()?)
    }

    /// Every metric of the collectors at work, in their order, with samples or without.
    pub fn families(&self) -> impl Iterator<Item = Family<'_>> {
        self.sections.iter().flat_map(Section::families)
    }

    /// The same, those of one name together: several collectors may have some of one metric, under other values of its labels.
    #[must_use]
    pub fn grouped_families(&self) -> Vec<Vec<Family<'_>>> {
        let mut groups: Vec<Vec<Family<'_>>> = Vec::new();
        for part in self.families() {
            let name = part.metric().name;
            let mut known = groups.iter_mut();
            match known.find(|parts| parts.first().is_some_and(|first| first.metric().name == name)) {
                Some(parts) => parts.push(part),
                None => groups.push(vec![part]),
            }
        }
        groups
    }
}

impl Section {
    /// An empty section whose rows are laid out so.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout, ..Self::default() }
    }

    /// A section with these rows, each of the entity of that position among so many, and what entities lost to others,
    /// in the order of the entities.
    #[must_use]
    pub fn of_rows(
        layout: Arc<Layout>,
        entities: usize,
        rows: impl IntoIterator<Item = (u32, Row)>,
        caused: Vec<Caused>,
    ) -> Self {
        let mut section = Self { row_of: vec![None; entities], caused, ..Self::new(layout) };
        for (entity, row) in rows {
            let number = section.push(&row);
            if let Some(place) = usize::try_from(entity).ok().and_then(|entity| section.row_of.get_mut(entity)) {
                *place = Some(number);
            }
        }
        section
    }

    /// How its rows are laid out.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Every metric of the section that is shown.
    pub fn families(&self) -> impl Iterator<Item = Family<'_>> {
        let families = (0..).zip(self.layout.columns()).filter(|(_, column)| column.is_shown());
        families.map(|(number, column)| Family { section: self, column, number })
    }

    /// Values split by who caused them, in the order of the entities.
    #[must_use]
    pub fn caused(&self) -> &[Caused] {
        &self.caused
    }

    /// Takes everything out and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.row_of.clear();
        self.present.clear();
        self.cells.clear();
        self.caused.clear();
    }

    /// The sum of an entity's values of a metric; none if it is not among the section's.
    pub(super) fn total(&self, metric: &Metric, entity: u32) -> Option<u64> {
        let column = self.layout.column(metric)?;
        let (cells, present) = self.cells(entity)?;
        Some(column.of(cells, present)?.iter().sum())
    }

    /// A copy of an entity's row.
    pub(super) fn row(&self, entity: u32) -> Option<Row> {
        self.cells(entity).map(|(cells, present)| Row { cells: cells.to_vec(), present })
    }

    /// Adds a row to an entity's, which it may not have had.
    pub(super) fn add_row(&mut self, entity: u32, row: &Row) {
        let Ok(at) = usize::try_from(entity) else { return };
        if let Some(number) = self.row_of.get(at).copied().flatten() {
            return self.add(number, row);
        }
        let number = self.push(row);
        if let Some(place) = self.row_of.get_mut(at) {
            *place = Some(number);
        }
    }

    /// Adds a row with these values; its number.
    pub(super) fn push(&mut self, row: &Row) -> u32 {
        let number = u32::try_from(self.present.len()).unwrap_or(u32::MAX);
        self.present.push(row.present);
        self.cells.extend_from_slice(&row.cells);
        self.cells.resize(self.present.len() * self.layout.width(), 0);
        number
    }

    /// Adds to a row.
    pub(super) fn add(&mut self, row: u32, more: &Row) {
        self.add_those(row, more, more.present);
    }

    /// Adds what is gone to a row of the present.
    pub(super) fn add_retired(&mut self, row: u32, retired: &Row) {
        let present = usize::try_from(row).ok().and_then(|row| self.present.get(row)).copied().unwrap_or(0);
        let those = self.layout.beside(retired.present, present);
        self.add_those(row, retired, those);
    }

    /// Adds those metrics of `more` that these bits stand for.
    fn add_those(&mut self, row: u32, more: &Row, those: u64) {
        let Ok(row) = usize::try_from(row) else { return };
        let width = self.layout.width();
        if let (Some(cells), Some(present)) =
            (self.cells.get_mut(row * width..(row + 1) * width), self.present.get_mut(row))
        {
            self.layout.add(cells, &more.cells, those);
            *present |= those;
        }
    }

    /// The next entity's row, which is that one.
    pub(super) fn push_entity(&mut self, row: Option<u32>) {
        self.row_of.push(row);
    }

    /// What an entity lost to another. To be called in the order of the entities.
    pub(super) fn push_caused(&mut self, caused: Caused) {
        self.caused.push(caused);
    }

    /// The cells and the bits of an entity's row.
    pub(super) fn cells(&self, entity: u32) -> Option<(&[u64], u64)> {
        let row = usize::try_from((*self.row_of.get(usize::try_from(entity).ok()?)?)?).ok()?;
        let width = self.layout.width();
        Some((self.cells.get(row * width..(row + 1) * width)?, *self.present.get(row)?))
    }

    fn caused_of(&self, entity: u32) -> &[Caused] {
        let start = self.caused.partition_point(|caused| caused.entity < entity);
        let rest = self.caused.get(start..).unwrap_or_default();
        rest.get(..rest.partition_point(|caused| caused.entity == entity)).unwrap_or_default()
    }

    /// The section with the rows of some entities added to those of others: `into` tells for each entity whose row gets
    /// its values, itself as a rule. `is_past` tells whose gauges are left out then. `culprit` tells whom a culprit
    /// counts as.
    #[must_use]
    pub fn merged(&self, into: &[u32], is_past: impl Fn(u32) -> bool, culprit: impl Fn(u32) -> Option<u32>) -> Self {
        let mut merged = Self::new(Arc::clone(&self.layout));
        let gauges = self.layout.gauges();
        let mut row = self.layout.row();
        merged.row_of = vec![None; into.len()];
        for (entity, target) in (0_u32..).zip(into) {
            let Some((cells, present)) = self.cells(entity) else { continue };
            let Some(place) = usize::try_from(*target).ok().and_then(|target| merged.row_of.get(target)) else {
                continue;
            };
            let place = *place;
            row.cells.clear();
            row.cells.extend_from_slice(cells);
            row.present = if is_past(entity) { present & !gauges } else { present };
            self.layout.keep_only(&mut row.cells, row.present);
            let number = match place {
                Some(number) => {
                    merged.add(number, &row);
                    number
                }
                None => merged.push(&row),
            };
            if let Some(place) = usize::try_from(*target).ok().and_then(|target| merged.row_of.get_mut(target)) {
                *place = Some(number);
            }
        }
        merged.caused = self
            .caused
            .iter()
            .filter_map(|caused| {
                let entity = *into.get(usize::try_from(caused.entity).ok()?)?;
                let culprit = match caused.culprit {
                    Culprit::Entity(position) => Culprit::Entity(culprit(position)?),
                    Culprit::Other => Culprit::Other,
                };
                Some(Caused { entity, culprit, ..*caused })
            })
            .collect();
        merged.order_caused();
        merged
    }

    /// Brings what entities lost into their order, one for each culprit.
    pub(super) fn order_caused(&mut self) {
        self.caused.sort_by_key(|caused| (caused.entity, caused.column, caused.culprit));
        self.caused.dedup_by(|next, kept| {
            let same = (next.entity, next.column, next.culprit) == (kept.entity, kept.column, kept.culprit);
            kept.amount += if same { next.amount } else { 0 };
            same
        });
    }
}

impl<'a> Family<'a> {
    /// The definition.
    #[must_use]
    pub fn metric(self) -> &'static Metric {
        self.column.metric
    }

    /// Its place among its section's metrics, with the values of its labels.
    #[must_use]
    pub fn column(self) -> &'a Column {
        self.column
    }

    /// All samples, in the order of the entities.
    pub fn samples(self) -> impl Iterator<Item = Sample<'a>> {
        let entities = u32::try_from(self.section.row_of.len()).unwrap_or(u32::MAX);
        (0..entities).flat_map(move |entity| self.samples_of(entity))
    }

    /// The samples of one entity.
    pub fn samples_of(self, entity: u32) -> impl Iterator<Item = Sample<'a>> {
        let Self { section, column, number } = self;
        let is_split = column.metric.split.is_some();
        let caused = if is_split { section.caused_of(entity) } else { &[] };
        let caused = caused.iter().filter(move |caused| caused.column == number).map(move |caused| Sample {
            entity,
            combination: 0,
            culprit: Some(caused.culprit),
            value: number_of(column.metric, caused.amount),
        });
        let of_metric = section.cells(entity).and_then(|(cells, present)| column.of(cells, present));
        let of_metric = of_metric.filter(|_| !is_split);
        let own = of_metric.into_iter().flat_map(move |of_metric| {
            (0..column.combinations()).filter_map(move |combination| self.own(entity, of_metric, combination))
        });
        own.chain(caused)
    }

    /// The entity has values of it, whether they make series or not.
    #[must_use]
    pub fn is_of(self, entity: u32) -> bool {
        self.section.cells(entity).is_some_and(|(cells, present)| self.column.of(cells, present).is_some())
    }

    /// An entity's sample of one combination, of a metric that is not split by who caused it.
    #[must_use]
    pub fn sample(self, entity: u32, combination: usize) -> Option<Sample<'a>> {
        let (cells, present) = self.section.cells(entity).filter(|_| self.column.metric.split.is_none())?;
        self.own(entity, self.column.of(cells, present)?, combination)
    }

    fn own(self, entity: u32, of_metric: &'a [u64], combination: usize) -> Option<Sample<'a>> {
        let Self { section, column, .. } = self;
        let value = value_of(column.metric, column.combination(of_metric, combination)?)?;
        let is_shown =
            column.shown != Shown::ByDefault || is_by_default(section, column, entity, of_metric, combination);
        is_shown.then_some(Sample { entity, combination, culprit: None, value })
    }
}

/// The value of one combination; none where nothing was ever observed of what makes a series only then.
fn value_of<'a>(metric: &Metric, cells: &'a [u64]) -> Option<Value<'a>> {
    if metric.kind == Kind::Histogram {
        return Histogram::at(cells).filter(|histogram| !histogram.is_empty()).map(Value::Histogram);
    }
    let cell = *cells.first()?;
    (cell > 0 || !metric.sparse).then(|| number_of(metric, cell))
}

fn number_of(metric: &Metric, cell: u64) -> Value<'static> {
    match metric.unit {
        Unit::Seconds => Value::Nanoseconds(cell),
        Unit::Bytes | Unit::Count(_) => Value::Integer(cell),
        Unit::Cpus => Value::Float(cell as f64 / 1e9),
    }
}
