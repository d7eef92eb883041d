//! How one download of the demo ended.

/// One download's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finish {
    /// Since all were asked for.
    pub(super) seconds: f64,
    /// True if the digest was right.
    pub(super) right: bool,
}
