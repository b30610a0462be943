//! A Kubernetes of the test's own: pods as a kubelet describes them, and an API server that hands them out.

mod api_server;
mod pods;

pub use self::{
    api_server::{ApiServer, Store},
    pods::{Described, State, Status},
};
