//! The kernel's memory: which map has how many entries, by what its collector needs.

use super::{
    ALL,
    spec::{Part, Spec},
};
use crate::kernel::{
    maps::{Definition, Map, definitions},
    object::OBJECT,
    slots,
};

/// How many entries each map gets whose size is not the object's own; `is_used` tells whether a part of a collector is
/// to run.
#[must_use]
pub fn entries(cpus: u32, slot_count: u32, is_used: impl Fn(&Spec, &Part) -> bool) -> Vec<(&'static str, u32)> {
    let all = definitions(OBJECT);
    let entries_of = |map: &'static Map, is_used| {
        map.entries_on(definition(&all, map)?, cpus, slot_count, is_used).map(|entries| (map.name, entries))
    };
    let common = slots::MAPS.iter().filter_map(|map| entries_of(map, true));
    let parts = ALL.iter().flat_map(|spec| spec.parts.iter().map(move |part| (spec, part)));
    let of_parts = parts.flat_map(|(spec, part)| part.maps.iter().map(move |map| (spec, part, map)));
    common.chain(of_parts.filter_map(|(spec, part, map)| entries_of(map, is_used(spec, part)))).collect()
}

fn definition<'a>(all: &'a [Definition], map: &Map) -> Option<&'a Definition> {
    all.iter().find(|definition| definition.name == map.name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeMap;

    use super::{ALL, OBJECT, definitions, entries, slots};
    use crate::{collectors::lifecycle, kernel::needs};

    #[test]
    fn each_map_of_the_object_is_somebodys_and_each_that_is_somebodys_is_in_the_object() {
        let parts = ALL.iter().flat_map(|spec| spec.parts);
        let mut claimed: Vec<&str> =
            slots::MAPS.iter().chain(parts.flat_map(|part| part.maps)).map(|map| map.name).collect();
        let all = definitions(OBJECT);
        let mut defined: Vec<&str> = all.iter().map(|definition| definition.name.as_str()).collect();
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
        let all = entries(8, 1024, |_, _| true);
        let few = entries(8, 1024, |spec, _| spec.name == lifecycle::SPEC.name);
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
