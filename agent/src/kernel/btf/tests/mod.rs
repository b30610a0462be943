//! Tests on BTF built by hand and on that of real kernels.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod answers;
pub(in crate::kernel) mod blob;
mod damage;
mod kernels;
