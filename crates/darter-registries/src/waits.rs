//! How long a program of this host waits for an answer of the mirror to begin: every wait on the way is a part of one.
//!
//! Engines wait some thirty seconds, and go round a mirror only when it answers. So whatever hangs, a registry, its token
//! service, a seed or the disk, the mirror answers within [`ANSWER_TIMEOUT`]. Inner waits end before outer ones, so that
//! whoever knows best what was waited for says so.
//!
//! ```text
//! 0 ─────── 0.3 ──────────────────────── 0.8 ────── 0.9 ────── 0.95 ── 1
//!           headers, if length and       registry   others,    answer
//!           access are known                        opening
//! ```
//!
//! Non-goals: how long a body stands still once it began (`stall_timeout`), and how long an origin may take to a blob's first
//! byte when its length is known: the headers have gone out by then.

use std::time::Duration;

use tokio::time::Instant;

/// The whole: well within what engines wait.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The parts of one wait.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    whole: Duration,
}

impl Waits {
    /// The waits of an answer that may take this
    /// long in all.
    pub const fn new(answer_timeout: Duration) -> Self {
        Self { whole: answer_timeout }
    }

    /// The last moment at which a request that came now is answered.
    pub fn answer(self) -> Instant {
        self.part(0.95)
    }

    /// How long is waited in all.
    pub const fn whole(self) -> Duration {
        self.whole
    }

    /// Until when a registry may answer a question that is asked now.
    pub fn registry(self) -> Instant {
        self.part(0.8)
    }

    /// Until when a registry may answer a question that another agent asks now, which may ask a third.
    pub fn relayed(self) -> Instant {
        self.part(0.85)
    }

    /// Until when other agents may answer a question that is asked now.
    pub fn others(self) -> Instant {
        self.part(0.9)
    }

    /// Until when the agent may open a blob, or begin one of unknown length.
    pub fn opening(self) -> Instant {
        self.part(0.9)
    }

    /// The last moment at which an upstream may answer a request that is to be answered until then.
    pub fn last(self, answer: Instant) -> Instant {
        answer.min(Instant::now() + self.resuming()) - self.whole.mul_f64(0.02)
    }

    /// How long headers wait for a first byte, where length and access are known.
    pub fn headers(self) -> Duration {
        self.whole.mul_f64(0.3)
    }

    /// How long a registry is waited for in the middle of a body.
    pub fn resuming(self) -> Duration {
        self.whole.mul_f64(0.8)
    }

    fn part(self, part: f64) -> Instant {
        Instant::now() + self.whole.mul_f64(part)
    }
}
