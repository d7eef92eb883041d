//! Half-open ranges of bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The bytes from `start` up to, not including, `end`. Invariant: `start <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// The range `start..end`; an `end` before `start` gives the empty range at `start`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// First byte of the range.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// One past the last byte of the range.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Number of bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// True if the range has no bytes.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The part of this range that lies before `length`.
    pub const fn clamp_to(self, length: u64) -> Self {
        let end = if self.end < length { self.end } else { length };
        let start = if self.start < end { self.start } else { end };
        Self { start, end }
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}
