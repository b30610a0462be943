//! Labels whose values are known beforehand: one enum per label, which carries the label's text.
//!
//! The kernel programs index their counters by a variant, and the daemon takes names and order from the same enum. So no
//! other list has to stand in the same order.

/// Defines such an enum: its variants count from 0, each with the text of its label value.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[repr(usize)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$about])* $variant,)*
        }

        impl $name {
            /// All values, in the order of their counters.
            pub const ALL: [Self; [$($text),*].len()] = [$(Self::$variant),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();
            /// Their texts, in the same order.
            pub const NAMES: [&'static str; Self::COUNT] = [$($text),*];

            /// The text of the label's value.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Where it counts.
            #[inline(always)]
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(crate) use label;

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use crate::{
        disk::{Operation, Part},
        dns::DnsResult,
        memory::{EndWord, LruList, MemoryEvent, MemoryType},
        oom::OomScope,
        pressure::{Resource, Stall},
        scheduler::{Cause, OffCpu, SwitchKind},
        stalls::StallReason,
        tasks::TaskState,
        tcp::{ConnectFailure, ConnectionEvent, Direction, Protocol, SocketState},
        udp::UdpError,
    };

    #[test]
    fn names_and_counters_of_a_label_stand_in_one_order() {
        macro_rules! check {
            ($($label:ident),*) => {
                $(for (index, value) in $label::ALL.into_iter().enumerate() {
                    assert_eq!((value.index(), value.name()), (index, $label::NAMES[index]));
                })*
            };
        }
        check!(
            Cause,
            ConnectFailure,
            ConnectionEvent,
            Direction,
            DnsResult,
            EndWord,
            LruList,
            MemoryEvent,
            MemoryType,
            OffCpu,
            OomScope,
            Operation,
            Part,
            Protocol,
            Resource,
            SocketState,
            Stall,
            StallReason,
            SwitchKind,
            TaskState,
            UdpError
        );
    }
}
