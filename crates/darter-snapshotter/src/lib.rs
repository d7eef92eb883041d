//! A snapshotter for containerd as a separate process: the service `containerd.services.snapshots.v1.Snapshots` over a unix socket.
//!
//! A snapshot is a directory into which a layer was unpacked, or a *lazy* one: a layer that the fleet has expanded, mounted as EROFS from the directory
//! of layers before it is downloaded. Both kinds may be combined in any order: containers get overlayfs over all of them.
//!
//! | module | what lives there | I/O |
//! |---|---|---|
//! | `tree` | the snapshots, and which operations are allowed | none |
//! | `filter` | containerd's filters for snapshots | none |
//! | `layout` | names of directories, and the mounts that containerd is told to make | none |
//! | `stack` | which lazy layers are mounted where, and which have to be mounted | none |
//! | `book` | the snapshots and mounts on disk | disk |
//! | `ledger` | the state in memory and in the book, changed by one caller at a time | disk |
//! | `api` | the messages of the service | none |
//! | `service` | carries out the calls with all of these | disk, mounts |
//! | `containerd` | asks a containerd which files its own snapshots name | sockets |
//! | `calls` | each call's messages, from and to what `service` takes and gives | none |
//! | `server` | the service on a socket that it is given | sockets |
//!
//! It knows no agent: its caller says how to find layers ([`Layers`]).

mod api;
mod book;
mod calls;
mod containerd;
mod disk;
mod filter;
mod layout;
mod ledger;
mod server;
mod service;
mod stack;
mod tree;

pub use self::book::BookError;
pub use self::containerd::{ContainerdError, named_files};
pub use self::server::serve;
pub use self::service::{FoundLayer, Layers, Options, Snapshotter, StartError};
