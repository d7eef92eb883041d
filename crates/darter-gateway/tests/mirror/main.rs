//! The local port and its registry mirror, over real HTTP on loopback.
//!
//! On one side a client that asks as engines do, on the other a registry that keeps an account of what it is asked;
//! in between the mirror, with a twin of the agent that holds blobs in memory and fails on demand.

mod auth;
mod away;
mod blobs;
mod errors;
mod files;
mod hanging;
mod lazy;
mod listing;
mod login;
mod manifests;
mod port;
mod provenance;
mod ranges;
#[path = "../../../darter-agent/tests/fleet/registry.rs"]
mod registry;
#[path = "../../../darter-agent/tests/fleet/seed.rs"]
#[allow(dead_code, reason = "of the fleet's tests, only an agent's options are needed here")]
mod seed;
mod strangers;
#[path = "../../../darter-image/tests/support/tar.rs"]
mod tar;
mod told;
mod twin;
mod world;
mod wrong;
