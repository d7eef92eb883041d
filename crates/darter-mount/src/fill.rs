//! Decides when the parts are fetched that no program has asked for. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use darter_core::{ByteRange, Moment, Rate};

/// With [`Fill::Idle`]: for how long no program may have waited before more is fetched.
const QUIET: Duration = Duration::from_secs(2);

/// How many bytes are fetched at a time then: a program's request waits for at most the bytes that are in transit.
const STEP: u64 = 4 << 20;

/// The minimum step in bytes, for slow rates.
const MIN_STEP: u64 = 128 << 10;

/// When the rest of a mounted file is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// From the beginning, after what programs wait for.
    Always,
    /// While no program waits for anything.
    Idle,
    /// Never: only what is touched and read ahead is fetched.
    #[default]
    Never,
}

impl Fill {
    /// All values with their names.
    pub const ALL: [(Self, &'static str); 3] = [(Self::Always, "always"), (Self::Idle, "idle"), (Self::Never, "never")];
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.into_iter().find_map(|(fill, name)| (fill == *self).then_some(name));
        f.write_str(name.unwrap_or_default())
    }
}

impl FromStr for Fill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|(_, name)| *name == text);
        named.map(|(fill, _)| fill).ok_or_else(|| format!("not a time to fill: {text:?} (always, idle or never)"))
    }
}

/// The progress of fetching the rest of one file.
#[derive(Debug)]
pub struct Rest {
    length: u64,
    at: u64,
    /// When a program last waited; `None` if that does not matter.
    waited: Option<Moment>,
    rate: Option<Rate>,
    /// When the next step may begin, according to the rate.
    ready: Moment,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetch this range, then ask again.
    Fetch(ByteRange),
    /// Ask again after this time.
    Wait(Duration),
    /// Everything was fetched.
    Done,
}

impl Rest {
    /// For a file of this length that is mounted now, of which nothing was fetched. With `fill` always, waiting programs don't delay the rest, since what they wait
    /// for comes first; `rate` limits the rest.
    pub fn new(length: u64, fill: Fill, rate: Option<Rate>, now: Moment) -> Self {
        Self { length, at: 0, waited: (fill != Fill::Always).then_some(now), rate, ready: now }
    }

    fn step(&self) -> u64 {
        self.rate.map_or(STEP, |rate| rate.bytes_per_second().clamp(MIN_STEP, STEP))
    }

    /// The step to take now; `last` is when a program last waited.
    pub fn next(&mut self, last: Option<Moment>, now: Moment) -> Step {
        if self.at >= self.length {
            return Step::Done;
        }
        if let Some(waited) = &mut self.waited {
            *waited = last.map_or(*waited, |last| last.max(*waited));
            let quiet = now.since(*waited);
            if quiet < QUIET {
                return Step::Wait(QUIET - quiet);
            }
        }
        if now < self.ready {
            return Step::Wait(self.ready.since(now));
        }
        if let Some(rate) = self.rate {
            let micros = u128::from(self.step()) * 1_000_000 / u128::from(rate.bytes_per_second());
            self.ready = now + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        }
        Step::Fetch(ByteRange::new(self.at, self.at + self.step()).clamp_to(self.length))
    }

    /// Notes that a step was fetched.
    pub fn fetched(&mut self, step: ByteRange) {
        self.at = self.at.max(step.end());
    }

    /// Starts over, since another agent may lack what the last one had.
    pub fn begin_anew(&mut self) {
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_comes_step_by_step_while_nobody_waits() {
        let start = Moment::from_micros(5);
        let mut rest = Rest::new(2 * STEP + 7, Fill::Idle, None, start);
        assert_eq!(rest.next(None, start), Step::Wait(QUIET));
        let quiet = start + QUIET;
        assert_eq!(rest.next(Some(quiet), quiet), Step::Wait(QUIET), "a program waits");
        assert_eq!(rest.next(Some(start), quiet + QUIET / 2), Step::Wait(QUIET / 2));
        let mut now = quiet + QUIET;
        let mut all = 0;
        loop {
            match rest.next(None, now) {
                Step::Fetch(step) => {
                    assert_eq!(step.start(), all);
                    all = step.end();
                    rest.fetched(step);
                }
                Step::Done => break,
                Step::Wait(_) => panic!("nobody waits"),
            }
            now = now + Duration::from_millis(1);
        }
        assert_eq!(all, 2 * STEP + 7);
        rest.begin_anew();
        assert_eq!(rest.next(None, now), Step::Fetch(ByteRange::new(0, STEP)));
    }

    #[test]
    fn a_rate_holds_whoever_waits_or_not() {
        let start = Moment::from_micros(5);
        for (rate, step) in [("1MB/s", 1_000_000), ("50kB/s", MIN_STEP), ("40MB/s", STEP)] {
            let rate: Rate = rate.parse().unwrap();
            let mut rest = Rest::new(1 << 30, Fill::Always, Some(rate), start);
            let (mut now, mut all) = (start, 0);
            for _ in 0..50 {
                match rest.next(Some(now), now) {
                    Step::Fetch(range) => {
                        assert_eq!((range.start(), range.len()), (all, step));
                        all = range.end();
                        rest.fetched(range);
                    }
                    Step::Wait(pause) => now = now + pause,
                    Step::Done => panic!("there is more"),
                }
            }
            let most = now.since(start).as_secs_f64() * rate.bytes_per_second() as f64 + step as f64;
            assert!(
                all as f64 <= most * 1.001 && all as f64 >= (most - step as f64) * 0.999,
                "{rate}: {all} of {most}"
            );
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for (fill, name) in Fill::ALL {
            assert_eq!((fill.to_string().as_str(), name.parse()), (name, Ok(fill)));
        }
        assert!("later".parse::<Fill>().is_err());
    }
}
