//! The next table of the walk through sockets. Called by `tcp_walk` when the last one has ended.

use aya_ebpf::{
    cty::{c_long, c_void},
    helpers::{bpf_get_current_task, bpf_loop},
};
use podlens_common::tcp::Cursor;

use super::{AtCells, CONNECTIONS, LISTENERS, offsets, pass};
use crate::kernel::offsets::{half, word};

/// Network namespaces of a node: 0.4 us each.
const NAMESPACES: u32 = 1 << 12;

/// Goes round the namespaces for the next table of connections; behind the last one come listening sockets.
#[inline(always)]
pub(super) fn seek(at: AtCells) -> bool {
    // SAFETY: the helper has no precondition.
    let reader = unsafe { bpf_get_current_task() };
    let first = word(word(reader + offsets::task_proxy()) + offsets::proxy_net());
    at.first().set(first);
    at.net().set(first);
    at.operations().set(word(first + offsets::net_operations()));
    at.above().set(Cursor::ALL);
    at.round().set(0);
    let step: extern "C" fn(u32, *mut c_void) -> c_long = namespace;
    // SAFETY: as above.
    unsafe { bpf_loop(NAMESPACES, step as *mut c_void, core::ptr::null_mut(), 0) };
    if at.round().get() == 0 {
        return false;
    }
    at.bucket().set(0);
    at.have().set(0);
    at.taken().set(0);
    let tables = at.above().get();
    pass(tables, 0);
    if tables == Cursor::ALL {
        at.phase().set(LISTENERS);
        let tables = at.tables().get();
        at.base().set(word(tables + offsets::listeners()));
        at.buckets().set(half(tables + offsets::listeners_mask()).wrapping_add(1));
        // The head is the last member of its bucket.
        let head = (offsets::listeners_head() / 8) as u32;
        at.head().set(head);
        at.stride().set(head + 1);
    } else {
        at.phase().set(CONNECTIONS);
        at.tables().set(tables);
        at.base().set(word(tables + offsets::connections()));
        at.buckets().set(half(tables + offsets::connections_mask()).wrapping_add(1));
        at.head().set(0);
        at.stride().set(1);
    }
    true
}

/// One namespace, or the head of their ring.
extern "C" fn namespace(_index: u32, _context: *mut c_void) -> c_long {
    let Some(at) = AtCells::get() else { return 1 };
    let net = at.net().get();
    if word(net + offsets::net_operations()) == at.operations().get() {
        let tables = word(net + offsets::net_tables());
        if tables > at.tables().get() && tables < at.above().get() {
            at.above().set(tables);
        }
    }
    let next = word(net + offsets::net_list());
    if next == 0 {
        return 1;
    }
    let next = next - offsets::net_list();
    at.net().set(next);
    if next == at.first().get() {
        at.round().set(1);
        return 1;
    }
    0
}
