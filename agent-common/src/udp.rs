//! UDP by slot: what programs sent and received, and what went wrong.

use bytemuck::{Pod, Zeroable};

use crate::{label::label, tcp::Direction};

label! {
    /// What went wrong.
    UdpError {
        /// A datagram came that had no room in its socket's receive buffer.
        ReceiveBuffer = "receive_buffer",
        /// One came while the node's memory for UDP was used up.
        Memory = "memory",
        /// A call was told that nobody listens where an earlier datagram went.
        Refused = "refused",
        /// A call failed otherwise.
        Other = "other",
    }
}

impl UdpError {
    /// Of what a call to send or to receive gave; none if it did not fail, or is only to be tried again.
    #[inline(always)]
    #[must_use]
    pub const fn of_call(result: i32) -> Option<Self> {
        match result {
            // EINTR, EAGAIN, and what the kernel itself tries again (ERESTARTSYS to ERESTART_RESTARTBLOCK).
            0.. | -4 | -11 | -516..=-512 => None,
            // ECONNREFUSED
            -111 => Some(Self::Refused),
            _ => Some(Self::Other),
        }
    }

    /// Of why a datagram did not come into its socket.
    #[inline(always)]
    #[must_use]
    pub const fn of_queue(result: i32) -> Self {
        // ENOMEM; else it is ENOBUFS.
        if result == -12 { Self::ReceiveBuffer } else { Self::Memory }
    }
}

/// What was done for one slot. Any CPU adds to it, by atomic additions.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct UdpAccount {
    /// Payload, by direction.
    pub bytes: [u64; Direction::COUNT],
    /// Calls that sent or received a datagram, by direction.
    pub datagrams: [u64; Direction::COUNT],
    /// What went wrong.
    pub errors: [u64; UdpError::COUNT],
}

impl UdpAccount {
    /// Nothing.
    pub const EMPTY: Self =
        Self { bytes: [0; Direction::COUNT], datagrams: [0; Direction::COUNT], errors: [0; UdpError::COUNT] };
}

const _: () = assert!(size_of::<UdpAccount>() == 64);

#[cfg(test)]
mod tests {
    use super::UdpError;

    #[test]
    fn what_is_to_be_tried_again_is_no_error() {
        for (result, expected) in [
            (0, None),
            (77, None),
            (-4, None),
            (-11, None),
            (-512, None),
            (-516, None),
            (-111, Some(UdpError::Refused)),
            (-90, Some(UdpError::Other)),
            (-517, Some(UdpError::Other)),
        ] {
            assert_eq!(UdpError::of_call(result), expected, "{result}");
        }
        assert_eq!([-12, -105].map(UdpError::of_queue), [UdpError::ReceiveBuffer, UdpError::Memory]);
    }
}
