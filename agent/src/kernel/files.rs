//! How many files this process may have open.

use std::io;

/// Raises the limit to what the process is allowed at most, and tells it. Nothing here uses `select`, for which
/// the lower limit is kept.
///
/// # Errors
/// What the kernel says.
pub fn raise_limit() -> io::Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: `raised` is a valid limit, not above the hard one.
    let refused = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0;
    let most = if refused { limit.rlim_cur } else { raised.rlim_cur };
    Ok(usize::try_from(most).unwrap_or(usize::MAX))
}
