//! Why an archive can't be shown as a directory. Names are told as text, with `\u{fffd}` for what is no UTF-8.

use darter_core::{Blame, Blamed, Fault, Retry};
use darter_image::Reason;

/// Why an archive can't be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The tar can't be read.
    #[error(transparent)]
    Tar(#[from] Reason),
    /// The file is no archive, or one of another kind.
    #[error("this is no tar and no zip: mount it as a file (without --as archive)")]
    Unknown,
    /// It is compressed as a whole.
    #[error(
        "this is packed with {kind} as a whole, of which no member can be read before all of it is unpacked: fetch it \
         (darter get) and unpack it, or publish it as a plain tar or as a zip"
    )]
    Packed {
        /// With what.
        kind: &'static str,
    },
    /// The zip is damaged, or made to confuse.
    #[error("not a zip, or a damaged one: {what}")]
    Zip {
        /// The fault in it.
        what: String,
    },
    /// A name leads out of the archive.
    #[error("{name}: a member's path may not have \"..\" in it, which leads out of the archive: it is refused")]
    Outside {
        /// The member.
        name: String,
    },
    /// A path or a name in it is too long, or not one that a file can have.
    #[error("{name}: {what}")]
    Name {
        /// The member.
        name: String,
        /// The fault in it.
        what: &'static str,
    },
    /// Something that is no directory stands where one is needed.
    #[error("{name}: something above it in the same archive is not a directory")]
    BelowFile {
        /// The member.
        name: String,
    },
    /// A hard link to something that the archive has not before it.
    #[error("{name}: hard link to {target}, which the archive has not as a file at that point")]
    LinkToNothing {
        /// The link.
        name: String,
        /// The path that it links to.
        target: String,
    },
    /// None of its files can be read.
    #[error(
        "none of its files can be read: {name} {why}; fetch the archive (darter get) and unpack it with a program that can"
    )]
    Unreadable {
        /// The first of them.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// The archive has more members than fit into memory.
    #[error("the archive has too many members: more than {members} take more than {max} MB of memory", max = crate::limits::MAX_HELD >> 20)]
    TooMany {
        /// How many were read.
        members: u64,
    },
}

impl Blamed for ArchiveError {
    fn blame(&self) -> Blame {
        // The archive's maker is at fault.
        Blame::new(Fault::Origin, Retry::Never)
    }
}
