//! How many entries each map of the programs has, and what it takes in the kernel: formulae of the node's CPUs and
//! of the slots. What a map is and how large its values are, the object itself tells. Pure.

use std::ops::Add;

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, read::elf::ElfFile64};

use super::host::Cpus;

/// A number for each kind of size; what is counted is its user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formula {
    /// Whatever the node.
    pub fixed: u64,
    /// For each CPU that can exist.
    pub per_possible_cpu: u64,
    /// For each CPU that is measured.
    pub per_cpu: u64,
    /// For each slot.
    pub per_slot: u64,
    /// For each slot on each CPU.
    pub per_cpu_and_slot: u64,
}

impl Formula {
    /// Nothing.
    pub const NOTHING: Self = Self { fixed: 0, per_possible_cpu: 0, per_cpu: 0, per_slot: 0, per_cpu_and_slot: 0 };

    /// The number on a node.
    #[must_use]
    pub fn on(self, cpus: Cpus, slots: u32) -> u64 {
        let [possible, measured, slots] = [cpus.possible, cpus.measured(), slots].map(u64::from);
        let of_cpus = self.per_possible_cpu * possible + self.per_cpu * measured;
        self.fixed + of_cpus + self.per_slot * slots + self.per_cpu_and_slot * measured * slots
    }

    fn times(self, factor: u64) -> Self {
        Self {
            fixed: self.fixed * factor,
            per_possible_cpu: self.per_possible_cpu * factor,
            per_cpu: self.per_cpu * factor,
            per_slot: self.per_slot * factor,
            per_cpu_and_slot: self.per_cpu_and_slot * factor,
        }
    }
}

impl Add for Formula {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            fixed: self.fixed + other.fixed,
            per_possible_cpu: self.per_possible_cpu + other.per_possible_cpu,
            per_cpu: self.per_cpu + other.per_cpu,
            per_slot: self.per_slot + other.per_slot,
            per_cpu_and_slot: self.per_cpu_and_slot + other.per_cpu_and_slot,
        }
    }
}

/// One map of the programs, by its name in the object, and how many entries it gets.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// Its name.
    pub name: &'static str,
    entries: Option<Formula>,
}

impl Map {
    /// As many entries as the object says.
    #[must_use]
    pub const fn fixed(name: &'static str) -> Self {
        Self { name, entries: None }
    }

    /// One for each CPU that can exist.
    #[must_use]
    pub const fn per_possible_cpu(name: &'static str) -> Self {
        Self { name, entries: Some(Formula { per_possible_cpu: 1, ..Formula::NOTHING }) }
    }

    /// So many for each CPU that is measured.
    #[must_use]
    pub const fn per_cpu(name: &'static str, count: u32) -> Self {
        Self { name, entries: Some(Formula { per_cpu: count as u64, ..Formula::NOTHING }) }
    }

    /// So many for each slot.
    #[must_use]
    pub const fn per_slot(name: &'static str, count: u32) -> Self {
        Self { name, entries: Some(Formula { per_slot: count as u64, ..Formula::NOTHING }) }
    }

    /// One for each slot on each CPU that is measured.
    #[must_use]
    pub const fn per_cpu_and_slot(name: &'static str) -> Self {
        Self { name, entries: Some(Formula { per_cpu_and_slot: 1, ..Formula::NOTHING }) }
    }

    /// How many entries it gets on a node; none for as many as the object says. A map that nobody uses gets one.
    #[must_use]
    pub fn entries_on(&self, definition: &Definition, cpus: Cpus, slots: u32, is_used: bool) -> Option<u32> {
        match (definition.kind, is_used) {
            (Kind::Variables, _) => None,
            // The kernel's least: a page.
            (Kind::Ring, false) => Some(4096),
            (_, false) => Some(1),
            (_, true) => self.entries.map(|entries| u32::try_from(entries.on(cpus, slots)).unwrap_or(u32::MAX)),
        }
    }

    /// What it takes in the kernel, in bytes.
    #[must_use]
    pub fn bytes(&self, definition: &Definition) -> Formula {
        let entries = self.entries.unwrap_or(Formula { fixed: definition.entries, ..Formula::NOTHING });
        let value_bytes = definition.value_bytes.next_multiple_of(8);
        match definition.kind {
            Kind::Array | Kind::Variables => entries.times(value_bytes),
            Kind::PerCpuArray => Formula { per_possible_cpu: entries.fixed * value_bytes, ..Formula::NOTHING },
            // An entry's head and its bucket.
            Kind::Hash => entries.times(48 + 16 + definition.key_bytes.next_multiple_of(8) + value_bytes),
            Kind::Queue => entries.times(definition.value_bytes),
            Kind::Ring => entries,
        }
    }
}

/// What kind of map it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An array.
    Array,
    /// An array on each CPU.
    PerCpuArray,
    /// A hash, whose entries are made at the start.
    Hash,
    /// A queue.
    Queue,
    /// A ring buffer; its entries are bytes.
    Ring,
    /// The programs' own variables, which the loader makes a map of; it keeps its size.
    Variables,
}

/// What the object says of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a key.
    pub key_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// How many entries it has, unless the daemon says otherwise.
    pub entries: u64,
}

/// All maps of an object: those that it defines, and its variables. One of a kind that is not known here is left out.
#[must_use]
pub fn definitions(bytes: &[u8]) -> Vec<Definition> {
    let Ok(file) = ElfFile64::<object::Endianness>::parse(bytes) else { return Vec::new() };
    let mut found = Vec::new();
    if let Some(section) = file.section_by_name(".bss").filter(|section| section.size() > 0) {
        found.push(Definition {
            name: ".bss".to_owned(),
            kind: Kind::Variables,
            key_bytes: 4,
            value_bytes: section.size(),
            entries: 1,
        });
    }
    let Some(section) = file.section_by_name("maps") else { return found };
    let data = section.data().unwrap_or_default();
    found.extend(file.symbols().filter(|symbol| symbol.section_index() == Some(section.index())).filter_map(
        |symbol| {
            let start = usize::try_from(symbol.address()).ok()?;
            // Type, sizes of key and value, number of entries: `struct bpf_map_def`.
            let words = data.get(start..)?.first_chunk::<16>()?.as_chunks::<4>().0;
            let [kind, key_bytes, value_bytes, entries] = words else { return None };
            let [key_bytes, value_bytes, entries] =
                [key_bytes, value_bytes, entries].map(|word| u64::from(u32::from_le_bytes(*word)));
            // `enum bpf_map_type`.
            let kind = match u32::from_le_bytes(*kind) {
                1 | 9 => Kind::Hash,
                2 => Kind::Array,
                6 => Kind::PerCpuArray,
                22 => Kind::Queue,
                27 => Kind::Ring,
                _ => return None,
            };
            Some(Definition { name: symbol.name().ok()?.to_owned(), kind, key_bytes, value_bytes, entries })
        },
    ));
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::{Cpus, Definition, Formula, Kind, Map, definitions};
    use crate::kernel::object::OBJECT;

    /// Ten CPUs are measured.
    const CPUS: Cpus = Cpus { possible: 64, online: 2 };

    fn definition(kind: Kind, key_bytes: u64, value_bytes: u64, entries: u64) -> Definition {
        Definition { name: "A".to_owned(), kind, key_bytes, value_bytes, entries }
    }

    #[test]
    fn a_formula_adds_up_what_it_takes_for_cpus_and_slots() {
        let formula = Formula { fixed: 1, per_possible_cpu: 7, per_cpu: 10, per_slot: 100, per_cpu_and_slot: 1000 };
        assert_eq!(formula.on(CPUS, 3), 1 + 7 * 64 + 100 + 300 + 30_000);
        let more = Formula { per_slot: 5, per_possible_cpu: 1, ..Formula::NOTHING };
        assert_eq!((formula + more).on(CPUS, 3), formula.on(CPUS, 3) + 15 + 64);
    }

    #[test]
    fn what_a_map_takes_follows_from_its_kind() {
        for (map, definition, expected) in [
            (Map::per_cpu_and_slot("A"), definition(Kind::Array, 4, 12, 1), 16 * 10 * 3),
            (Map::per_cpu("A", 3), definition(Kind::Array, 4, 8, 1), 8 * 10 * 3),
            (Map::per_possible_cpu("A"), definition(Kind::Array, 4, 8, 1), 8 * 64),
            (Map::fixed("A"), definition(Kind::PerCpuArray, 4, 12, 1), 16 * 64),
            (Map::per_slot("A", 2), definition(Kind::Hash, 8, 8, 1), 80 * 6),
            (Map::per_slot("A", 1), definition(Kind::Queue, 0, 4, 1), 4 * 3),
            (Map::fixed("A"), definition(Kind::Ring, 0, 0, 8192), 8192),
            (Map::fixed("A"), definition(Kind::Variables, 4, 100, 1), 104),
        ] {
            assert_eq!(map.bytes(&definition).on(CPUS, 3), expected, "{definition:?}");
        }
    }

    #[test]
    fn a_map_that_nobody_uses_takes_one_entry() {
        let check = |map: Map, definition: &Definition, used, unused| {
            let entries = [true, false].map(|is_used| map.entries_on(definition, CPUS, 3, is_used));
            assert_eq!(entries, [used, unused], "{definition:?}");
        };
        check(Map::per_cpu_and_slot("A"), &definition(Kind::Array, 4, 8, 1), Some(30), Some(1));
        check(Map::fixed("A"), &definition(Kind::Hash, 4, 1, 1024), None, Some(1));
        check(Map::fixed("A"), &definition(Kind::Ring, 0, 0, 1 << 19), None, Some(4096));
        check(Map::fixed("A"), &definition(Kind::Variables, 4, 100, 1), None, None);
    }

    #[test]
    fn the_object_tells_its_maps() {
        let all = definitions(OBJECT);
        let find = |name: &str| all.iter().find(|one| one.name == name).unwrap();
        assert_eq!((find("SLOTS").kind, find("SLOTS").value_bytes), (Kind::Array, 32));
        assert_eq!((find("SLOT_OF").kind, find("SLOT_OF").key_bytes), (Kind::Hash, 8));
        assert_eq!((find("EVENTS").kind, find("EVENTS").entries), (Kind::Ring, 512 * 1024));
        assert_eq!(find("ASCENT").kind, Kind::PerCpuArray);
        assert!(find(".bss").value_bytes > 0);
        assert!(definitions(&OBJECT[..100]).is_empty());
    }
}
