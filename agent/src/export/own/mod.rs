//! The agent's own metrics on their way out: on the page beside the pods' values, and in the pushes under a resource of
//! their own.
//!
//! [`crate::telemetry`] counts; nothing is counted here. The server and the OTLP client call it.

mod page;
mod push;

pub use self::{
    page::page,
    push::{request, resource_attributes},
};

#[cfg(test)]
mod tests;
