//! Transfers of blobs: one agent's part in all swarms.
//!
//! | file | what lives there |
//! |---|---|
//! | [`swarms`] | all transfers: from a source to its transfer |
//! | [`transfer`] | one transfer |
//! | [`joins`] | requests to leads |
//! | [`thrown_away`] | explanations of wrong content that was thrown away |
//! | [`setbacks`] | recent wrong content: who read it, when it may be tried again |
//! | [`expanding`] | layers of images in expanded form: an origin on top of a registry |
//! | [`packing`] | pieces of expanded layers, packed for the wire |
//! | [`profiles`] | files with the parts of expanded layers that are read first |
//! | [`context`], [`budget`] | values that everything shares |
//! | [`part`], `stored_name` | bytes for a program; for which source a blob was stored |
//! | [`error`] | the errors of requests for bytes, and who can mend them |
//!
//! `darter-swarm` makes the decisions of a swarm; this crate carries them out, with a store, origins and a fleet that it is given. Non-goals: making these
//! from options, identity, and the handle for programs (`darter-agent`).

pub mod budget;
pub mod context;
pub mod error;
pub mod expanding;
pub mod joins;
pub mod packing;
pub mod part;
pub mod profiles;
pub mod setbacks;
mod stored_name;
pub mod swarms;
pub mod thrown_away;
pub mod transfer;

pub use context::EngineOptions;
pub use error::FetchError;
