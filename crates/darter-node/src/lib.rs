//! The agent: one process that joins the rooms — store, origin, wire and swarm. What programs of its host speak to attaches to its
//! handle (`darter-gateway`).
//!
//! | file | what lives there |
//! |---|---|
//! | [`agent`] | [`Agent`], the handle: open a blob, list, explain, drain; [`Builder`], which puts one together |
//! | [`options`], `identity`, `context`, `budget` | what an agent is told, is, and shares |
//! | `swarms` | all blobs on their way, from source to transfer |
//! | `transfer` | one blob on its way |
//! | `joins` | questions to leads |
//! | `let_downs` | nodes that led a blob to nothing, and are not followed for a while |
//! | `setbacks` | content that was wrong of late: who read it, when it may be tried again |
//! | [`error`] | what can go wrong when bytes are asked for, and whose fault it is |

pub mod agent;
mod budget;
mod context;
pub mod error;
mod identity;
mod joins;
mod let_downs;
pub mod options;
mod setbacks;
mod swarms;
mod transfer;

pub use agent::builder::{Builder, Prepared};
pub use agent::{Agent, Download, MIN_DIGITS, Nearness, Phase, Reloaded};
pub use darter_api::handover::Order;
pub use darter_origin::is_own_header;
pub use darter_registries::waits::ANSWER_TIMEOUT;
pub use error::{FetchError, StartError};
pub use options::Options;
pub use swarms::again::Handing;
pub use transfer::stream::Part;
