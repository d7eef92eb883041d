//! Archives as directories that are read before they have come: which members a tar or a zip has, and where in it their bytes are.
//!
//! A reader of the archive asks a [`Scan`] which bytes it wants next, gives it these, and gets a [`Tree`] at the end. Of a tar that
//! are the headers, of a zip the list of members at its end; the members' data is passed over. The tree says for each file which bytes
//! of the archive it is made of, or that these have to be inflated first.
//!
//! | file | what lives there |
//! |---|---|
//! | [`tree`] | [`Tree`]: directories, files and links, and where files' bytes are |
//! | [`scan`] | [`Scan`]: an archive of either kind, read by ranges |
//! | [`error`] | [`ArchiveError`]: why an archive can't be shown |
//! | [`inflate`] | data of zip members, from any point on at which a copy of the decoder was kept |
//! | [`limits`] | what one archive may be |
//! | `tar` | members of a tar |
//! | `zip` | members of a zip |
//!
//! Invariants: no archive makes anything here panic, or take more memory than [`limits`] says. A later member of the same name takes
//! the place of an earlier one. No member is ever outside of the root, or below anything but a directory.
//!
//! Pure: no sockets, no files, no clock.

pub mod error;
pub mod inflate;
pub mod limits;
pub mod scan;
mod tar;
pub mod tree;
mod zip;

pub use error::ArchiveError;
pub use scan::Scan;
pub use tree::{Body, Contents, Node, NodeId, Tree};
pub use zip::Local;
