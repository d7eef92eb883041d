//! The agent: one process that joins the rooms — store, origin, wire and swarm — and serves its host.
//!
//! | file | what lives there |
//! |---|---|
//! | [`options`] | everything an agent can be told |
//! | [`agent`] | [`Agent`], the handle: open a blob, list, explain, drain |
//! | [`api`] | the JSON of the administration socket |
//! | [`local`] | the port for programs of this host: mirror, metrics, health |
//! | [`mirror`] | the registry mirror |
//! | [`metrics`] | what the agent counts |
//! | [`error`] | what can go wrong when bytes are asked for, and whose fault it is |

pub mod agent;
pub mod api;
pub mod error;
pub mod local;
pub mod metrics;
pub mod mirror;
pub mod options;

pub use agent::{Agent, Download};
pub use error::{FetchError, StartError};
pub use options::Options;
