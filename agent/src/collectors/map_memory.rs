//! The kernel's memory: which map has how many entries, what they take, and how many slots there are to be.
//!
//! Pure, from the collectors' specifications and the object itself. The start asks for a plan before anything is made,
//! `podlens check` prints it, and the documents' tables are made here.

use std::{fmt::Write as _, ptr};

use super::{
    ALL,
    spec::{Part, Spec},
};
use crate::kernel::{
    host::Cpus,
    maps::{Definition, Formula, Map, definitions},
    object::OBJECT,
    slots,
};

/// The fewest slots, and the step between two numbers of them.
const STEP: u32 = 64;
/// The most that are chosen without being asked for: more than a node runs containers and units.
const MOST: u32 = 1024;
/// What the kernel's memory may grow to without being asked: so much, and so much more for each CPU that is measured. That is
/// 48 MB at 128 CPUs and 96 MB at 320.
const CEILING: Formula = Formula { fixed: 16_000_000, per_cpu: 250_000, ..Formula::NOTHING };

/// What the node gives, and what is wanted of it.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The node's CPUs.
    pub cpus: Cpus,
    /// The memory limit of this process, in bytes.
    pub limit: Option<u64>,
    /// The number of slots that the configuration asks for; none for one that fits.
    pub slots: Option<u32>,
    /// Names of the collectors that are to run.
    pub collectors: &'a [&'static str],
}

/// How the kernel's memory is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Slots.
    pub slots: u32,
    /// Why so many, in words.
    pub why: String,
    /// Bytes for what all programs share, and for each collector.
    pub parts: Vec<(&'static str, u64)>,
}

/// Why the programs' maps do not fit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// More than half of the limit, even with the fewest slots.
    #[error(
        "the kernel programs' maps need {} for {cpus} CPUs, and only half of this container's memory limit of {} may go to them: raise the limit to {}, or switch collectors off",
        megabytes(*bytes), megabytes(*limit), megabytes(*bytes * 2)
    )]
    Limit {
        /// What they need at least.
        bytes: u64,
        /// CPUs that are measured.
        cpus: u32,
        /// The limit.
        limit: u64,
    },
    /// More than half of the limit, with the number of slots that was asked for.
    #[error(
        "{slots} slots need {} of kernel memory for {cpus} CPUs, and only half of this container's memory limit of {} may go to them: set `slots` to auto, or raise the limit to {}",
        megabytes(*bytes), megabytes(*limit), megabytes(*bytes * 2)
    )]
    Slots {
        /// The number that was asked for.
        slots: u32,
        /// What it needs.
        bytes: u64,
        /// CPUs that are measured.
        cpus: u32,
        /// The limit.
        limit: u64,
    },
}

impl Plan {
    /// Chooses the number of slots.
    ///
    /// # Errors
    /// The maps would take more than half of the memory limit.
    pub fn new(demand: &Demand<'_>) -> Result<Self, MemoryError> {
        let Demand { cpus, limit, slots, collectors } = *demand;
        let formulae = formulae(|spec| collectors.contains(&spec.name));
        let bytes = |slots| formulae.iter().map(|(_, formula)| formula.on(cpus, slots)).sum::<u64>();
        let fits = |slots| limit.is_none_or(|limit| bytes(slots) <= limit / 2);
        let (slots, why) = match (slots, limit) {
            (Some(slots), Some(limit)) if !fits(slots) => {
                return Err(MemoryError::Slots { slots, bytes: bytes(slots), cpus: cpus.measured(), limit });
            }
            (Some(slots), _) => (slots, "as configured".to_owned()),
            (None, Some(limit)) if !fits(STEP) => {
                return Err(MemoryError::Limit { bytes: bytes(STEP), cpus: cpus.measured(), limit });
            }
            (None, _) => {
                let ceiling = CEILING.on(cpus, 0);
                let most = |fits: &dyn Fn(u32) -> bool| {
                    let mut steps = (1..=MOST / STEP).rev().map(|steps| steps * STEP);
                    steps.find(|slots| fits(*slots)).unwrap_or(STEP)
                };
                let below_ceiling = most(&|slots| bytes(slots) <= ceiling);
                let chosen = below_ceiling.min(most(&fits));
                let why = match limit {
                    Some(limit) if chosen < below_ceiling => {
                        format!("auto: half of this container's memory limit of {} may go to them", megabytes(limit))
                    }
                    _ if chosen < MOST => format!("auto: {} CPUs get {} at most", cpus.measured(), megabytes(ceiling)),
                    _ => "auto: the most that is chosen without being asked for".to_owned(),
                };
                (chosen, why)
            }
        };
        let parts = formulae.iter().map(|(name, formula)| (*name, formula.on(cpus, slots))).collect();
        Ok(Self { slots, why, parts })
    }

    /// All of it, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> =
            self.parts.iter().map(|(name, bytes)| format!("{name} {}", megabytes(*bytes))).collect();
        let Self { slots, why, .. } = self;
        write!(formatter, "{} in the kernel for {slots} slots ({why}): {}", megabytes(self.bytes()), parts.join(", "))
    }
}

fn megabytes(bytes: u64) -> String {
    let tenths = bytes.div_ceil(100_000);
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

/// What is taken by what all programs share, under the name of the slots, and by each collector with maps.
fn formulae(is_on: impl Fn(&Spec) -> bool) -> Vec<(&'static str, Formula)> {
    let all = definitions(OBJECT);
    let sum = |maps: &mut dyn Iterator<Item = &'static Map>| {
        maps.filter_map(|map| Some(map.bytes(definition(&all, map)?))).fold(Formula::NOTHING, |sum, bytes| sum + bytes)
    };
    let mut formulae = vec![("slots", sum(&mut slots::MAPS.iter()))];
    for spec in ALL.iter().filter(|spec| spec.maps().next().is_some() && is_on(spec)) {
        formulae.push((spec.name, sum(&mut spec.maps())));
    }
    formulae
}

/// How many entries each map gets whose size is not the object's own; `running` tells what of a part of a collector is to run,
/// itself or what stands in for it.
#[must_use]
pub fn entries(
    cpus: Cpus,
    slot_count: u32,
    running: impl Fn(&Spec, &'static Part) -> Option<&'static Part>,
) -> Vec<(&'static str, u32)> {
    let all = definitions(OBJECT);
    let entries_of = |map: &'static Map, is_used| {
        map.entries_on(definition(&all, map)?, cpus, slot_count, is_used).map(|entries| (map.name, entries))
    };
    let mut entries: Vec<_> = slots::MAPS.iter().filter_map(|map| entries_of(map, true)).collect();
    for (spec, part) in ALL.iter().flat_map(|spec| spec.parts.iter().map(move |part| (spec, part))) {
        let running = running(spec, part);
        for one in part.either() {
            let is_used = running.is_some_and(|running| ptr::eq(running, one));
            entries.extend(one.maps.iter().filter_map(|map| entries_of(map, is_used)));
        }
    }
    entries
}

fn definition<'a>(all: &'a [Definition], map: &Map) -> Option<&'a Definition> {
    all.iter().find(|definition| definition.name == map.name)
}

/// The maps and what they take, as tables in Markdown for the documents.
#[must_use]
pub fn tables() -> String {
    let all = definitions(OBJECT);
    let mut text = String::from(
        "| of | maps, bytes of a value | for each CPU and slot | for each CPU | for each possible CPU | for each slot | besides |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let maps_of = |name: &str| -> Vec<&'static Map> {
        let of_spec = ALL.iter().filter(|spec| spec.name == name).flat_map(|spec| spec.maps());
        if name == "slots" { slots::MAPS.iter().collect() } else { of_spec.collect() }
    };
    let everything = formulae(|_| true);
    for (name, formula) in &everything {
        let maps = maps_of(name).into_iter().filter_map(|map| {
            let bytes = definition(&all, map)?.value_bytes;
            Some(if bytes == 0 { format!("`{}`", map.name) } else { format!("`{}` {}", map.name, grouped(bytes)) })
        });
        let maps: Vec<String> = maps.collect();
        let Formula { fixed, per_possible_cpu, per_cpu, per_slot, per_cpu_and_slot } = *formula;
        let cells = [per_cpu_and_slot, per_cpu, per_possible_cpu, per_slot, fixed].map(grouped);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {name} | {} | {} |", maps.join(", "), cells.join(" | "));
    }
    text.push_str("\n| CPUs, all online | slots, chosen without a memory limit | bytes |\n| --- | --- | --- |\n");
    let collectors: Vec<&'static str> = ALL.iter().map(|spec| spec.name).collect();
    for count in [2, 8, 32, 64, 128, 320] {
        let cpus = Cpus { possible: count, online: count };
        if let Ok(plan) = Plan::new(&Demand { cpus, limit: None, slots: None, collectors: &collectors }) {
            let _ = writeln!(text, "| {count} | {} | {} |", grouped(plan.slots.into()), grouped(plan.bytes()));
        }
    }
    text
}

/// A number with commas.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeMap;

    use super::{ALL, Cpus, Demand, MOST, MemoryError, OBJECT, Plan, STEP, definitions, entries, grouped, slots};
    use crate::{collectors::lifecycle, kernel::needs};

    const MB: u64 = 1_000_000;

    fn plan(cpus: u32, limit: Option<u64>, slots: Option<u32>) -> Result<Plan, MemoryError> {
        of_node(all_online(cpus), limit, slots)
    }

    fn of_node(cpus: Cpus, limit: Option<u64>, slots: Option<u32>) -> Result<Plan, MemoryError> {
        let collectors: Vec<&'static str> = ALL.iter().map(|spec| spec.name).collect();
        Plan::new(&Demand { cpus, limit, slots, collectors: &collectors })
    }

    fn all_online(cpus: u32) -> Cpus {
        Cpus { possible: cpus, online: cpus }
    }

    #[test]
    fn the_number_of_slots_follows_from_cpus_and_limit() {
        for cpus in [1, 2, 8, 64, 128, 320, 1024, 4096] {
            for limit in [None, Some(1 << 28), Some(1 << 30), Some(1 << 34)] {
                let Ok(chosen) = plan(cpus, limit, None) else {
                    let needed = plan(cpus, None, Some(STEP)).unwrap().bytes();
                    assert!(needed > limit.unwrap() / 2, "{cpus} CPUs, {limit:?}: the fewest slots would fit");
                    continue;
                };
                assert!((STEP..=MOST).contains(&chosen.slots), "{cpus} CPUs, {limit:?}: {chosen}");
                assert!(limit.is_none_or(|limit| chosen.bytes() <= limit / 2), "{cpus} CPUs, {limit:?}: {chosen}");
                let more = plan(cpus, None, Some(chosen.slots + STEP)).unwrap().bytes();
                let most = (16 * MB + u64::from(cpus) * MB / 4).min(limit.unwrap_or(u64::MAX) / 2);
                let is_largest = chosen.slots == MOST || more > most;
                assert!(is_largest, "{cpus} CPUs, {limit:?}: {chosen}, and {more} bytes fit as well");
                assert!(chosen.slots == STEP || chosen.bytes() <= most, "{cpus} CPUs, {limit:?}: {chosen}");
            }
        }
    }

    #[test]
    fn a_large_machine_takes_48_and_the_largest_96_mb_and_still_has_slots_for_what_a_node_runs() {
        for (cpus, most, slots) in [(2, 8 * MB, MOST), (128, 48 * MB, 256), (320, 96 * MB, 256)] {
            let plan = plan(cpus, None, None).unwrap();
            assert!(plan.bytes() <= most && plan.slots >= slots, "{cpus} CPUs: {plan}");
        }
    }

    #[test]
    fn cpus_that_are_not_online_take_next_to_nothing() {
        let few = of_node(all_online(12), None, None).unwrap();
        for possible in [128, 192, 320] {
            let plan = of_node(Cpus { possible, online: 4 }, Some(128 << 20), None).unwrap();
            assert_eq!(plan.slots, few.slots, "{possible} possible CPUs: {plan}");
            assert!(plan.bytes() < few.bytes() + MB / 2, "{possible} possible CPUs: {plan}, and 12 alone: {few}");
        }
    }

    #[test]
    fn what_is_configured_is_taken_or_refused_with_the_remedy() {
        let configured = plan(4, None, Some(4096)).unwrap();
        assert_eq!((configured.slots, configured.why.as_str()), (4096, "as configured"));
        let refusal = plan(128, Some(128 * MB), Some(4096)).unwrap_err();
        assert!(matches!(refusal, MemoryError::Slots { slots: 4096, .. }));
        let text = refusal.to_string();
        assert!(text.contains("4096 slots") && text.contains("128.0 MB") && text.contains("`slots` to auto"), "{text}");
        let text = plan(320, Some(32 * MB), None).unwrap_err().to_string();
        assert!(text.contains("320 CPUs") && text.contains("raise the limit to"), "{text}");
    }

    #[test]
    fn a_plan_says_who_takes_what_and_why() {
        let text = plan(128, None, None).unwrap().to_string();
        assert!(text.contains("128 CPUs get 48.0 MB at most"), "{text}");
        assert!(text.contains("scheduler ") && text.contains("slots ("), "{text}");
        let text = plan(128, Some(64 * MB), None).unwrap().to_string();
        assert!(text.contains("memory limit of 64.0 MB"), "{text}");
        let few =
            Plan::new(&Demand { cpus: all_online(128), limit: None, slots: None, collectors: &["lifecycle", "tasks"] })
                .unwrap();
        assert_eq!(few.slots, MOST, "what is switched off takes no room: {few}");
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn each_map_of_the_object_is_somebodys_and_each_that_is_somebodys_is_in_the_object() {
        let of_collectors = ALL.iter().flat_map(|spec| spec.maps());
        let mut claimed: Vec<&str> = slots::MAPS.iter().chain(of_collectors).map(|map| map.name).collect();
        let all = definitions(OBJECT);
        let of_log = |name: &&str| cfg!(feature = "kernel-log") && *name == "AYA_LOGS";
        let mut defined: Vec<&str> =
            all.iter().map(|definition| definition.name.as_str()).filter(|name| !of_log(name)).collect();
        claimed.sort_unstable();
        defined.sort_unstable();
        assert_eq!(claimed, defined);
    }

    #[test]
    fn each_program_of_the_object_is_somebodys_on_the_hook_that_its_section_names() {
        let programs = needs::programs(OBJECT).unwrap();
        let found: BTreeMap<String, String> =
            programs.into_iter().map(|program| (program.name, program.section)).collect();
        let named = |program: &'static super::super::spec::Program| (program.name.to_owned(), program.hook.section());
        let claimed: BTreeMap<String, String> = ALL.iter().flat_map(|spec| spec.programs()).map(named).collect();
        assert_eq!(claimed, found);
    }

    #[test]
    fn maps_of_what_does_not_run_take_one_entry() {
        let all = entries(all_online(8), 1024, |_, part| Some(part));
        let few = entries(all_online(8), 1024, |spec, part| Some(part).filter(|_| spec.name == lifecycle::SPEC.name));
        let get = |list: &[(&str, u32)], name: &str| list.iter().find(|(one, _)| *one == name).map(|(_, count)| *count);
        for (name, used, unused) in [
            ("ACCOUNTS", Some(8 * 1024), Some(1)),
            ("PROCESSES", Some(1024), Some(1)),
            ("TASK_RECORDS_OF", None, Some(1)),
            ("SLOTS", Some(1024), Some(1024)),
            ("EVENTS", None, None),
            (".bss", None, None),
        ] {
            assert_eq!((get(&all, name), get(&few, name)), (used, unused), "{name}");
        }
    }
}
