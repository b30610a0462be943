//! Mutexes whose contents stay of use after a panic in some thread: each of podlens' own is whole between two statements.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock, whether or not somebody panicked with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
