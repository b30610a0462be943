//! Starting an iterating program: the loader's library makes one reading of each link, this any number.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

/// `BPF_LINK_CREATE` and `BPF_ITER_CREATE` of linux/bpf.h.
const LINK_CREATE: libc::c_int = 28;
const ITER_CREATE: libc::c_int = 33;
/// `BPF_TRACE_ITER` of linux/bpf.h.
const TRACE_ITER: u32 = 28;

/// A loaded iterating program that can be started again and again.
#[derive(Debug)]
pub struct Iterator {
    link: OwnedFd,
}

impl Iterator {
    /// Makes the program behind `program` ready.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn over(program: BorrowedFd<'_>) -> io::Result<Self> {
        let none = 0;
        // Program, target, kind of attachment, flags; then two words for a restriction, which there is not.
        let attributes = [number(program.as_raw_fd()), none, TRACE_ITER, none, none, none, none, none];
        Ok(Self { link: call(LINK_CREATE, &attributes)? })
    }

    /// Starts it and reads to its end; it writes nothing. A program that ends the reading after its first run
    /// makes the kernel ask to try again, which is not done.
    ///
    /// # Errors
    /// What the kernel says otherwise.
    pub fn run(&self) -> io::Result<()> {
        let mut reading = File::from(call(ITER_CREATE, &[number(self.link.as_raw_fd()), 0])?);
        let mut nothing = [0; 64];
        loop {
            match reading.read(&mut nothing) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(cause) => return Err(cause),
            }
        }
    }
}

/// `bpf(2)` with one of the commands that give a descriptor.
fn call(command: libc::c_int, attributes: &[u32]) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are that many bytes of integers, which the kernel copies.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    let descriptor = RawFd::try_from(answer).ok().filter(|descriptor| *descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given this descriptor to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A descriptor as the kernel's structures hold it.
fn number(descriptor: RawFd) -> u32 {
    descriptor.cast_unsigned()
}
