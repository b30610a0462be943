//! What a collector is, on every node: its programs, maps, metrics and losses, and what is missing without a part of it.
//!
//! Whatever handles all collectors derives from this: loading and attaching, the sizes of maps, memory, `podlens check`,
//! the configuration's keys, the documentation.

use std::{error::Error, iter, sync::Arc};

use super::{Collector, lifecycle};
use crate::{
    kernel::{
        cgroupfs::{files::FileReader, hierarchies::Hierarchies},
        events::Events,
        hooks::Hook,
        maps::Map,
        missed::MissedRuns,
        needs::Answers,
        object::{Object, ObjectError},
    },
    signal::{EventKind, Layout, Loss, Metric},
};

/// A collector, on every node.
#[derive(Debug)]
pub struct Spec {
    /// The one name: folder, module of the records, configuration key, anchor in the documentation.
    pub name: &'static str,
    /// What it tells, in one line.
    pub about: &'static str,
    /// Where it reads.
    pub kind: Kind,
    /// The configuration can switch it off.
    pub is_optional: bool,
    /// Its kernel programs, by what runs together, in the order in which they are attached.
    pub parts: &'static [Part],
    /// What some kernels lack: of the wishes of one group, the first that is missing is told.
    pub wishes: &'static [&'static [Wish]],
    /// What the node goes without if it does not run, in words, where that is more than its metrics.
    pub without: Option<&'static str>,
    /// Every metric that it can have.
    pub metrics: &'static [&'static Metric],
    /// Kinds of the kernel programs' records that are its own: `podlens_common::event::kind`.
    pub records: &'static [u32],
    /// Every event that it can tell of.
    pub events: &'static [&'static EventKind],
    /// Everything that it can lose, each counted from 0 while it runs.
    pub losses: &'static [&'static Loss],
    /// Starts it, when its programs are attached.
    pub start: fn(&mut Start<'_>) -> Result<Started, Box<dyn Error>>,
}

/// Where a collector reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Maps of kernel programs.
    Programs,
    /// The kernel's files.
    Files,
}

/// Programs that run together or not at all, and their maps.
#[derive(Debug)]
pub struct Part {
    /// What is missing without them, in words; none: without them the collector does not run.
    pub without: Option<&'static str>,
    /// They run only where somebody takes events.
    pub for_events: bool,
    /// The programs, in the order in which they are attached.
    pub programs: &'static [Program],
    /// The maps that are theirs.
    pub maps: &'static [Map],
}

impl Part {
    /// It is of use on this kernel; `tells_events`: somebody takes events.
    #[must_use]
    pub fn is_wanted(&self, tells_events: bool, answers: &Answers) -> bool {
        (tells_events || !self.for_events) && self.programs.iter().all(|program| program.is_of_use(answers))
    }

    /// Its programs on this kernel: those that stand in for a program where the kernel lacks what that one needs.
    ///
    /// # Errors
    /// What the kernel lacks, in words.
    pub fn chosen(&self, answers: &Answers) -> Result<Vec<&'static Program>, String> {
        let mut chosen = Vec::new();
        for program in self.programs {
            match (program.lack(answers), program.stand_ins) {
                (None, _) => chosen.push(program),
                (Some(lack), []) => return Err(lack),
                (Some(lack), stand_ins) => {
                    let lacking =
                        |stand_in: &Program| stand_in.lack(answers).or_else(|| program.lack_of_feature(answers));
                    if let Some(other) = stand_ins.iter().find_map(lacking) {
                        return Err(format!("{lack}; and for what would stand in, {other}"));
                    }
                    chosen.extend(stand_ins);
                }
            }
        }
        Ok(chosen)
    }

    /// Some program of it tells a collector's last words of a cgroup, so it is attached before what tells the removal.
    #[must_use]
    pub fn tells_last_words(&self) -> bool {
        let is_on_removal =
            |program: &Program| matches!(program.hook, Hook::Tracepoint { name, .. } if name == lifecycle::REMOVAL);
        self.programs.iter().any(is_on_removal)
    }
}

/// One kernel program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name in the object.
    pub name: &'static str,
    /// What it is attached to.
    pub hook: Hook,
    /// Of a program that serves several collectors: the feature of it without which it is of no use to this one.
    pub feature: Option<&'static str>,
    /// By which fact of the kernel it is of use at all, a request, and whether that is to be there; none: on every kernel.
    pub only: Option<(&'static str, bool)>,
    /// Programs that do the same together, where this kernel lacks what this one needs.
    pub stand_ins: &'static [Program],
}

impl Program {
    /// A program on a tracepoint, of which it takes these arguments in any case: by the types that they point to, or
    /// their own where they are no pointers.
    #[must_use]
    pub const fn on_tracepoint(
        name: &'static str,
        tracepoint: &'static str,
        arguments: &'static [&'static str],
    ) -> Self {
        Self::on(name, Hook::Tracepoint { name: tracepoint, arguments })
    }

    /// A program on any hook.
    #[must_use]
    pub const fn on(name: &'static str, hook: Hook) -> Self {
        Self { name, hook, feature: None, only: None, stand_ins: &[] }
    }

    /// The same, of which this collector needs a feature.
    #[must_use]
    pub const fn with(self, feature: &'static str) -> Self {
        Self { feature: Some(feature), ..self }
    }

    /// The same, which only kernels with a fact have use for: a request.
    #[must_use]
    pub const fn only_with(self, fact: &'static str) -> Self {
        Self { only: Some((fact, true)), ..self }
    }

    /// The same, which only kernels without a fact have use for.
    #[must_use]
    pub const fn only_without(self, fact: &'static str) -> Self {
        Self { only: Some((fact, false)), ..self }
    }

    fn is_of_use(&self, answers: &Answers) -> bool {
        self.only.is_none_or(|(fact, is_there)| answers.lack(fact).is_none() == is_there)
    }

    /// The same, for which nothing stands in.
    #[must_use]
    pub const fn alone(self) -> Self {
        Self { stand_ins: &[], ..self }
    }

    /// The same, for which these stand in where the kernel lacks what it needs.
    #[must_use]
    pub const fn or(self, stand_ins: &'static [Program]) -> Self {
        Self { stand_ins, ..self }
    }

    /// What it needs and this kernel lacks, in words; none if it can be attached.
    fn lack(&self, answers: &Answers) -> Option<String> {
        let refusal = answers.refusal(self.name).map(str::to_owned);
        refusal.or_else(|| self.hook.lack(answers)).or_else(|| self.lack_of_feature(answers))
    }

    fn lack_of_feature(&self, answers: &Answers) -> Option<String> {
        self.feature.and_then(|feature| answers.lack(feature))
    }
}

/// A feature of the programs, or a fact of the kernel, that a collector can do without.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The feature's name in the programs' requests, or a request.
    pub of: &'static str,
    /// What is missing without it, in words.
    pub without: &'static str,
}

impl Spec {
    /// Its programs, those that stand in for others among them.
    pub fn programs(&self) -> impl Iterator<Item = &'static Program> {
        let programs = self.parts.iter().flat_map(|part| part.programs);
        programs.flat_map(|program| iter::once(program).chain(program.stand_ins))
    }

    /// Values of its own come from kernel programs, so that podlens is of use where it runs.
    #[must_use]
    pub fn measures_by_programs(&self) -> bool {
        self.kind == Kind::Programs && !self.metrics.is_empty()
    }
}

/// What a collector starts from.
pub struct Start<'a> {
    /// The loaded object, for its maps and iterators.
    pub object: &'a mut Object,
    /// The one reader of cgroups' files, started for the first collector that asks for it.
    pub(crate) files: &'a mut Option<FileReader>,
    /// The node's cgroup trees.
    pub hierarchies: &'a Hierarchies,
    /// How many CPUs are measured.
    pub cpus: u32,
    /// How many slots there are.
    pub slots: u32,
    /// The kernel counts stalls.
    pub has_psi: bool,
    /// How the ledger lays out this collector's rows.
    pub layout: Arc<Layout>,
    pub(crate) answers: &'a Answers,
    pub(crate) attached: &'a [&'static str],
    pub(crate) running: &'a [&'static str],
}

impl Start<'_> {
    /// The program of this name is attached.
    #[must_use]
    pub fn runs(&self, program: &str) -> bool {
        self.attached.contains(&program)
    }

    /// The programs have this feature here.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.answers.lack(feature).is_none()
    }

    /// How often the kernel leaves out the collector's programs.
    ///
    /// # Errors
    /// A program is not loaded.
    pub fn missed_runs(&mut self) -> Result<MissedRuns, ObjectError> {
        self.object.missed_runs(self.attached)
    }

    /// The one reader of cgroups' files.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn files(&mut self) -> std::io::Result<FileReader> {
        match &self.files {
            Some(files) => Ok(files.clone()),
            None => Ok(self.files.insert(FileReader::start()?).clone()),
        }
    }

    /// The collector of this name runs; only of those that come before.
    #[must_use]
    pub fn is_running(&self, collector: &str) -> bool {
        self.running.contains(&collector)
    }
}

/// A collector that has started.
pub struct Started {
    /// The collector.
    pub collector: Box<dyn Collector>,
    /// The ring in which births and removals come, of the collector whose programs write them.
    pub events: Option<Events>,
    /// What it has to do without, in words, beyond what its specification says.
    pub lacks: Vec<String>,
}

impl Started {
    /// One that lacks nothing more.
    #[must_use]
    pub fn whole(collector: impl Collector + 'static) -> Self {
        Self { collector: Box::new(collector), events: None, lacks: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::Part;
    use crate::{
        collectors::ALL,
        kernel::{
            btf::Btf,
            needs::{Answers, programs},
            object::{NODE, OBJECT},
        },
        signal::{Label, LabelValues, Metric},
    };

    /// The smallest BTF: a header, and no type at all.
    const NO_TYPES: [u8; 25] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

    fn answers(btf: Btf) -> Answers {
        Answers::new(&programs(OBJECT).unwrap(), btf, &NODE).unwrap()
    }

    #[test]
    fn of_programs_for_some_kernels_each_kernel_has_use_for_one_part() {
        let running = Btf::read_file(std::path::Path::new("/sys/kernel/btf/vmlinux")).unwrap();
        let mut used = Vec::new();
        for btf in [Btf::parse(NO_TYPES.to_vec()).unwrap(), running] {
            let answers = answers(btf);
            for spec in ALL {
                let for_some = |part: &&Part| part.programs.iter().any(|program| program.only.is_some());
                let parts: Vec<&Part> = spec.parts.iter().filter(for_some).collect();
                let wanted: Vec<&Part> = parts.iter().copied().filter(|part| part.is_wanted(true, &answers)).collect();
                assert_eq!(wanted.len(), usize::from(!parts.is_empty()), "{}", spec.name);
                used.extend(wanted.iter().flat_map(|part| part.programs).map(|program| program.name));
            }
        }
        assert_eq!(used, ["tcp_state", "tcp_state_first", "tcp_state_again"]);
    }

    #[test]
    fn each_kind_of_record_has_one_number_and_one_owner() {
        let mut kinds: Vec<u32> = ALL.iter().flat_map(|spec| spec.records).copied().collect();
        kinds.sort_unstable();
        assert!(kinds.windows(2).all(|pair| pair.first() != pair.last()), "one number for two: {kinds:?}");
    }

    #[test]
    fn metrics_of_one_family_differ_in_nothing_but_values_of_labels_that_only_one_of_them_has() {
        // OpenMetrics calls the family of a counter by its name without the ending.
        let family = |metric: &Metric| metric.name.strip_suffix("_total").unwrap_or(metric.name);
        let names = |metric: &Metric| metric.labels.iter().map(|label| label.name).collect::<Vec<_>>();
        let metrics: Vec<&Metric> = ALL.iter().flat_map(|spec| spec.metrics).copied().collect();
        let mut shared = 0;
        for (at, one) in metrics.iter().enumerate() {
            for other in metrics.iter().skip(at + 1).filter(|other| family(other) == family(one)) {
                shared += 1;
                let what = |metric: &Metric| (metric.name, metric.otlp_name, metric.kind, metric.unit, metric.help);
                assert_eq!((what(one), names(one)), (what(other), names(other)));
                let apart = one.labels.iter().zip(other.labels).any(|labels| match labels {
                    (
                        Label { values: LabelValues::Fixed(ones), .. },
                        Label { values: LabelValues::Fixed(others), .. },
                    ) => ones.iter().all(|value| !others.contains(value)),
                    _ => false,
                });
                assert!(apart, "one series for two: {one:?} and {other:?}");
            }
        }
        assert_eq!(shared, 1, "bytes of TCP and of UDP");
    }

    #[test]
    fn a_kernel_that_has_nothing_fulfils_no_wish_and_has_no_hook() {
        let answers = answers(Btf::parse(NO_TYPES.to_vec()).unwrap());
        for spec in ALL {
            for wish in spec.wishes.iter().copied().flatten() {
                let lack = answers.lack(wish.of).unwrap_or_else(|| panic!("{}: nobody knows {}", spec.name, wish.of));
                assert!(lack.contains("this kernel has no"), "{lack}");
            }
            for program in spec.programs() {
                let lack = program.hook.lack(&answers).unwrap_or_else(|| panic!("{} has its hook", program.name));
                assert!(lack.contains("this kernel has no"), "{lack}");
            }
        }
    }
}
