//! A Kubernetes of the test's own: pods as a kubelet describes them, and API servers that hand them out.

mod api_server;
mod fleet_api;
mod listening;
mod pods;

pub use self::{
    api_server::{ApiServer, Store, kubeconfig},
    fleet_api::{Faults, FleetServer, Objects},
    pods::{Described, State, Status},
};
