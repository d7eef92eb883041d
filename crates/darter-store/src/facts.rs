//! The facts that a listing needs of a blob.

/// The facts that a listing needs of a blob.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) length: Option<u64>,
    pub(crate) held_bytes: u64,
    pub(crate) complete: bool,
    pub(crate) pinned: bool,
}

impl Facts {
    /// Bytes that are still to come, as far as is known.
    pub(crate) fn rest(&self) -> u64 {
        self.length.map_or(0, |length| length.saturating_sub(self.held_bytes))
    }
}
