//! What each CPU has for itself of an object that the kernel keeps for each CPU, by its address alone.
//!
//! Where a CPU's copies lie is in a variable of the kernel that programs cannot name. But all of them lie equally far from the
//! pointer that stands for them, so a map of the programs' own that has a value for each CPU tells the distance (kernel 5.19 and
//! later). Each reader has a place of its own for it, so that it may interrupt another one, but not itself: the programs on
//! `cgroup_rmdir`, which the kernel calls under one lock, are one, and the walk of the collector `cpu` is the other.

use aya_ebpf::{
    cty::c_void,
    helpers::generated::bpf_map_lookup_percpu_elem,
    macros::map,
    maps::{Array, PerCpuArray},
};

use super::kernel::number;
use crate::kernel::offsets::word;

/// CPUs of which parts are read at most.
pub(crate) const CPUS: u32 = 4096;

/// Whose values' places are known.
#[map]
static CPU_PART: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Addresses on their way to numbers, as which they may be subtracted; by reader.
#[map]
static CPU_PART_AT: Array<[u64; 2]> = Array::with_max_entries(2, 0);

/// How far each CPU's part lies, once that was found: it stays so.
#[map]
static CPU_DISTANCES: Array<u64> = Array::with_max_entries(CPUS, 0);

/// Whoever walks. One at a time.
pub(crate) const WALK: u32 = 0;
/// Programs on `cgroup_rmdir`. One at a time.
pub(crate) const REMOVAL: u32 = 1;

/// How far a CPU's part of anything lies from the pointer that stands for all parts; 0 where there is no such CPU.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn cpu_part(cpu: u32, reader: u32) -> u64 {
    let (Some(at), Some(known)) = (CPU_PART_AT.get_ptr_mut(reader), CPU_DISTANCES.get_ptr_mut(cpu)) else { return 0 };
    // SAFETY: a word that each reader finds alike.
    let distance = unsafe { known.read() };
    if distance != 0 {
        return distance;
    }
    if number!("enum bpf_func_id.BPF_FUNC_map_lookup_percpu_elem ? 1 : 0") == 0 {
        return 0;
    }
    let map = (&raw const CPU_PART).cast_mut().cast::<c_void>();
    let first: u32 = 0;
    // SAFETY: the map has the one entry, and the memory is written by one program at a time. The numbers are read back from
    // there, since the verifier lets nobody count with what it knows for pointers to maps.
    unsafe {
        let of_cpu = bpf_map_lookup_percpu_elem(map, (&raw const first).cast(), cpu);
        if of_cpu.is_null() {
            return 0;
        }
        at.write_volatile([map as u64, of_cpu as u64]);
        let [map, of_cpu] = at.read_volatile();
        let distance = of_cpu.wrapping_sub(word(map.wrapping_add(number!("bpf_array.pptrs"))));
        known.write(distance);
        distance
    }
}
