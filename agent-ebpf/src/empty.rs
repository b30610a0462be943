//! A program that does nothing, on the same tracepoint as the collector `scheduler`: the price of the hook.
//!
//! Only the benchmark loads it. What podlens adds is measured against it in the same run.
#![no_std]
#![no_main]

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

/// `sched_switch`, unused.
#[btf_tracepoint(function = "sched_switch")]
pub fn empty(_context: BtfTracePointContext) -> i32 {
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
