//! Why a tar can't be expressed. Such a layer is pulled and unpacked the ordinary way, and these words say why.

use darter_core::{Blame, Blamed, Fault, Retry};

/// Why a tar can't be expressed as an EROFS file system, or is none. Names are told as text, with `\u{fffd}` for what is no UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The bytes are no tar, or a damaged one.
    #[error("not a tar, or a damaged one: {what}, in the header at byte {at}")]
    Malformed {
        /// The header's offset in the tar.
        at: u64,
        /// The fault in it.
        what: &'static str,
    },
    /// The end is missing.
    #[error("the tar ends after {at} bytes, in the middle of {what}")]
    Truncated {
        /// How long it is.
        at: u64,
        /// The thing that it ends in.
        what: &'static str,
    },
    /// A member of a kind that file systems don't have, or that only one tar program knows.
    #[error("{name}: tar members of type {kind:?} can't be unpacked")]
    Kind {
        /// The member.
        name: String,
        /// Its type in the header.
        kind: char,
    },
    /// A path goes through something that is no directory.
    #[error("{name}: something above it in the same layer is not a directory")]
    BelowFile {
        /// The member.
        name: String,
    },
    /// A path passes too many symbolic links.
    #[error("{name}: more than {max} symbolic links on the way to it", max = crate::limits::MAX_LINKS)]
    TooManyLinks {
        /// The member.
        name: String,
    },
    /// A path passes a link that is followed outside of the layer's root.
    #[error(
        "{name}: symbolic links on the way to it lead to each other and out of the layer: where it goes depends on the host"
    )]
    Host {
        /// The member.
        name: String,
    },
    /// A path or a name in it is too long.
    #[error("{name}: the path is longer than {path} bytes, or a name in it than {one}", path = crate::limits::MAX_PATH, one = crate::limits::MAX_NAME)]
    TooLong {
        /// The member.
        name: String,
    },
    /// A name, or a link's target, that no file system takes.
    #[error("{name}: a zero byte in its name, or in what it links to")]
    ZeroByte {
        /// The member.
        name: String,
    },
    /// A hard link to something that is not there when the link comes.
    #[error("{name}: hard link to {target}, which the layer has not at that point")]
    LinkToNothing {
        /// The link.
        name: String,
        /// The path that it links to.
        target: String,
    },
    /// A hard link to a directory.
    #[error("{name}: hard link to {target}, which is a directory")]
    LinkToDirectory {
        /// The link.
        name: String,
        /// The path that it links to.
        target: String,
    },
    /// A symbolic link without a target, or with one that no path is as long as.
    #[error("{name}: a symbolic link's target is 1 to {max} bytes, this one is {length}", max = crate::limits::MAX_PATH)]
    Target {
        /// The member.
        name: String,
        /// How long the target is.
        length: usize,
    },
    /// A whiteout of nothing, or of a directory's own name.
    #[error("{name}: a whiteout has to name what it hides")]
    Whiteout {
        /// The member.
        name: String,
    },
    /// A device number that no system has.
    #[error("{name}: device number {major}:{minor} is out of range")]
    Device {
        /// The member.
        name: String,
        /// Its major number.
        major: i64,
        /// Its minor number.
        minor: i64,
    },
    /// An extended attribute that no file system takes.
    #[error("{name}: extended attribute {attribute}: {what}")]
    Xattr {
        /// The member.
        name: String,
        /// The attribute's name.
        attribute: String,
        /// The fault in it.
        what: &'static str,
    },
    /// A sparse file whose map is wrong, or can't be expressed.
    #[error("{name}: sparse file: {what}")]
    Sparse {
        /// The member.
        name: String,
        /// The fault in it.
        what: &'static str,
    },
    /// The layer has more than fits.
    #[error("the layer is too large to be mounted: {what}")]
    TooLarge {
        /// The thing that there is too much of.
        what: &'static str,
    },
}

impl Blamed for Reason {
    fn blame(&self) -> Blame {
        // The layer's maker is at fault.
        Blame::new(Fault::Origin, Retry::Never)
    }
}

/// The most characters of a name that an error tells.
const MAX_SHOWN: usize = 200;

/// A name as errors tell it.
pub fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(&name[..name.len().min(4 * MAX_SHOWN)]);
    let mut shown = String::new();
    for (index, letter) in text.chars().enumerate() {
        if index == MAX_SHOWN {
            shown.push('…');
            break;
        }
        if letter.is_control() { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    shown
}
