//! What can be told of kernel programs without loading any: from their machine code, and by whom they are held.

use std::{collections::BTreeSet, fs};

/// Bytes of an instruction.
pub const INSTRUCTION: usize = 8;

/// The register that holds the end of a function's stack.
const STACK: u8 = 10;
/// `r = register` and `r += number`.
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;

/// The numbers of the kernel programs that a process holds, attached or loaded; none if it is gone.
pub fn programs_of(process: u32) -> BTreeSet<u32> {
    let files = fs::read_dir(format!("/proc/{process}/fdinfo")).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let id = |text: String| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
    texts.filter_map(id).collect()
}

/// How far below its end a function uses its stack, the functions that it calls left aside.
pub fn stack_bytes(code: &[u8]) -> u16 {
    let (mut deepest, mut is_copy) = (0, [false; 16]);
    for instruction in code.as_chunks::<INSTRUCTION>().0 {
        let [code, registers, low, high, number @ ..] = *instruction;
        let (target, source) = (registers & 15, registers >> 4);
        let at = match code & 7 {
            // A load; a store.
            1 if source == STACK => i16::from_le_bytes([low, high]),
            2 | 3 if target == STACK => i16::from_le_bytes([low, high]),
            7 if code == ADD && is_copy[usize::from(target)] => i32::from_le_bytes(number).try_into().unwrap(),
            _ => 0,
        };
        deepest = deepest.max(at.min(0).unsigned_abs());
        is_copy[usize::from(target)] = code == MOVE && source == STACK;
    }
    deepest
}
