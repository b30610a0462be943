//! Packets that the kernel dropped, by slot and reason: few of the many reasons occur in one slot, so each pair that does has
//! an entry of its own in a table.

use bytemuck::{Pod, Zeroable};

/// The reason of what is none of the kernel's core: kernel modules number their own from 1 << 16 on.
pub const OTHER_REASON: u32 = u16::MAX as u32;

/// A slot and one of the kernel's reasons.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DropKey {
    /// The slot that the packet is charged to.
    pub slot: u32,
    /// A value of `enum skb_drop_reason`, or [`OTHER_REASON`].
    pub reason: u32,
}

const _: () = assert!(size_of::<DropKey>() == 8);

impl DropKey {
    /// Of the number that the kernel tells.
    #[inline(always)]
    #[must_use]
    pub const fn new(slot: u32, reason: u32) -> Self {
        Self { slot, reason: if reason < OTHER_REASON { reason } else { OTHER_REASON } }
    }
}

#[cfg(test)]
mod tests {
    use super::{DropKey, OTHER_REASON};

    #[test]
    fn reasons_of_modules_are_one() {
        for (told, expected) in [(0, 0), (77, 77), (1 << 16 | 3, OTHER_REASON), (u32::MAX, OTHER_REASON)] {
            assert_eq!(DropKey::new(5, told), DropKey { slot: 5, reason: expected }, "{told}");
        }
    }
}
