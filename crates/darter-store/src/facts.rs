//! The facts about a blob that a listing shows.

/// The facts about a blob that a listing shows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) length: Option<u64>,
    pub(crate) held_bytes: u64,
    pub(crate) complete: bool,
    pub(crate) pinned: bool,
}

impl Facts {
    /// How many bytes are missing, as far as is known.
    pub(crate) fn rest(&self) -> u64 {
        self.length.map_or(0, |length| length.saturating_sub(self.held_bytes))
    }
}
