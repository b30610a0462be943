//! The agent's own metrics on their way out: on the page beside the pods' values, and pushed under a resource of their own.
//!
//! [`crate::telemetry`] counts; nothing is counted here. The server calls it, and `podlens run` starts the push.

mod direct;
mod page;
mod push;

pub use self::{
    direct::DirectPush,
    page::page,
    push::{OwnPush, resource_attributes},
};

#[cfg(test)]
mod tests;
