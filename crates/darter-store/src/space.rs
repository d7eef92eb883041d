//! How much there is of a file system.

/// A file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) total: u64,
    /// Free for this user.
    pub(crate) free: u64,
}
