//! Files that can be opened before they are downloaded: read-only FUSE mounts, of one file, of several, of an archive's members or of the layers of images,
//! whose reads wait for verified pieces.
//!
//! | file | what lives there |
//! |---|---|
//! | [`supply`] | what a mount asks of an agent, in another process or in this one |
//! | [`file`](mod@file) | the file: reads that wait, with a limit; connections that come and go; wrong content |
//! | [`ahead`] | what to prefetch for readers, by their pattern |
//! | [`touches`] | records what was read first, so that other hosts can prefetch it |
//! | `asker` | whether the thread that waits for a read was killed |
//! | [`limits`] | how long a read may wait, and the pauses between tries |
//! | [`fill`](mod@fill) | when the rest is fetched |
//! | [`waits`] | counts programs that wait, for files that are read together |
//! | [`kept`] | which pieces of the file are known to be right, and which of them stay in the page cache |
//! | [`files`] | which of the agent's files have the bytes |
//! | [`session`] | the kernel's side: how a mount is made and unmounted |
//! | [`single`] | a mount of one file |
//! | [`layers`] | a mount of the layers of images: a directory that containerd looks into |
//! | `names` | names and inodes of that directory |
//! | [`tree`] | a mount of a tree of files |
//! | [`set`] | several files as such a tree |
//! | [`archive`] | an archive's members as such a tree |
//! | [`erofs`] | mounts a layer's file |
//! | `read_ahead` | how far the kernel reads ahead in it |
//! | [`engines`] | changes how layers are read that engines mounted |
//! | [`resident`] | which parts of a complete layer were read from such a mount |
//! | [`mountinfo`] | the kernel's list of mounts |
//!
//! Decisions ([`ahead`], [`touches`], [`limits`], [`fill`](mod@fill), [`waits`], [`kept`], [`files`], [`mountinfo`], `names`) do no I/O and take the time as an argument.
//!
//! Invariant: a read is answered with all of its bytes, each verified when its piece arrived, or with EIO. Never with zeros that are not in the
//! content, never with fewer bytes. Later corruption by the disk is noticed only if a piece is read without an agent ([`file`](mod@file)).
//!
//! Non-goals: which process keeps a mount, and which agent it asks (`darter`); what moves bytes (`darter-engine`).

pub mod ahead;
pub mod archive;
mod asker;
pub mod engines;
pub mod erofs;
pub mod file;
pub mod files;
pub mod fill;
pub mod kept;
pub mod layers;
pub mod limits;
pub mod mountinfo;
mod names;
mod read_ahead;
pub mod resident;
pub mod session;
pub mod set;
pub mod single;
pub mod supply;
pub mod touches;
pub mod tree;
pub mod waits;

pub use file::{Condition, MountedFile, Pages, Settings};
pub use fill::Fill;
pub use layers::{KeptFile, Layer, Layers, LayersDir};
pub use session::{Cache, MountError, Mounted, Opener};
pub use single::MountOptions;
pub use waits::Waits;
