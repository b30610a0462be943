//! Records in memory that is reached by several ways at once: named cells in place of references.
//!
//! Two `&mut` to one record are undefined behavior, and a look-up in a map gives another one each time. So a record is a
//! pointer here, which may be copied, and each of its fields a [`Cell`], of which any number may exist. Who else may write
//! the field at the same moment is for the caller to know: cells say nothing about other CPUs.

use core::cell::Cell;

/// The cell at a field's place.
///
/// # Safety
/// The place is aligned and lies in memory that outlives the program, of which nobody has a reference that is no cell.
#[inline(always)]
pub(crate) unsafe fn cell<T>(place: *mut T) -> &'static Cell<T> {
    // SAFETY: the caller's; a cell has the layout of what it holds.
    unsafe { &*place.cast::<Cell<T>>() }
}

/// The cell of one element of an array.
///
/// # Safety
/// As above, and `index` is less than the array's length.
#[inline(always)]
pub(crate) unsafe fn element<T, const LENGTH: usize>(array: *mut [T; LENGTH], index: usize) -> &'static Cell<T> {
    // SAFETY: the caller's.
    unsafe { cell(array.cast::<T>().add(index)) }
}

/// Defines a pointer to a record with a cell for each field that is named.
macro_rules! cells {
    (
        $(#[$doc:meta])* $name:ident of $record:ty {
            $($field:ident: $type:ty = $($path:ident).+;)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name(core::ptr::NonNull<$record>);

        impl $name {
            /// The record at a place; none where there is none.
            #[inline(always)]
            #[allow(dead_code, reason = "what is in no map needs no look")]
            fn at(place: Option<*mut $record>) -> Option<Self> {
                core::ptr::NonNull::new(place?).map(Self)
            }

            $(
                #[inline(always)]
                pub(crate) fn $field(self) -> &'static core::cell::Cell<$type> {
                    // SAFETY: whoever made the pointer vouches for the record, and all access to it is by cells.
                    unsafe { $crate::cells::cell(&raw mut (*self.0.as_ptr()).$($path).+) }
                }
            )*
        }
    };
}
pub(crate) use cells;
