//! When the rest is fetched that no program has asked for. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use darter_core::{ByteRange, Moment};

/// How long no program may have waited before the rest is fetched, with [`Fill::Idle`].
const QUIET: Duration = Duration::from_secs(2);

/// Bytes that are fetched at a time then: what a program asks for meanwhile waits for no more of them than are on their way.
const STEP: u64 = 4 << 20;

/// When the rest of a mounted file is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// From the first moment on, behind what programs wait for.
    Always,
    /// While no program waits for anything.
    Idle,
    /// Never: what is touched is fetched, and what is read ahead.
    #[default]
    Never,
}

impl Fill {
    /// All of them, as they are written.
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

/// The rest of one file, step by step.
#[derive(Debug)]
pub struct Rest {
    length: u64,
    at: u64,
    /// When a program last waited.
    waited: Moment,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetches this, then asks again.
    Fetch(ByteRange),
    /// Asks again after this time.
    Wait(Duration),
    /// All was fetched.
    Done,
}

impl Rest {
    /// Nothing of a file of this length was fetched, which is mounted now.
    pub const fn new(length: u64, now: Moment) -> Self {
        Self { length, at: 0, waited: now }
    }

    /// The step to take now, while `waiting` programs wait for something.
    pub fn next(&mut self, waiting: usize, now: Moment) -> Step {
        if self.at >= self.length {
            return Step::Done;
        }
        if waiting > 0 {
            self.waited = now;
        }
        let quiet = now.since(self.waited);
        if quiet < QUIET {
            return Step::Wait(QUIET - quiet);
        }
        Step::Fetch(ByteRange::new(self.at, self.at + STEP).clamp_to(self.length))
    }

    /// A step was fetched.
    pub fn fetched(&mut self, step: ByteRange) {
        self.at = self.at.max(step.end());
    }

    /// Another agent may lack what the last one had.
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
        let mut rest = Rest::new(2 * STEP + 7, start);
        assert_eq!(rest.next(0, start), Step::Wait(QUIET));
        let quiet = start + QUIET;
        assert_eq!(rest.next(1, quiet), Step::Wait(QUIET), "a program waits");
        assert_eq!(rest.next(0, quiet + QUIET / 2), Step::Wait(QUIET / 2));
        let mut now = quiet + QUIET;
        let mut all = 0;
        loop {
            match rest.next(0, now) {
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
        assert_eq!(rest.next(0, now), Step::Fetch(ByteRange::new(0, STEP)));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for (fill, name) in Fill::ALL {
            assert_eq!((fill.to_string().as_str(), name.parse()), (name, Ok(fill)));
        }
        assert!("later".parse::<Fill>().is_err());
    }
}
