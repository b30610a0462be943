//! Puts numbers into the kernel programs' instructions before they are loaded.
//!
//! The programs refer to what only the node knows, as the offset of a member, by symbols that the object does not
//! define (see `needs`). An instruction that loads the address of such a symbol gets the number instead, and its relocation is
//! taken out. Where the number is only added to a pointer, to load what lies there, the load gets it. Pure: from an object's bytes to others. `object` calls it.

use std::collections::HashMap;

use object::{
    Endianness, SectionIndex,
    elf::{self, FileHeader64},
    read::elf::{FileHeader as _, Rel as _, SectionHeader as _, Sym as _},
};

/// Why an object cannot be completed.
#[derive(Debug, thiserror::Error)]
pub enum ImmediateError {
    /// It is no object.
    #[error("the BPF object is damaged: build podlens anew")]
    Damaged(#[from] object::Error),
    /// Something in it lies outside it.
    #[error("the BPF object's {0} lies beyond its end: build podlens anew")]
    Beyond(&'static str),
}

const SECTION_HEADER_BYTES: usize = size_of::<elf::SectionHeader64<Endianness>>();
const SIZE_IN_SECTION_HEADER: usize = std::mem::offset_of!(elf::SectionHeader64<Endianness>, sh_size);
const RELOCATION_BYTES: usize = size_of::<elf::Rel64<Endianness>>();
/// Instructions: a sum of two registers, loads of 8, 4 and 1 bytes, a jump to the next instruction.
const ADD: u8 = 0x0f;
const LOADS: [u8; 4] = [0x79, 0x61, 0x69, 0x71];
const NOTHING: [u8; 8] = [0x05, 0, 0, 0, 0, 0, 0, 0];
/// Where the two halves of the number are in the two words of the instruction.
const HALVES: [usize; 2] = [4, 12];

/// The object with these numbers in place of the addresses of the symbols of their names. A symbol that it does
/// not define and that has no number here is 0: it stands in a program that is refused, or behind a branch that another
/// number removes.
///
/// # Errors
/// The bytes are no object.
pub fn insert<'a>(bytes: &[u8], numbers: impl IntoIterator<Item = (&'a str, u32)>) -> Result<Vec<u8>, ImmediateError> {
    let numbers: HashMap<&str, u32> = numbers.into_iter().collect();
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let symbols = sections.symbols(endian, bytes, elf::SHT_SYMTAB)?;
    let headers = position(header.e_shoff.get(endian), "table of sections")?;
    let mut completed = bytes.to_vec();
    for (index, section) in sections.iter().enumerate() {
        let Some((relocations, _)) = section.rel(endian, bytes)? else { continue };
        let instructions = sections.section(SectionIndex(position(section.sh_info(endian).into(), "section")?))?;
        let instructions = position(instructions.sh_offset(endian), "section")?;
        let table = position(section.sh_offset(endian), "table of relocations")?;
        let mut kept = 0;
        for (number, relocation) in relocations.iter().enumerate() {
            let symbol = symbols.symbol(object::SymbolIndex(position(relocation.r_sym(endian).into(), "symbol")?))?;
            let name = symbol.name(endian, symbols.strings())?;
            if symbol.is_undefined(endian) && !name.is_empty() {
                let instruction = instructions + position(relocation.r_offset(endian), "instruction")?;
                let number = std::str::from_utf8(name).ok().and_then(|name| numbers.get(name));
                let value = number.copied().unwrap_or(0);
                for (at, half) in HALVES.into_iter().zip([value, 0]) {
                    write(&mut completed, instruction + at, &half.to_le_bytes())?;
                }
                shorten(&mut completed, instruction, value);
            } else {
                let from = table + number * RELOCATION_BYTES;
                let entry = bytes.get(from..from + RELOCATION_BYTES).ok_or(ImmediateError::Beyond("relocation"))?;
                write(&mut completed, table + kept * RELOCATION_BYTES, entry)?;
                kept += 1;
            }
        }
        let size = u64::try_from(kept * RELOCATION_BYTES).unwrap_or(u64::MAX);
        let at = headers + index * SECTION_HEADER_BYTES + SIZE_IN_SECTION_HEADER;
        write(&mut completed, at, &size.to_le_bytes())?;
    }
    Ok(completed)
}

/// Turns a number, its addition to a pointer and a load of what lies there into one load at an offset. The
/// instructions that are left over do nothing, and the kernel takes them out.
fn shorten(object: &mut [u8], at: usize, value: u32) {
    let Ok(offset) = i16::try_from(value) else { return };
    let Some(words) = object.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<32>()) else { return };
    let [number, half, sum, load] = words.as_chunks_mut::<8>().0 else { return };
    let ([_, target, ..], [add, added, ..]) = (*number, *sum);
    let (target, base) = (target & 15, added >> 4);
    let [width, loaded, ..] = *load;
    let is_sum = add == ADD && added & 15 == target;
    let loaded = loaded & 15;
    if !is_sum || !LOADS.contains(&width) || *load != [width, target << 4 | loaded, 0, 0, 0, 0, 0, 0] {
        return;
    }
    let [low, high] = offset.to_le_bytes();
    *load = [width, base << 4 | loaded, low, high, 0, 0, 0, 0];
    for rest in [number, half, sum] {
        *rest = NOTHING;
    }
}

fn position(value: u64, what: &'static str) -> Result<usize, ImmediateError> {
    usize::try_from(value).map_err(|_| ImmediateError::Beyond(what))
}

fn write(bytes: &mut [u8], at: usize, with: &[u8]) -> Result<(), ImmediateError> {
    let place = bytes.get_mut(at..at.saturating_add(with.len())).ok_or(ImmediateError::Beyond("instruction"))?;
    place.copy_from_slice(with);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, read::elf::ElfFile64};

    use super::{NOTHING, insert};
    use crate::kernel::object::OBJECT;

    /// Names of undefined symbols that instructions refer to, and where.
    fn references(bytes: &[u8]) -> Vec<(String, usize)> {
        let file: ElfFile64<'_> = ElfFile64::parse(bytes).unwrap();
        let mut found = Vec::new();
        for section in file.sections() {
            let start = section.file_range().map_or(0, |(start, _)| usize::try_from(start).unwrap());
            for (offset, relocation) in section.relocations() {
                let RelocationTarget::Symbol(index) = relocation.target() else { continue };
                let symbol = file.symbol_by_index(index).unwrap();
                if symbol.is_undefined() {
                    found.push((symbol.name().unwrap().to_owned(), start + usize::try_from(offset).unwrap()));
                }
            }
        }
        found
    }

    fn number(bytes: &[u8], at: usize) -> u64 {
        let half = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
        half(at + 4) | half(at + 12) << 32
    }

    /// The number that the load behind these instructions got, if they do nothing any more.
    fn shortened(bytes: &[u8], at: usize) -> Option<u64> {
        let (nothing, load) = (&bytes[at..at + 24], &bytes[at + 24..at + 32]);
        nothing.chunks(8).all(|one| one == NOTHING).then(|| u64::from(u16::from_le_bytes([load[2], load[3]])))
    }

    /// Gives how many loads were shortened.
    #[track_caller]
    fn check(task_pid: u32) -> usize {
        let before = references(OBJECT);
        let completed = insert(OBJECT, [("u32 task_struct.pid", task_pid), ("SLOTS_COUNT", u32::MAX)]).unwrap();
        assert_eq!(references(&completed), []);
        let mut short = 0;
        for (name, at) in before {
            let expected = match name.as_str() {
                "u32 task_struct.pid" => u64::from(task_pid),
                "SLOTS_COUNT" => u64::from(u32::MAX),
                _ => 0,
            };
            let found = shortened(&completed, at);
            assert_eq!(found.unwrap_or_else(|| number(&completed, at)), expected, "{name} at {at}");
            if let (Some(_), "u32 task_struct.pid") = (found, name.as_str()) {
                let (loaded, base) = (OBJECT[at + 25] & 15, OBJECT[at + 17] >> 4);
                assert_eq!(completed[at + 25], base << 4 | loaded, "target and base of the load at {at}");
                short += 1;
            }
        }
        short
    }

    #[test]
    fn each_instruction_gets_its_symbols_number_and_loses_its_relocation() {
        assert!(check(0x1234) > 1, "loads of a task's id are shortened");
        assert_eq!(check(0x8000), 0, "the number is too large for a load");
    }

    #[test]
    fn an_object_that_is_cut_off_is_refused() {
        for length in [0, 1, 63, 64, 1000, OBJECT.len() / 2, OBJECT.len() - 1] {
            assert!(insert(&OBJECT[..length], []).is_err(), "{length} bytes");
        }
    }
}
