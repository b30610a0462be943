//! When sockets began to ask for a connection. The kernel keeps no such time that survives a request which is sent again.
//!
//! A socket is noted when it asks and taken out when it has its connection or gives up, so places are held by those alone that
//! ask at this moment, and by what a missed change has left behind, for a while. Who finds no place is not noted: the others
//! have asked for longer, so theirs is the time that will be wanted.

/// Places in a line; a line is one of a processor's cache.
pub const PLACES: usize = 4;

/// Lines; a power of two.
pub const LINES: u32 = 512;

/// No socket asks for longer: twice what the kernel's own limit, six requests sent again, comes to.
const LONGEST_NS: u64 = 256_000_000_000;

/// A socket that asks, and since when.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// A number that stands for the socket; 0 for none.
    pub socket: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
}

/// Sockets whose addresses have one hash.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// In no order.
    pub places: [Asked; PLACES],
}

/// A line as a program reaches it.
pub trait Line {
    /// What stands in a place, below [`PLACES`].
    fn read(&self, place: usize) -> Asked;

    /// Writes there.
    fn write(&self, place: usize, asked: Asked);
}

/// Notes that a socket asks, if there is room.
///
/// Two CPUs may take one place at the same moment; then one of the sockets is not noted.
#[inline(always)]
pub fn begin<L: Line>(line: &L, socket: u64, at_ns: u64) {
    let mut free = None;
    let mut place = 0;
    while place < PLACES {
        let found = line.read(place);
        if found.socket == socket {
            free = Some(place);
            break;
        }
        if free.is_none() && (found.socket == 0 || at_ns.wrapping_sub(found.at_ns) > LONGEST_NS) {
            free = Some(place);
        }
        place += 1;
    }
    if let Some(place) = free {
        line.write(place, Asked { socket, at_ns });
    }
}

/// Takes a socket out that does not ask any more; since when it asked, if it was noted.
#[inline(always)]
pub fn end<L: Line>(line: &L, socket: u64) -> Option<u64> {
    let mut place = 0;
    while place < PLACES {
        let found = line.read(place);
        if found.socket == socket {
            line.write(place, Asked { socket: 0, at_ns: 0 });
            return Some(found.at_ns);
        }
        place += 1;
    }
    None
}

const _: () = assert!(size_of::<Asking>() == 64);

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use std::cell::Cell;

    use super::{Asked, LONGEST_NS, Line, PLACES, begin, end};

    struct Places([Cell<Asked>; PLACES]);

    impl Places {
        fn empty() -> Self {
            Self([const { Cell::new(Asked { socket: 0, at_ns: 0 }) }; PLACES])
        }
    }

    impl Line for Places {
        fn read(&self, place: usize) -> Asked {
            self.0[place].get()
        }

        fn write(&self, place: usize, asked: Asked) {
            self.0[place].set(asked);
        }
    }

    #[test]
    fn each_of_those_that_ask_at_once_has_its_own_time_until_it_ends() {
        let line = Places::empty();
        for socket in 1..=4 {
            begin(&line, socket, 10 * socket);
        }
        assert_eq!(end(&line, 3), Some(30));
        assert_eq!(end(&line, 3), None, "once");
        begin(&line, 5, 50);
        assert_eq!([1, 2, 4, 5].map(|socket| end(&line, socket)), [10, 20, 40, 50].map(Some));
    }

    #[test]
    fn who_finds_no_place_is_not_noted_and_takes_nobody_elses() {
        let line = Places::empty();
        for socket in 1..=5 {
            begin(&line, socket, socket);
        }
        assert_eq!([1, 2, 3, 4, 5].map(|socket| end(&line, socket)), [Some(1), Some(2), Some(3), Some(4), None]);
    }

    #[test]
    fn a_socket_that_asks_anew_has_one_place() {
        let line = Places::empty();
        begin(&line, 1, 1);
        begin(&line, 2, 2);
        end(&line, 1);
        begin(&line, 2, 7);
        assert_eq!([end(&line, 2), end(&line, 2)], [Some(7), None]);
    }

    #[test]
    fn what_a_missed_change_left_behind_gives_way_when_no_socket_can_ask_for_so_long() {
        let line = Places::empty();
        for socket in 1..=4 {
            begin(&line, socket, socket);
        }
        begin(&line, 5, 2 + LONGEST_NS);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|socket| end(&line, socket)),
            [None, Some(2), Some(3), Some(4), Some(2 + LONGEST_NS)]
        );
    }
}
