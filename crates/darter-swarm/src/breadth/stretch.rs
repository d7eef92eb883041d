//! How many bytes of a blob a connection reads with one request.
//!
//! Registries count requests, so a stretch is long. While one connection reads, the first stretch is [`FIRST_STRETCH`] long, so that others could
//! read what lies behind it, and each further one is as long as all before it. Once trials have shown that further connections bring nothing, or
//! have not shown by then that they bring more, one request reads all the rest: credentials may expire, and an open answer outlives them. While
//! several read, a stretch is an equal share of the rest, so that all connections end together: eight connections take about a dozen requests for
//! a blob of eighty megabytes. The stretches of a large blob are shorter than a share, so that its first bytes come early: each takes some
//! seconds, and there are no more than about [`MAX_STRETCHES`].
//!
//! Invariant: none but the last ones of a blob is shorter than [`MIN_BYTES`], whatever was measured.

use std::time::Duration;

/// The shortest stretch, unless less is left: in bytes and in time, since each request takes time to be answered.
pub(super) const MIN_BYTES: u64 = 2 << 20;
const MIN_TIME: Duration = Duration::from_millis(150);

/// The longest stretch takes about this time.
const LONG_TIME: Duration = Duration::from_secs(4);

/// A stretch is no shorter than `LONG_BYTES`, which is also the longest that a connection reads which may bring nothing, and no longer than `MAX_BYTES`.
const LONG_BYTES: u64 = 8 << 20;
const MAX_BYTES: u64 = 64 << 20;

/// About how many stretches a very large blob is read in.
const MAX_STRETCHES: u64 = 256;

/// The first stretch of a blob: as long as the ranges that container engines ask for, which read by ranges.
pub const FIRST_STRETCH: u64 = 16 << 20;

/// After this many bytes a lone connection asks for all the rest.
const UNDECIDED_BYTES: u64 = 64 << 20;

/// About how long a connection that tries reads, within the bounds of stretches that may bring nothing.
const TRIAL_TIME: Duration = Duration::from_millis(250);

/// The length of a stretch while a single connection reads and others may still come, in a blob of `length` of which `left` bytes are left; `None` for
/// all the rest.
pub(super) fn alone(length: u64, left: u64) -> Option<u64> {
    let read = length.saturating_sub(left);
    (read < UNDECIDED_BYTES).then(|| read.max(FIRST_STRETCH))
}

/// The length of the stretch of a connection that tries whether it gets more, if one connection gets `rate` bytes a second.
pub(super) fn of_trial(rate: f64) -> u64 {
    ((rate * TRIAL_TIME.as_secs_f64()) as u64).clamp(MIN_BYTES, LONG_BYTES)
}

/// What a stretch is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// The blob's length.
    pub(super) length: u64,
    /// The rate of each connection, in bytes per second.
    pub(super) rate: f64,
    /// How many connections read, or will.
    pub(super) readers: u8,
    /// True if it is not known yet whether this number of connections gets more.
    pub(super) is_tried: bool,
}

impl Stretch {
    /// The length of the stretch, when `left` bytes are left for all connections.
    pub(super) fn bytes(self, left: u64) -> u64 {
        let bytes_in = |time: Duration| (self.rate * time.as_secs_f64()) as u64;
        let shortest = bytes_in(MIN_TIME).clamp(MIN_BYTES, LONG_BYTES);
        let longest = if self.is_tried {
            LONG_BYTES
        } else {
            bytes_in(LONG_TIME).clamp(LONG_BYTES, MAX_BYTES).max(self.length / MAX_STRETCHES)
        };
        let share = left / u64::from(self.readers.max(1));
        // Leaves a quarter of a long share for later, which evens out that some connections get more than others.
        let bytes = if share > LONG_BYTES { (share / 4 * 3).max(LONG_BYTES) } else { share };
        bytes.clamp(shortest, longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn stretch(length: u64, rate: f64) -> Stretch {
        Stretch { length, rate, readers: 8, is_tried: false }
    }

    #[test]
    fn a_stretch_is_a_share_of_what_is_left_and_a_large_blob_has_some_hundreds() {
        let eighty = stretch(80 * MIB, 8e6);
        assert_eq!(eighty.bytes(64 * MIB), 8 * MIB);
        assert_eq!(eighty.bytes(8 * MIB), MIN_BYTES, "the rest");
        let large = stretch(10 << 30, 8e6);
        assert_eq!(large.bytes(10 << 30), 40 * MIB);
        assert_eq!((large.bytes(80 * MIB), large.bytes(128 * MIB)), (8 * MIB, 12 * MIB));
        assert_eq!(stretch(1 << 30, 8e6).bytes(1 << 30), 32_000_000);
        assert_eq!(Stretch { is_tried: true, ..large }.bytes(10 << 30), LONG_BYTES);
    }

    #[test]
    fn none_is_short_however_slow_the_origin_seemed() {
        for left in [0, MIB, 79 * MIB, 1 << 40] {
            for rate in [0.0, 1e4, 1e6, 1e9] {
                let bytes = stretch(79 * MIB, rate).bytes(left);
                assert!((MIN_BYTES..=MAX_BYTES).contains(&bytes), "{left}, {rate}: {bytes}");
            }
        }
        assert_eq!(stretch(1 << 30, 1e5).bytes(1 << 30), LONG_BYTES, "who reads in order waits for no more");
    }
}
