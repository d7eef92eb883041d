//! How many connections read a large blob from its origin at a time.
//!
//! Stores and CDNs limit the rate of a single connection, so that several together get more. If the link, the disk or the processor is the limit,
//! several get no more, and cost the origin requests. So one connection reads until its rate is known ([`windows`]). If that rate may be a limit,
//! a second connection *tries* ([`trial`]): it reads the next stretch, which is kept whatever the result. If two connections together get more
//! than one, and again in a second trial, four read, then eight, as long as each step brings more. A step that brings nothing is undone, and is
//! tried again after a pause that grows. If connections fail, half as many read for such a pause; an origin that refuses several is read by one
//! from then on.
//!
//! No connection exceeds a limit. So if each of several connections gets clearly more than the rate that was measured for one, that rate was not
//! a limit: the machine or the origin was busy then. In this case, one connection reads on.
//!
//! Invariants, whatever is measured: unless trials bring more, there are no more than [`TRIALS`] in half a minute, and then one after each of ever
//! longer pauses. A connection asks for a [`stretch`] at a time, also while it is the only one: so each request ends by itself, none has to be
//! broken off when others are to read, and nothing is read twice. The stretches of a lone connection grow, and the last is all the rest, so that requests are few.
//!
//! Pure. [`Lead::origin_plan`](crate::Lead::origin_plan) chooses the pieces that each connection reads.

mod stretch;
mod trial;
mod widening;
mod windows;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::time::Duration;

use darter_core::Moment;

pub use self::stretch::FIRST_STRETCH;
use self::stretch::Stretch;
use self::trial::{Outcome, Trial};
pub use self::widening::Widening;
use self::windows::{MeasuredRate, Windows};

/// Connections that read one blob at a time, at most.
pub const MAX_ORIGIN_CONNECTIONS: u8 = 16;

/// Connections that read one blob at a time, at most, unless it is configured: as many as container engines use for a layer.
pub const ORIGIN_CONNECTIONS: u8 = 8;

/// No further connection is tried if no more than this is left to read.
const MIN_LEFT: u64 = 16 << 20;

/// No further connection is tried if the rest takes less time than this: a blob that comes fast is one request to the origin.
const MIN_LEFT_TIME: Duration = Duration::from_secs(2);

/// No further connection is tried if one gets more bytes than this in a second: no origin limits a connection to such a rate.
const MAX_RATE: f64 = 100e6;

/// After how many windows a rate counts, and after how many following a trial.
const MIN_WINDOWS: usize = 8;
const MIN_WINDOWS_AGAIN: usize = 4;

/// The shortest time over which the rate of several connections is measured.
const WINDOW: Duration = Duration::from_millis(50);

/// The fewest bytes by which a trial is judged.
const MIN_TRIAL_BYTES: u64 = 16 << 10;

/// A trial that takes the first connection less than `MIN_TRIAL_TIME` tells nothing. It takes no longer than `ENOUGH_TRIAL_TIME` unless chance asks
/// for that.
const MIN_TRIAL_TIME: Duration = Duration::from_millis(4);
const ENOUGH_TRIAL_TIME: Duration = Duration::from_millis(40);

/// How many trials are made unless they bring more.
const TRIALS: u8 = 2;

/// If a trial stands for two, since the one before it brought nothing, it has to bring this much more than other trials.
const ALONE_GAIN: f64 = 0.3;

/// When the number of connections is doubled, from two on, all together have to get this many times as much.
const GAIN: f64 = 1.25;

/// The first number of connections after trials has to get this many times the rate of one; otherwise one goes on.
const FIRST_GAIN: f64 = 1.4;

/// If connections get this many times the rate of as many limited ones, they have no limit.
const CEILING: f64 = 1.5;

/// How many windows in a row have to show that: after a machine stood still, the bytes in sockets come at once.
const MIN_ABOVE: u8 = 2;

/// How long a trial may take to its first byte, and from that to its end.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the first bytes of new connections are waited for before the rate of all is measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// The first pause before a step that brought no more is tried again; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The pause after trials that brought nothing.
const LONG_PAUSE: Duration = Duration::from_secs(30);

/// A connection that began before the failure of another was noticed, and fails within this time after it, fails for the same reason.
const SAME_CAUSE: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Breadth {
    max: u8,
    connections: u8,
    /// The blob's length.
    length: u64,
    phase: TrialPhase,
    /// When the phase began.
    begun: Moment,
    /// The bytes that the only connection got.
    windows: Windows,
    pace: Option<MeasuredRate>,
    /// How many trials may still be made, and whether the last one brought more (true), or nothing (false).
    trials: u8,
    last_trial: Option<bool>,
    /// The rate of the last number of connections that was measured, in bytes per second; zero if none was measured.
    rate: f64,
    /// Since when the bytes of several connections are counted, and how many came.
    since: Option<Moment>,
    bytes: u64,
    /// Which connections got bytes in this phase, as bits.
    seen: u32,
    /// Windows in a row of this phase in which connections got more than limited ones would.
    above: u8,
    pause: Duration,
    /// How long the answer of the last trial took to begin.
    answered: Duration,
    /// True if the agent's own limit held the origin up while bytes were counted.
    held_up: bool,
    /// True if several connections were found to get more than one.
    is_limited: bool,
    /// When a failure last counted.
    failed: Option<Moment>,
}

#[derive(Debug)]
enum TrialPhase {
    /// The connections that read are measured.
    Measured,
    /// One reads, and a second one is to try.
    TrialDue(MeasuredRate),
    /// One reads, and a second one tries.
    Trial(Trial),
    /// More than `before` connections read, and are measured.
    Wider { before: u8 },
    /// The number of connections does not change before that moment.
    Settled { until: Moment },
    /// As many read as there may be, until one fails.
    Full,
    /// One connection reads, for good.
    Alone,
}

impl Breadth {
    /// Lets at most `max` connections read a blob of `length` bytes.
    pub(crate) const fn new(max: u8, length: u64) -> Self {
        let max = if max < MAX_ORIGIN_CONNECTIONS { max } else { MAX_ORIGIN_CONNECTIONS };
        Self {
            max,
            connections: 1,
            length,
            phase: if max > 1 { TrialPhase::Measured } else { TrialPhase::Alone },
            begun: Moment::ZERO,
            windows: Windows::new(),
            pace: None,
            trials: TRIALS,
            last_trial: None,
            rate: 0.0,
            since: None,
            bytes: 0,
            seen: 0,
            above: 0,
            pause: FIRST_PAUSE,
            answered: Duration::ZERO,
            held_up: false,
            is_limited: false,
            failed: None,
        }
    }

    /// No other connection is tried before this moment.
    pub(crate) const fn wait_until(&mut self, until: Moment) {
        if matches!(self.phase, TrialPhase::Measured) {
            self.phase = TrialPhase::Settled { until };
        }
    }

    /// Makes two connections read, for tests of the pieces that they read.
    #[cfg(test)]
    pub(crate) const fn read_by_two(&mut self) {
        (self.connections, self.phase, self.is_limited) = (2, TrialPhase::Full, true);
    }

    /// Sets the rate of all connections together, in bytes per second, for tests of the pieces that they read.
    #[cfg(test)]
    pub(crate) const fn get_together(&mut self, rate: f64) {
        self.rate = rate;
    }

    /// How many connections are to read.
    pub(crate) const fn connections(&self) -> u8 {
        self.connections
    }

    /// True if several connections were found to get more than one.
    pub(crate) const fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// True if a second connection is to try.
    pub(crate) const fn is_trial_due(&self) -> bool {
        matches!(self.phase, TrialPhase::TrialDue(_))
    }

    /// True while a second connection tries.
    pub(crate) const fn is_tried(&self) -> bool {
        matches!(self.phase, TrialPhase::Trial(_))
    }

    /// How many bytes a connection that tries reads, if one is to try.
    pub(crate) fn trial_stretch(&self) -> Option<u64> {
        if let TrialPhase::TrialDue(pace) = self.phase { Some(stretch::of_trial(pace.rate)) } else { None }
    }

    /// Connection number `connection` tries: it reads `bytes`. Returns by how many of the first of these the trial is judged; `None` if they
    /// would tell nothing.
    pub(crate) fn tries(&mut self, connection: u8, bytes: u64, now: Moment) -> Option<u64> {
        let TrialPhase::TrialDue(pace) = self.phase else { return None };
        let (length, wanted) = self.next_trial(&pace, bytes)?;
        let trial = Trial::new(connection, (length, bytes, wanted), pace, self.windows.last()?, now);
        self.begin(TrialPhase::Trial(trial), now);
        self.trials = self.trials.saturating_sub(1);
        Some(length)
    }

    /// By how many bytes a trial that reads `most` is judged, and how many times as much it has to bring; `None` if it would tell nothing.
    fn next_trial(&self, pace: &MeasuredRate, most: u64) -> Option<(u64, f64)> {
        let burst = if pace.comes_in_bursts() { pace.gap / 2 } else { Duration::ZERO };
        let enough = (pace.rate * ENOUGH_TRIAL_TIME.max(burst).as_secs_f64()) as u64;
        let wanted_of = |length: u64| {
            let time = Duration::from_secs_f64(length as f64 / pace.rate);
            let wanted = trial::wanted(pace, time).filter(|_| time >= MIN_TRIAL_TIME)?;
            Some((length, wanted))
        };
        [enough.max(MIN_TRIAL_BYTES).min(most), most].into_iter().find_map(wanted_of)
    }

    /// How many bytes a connection asks for in one request, when `left` bytes are left for all; `None` for all that it can.
    pub(crate) fn stretch(&self, left: u64) -> Option<u64> {
        if matches!(self.phase, TrialPhase::Alone) {
            return None;
        }
        if self.connections < 2 {
            let is_decided =
                matches!(self.phase, TrialPhase::Settled { until } if until.since(self.begun) >= LONG_PAUSE);
            return stretch::alone(self.length, left).filter(|_| !is_decided);
        }
        let is_tried = matches!(self.phase, TrialPhase::Wider { .. });
        let readers = if is_tried { self.max } else { self.connections };
        Some(Stretch { length: self.length, rate: self.rate_of_one(), readers, is_tried }.bytes(left))
    }

    /// The rate of each connection, in bytes per second.
    pub(crate) fn rate_of_one(&self) -> f64 {
        let measured = if let TrialPhase::Wider { before } = self.phase { before } else { self.connections };
        self.rate / f64::from(measured)
    }

    /// `bytes` came on `connection` (0 is the first one) after a wait of `waited`, and `left` bytes are still to be read.
    pub(crate) fn came(
        &mut self,
        connection: u8,
        bytes: u64,
        waited: Duration,
        left: u64,
        now: Moment,
    ) -> Option<Widening> {
        match &mut self.phase {
            TrialPhase::Alone => None,
            TrialPhase::Full => {
                self.rate = self.measured(bytes, now).unwrap_or(self.rate);
                None
            }
            TrialPhase::Settled { until } => {
                if now >= *until {
                    self.measure(now);
                }
                None
            }
            TrialPhase::Measured if self.connections > 1 => {
                let rate = self.measured(bytes, now)?;
                self.rate = rate;
                // No number of connections gets bytes faster than the agent itself takes them.
                if !std::mem::take(&mut self.held_up) && self.is_worth_it(rate, left) {
                    self.widen(now);
                }
                None
            }
            TrialPhase::Measured => {
                if connection == 0 {
                    self.measured_alone(bytes, waited, left, now)
                } else {
                    None
                }
            }
            TrialPhase::TrialDue(_) => {
                if connection == 0 {
                    self.windows.came(bytes, waited, now);
                }
                if now.since(self.begun) >= TRIAL_TIMEOUT {
                    self.settle(now);
                }
                None
            }
            TrialPhase::Trial(trial) => {
                let counts = connection == 0 || connection == trial.connection();
                if counts && let Some(outcome) = trial.came(connection == 0, bytes, now) {
                    return self.judge_trial(outcome, now);
                }
                if now.since(trial.waits_from()) >= TRIAL_TIMEOUT {
                    self.settle(now);
                }
                None
            }
            TrialPhase::Wider { before } => {
                let before = *before;
                self.seen |= 1 << connection;
                let all_are_here = self.seen.count_ones() >= u32::from(self.connections);
                if self.comes_in_bursts() {
                    // New connections get their first burst at once, so it has to be counted from the beginning of the phase.
                    self.since.get_or_insert(self.begun);
                } else if !all_are_here && now.since(self.begun) < WARM_UP.max(self.answered * 3) {
                    return None;
                }
                let rate = self.measured(bytes, now)?;
                if self.is_above(rate) {
                    self.above += 1;
                    return (self.above >= MIN_ABOVE).then(|| self.is_no_limit(rate, now));
                }
                Some(self.judge(rate, (before, self.connections), now))
            }
        }
    }

    /// The agent's own limit holds the origin's bytes up.
    pub(crate) const fn held_up(&mut self) {
        self.held_up = true;
    }

    /// Another blob that was read over the same link has ended and no longer takes part of it. The earlier rate of one connection of this blob says
    /// nothing about the rate of several now.
    pub(crate) fn given_back(&mut self, now: Moment) {
        match self.phase {
            TrialPhase::Measured if self.connections == 1 => self.windows.clear(),
            TrialPhase::TrialDue(_) => self.measure(now),
            TrialPhase::Trial(_) => {
                self.trials += 1;
                self.measure(now);
            }
            TrialPhase::Wider { .. } if !self.is_limited => {
                (self.connections, self.trials) = (1, TRIALS);
                self.measure(now);
            }
            _ => return,
        }
        (self.pace, self.last_trial) = (None, None);
    }

    /// A connection other than the first, which was begun at `began`, failed. The cause may pass: fewer connections go on for a while. Connections
    /// that break at the same time are one failure.
    pub(crate) fn failed(&mut self, began: Moment, now: Moment) {
        let is_same = self.failed.is_some_and(|failed| began < failed && now.since(failed) < SAME_CAUSE);
        if matches!(self.phase, TrialPhase::Alone) || is_same {
            return;
        }
        self.failed = Some(now);
        self.connections = match self.phase {
            TrialPhase::Wider { before } => before,
            _ => (self.connections / 2).max(1),
        };
        self.settle(now);
    }

    /// The origin did not answer a range with that range, or asked for a pause: one connection reads it from now on.
    pub(crate) fn refused(&mut self, now: Moment) {
        self.connections = 1;
        self.begin(TrialPhase::Alone, now);
    }

    /// The only connection has asked for all the rest: no other connection will read a part of it.
    pub(crate) fn reads_the_rest(&mut self) {
        if self.connections < 2 {
            self.begin(TrialPhase::Alone, self.begun);
        }
    }

    fn comes_in_bursts(&self) -> bool {
        self.pace.is_some_and(|pace| pace.comes_in_bursts())
    }

    fn is_worth_it(&self, rate: f64, left: u64) -> bool {
        left > MIN_LEFT && left as f64 >= rate * MIN_LEFT_TIME.as_secs_f64()
    }

    /// Counts bytes of the only connection.
    fn measured_alone(&mut self, bytes: u64, waited: Duration, left: u64, now: Moment) -> Option<Widening> {
        if std::mem::take(&mut self.held_up) {
            self.windows.clear();
            return None;
        }
        let before = self.pace.filter(|_| self.last_trial == Some(true) && !self.is_limited);
        let windows = if before.is_some() { MIN_WINDOWS_AGAIN } else { MIN_WINDOWS };
        if !self.windows.came(bytes, waited, now) {
            return None;
        }
        let mut pace = self.windows.pace(windows)?;
        if let Some(before) = before {
            if !pace.agrees_with(&before) {
                // So the second connection was not the reason that more came.
                self.last_trial = Some(false);
                if self.trials == 0 {
                    self.settle(now);
                }
                return None;
            }
            if self.trials == 0 {
                return Some(self.several_get_more(before.rate * 2.0, before.rate, now));
            }
            // Few windows may agree by chance.
            pace.noise = pace.noise.max(before.noise);
        }
        let may_be_set = pace.rate <= MAX_RATE && pace.is_waited_for;
        if !may_be_set || !self.is_worth_it(pace.rate, left) {
            return None;
        }
        if self.next_trial(&pace, stretch::of_trial(pace.rate)).is_none() {
            self.windows.lengthen();
            return None;
        }
        (self.pace, self.rate) = (Some(pace), pace.rate);
        self.begin(TrialPhase::TrialDue(pace), now);
        None
    }

    /// Counts bytes of several connections. Returns their rate when a window is over. Bytes that came first were under way before the window began.
    fn measured(&mut self, bytes: u64, now: Moment) -> Option<f64> {
        let since = *self.since.get_or_insert(now);
        if since == now {
            return None;
        }
        self.bytes += bytes;
        let answered = if self.comes_in_bursts() { self.answered * 2 } else { Duration::ZERO };
        let (span, window) = (now.since(since), self.pace.map_or(WINDOW, |pace| pace.span.max(WINDOW)) + answered);
        if span < window {
            return None;
        }
        let rate = self.bytes as f64 / span.as_secs_f64();
        (self.since, self.bytes) = (Some(now), 0);
        Some(rate)
    }

    fn judge_trial(&mut self, outcome: Outcome, now: Moment) -> Option<Widening> {
        let Outcome { gain, together, wanted, answered, is_burst } = outcome;
        self.answered = answered;
        let Some(pace) = self.pace else {
            self.settle(now);
            return None;
        };
        let rates = ((pace.rate * together) as u64, pace.rate as u64);
        let before = self.last_trial.replace(gain >= wanted);
        let is_more = gain >= if before == Some(false) { wanted + ALONE_GAIN } else { wanted };
        if !is_more {
            self.settle(now);
            return Some(Widening::Back { connections: 1, tried: 2, rate: rates.0, before: rates.1 });
        }
        if before == Some(true) {
            return Some(self.several_get_more(pace.rate * together, pace.rate, now));
        }
        // A further trial has to say the same, if one may still be made: the same chance does not come twice.
        if is_burst && self.trials > 0 {
            self.begin(TrialPhase::TrialDue(pace), now);
        } else {
            self.measure(now);
        }
        None
    }

    /// Trials say that two connections get the rate `two` and one gets `one`: more connections read from now on.
    fn several_get_more(&mut self, two: f64, one: f64, now: Moment) -> Widening {
        (self.connections, self.rate) = (1, one);
        self.widen(now);
        Widening::Wider { connections: self.connections, tried: 2, rate: two as u64, before: one as u64 }
    }

    /// True if connections get more than as many would if the measured rate of one were a limit. Bursts may begin in a window
    /// in which another one ends.
    fn is_above(&self, rate: f64) -> bool {
        let Some(pace) = self.pace else { return false };
        let bursts = 1.0 + pace.gap.as_secs_f64() / pace.span.max(WINDOW).as_secs_f64();
        rate > pace.rate * f64::from(self.connections) * CEILING.max(bursts)
    }

    /// The rate of one connection was no limit: one reads from now on.
    fn is_no_limit(&mut self, rate: f64, now: Moment) -> Widening {
        let (tried, before) = (self.connections, self.rate);
        let one = self.pace.map_or(before, |pace| pace.rate);
        (self.connections, self.rate, self.is_limited) = (1, one, false);
        self.last_trial = Some(false);
        self.settle(now);
        Widening::NoLimit { tried, rate: rate as u64, before: one as u64 }
    }

    /// Decides, once the rate of `tried` connections is known, whether more are tried, or `before` read again.
    fn judge(&mut self, rate: f64, (before, tried): (u8, u8), now: Moment) -> Widening {
        let (had, rates) = (self.rate, (rate as u64, self.rate as u64));
        // The first bytes of an answer may come at once.
        let one = self.pace.map_or(f64::INFINITY, |pace| pace.rate);
        let got = rate.min(one * f64::from(tried) * 1.1);
        let gains = self.is_limited || got >= one * FIRST_GAIN;
        self.is_limited |= gains;
        if gains && got >= had * GAIN {
            (self.rate, self.connections) = (got, tried);
            self.trials = TRIALS;
            self.widen(now);
            return Widening::Wider { connections: self.connections, tried, rate: rates.0, before: rates.1 };
        }
        self.connections = if gains { before } else { 1 };
        self.rate = had / f64::from(before) * f64::from(self.connections);
        if !gains && self.pause == FIRST_PAUSE {
            // The machine may have stood still just then.
            (self.trials, self.last_trial) = (1, Some(false));
        }
        self.settle(now);
        Widening::Back { connections: self.connections, tried, rate: rates.0, before: rates.1 }
    }

    /// Doubles the connections that are tried. Relies on what two trials said of two connections.
    fn widen(&mut self, now: Moment) {
        if self.connections == 1 && self.max >= 4 {
            (self.connections, self.rate) = (2, self.rate * 2.0);
        }
        let before = self.connections;
        if before >= self.max {
            return self.begin(TrialPhase::Full, now);
        }
        self.connections = before.saturating_mul(2).min(self.max);
        self.begin(TrialPhase::Wider { before }, now);
    }

    fn settle(&mut self, now: Moment) {
        if self.connections == 1 && self.trials == 0 {
            (self.trials, self.last_trial) = (1, Some(false));
            self.pause = self.pause.max(LONG_PAUSE);
        }
        self.begin(TrialPhase::Settled { until: now + self.pause }, now);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }

    fn measure(&mut self, now: Moment) {
        self.windows.clear();
        self.begin(TrialPhase::Measured, now);
    }

    fn begin(&mut self, phase: TrialPhase, now: Moment) {
        (self.phase, self.begun, self.since, self.held_up) = (phase, now, None, false);
        (self.bytes, self.seen, self.above) = (0, 0, 0);
    }
}
