//! Which program of an object needs what: the undefined symbols that its section's relocations name, and those of the
//! functions that it calls, wherever they lie.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind, SymbolKind, read::elf::ElfFile64,
};

use super::NeedsError;

/// A program, and the names of all that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// The section that it lies in, which names its hook.
    pub section: String,
    /// Its requests.
    pub requests: BTreeSet<String>,
}

const INSTRUCTION_BYTES: u64 = 8;
/// `call`, of a function of the object where its source register is 1.
const CALL: u8 = 0x85;
const OF_OBJECT: u8 = 1;

/// Where a function begins: the number of its section and its place in that.
type Place = (usize, u64);

#[derive(Debug, Default)]
struct Function {
    name: String,
    end: u64,
    requests: BTreeSet<String>,
    calls: BTreeSet<Place>,
}

/// All programs of an object, in the order in which they lie there.
///
/// # Errors
/// The bytes are no object.
pub fn programs(bytes: &[u8]) -> Result<Vec<Program>, NeedsError> {
    let file: ElfFile64<'_> = ElfFile64::parse(bytes)?;
    let mut functions: BTreeMap<Place, Function> = BTreeMap::new();
    for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let Some(section) = symbol.section_index() else { continue };
        let function = Function {
            name: symbol.name()?.to_owned(),
            end: symbol.address().saturating_add(symbol.size()),
            ..Function::default()
        };
        functions.insert((section.0, symbol.address()), function);
    }
    let mut hooks = HashMap::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        read_section(&file, &section, &mut functions)?;
        if section.name()? != ".text" {
            hooks.insert(section.index().0, section.name()?.to_owned());
        }
    }
    Ok(functions
        .iter()
        .filter_map(|(place, function)| {
            let section = hooks.get(&place.0)?.clone();
            Some(Program { name: function.name.clone(), section, requests: reachable(&functions, *place) })
        })
        .collect())
}

/// Enters what the functions of one section need and call.
fn read_section(
    file: &ElfFile64<'_>,
    section: &object::read::elf::ElfSection64<'_, '_>,
    functions: &mut BTreeMap<Place, Function>,
) -> Result<(), NeedsError> {
    let instructions = section.data()?;
    let mut related = BTreeSet::new();
    for (at, relocation) in section.relocations() {
        related.insert(at);
        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
        let symbol = file.symbol_by_index(index)?;
        let Some(function) = function_at(functions, section.index().0, at) else { continue };
        if symbol.is_undefined() {
            let name = symbol.name()?;
            if !name.is_empty() {
                function.requests.insert(name.to_owned());
            }
            continue;
        }
        // Of a call the instruction's number counts instructions from the next one on, of an address it counts bytes.
        let Some((code, _, number)) = instruction(instructions, at) else { continue };
        let distance = if code == CALL { (i64::from(number) + 1).saturating_mul(8) } else { i64::from(number) };
        if let Some(called) = symbol.section_index() {
            function.calls.extend(symbol.address().checked_add_signed(distance).map(|target| (called.0, target)));
        }
    }
    let length = u64::try_from(instructions.len()).unwrap_or(0);
    for at in (0..length).step_by(8).filter(|at| !related.contains(at)) {
        let Some((CALL, OF_OBJECT, number)) = instruction(instructions, at) else { continue };
        let target = (at + INSTRUCTION_BYTES).checked_add_signed(i64::from(number).saturating_mul(8));
        if let Some(function) = function_at(functions, section.index().0, at) {
            function.calls.extend(target.map(|target| (section.index().0, target)));
        }
    }
    Ok(())
}

/// Code, source register and number of the instruction at that byte.
fn instruction(instructions: &[u8], at: u64) -> Option<(u8, u8, i32)> {
    let rest = instructions.get(usize::try_from(at).ok()?..)?;
    let [code, registers, _, _, number @ ..] = *rest.first_chunk::<8>()?;
    Some((code, registers >> 4, i32::from_le_bytes(number)))
}

/// The function that lies there.
fn function_at(functions: &mut BTreeMap<Place, Function>, section: usize, at: u64) -> Option<&mut Function> {
    let (place, function) = functions.range_mut(..=(section, at)).next_back()?;
    let extent: Range<u64> = place.1..function.end;
    (place.0 == section && extent.contains(&at)).then_some(function)
}

/// What a function and all that it calls need.
fn reachable(functions: &BTreeMap<Place, Function>, from: Place) -> BTreeSet<String> {
    let (mut requests, mut met, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![from]);
    while let Some(place) = open.pop() {
        if met.insert(place)
            && let Some(function) = functions.get(&place)
        {
            requests.extend(function.requests.iter().cloned());
            open.extend(&function.calls);
        }
    }
    requests
}
