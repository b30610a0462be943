//! One user at a time for a piece of memory, whoever interrupts whom: how a kernel program takes a CPU's buffer. No waiting:
//! who comes second is refused.
//!
//! A program may be interrupted by another on the same CPU, and on a kernel with real-time preemption be set aside for
//! one. The oldest supported kernels have no instruction that changes a word and tells what was there, only one that adds.

/// The count of those who use the memory or ask for it.
pub trait Users {
    /// Adds to the count, modulo 2^64, at once as all CPUs see it.
    fn add(&self, amount: u64);

    /// The count at this moment.
    fn count(&self) -> u64;
}

/// Takes the memory; not where somebody has it. Who has taken it is to [`release`] it.
///
/// Whoever reads 1 after its own addition is alone: each other one that has added since reads more and steps back, and one that
/// added before would be in the count. Two that ask at the same moment may both be refused.
#[inline(always)]
#[must_use]
pub fn claim<U: Users>(users: &U) -> bool {
    users.add(1);
    if users.count() == 1 {
        return true;
    }
    release(users);
    false
}

/// Gives the memory back.
#[inline(always)]
pub fn release<U: Users>(users: &U) {
    users.add(u64::MAX);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use std::{
        cell::{Cell, RefCell},
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    use super::{Users, claim, release};

    /// A count whose user is interrupted, at each step in turn, by another that takes the memory and gives it back.
    struct Interrupted {
        count: Cell<u64>,
        steps: Cell<u32>,
        /// At which steps an interrupt comes.
        at: RefCell<Vec<u32>>,
        /// Who has the memory.
        held: Cell<bool>,
        refused: Cell<u32>,
    }

    impl Interrupted {
        fn step(&self) {
            let step = self.steps.get();
            self.steps.set(step + 1);
            let comes = self.at.borrow_mut().pop_if(|at| *at == step).is_some();
            if comes {
                self.use_memory();
            }
        }

        fn use_memory(&self) {
            if claim(self) {
                assert!(!self.held.replace(true), "two have the memory");
                self.step();
                assert!(self.held.replace(false), "somebody else gave it back");
                release(self);
            } else {
                self.refused.set(self.refused.get() + 1);
            }
        }
    }

    impl Users for Interrupted {
        fn add(&self, amount: u64) {
            self.step();
            self.count.set(self.count.get().wrapping_add(amount));
            self.step();
        }

        fn count(&self) -> u64 {
            self.step();
            self.count.get()
        }
    }

    #[test]
    fn an_interrupt_at_any_step_finds_the_memory_free_or_is_refused() {
        let mut refused = 0;
        for first in 0..16 {
            for second in first..32 {
                // The last is the first that comes.
                let users = Interrupted {
                    count: Cell::new(0),
                    steps: Cell::new(0),
                    at: RefCell::new(vec![second, first]),
                    held: Cell::new(false),
                    refused: Cell::new(0),
                };
                users.use_memory();
                assert_eq!(users.count.get(), 0, "all have given it back");
                refused += users.refused.get();
            }
        }
        assert!(refused > 0, "some interrupts come while the memory is used");
    }

    #[test]
    fn of_those_that_ask_at_once_one_has_the_memory_at_most() {
        struct Shared(AtomicU64);
        impl Users for Shared {
            fn add(&self, amount: u64) {
                self.0.fetch_add(amount, Ordering::SeqCst);
            }

            fn count(&self) -> u64 {
                self.0.load(Ordering::SeqCst)
            }
        }
        const ROUNDS: u32 = 20_000;
        let (users, held) = (Shared(AtomicU64::new(0)), AtomicU64::new(0));
        let taken: u32 = thread::scope(|scope| {
            let ask = || {
                (0..ROUNDS).map(|_| {
                    if !claim(&users) {
                        return 0;
                    }
                    assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0, "two have the memory");
                    thread::yield_now();
                    held.fetch_sub(1, Ordering::SeqCst);
                    release(&users);
                    1
                })
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(move || ask().sum::<u32>())).collect();
            threads.into_iter().map(|thread| thread.join().expect("no thread fails")).sum()
        });
        assert!(taken > 0 && users.count() == 0, "taken {taken} times");
    }
}
