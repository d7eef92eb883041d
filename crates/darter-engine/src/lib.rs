//! Blobs on their way: one agent's part in all swarms.
//!
//! | file | what lives there |
//! |---|---|
//! | [`swarms`] | all blobs on their way, from source to transfer |
//! | [`transfer`] | one blob on its way |
//! | [`joins`] | questions to leads |
//! | [`let_downs`] | nodes that led a blob to nothing, and are not followed for a while |
//! | [`thrown_away`] | what is told of content that was wrong, once it is gone |
//! | [`setbacks`] | content that was wrong of late: who read it, when it may be tried again |
//! | [`expanding`] | layers of images, read and expanded: an origin on top of a registry |
//! | [`profiles`] | which parts of expanded layers are touched first, on the disk |
//! | [`context`], [`budget`] | what all of it shares |
//! | [`error`] | what can go wrong when bytes are asked for, and whose fault it is |
//!
//! `darter-swarm` decides what a swarm does; here it is done, with a store, origins and a fleet that are given. Non-goals: how these are
//! made of options, identity, and the handle for programs (`darter-agent`).

pub mod budget;
pub mod context;
pub mod error;
pub mod expanding;
pub mod joins;
pub mod let_downs;
pub mod profiles;
pub mod setbacks;
pub mod swarms;
pub mod thrown_away;
pub mod transfer;

pub use context::EngineOptions;
pub use error::FetchError;
