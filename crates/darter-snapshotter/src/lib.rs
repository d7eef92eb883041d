//! A snapshotter of containerd's as a process of its own: the service `containerd.services.snapshots.v1.Snapshots` over a unix socket.
//!
//! A snapshot is a directory as overlayfs unpacks it, or a *lazy* one: a layer that the fleet has expanded, mounted as EROFS out of the directory
//! of layers before it has come. Both lie below each other as they come: containers get overlayfs over all of them.
//!
//! | module | what lives there | I/O |
//! |---|---|---|
//! | `tree` | the snapshots, and what may be done with them | none |
//! | `filter` | containerd's words for some of them | none |
//! | `layout` | names of directories, and what containerd is told to mount | none |
//! | `stack` | which lazy layers are mounted where, and what to do so that they are | none |
//! | `book` | the snapshots and mounts on the disk | disk |
//! | `ledger` | the same in memory and in the book, changed by one at a time | disk |
//! | `api` | the messages of the service | none |
//! | `service` | one call after the other, on all of that | disk, mounts |
//! | `server` | the service on a socket that it is given | sockets |
//!
//! It knows no agent: whoever starts it says how to find layers ([`Layers`]).

mod api;
mod book;
mod disk;
mod filter;
mod layout;
mod ledger;
mod server;
mod service;
mod stack;
mod tree;

pub use self::book::BookError;
pub use self::server::serve;
pub use self::service::{FoundLayer, Layers, Options, Snapshotter, StartError};
