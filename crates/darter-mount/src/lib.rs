//! A file that is opened before it has come: a read-only FUSE mount with one file, whose reads wait for verified pieces.
//!
//! | file | what lives there |
//! |---|---|
//! | [`supply`] | where bytes come from: what a mount asks of an agent, in another process or in this one |
//! | [`file`](mod@file) | the file: reads that wait, with a limit; connections that come and go; content that turned out wrong |
//! | [`ahead`] | what to fetch ahead of readers, by their pattern |
//! | [`limits`] | how long a read waits, and how long a pause before the next try is |
//! | [`fill`](mod@fill) | when the rest is fetched |
//! | [`kept`] | which pieces of the file are known to be right, and which of them stay in the page cache |
//! | [`files`] | which files of the agent the bytes are in |
//! | [`session`] | the kernel's end |
//!
//! Decisions ([`ahead`], [`limits`], [`fill`](mod@fill), [`kept`], [`files`]) do no I/O and take the time as an argument.
//!
//! Invariant: a read is answered with all of its bytes, each verified, or with EIO. Never with zeros that are not in the content, never
//! short.
//!
//! Non-goals: which process keeps a mount, and which agent it asks (`darter`); what moves bytes (`darter-engine`).

pub mod ahead;
pub mod file;
pub mod files;
pub mod fill;
pub mod kept;
pub mod limits;
pub mod session;
pub mod supply;

pub use file::{Condition, MountedFile, Settings};
pub use fill::Fill;
pub use session::{MountError, MountOptions, Mounted};
