//! The end of one download of the demo.

/// The end of one download.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    /// Seconds from the moment when all downloads were requested.
    pub(super) seconds: f64,
    /// True if the digest was right.
    pub(super) right: bool,
}
