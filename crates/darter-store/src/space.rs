//! The size and the free space of a file system.

/// A file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) total: u64,
    /// How many bytes are free for this user.
    pub(crate) free: u64,
}
