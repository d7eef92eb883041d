//! [`Expander`]: takes a tar as it streams by, and gives what makes it a file that the kernel mounts.

use darter_core::Digest;

use crate::erofs::{self, TAR_START, metadata_start};
use crate::reason::Reason;
use crate::tar::Parser;
use crate::tree::Tree;

/// Takes a tar as it streams by.
///
/// The caller writes the tar to [`TAR_START`] of a file meanwhile, and checks its digest. Nothing but metadata is kept in memory:
/// [`limits`](crate::limits) says how much.
///
/// ```
/// # use darter_image::{Expander, Reason, TAR_START, metadata_start};
/// # use darter_core::DigestHasher;
/// # fn main() -> Result<(), Reason> {
/// # let tar = [0; 1024];
/// let (mut expander, mut hasher) = (Expander::new(), DigestHasher::sha256());
/// for chunk in tar.chunks(100) {
///     hasher.update(chunk);
///     expander.push(chunk)?;
/// }
/// let expanded = expander.finish(&hasher.finish())?;
/// let mut file = expanded.superblock.to_vec();
/// file.extend_from_slice(&tar);
/// file.resize(metadata_start(expanded.tar_length) as usize, 0);
/// file.extend_from_slice(&expanded.metadata);
/// assert_eq!((TAR_START, file.len() % 4096), (4096, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Expander {
    parser: Parser,
    tree: Tree,
    /// Why nothing more can be made of the tar.
    failed: Option<Reason>,
}

/// The parts that make a tar a file that the kernel mounts.
#[derive(Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The bytes before the tar.
    pub superblock: Box<[u8; TAR_START as usize]>,
    /// The bytes behind it, from [`metadata_start`] on.
    pub metadata: Vec<u8>,
    /// How long the tar is.
    pub tar_length: u64,
    /// How many files, directories and other things there are, the root among them.
    pub inodes: u64,
}

impl std::fmt::Debug for Expanded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { metadata, tar_length, inodes, .. } = self;
        write!(f, "Expanded {{ tar_length: {tar_length}, metadata: {} bytes, inodes: {inodes} }}", metadata.len())
    }
}

impl Expanded {
    /// How long the file is.
    pub const fn length(&self) -> u64 {
        metadata_start(self.tar_length) + self.metadata.len() as u64
    }
}

impl Expander {
    /// An expander of a tar of which nothing has come.
    pub fn new() -> Self {
        Self { parser: Parser::new(), tree: Tree::new(), failed: None }
    }

    /// Takes the next bytes of the tar, of whatever number.
    ///
    /// # Errors
    ///
    /// When a member of the tar can't be expressed, or it is no tar. Every later call says the same.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        if let Some(reason) = &self.failed {
            return Err(reason.clone());
        }
        self.parser.push(bytes, &mut self.tree).inspect_err(|reason| {
            self.failed = Some(reason.clone());
            // The tree is needed no more.
            self.tree = Tree::new();
        })
    }

    /// Says that all has come, and has this digest, which the file system is named by.
    ///
    /// # Errors
    ///
    /// As [`Self::push`]; or the tar ends too early.
    pub fn finish(mut self, diff_id: &Digest) -> Result<Expanded, Reason> {
        if let Some(reason) = self.failed {
            return Err(reason);
        }
        self.parser.finish()?;
        self.tree.finish()?;
        let tar_length = self.parser.length();
        let written = erofs::write(&mut self.tree, tar_length, diff_id)?;
        Ok(Expanded { superblock: written.superblock, metadata: written.metadata, tar_length, inodes: written.inodes })
    }
}

impl Default for Expander {
    fn default() -> Self {
        Self::new()
    }
}
