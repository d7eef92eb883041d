//! The agent: one process that combines store, origins, fleet and engine. The ports for programs of its host attach to its
//! handle (`darter-gateway`).
//!
//! | file | what lives there |
//! |---|---|
//! | [`agent`] | [`Agent`], the handle: open a blob, list, explain, drain; [`Builder`], which assembles one |
//! | [`options`], `identity` | an agent's options, and its id |
//! | [`error`] | why it could not start |

pub mod agent;
pub mod error;
mod identity;
pub mod options;

pub use agent::builder::{Builder, Prepared};
pub use agent::{Access, Agent, AtHand, Download, HeldPart, MIN_DIGITS, Misfit, MountRoom, Nearness, Phase, Reloaded};
pub use darter_api::handover::Order;
pub use darter_engine::part::Part;
pub use darter_engine::swarms::again::Handing;
pub use darter_engine::transfer::wants::KeptOpen;
pub use darter_origin::is_own_header;
pub use darter_registries::waits::ANSWER_TIMEOUT;
pub use error::{FetchError, StartError};
pub use options::Options;
