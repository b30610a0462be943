//! Programs on the same tracepoint as the collector `scheduler`, for its benchmark alone: one that does nothing, which
//! is the price of the hook, and one that runs whichever program it is told to, so that two can take turns in far less
//! time than it takes to attach one.
#![no_std]
#![no_main]

#[path = "core/object.rs"]
mod object;

use aya_ebpf::{
    macros::{btf_tracepoint, map},
    maps::ProgramArray,
    programs::BtfTracePointContext,
};

/// What `in_turn` runs.
#[map]
static TURN: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// `sched_switch`, unused.
#[btf_tracepoint(function = "sched_switch")]
pub fn empty(_context: BtfTracePointContext) -> i32 {
    0
}

/// `sched_switch`, given to the program whose turn it is.
#[btf_tracepoint(function = "sched_switch")]
pub fn in_turn(context: BtfTracePointContext) -> i32 {
    // SAFETY: nothing is left to be dropped here, and the program is one for this tracepoint.
    unsafe { TURN.tail_call(&context, 0) };
    // It was nobody's turn.
    0
}
