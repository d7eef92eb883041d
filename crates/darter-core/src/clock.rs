//! Time as an argument. Decisions take a [`Moment`]; only the edges ask a [`Clock`] for one, so that tests and
//! the simulator run the same decisions in a time of their own.

use std::ops::{Add, Sub};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in monotonic time: microseconds since an origin that only its clock knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Moment(u64);

impl Moment {
    /// The origin of its clock.
    pub const ZERO: Self = Self(0);

    /// A moment this many microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero when `earlier` is in fact later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The present moment; never before one it told earlier.
    fn now(&self) -> Moment;

    /// The date, in seconds since 1970, for what people and later runs read. People set it: it jumps forwards and backwards, and no pause
    /// is measured by it.
    fn unix(&self) -> u64;

    /// The time since 1970 as exactly as this clock knows it.
    fn date(&self) -> Duration {
        Duration::from_secs(self.unix())
    }
}

/// The operating system's clocks. The origin of the monotonic one is this value's creation.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl SystemClock {
    /// A clock whose origin is now.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for monotonic time")]
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment::ZERO + self.0.elapsed()
    }

    fn unix(&self) -> u64 {
        self.date().as_secs()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for the date")]
    fn date(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
