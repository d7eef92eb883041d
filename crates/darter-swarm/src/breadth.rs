//! How many connections read a large blob of its origin at a time.
//!
//! Stores and CDNs limit what one connection gets, so that several get more together. Where the link or the disk is the limit, they get
//! nothing more and cost the origin requests. So one connection reads, and once its rate is known a second one *tries*: it reads a
//! little. Where both together get much more than the one did, there are twice as many, and again, as long as each step brings more. The
//! step that does not is taken back, and is tried again after a pause that grows. Connections that fail are halved in number for such a
//! pause; an origin that does not want several is read by one for good.
//!
//! A wrong "more" costs a few requests, since the next step is measured, too. A wrong "no more" costs until the next try. So what is
//! measured is short: for a blob of 100 MB half a second is much.
//!
//! Pure. Which pieces each connection reads is [`Lead::origin_plan`](crate::Lead::origin_plan)'s to say.

use std::time::Duration;

use darter_core::Moment;

/// Connections that read one blob at a time, at most.
pub const MAX_ORIGIN_CONNECTIONS: u8 = 16;

/// No other connection is tried where no more than this is left to read.
const MIN_LEFT: u64 = 16 << 20;

/// Nor where that takes less time: the origin is asked once for what comes fast.
const MIN_LEFT_TIME: Duration = Duration::from_secs(1);

/// Bytes of the first answer that come sooner may have waited in the socket.
const BACKLOG: Duration = Duration::from_millis(25);

/// How long a rate is measured, at least, and over how many bytes.
const WINDOW: (Duration, u64) = (Duration::from_millis(50), 256 << 10);

/// How long a trial takes at the rate of one connection, and how many bytes it has.
const TRIAL: Duration = Duration::from_millis(50);
const MIN_TRIAL_BYTES: u64 = 256 << 10;
const MAX_TRIAL_BYTES: u64 = 4 << 20;

/// It has no larger part of what is left: these bytes may be sent twice, since they lie in the sockets of the first answer when that is
/// broken off.
const TRIAL_PART: u64 = 64;

/// Bytes that come sooner tell nothing: some stores send the first bytes of each answer at once. Two connections are measured then.
const MIN_TRIAL_TIME: Duration = Duration::from_millis(5);

/// Two connections have to get this many times what one does.
const TRIAL_GAIN: f64 = 1.4;

/// Twice as many connections, from two on, have to get this many times as much.
const GAIN: f64 = 1.25;

/// How long a trial may take to its first byte.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the first bytes of new connections are waited for before what all get is measured.
const WARM_UP: Duration = Duration::from_millis(300);

/// The first pause before what brought no more is tried again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A connection that began before another one's failure was noticed, and fails within this time after it, fails of the same cause.
const SAME_CAUSE: Duration = Duration::from_secs(10);

/// A connection reads a stretch of the blob in about this time while more connections are tried, so that what comes first in the
/// blob is not long in coming should they bring nothing; and in this time afterwards, since each request takes time to be answered.
const TRIED_STRETCH: Duration = Duration::from_millis(500);
const STRETCH: Duration = Duration::from_secs(2);

/// The shortest stretch, in time and in bytes, and the longest.
const MIN_STRETCH: Duration = Duration::from_millis(150);
const MIN_STRETCH_BYTES: u64 = 1 << 20;
const MAX_STRETCH_BYTES: u64 = 32 << 20;

/// That the number of connections changed, and why. Rates are in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Widening {
    /// `tried` connections got `rate` together, fewer had got `before`: `connections` read from now on.
    Wider {
        /// How many read now.
        connections: u8,
        /// How many were measured.
        tried: u8,
        /// What these got.
        rate: u64,
        /// What fewer got.
        before: u64,
    },
    /// `tried` connections got `rate` together, hardly more than `before`: `connections` read from now on, as before.
    Back {
        /// How many read now.
        connections: u8,
        /// How many were measured.
        tried: u8,
        /// What these got.
        rate: u64,
        /// What fewer got.
        before: u64,
    },
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Breadth {
    max: u8,
    connections: u8,
    phase: Phase,
    /// When the phase began.
    begun: Moment,
    /// What the last number of connections that was measured got, in bytes per second; zero if none was.
    rate: f64,
    /// How long the last window was: a store that sends in bursts needs longer ones.
    span: Duration,
    /// Since when bytes are counted, and how many came.
    since: Option<Moment>,
    bytes: u64,
    /// Of the trial: how many are to come, and how many came.
    trial: (u64, u64),
    /// Which connections got something in this phase, by bit.
    seen: u32,
    pause: Duration,
    /// Whether the agent's own limit held the origin up while bytes were counted.
    held_up: bool,
    /// When a failure last counted.
    failed: Option<Moment>,
    /// The most connections that there were.
    widest: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// As many as there are read, and are measured.
    Measured,
    /// One reads, and a second one a little.
    Trial,
    /// Twice as many as `before` read, and are measured.
    Wider { before: u8 },
    /// It stays so until then.
    Settled { until: Moment },
    /// As many as there may be read, until one fails.
    Full,
    /// One reads, for good.
    Alone,
}

impl Breadth {
    /// One that lets `max` connections read, at most.
    pub(crate) const fn new(max: u8) -> Self {
        let max = if max < MAX_ORIGIN_CONNECTIONS { max } else { MAX_ORIGIN_CONNECTIONS };
        Self {
            max,
            connections: 1,
            phase: if max > 1 { Phase::Measured } else { Phase::Alone },
            begun: Moment::ZERO,
            rate: 0.0,
            span: WINDOW.0,
            since: None,
            bytes: 0,
            trial: (0, 0),
            seen: 0,
            pause: FIRST_PAUSE,
            held_up: false,
            failed: None,
            widest: 1,
        }
    }

    /// No other connection is tried before this moment.
    pub(crate) fn wait_until(&mut self, until: Moment) {
        if self.phase == Phase::Measured {
            self.phase = Phase::Settled { until };
        }
    }

    /// How many connections are to read, a trial's included.
    pub(crate) const fn connections(&self) -> u8 {
        if self.is_trial() { 2 } else { self.connections }
    }

    /// How many read at a time, at most, so far.
    pub(crate) const fn widest(&self) -> u8 {
        self.widest
    }

    /// Whether the second connection reads a little only.
    pub(crate) const fn is_trial(&self) -> bool {
        matches!(self.phase, Phase::Trial)
    }

    /// Bytes of the trial, when `left` bytes are left for all.
    pub(crate) fn trial_length(&self, left: u64) -> u64 {
        let bytes = (self.rate * TRIAL.as_secs_f64()) as u64;
        bytes.clamp(MIN_TRIAL_BYTES, MAX_TRIAL_BYTES).min((left / TRIAL_PART).max(MIN_TRIAL_BYTES))
    }

    /// A trial of this length is asked for.
    pub(crate) const fn trial_begins(&mut self, length: u64) {
        self.trial = (length, 0);
    }

    /// How many bytes a connection reads with one request, when `left` bytes are left for all; `None` for as many as it can.
    pub(crate) fn stretch(&self, left: u64) -> Option<u64> {
        if self.connections < 2 {
            return None;
        }
        let (rate, of) = match self.phase {
            Phase::Wider { before } => (self.rate / f64::from(before), TRIED_STRETCH),
            _ => (self.rate / f64::from(self.connections), STRETCH),
        };
        let bytes_in =
            |time: Duration| ((rate * time.as_secs_f64()) as u64).clamp(MIN_STRETCH_BYTES, MAX_STRETCH_BYTES);
        // Three quarters of what each is to read, again and again, so that all end at the same time.
        let share = left / 4 * 3 / u64::from(self.connections);
        Some(share.clamp(bytes_in(MIN_STRETCH), bytes_in(of)))
    }

    /// Bytes came on a connection (0 is the first one), and `left` are still to be read.
    pub(crate) fn came(&mut self, connection: u8, bytes: u64, left: u64, now: Moment) -> Option<Widening> {
        match self.phase {
            Phase::Full | Phase::Alone => None,
            Phase::Settled { until } => {
                if now >= until {
                    self.begin(Phase::Measured, now);
                }
                None
            }
            Phase::Measured => {
                if self.begun == Moment::ZERO {
                    self.begun = now;
                }
                if now.since(self.begun) < BACKLOG {
                    return None;
                }
                let rate = self.measured(bytes, WINDOW.0, now)?;
                self.rate = rate;
                let is_worth_it = left > MIN_LEFT && left as f64 >= rate * MIN_LEFT_TIME.as_secs_f64();
                // No number of connections gets bytes faster than the agent itself takes them.
                let is_held_up = std::mem::take(&mut self.held_up);
                match self.connections {
                    _ if !is_worth_it || is_held_up => {}
                    1 => self.begin(Phase::Trial, now),
                    _ => self.widen(now),
                }
                None
            }
            Phase::Trial => self.tried(connection, bytes, now),
            Phase::Wider { before } => {
                self.seen |= 1 << connection;
                let all_are_here = self.seen.count_ones() >= u32::from(self.connections);
                if !all_are_here && now.since(self.begun) < WARM_UP {
                    return None;
                }
                let rate = self.measured(bytes, self.span, now)?;
                Some(self.judge(rate, (before, self.connections), now))
            }
        }
    }

    /// The agent's own limit holds the origin up.
    pub(crate) const fn held_up(&mut self) {
        self.held_up = true;
    }

    /// A connection besides the first one, which began then, failed, which may pass: fewer go on for a while. Connections that break
    /// at the same time are one failure.
    pub(crate) fn failed(&mut self, began: Moment, now: Moment) {
        let is_same = self.failed.is_some_and(|failed| began <= failed && now.since(failed) < SAME_CAUSE);
        if self.phase == Phase::Alone || is_same {
            return;
        }
        self.failed = Some(now);
        self.connections = match self.phase {
            Phase::Wider { before } => before,
            _ => (self.connections / 2).max(1),
        };
        self.settle(now);
    }

    /// The origin answered a range with something else, or asked for a pause: one connection reads it from now on.
    pub(crate) fn refused(&mut self, now: Moment) {
        self.connections = 1;
        self.begin(Phase::Alone, now);
    }

    /// Takes note of bytes; the rate when a window is over. Bytes that came first were under way before it began.
    fn measured(&mut self, bytes: u64, window: Duration, now: Moment) -> Option<f64> {
        let since = *self.since.get_or_insert(now);
        if since == now {
            return None;
        }
        self.bytes += bytes;
        let span = now.since(since);
        if span < window || self.bytes < WINDOW.1 {
            return None;
        }
        let rate = self.bytes as f64 / span.as_secs_f64();
        (self.since, self.bytes, self.span) = (Some(now), 0, span);
        Some(rate)
    }

    /// The same while there is a trial: its answer's first bytes begin the window, its last ones end it.
    fn tried(&mut self, connection: u8, bytes: u64, now: Moment) -> Option<Widening> {
        let (length, came) = self.trial;
        if connection > 0 && length > 0 {
            if came == 0 {
                (self.since, self.bytes) = (Some(now), 0);
            } else {
                self.bytes += bytes;
            }
            self.trial.1 += bytes;
            let span = now.since(self.since.unwrap_or(now));
            let tells_enough = span >= WINDOW.0 && self.trial.1 >= MIN_TRIAL_BYTES;
            return if tells_enough || self.trial.1 >= length { self.judge_trial(span, now) } else { None };
        }
        if came > 0 {
            self.bytes += bytes;
        } else if now.since(self.begun) >= TRIAL_TIMEOUT {
            self.settle(now);
        } else if let Some(rate) = self.measured(bytes, WINDOW.0, now) {
            // It may have just begun, and get more by the time the other one is answered.
            self.rate = rate;
        }
        None
    }

    fn judge_trial(&mut self, span: Duration, now: Moment) -> Option<Widening> {
        if span >= MIN_TRIAL_TIME {
            return Some(self.judge(self.bytes as f64 / span.as_secs_f64(), (1, 2), now));
        }
        self.connections = 2;
        self.widest = self.widest.max(2);
        self.begin(Phase::Wider { before: 1 }, now);
        None
    }

    /// What `tried` connections get is known: are there more, or as many as `before`?
    fn judge(&mut self, rate: f64, (before, tried): (u8, u8), now: Moment) -> Widening {
        let rates = (rate as u64, self.rate as u64);
        let gain = if before == 1 { TRIAL_GAIN } else { GAIN };
        if rate < self.rate * gain {
            self.connections = before;
            self.settle(now);
            return Widening::Back { connections: before, tried, rate: rates.0, before: rates.1 };
        }
        (self.rate, self.connections) = (rate, tried);
        self.widest = self.widest.max(tried);
        self.widen(now);
        Widening::Wider { connections: self.connections, tried, rate: rates.0, before: rates.1 }
    }

    fn widen(&mut self, now: Moment) {
        let before = self.connections;
        if before >= self.max {
            return self.begin(Phase::Full, now);
        }
        self.connections = before.saturating_mul(2).min(self.max);
        self.widest = self.widest.max(self.connections);
        self.begin(Phase::Wider { before }, now);
    }

    fn settle(&mut self, now: Moment) {
        self.begin(Phase::Settled { until: now + self.pause }, now);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }

    const fn begin(&mut self, phase: Phase, now: Moment) {
        (self.phase, self.begun, self.since, self.held_up) = (phase, now, None, false);
        (self.bytes, self.trial, self.seen) = (0, (0, 0), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TICK: Duration = Duration::from_millis(10);

    fn at(millis: u64) -> Moment {
        Moment::from_micros(1_000_000 + millis * 1000)
    }

    /// A store that gives each connection, and all of them together, this many bytes a second at most.
    #[derive(Clone, Copy)]
    struct Store {
        each: u64,
        all: u64,
        /// Each connection gets what it is to get in so many ticks at once.
        burst: u64,
    }

    /// What came of reading a blob.
    #[derive(Debug)]
    struct Read {
        connections: u8,
        widest: u8,
        seconds: f64,
        widenings: Vec<Widening>,
    }

    impl Store {
        fn read(self, length: u64) -> Read {
            let mut breadth = Breadth::new(8);
            let (mut left, mut ticks, mut widenings) = (length, 0, Vec::new());
            let mut trial = None;
            let mut debts = [0; 8];
            while left > 0 && ticks < 1_000_000 {
                ticks += 1;
                let now = at(ticks * 10);
                if breadth.is_trial() && trial.is_none() {
                    let length = breadth.trial_length(left);
                    breadth.trial_begins(length);
                    trial = Some(length);
                } else if !breadth.is_trial() {
                    trial = None;
                }
                let open = if trial == Some(0) { 1 } else { breadth.connections() };
                let one = self.each.min(self.all / u64::from(open)) / 100;
                for connection in 0..open {
                    let debt = &mut debts[usize::from(connection)];
                    *debt += one;
                    if (ticks + u64::from(connection) * 3) % self.burst > 0 {
                        continue;
                    }
                    let mut came = std::mem::take(debt).min(left);
                    if let Some(rest) = trial.as_mut().filter(|_| connection == 1) {
                        came = came.min(*rest);
                        *rest -= came;
                    }
                    left -= came;
                    widenings.extend(breadth.came(connection, came, left, now));
                }
            }
            let seconds = ticks as f64 * TICK.as_secs_f64();
            let connections = widenings.last().map_or(1, |widening| match widening {
                Widening::Wider { connections, .. } | Widening::Back { connections, .. } => *connections,
            });
            Read { connections, widest: breadth.widest(), seconds, widenings }
        }
    }

    fn limits(each: u64, all: u64) -> Store {
        Store { each, all, burst: 1 }
    }

    #[test]
    fn a_store_that_limits_each_connection_is_read_by_many_soon() {
        for (each, length) in [(8 * MIB, 128 * MIB), (MIB, 64 * MIB), (40 * MIB, 1024 * MIB), (8 * MIB, 4096 * MIB)] {
            let read = limits(each, u64::MAX).read(length);
            let best = length as f64 / (8 * each) as f64;
            assert_eq!(read.connections, 8);
            assert!(read.seconds < best * 1.1 + 0.2, "{read:?}: {best}");
        }
        let read = limits(8 * MIB, u64::MAX).read(128 * MIB);
        assert!(read.seconds < 2.0 * 1.15, "{read:?}: eight ranges of 16 MiB take 2 s");
    }

    #[test]
    fn where_the_link_is_the_limit_one_reads() {
        for all in [MIB, 10 * MIB, 100 * MIB] {
            let read = limits(u64::MAX, all).read(256 * MIB);
            assert_eq!((read.connections, read.widest), (1, 1), "{read:?}");
            let Some(Widening::Back { connections: 1, tried: 2, rate, before }) = read.widenings.first() else {
                panic!("{read:?}");
            };
            assert!((0.8..1.2).contains(&(*rate as f64 / *before as f64)), "{rate} and {before}");
        }
    }

    #[test]
    fn what_brings_no_more_is_taken_back() {
        assert_eq!(limits(8 * MIB, 24 * MIB).read(128 * MIB).connections, 4, "three get all that there is");
        let read = limits(8 * MIB, 16 * MIB).read(128 * MIB);
        assert_eq!((read.connections, read.widest), (2, 4), "{read:?}");
        assert!(matches!(
            read.widenings[..],
            [Widening::Wider { connections: 4, tried: 2, .. }, Widening::Back { connections: 2, tried: 4, .. }, ..]
        ));
    }

    #[test]
    fn what_brought_no_more_is_tried_again_after_a_pause_that_grows() {
        let read = limits(u64::MAX, 8 * MIB).read(240 * MIB);
        let tries = read.widenings.len();
        assert!((4..=6).contains(&tries), "{tries} tries in 30 s");
    }

    #[test]
    fn a_store_that_sends_in_bursts_is_measured_over_several() {
        let read = Store { burst: 30, ..limits(8 * MIB, u64::MAX) }.read(256 * MIB);
        assert_eq!(read.connections, 8, "{read:?}");
        let read = Store { burst: 30, ..limits(u64::MAX, 8 * MIB) }.read(256 * MIB);
        assert_eq!(read.connections, 1, "{read:?}");
    }

    #[test]
    fn no_other_connection_is_tried_for_little_or_for_a_moment() {
        assert_eq!(limits(MIB, u64::MAX).read(MIN_LEFT).widenings, []);
        assert_eq!(limits(400 * MIB, u64::MAX).read(100 * MIB).widenings, []);
    }

    #[test]
    fn an_origin_that_refuses_is_read_by_one_for_good_and_a_failure_halves_them_for_a_while() {
        let mut breadth = Breadth::new(8);
        let came = |breadth: &mut Breadth, from, until| {
            for millis in (from..until).step_by(10) {
                breadth.came(0, MIB / 10, 1 << 30, at(millis));
            }
        };
        came(&mut breadth, 0, 500);
        assert!(breadth.is_trial());
        assert_eq!(breadth.connections(), 2);
        breadth.failed(at(400), at(500));
        assert_eq!(breadth.connections(), 1);
        came(&mut breadth, 500, 1400);
        assert!(!breadth.is_trial());
        came(&mut breadth, 1400, 5000);
        assert!(breadth.is_trial(), "it is tried again");
        breadth.refused(at(5000));
        came(&mut breadth, 5000, 100_000);
        assert_eq!(breadth.connections(), 1);
        let mut alone = Breadth::new(1);
        came(&mut alone, 0, 10_000);
        assert!(!alone.is_trial());
    }

    /// Eight connections, as many as there may be.
    fn eight() -> Breadth {
        let mut breadth = Breadth::new(8);
        (breadth.connections, breadth.widest, breadth.rate) = (8, 8, (64 * MIB) as f64);
        breadth.phase = Phase::Full;
        breadth
    }

    /// Each connection gets 8 MiB a second for so long.
    fn read_on(breadth: &mut Breadth, from: u64, until: u64) {
        for millis in (from..until).step_by(10) {
            for connection in 0..breadth.connections() {
                breadth.came(connection, 8 * MIB / 100, 1 << 30, at(millis));
            }
        }
    }

    #[test]
    fn one_interruption_that_breaks_all_connections_counts_once_and_they_are_as_many_again_soon() {
        let mut breadth = eight();
        for later in 0..7 {
            breadth.failed(at(900), at(1000 + later * 300));
        }
        assert_eq!(breadth.connections(), 4);
        read_on(&mut breadth, 3000, 6000);
        assert_eq!(breadth.connections(), 8, "{:?}", breadth.phase);
        // One that is noticed late broke with the others.
        breadth.failed(at(950), at(6000));
        assert_eq!(breadth.connections(), 8);
        breadth.failed(at(5900), at(6100));
        assert_eq!(breadth.connections(), 4, "another one counts");
    }

    #[test]
    fn a_failure_of_more_connections_than_before_is_taken_back_to_those() {
        let mut breadth = eight();
        (breadth.connections, breadth.phase) = (6, Phase::Wider { before: 4 });
        breadth.failed(at(10), at(20));
        assert_eq!(breadth.connections(), 4);
    }

    #[test]
    fn what_the_agent_itself_holds_up_is_not_tried_by_more() {
        let mut breadth = Breadth::new(8);
        for millis in (0..5000).step_by(10) {
            breadth.held_up();
            breadth.came(0, MIB / 10, 1 << 30, at(millis));
        }
        assert_eq!(breadth.connections(), 1);
        for millis in (5000..5500).step_by(10) {
            breadth.came(0, MIB / 10, 1 << 30, at(millis));
        }
        assert!(breadth.is_trial());
    }

    #[test]
    fn an_origin_that_was_tried_a_moment_ago_for_another_blob_is_not_tried_at_once() {
        let mut breadth = Breadth::new(8);
        breadth.wait_until(at(3000));
        read_on(&mut breadth, 0, 3000);
        assert_eq!(breadth.connections(), 1);
        read_on(&mut breadth, 3000, 3500);
        assert!(breadth.is_trial());
    }

    #[test]
    fn a_trial_that_gets_no_answer_ends() {
        let mut breadth = Breadth::new(2);
        for millis in (0..4000).step_by(10) {
            breadth.came(0, MIB / 10, 1 << 30, at(millis));
        }
        assert!(breadth.is_trial());
        for millis in (4000..6000).step_by(10) {
            breadth.came(0, MIB / 10, 1 << 30, at(millis));
        }
        assert!(!breadth.is_trial());
    }

    #[test]
    fn stretches_are_shorter_towards_the_end_and_while_more_are_tried() {
        let mut breadth = Breadth::new(8);
        assert_eq!(breadth.stretch(1 << 30), None);
        (breadth.connections, breadth.rate) = (8, (64 * MIB) as f64);
        breadth.phase = Phase::Full;
        assert_eq!(breadth.stretch(1 << 30), Some(16 * MIB));
        assert_eq!(breadth.stretch(64 * MIB), Some(6 * MIB));
        assert_eq!(breadth.stretch(MIB), Some(8 * MIB * 15 / 100), "what comes in a moment");
        (breadth.phase, breadth.rate) = (Phase::Wider { before: 4 }, (32 * MIB) as f64);
        assert_eq!(breadth.stretch(1 << 30), Some(4 * MIB));
    }
}
