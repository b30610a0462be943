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
    /// The number by which kernel programs that serve other collectors too know whether this one runs, by its name in the object.
    pub switch: Option<&'static str>,
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
    /// The feature without which they are of no use here, of programs that serve another collector too.
    pub feature: Option<&'static str>,
    /// The programs, in the order in which they are attached.
    pub programs: &'static [Program],
    /// The maps that are theirs.
    pub maps: &'static [Map],
    /// What does the same where the kernel lacks what they need: other programs, and maps of those alone.
    pub stand_in: Option<&'static Part>,
}

impl Part {
    /// What a part is that says nothing of itself: the collector cannot do without it, and nothing stands in for it.
    pub const BASE: Self =
        Self { without: None, for_events: false, feature: None, programs: &[], maps: &[], stand_in: None };

    /// It is of use; `tells_events`: somebody takes events.
    #[must_use]
    pub fn is_wanted(&self, tells_events: bool) -> bool {
        tells_events || !self.for_events
    }

    /// What runs on this kernel: itself, or what stands in for it.
    ///
    /// # Errors
    /// What the kernel lacks, in words.
    pub fn on(&'static self, answers: &Answers) -> Result<&'static Self, String> {
        let Some(lack) = self.lack(answers) else { return Ok(self) };
        let Some(stand_in) = self.stand_in else { return Err(lack) };
        stand_in
            .lack(answers)
            .map_or(Ok(stand_in), |other| Err(format!("{lack}; and for what would stand in, {other}")))
    }

    /// What its programs need and this kernel lacks, in words; none if all can be attached.
    fn lack(&self, answers: &Answers) -> Option<String> {
        let of_programs = self.programs.iter().find_map(|program| program.lack(answers));
        of_programs.or_else(|| self.feature.and_then(|feature| answers.lack(feature)))
    }

    /// Itself, and what may stand in for it.
    pub fn either(&'static self) -> impl Iterator<Item = &'static Self> {
        iter::once(self).chain(self.stand_in)
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

    /// A program at the end of a function of the kernel.
    #[must_use]
    pub const fn at_end_of(name: &'static str, function: &'static str) -> Self {
        Self::on(name, Hook::FunctionEnd { name: function })
    }

    /// A program on any hook.
    #[must_use]
    pub const fn on(name: &'static str, hook: Hook) -> Self {
        Self { name, hook }
    }

    /// What it needs and this kernel lacks, in words; none if it can be attached.
    fn lack(&self, answers: &Answers) -> Option<String> {
        answers.refusal(self.name).map(str::to_owned).or_else(|| self.hook.lack(answers))
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
    /// Its parts, and what may stand in for them.
    fn all_parts(&self) -> impl Iterator<Item = &'static Part> {
        self.parts.iter().flat_map(Part::either)
    }

    /// All programs of all its parts.
    pub fn programs(&self) -> impl Iterator<Item = &'static Program> {
        self.all_parts().flat_map(|part| part.programs)
    }

    /// All maps of all its parts.
    pub fn maps(&self) -> impl Iterator<Item = &'static Map> {
        self.all_parts().flat_map(|part| part.maps)
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
        collectors::{ALL, node_of_tests},
        kernel::{
            btf::Btf,
            needs::{Answers, programs},
            object::OBJECT,
        },
        signal::{Label, LabelValues, Metric},
    };

    /// The smallest BTF: a header, and no type at all.
    const NO_TYPES: [u8; 25] = [0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];

    fn answers(btf: Btf) -> Answers {
        Answers::new(&programs(OBJECT).unwrap(), btf, &node_of_tests()).unwrap()
    }

    #[test]
    fn each_switch_is_a_number_that_the_programs_ask_for() {
        let (programs, node) = (programs(OBJECT).unwrap(), node_of_tests());
        for spec in ALL.iter().filter(|spec| spec.switch.is_some()) {
            let without: Vec<_> = node.iter().copied().filter(|(name, _)| Some(*name) != spec.switch).collect();
            let answers = Answers::new(&programs, Btf::parse(NO_TYPES.to_vec()).unwrap(), &without);
            assert!(answers.is_err(), "{}: no program asks for {:?}", spec.name, spec.switch);
        }
    }

    #[test]
    fn what_stands_in_says_nothing_but_how_the_same_is_done() {
        let mut found = Vec::new();
        for (spec, part) in ALL.iter().flat_map(|spec| spec.parts.iter().map(move |part| (spec, part))) {
            let Some(stand_in) = part.stand_in else { continue };
            found.push(spec.name);
            let Part { without, for_events, feature, programs, maps: _, stand_in: next } = stand_in;
            assert_eq!((*without, *for_events, *feature), (None, false, part.feature), "{}", spec.name);
            assert!(next.is_none() && !programs.is_empty(), "{}: who stands in for it?", spec.name);
        }
        assert_eq!(found, ["tcp", "udp", "dns"]);
    }

    #[test]
    fn of_a_part_and_its_stand_in_a_kernel_runs_one_and_one_that_has_nothing_lacks_both() {
        let running = answers(Btf::read_file(std::path::Path::new("/sys/kernel/btf/vmlinux")).unwrap());
        let nothing = answers(Btf::parse(NO_TYPES.to_vec()).unwrap());
        for part in ALL.iter().flat_map(|spec| spec.parts).filter(|part| part.stand_in.is_some()) {
            let chosen = part.on(&running).unwrap();
            assert_eq!(part.either().filter(|one| std::ptr::eq(*one, chosen)).count(), 1);
            let lack = part.on(&nothing).unwrap_err();
            assert!(lack.contains("; and for what would stand in, "), "{lack}");
        }
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
