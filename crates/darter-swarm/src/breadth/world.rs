//! Simulated origins, links and machines, in steps of a millisecond: for the tests of [`Breadth`].

use std::time::Duration;

use darter_core::Moment;

use super::{Breadth, Widening};
use crate::random::Random;

pub(super) const MIB: u64 = 1 << 20;

/// Bytes that a socket gives at a time, at least.
const CHUNK: f64 = 16e3;

/// Bytes that a socket holds while nobody reads.
const SOCKET: f64 = 4e6;

/// The origin, the link and the machine on which a blob is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    /// Bytes that each connection, and all of them together, get in a second at most.
    pub(super) each: u64,
    pub(super) all: u64,
    /// How far what all together get is from that: a standard deviation, drawn anew after about `every` milliseconds.
    pub(super) noise: f64,
    pub(super) every: u64,
    /// Milliseconds whose bytes a connection gets all at once.
    pub(super) burst: u64,
    /// After about this many milliseconds nothing happens for 200: on the whole machine, or here only.
    pub(super) stalls: Option<u64>,
    pub(super) stalls_here: bool,
    /// Until about this many milliseconds the machine has other work, and only a moment now and then for this.
    pub(super) starved: u64,
    /// The rate of all connections together in bytes per second, and for how many milliseconds, about; then there is no such limit.
    pub(super) narrow: Option<(u64, u64)>,
    /// Milliseconds until an answer begins.
    pub(super) answer: u64,
    /// Bytes that this host takes out of a socket in a millisecond.
    pub(super) takes: u64,
    /// A second connection that tries goes on until what it says is known, and not only until it has what it is judged by at first.
    pub(super) tries_on: bool,
    pub(super) seed: u64,
}

/// The result of reading a blob.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) connections: u8,
    pub(super) widest: u8,
    pub(super) seconds: f64,
    /// When several read first.
    pub(super) found: Option<f64>,
    /// Trials, and bytes that they took.
    pub(super) trials: u32,
    pub(super) tried: u64,
    pub(super) widenings: Vec<Widening>,
}

/// One connection: what it may take out of the socket, and when its answer begins.
#[derive(Clone, Copy, Default)]
struct Socket {
    owed: f64,
    holds: f64,
    from: u64,
    /// True if there was more than this host could take when it last took something.
    had_more: bool,
}

impl World {
    pub(super) const fn new(each: u64, all: u64) -> Self {
        let (noise, every, burst, stalls, stalls_here, starved, answer, seed) = (0.0, 20, 1, None, false, 0, 2, 1);
        let takes = u64::MAX;
        Self {
            each,
            all,
            noise,
            every,
            burst,
            stalls,
            stalls_here,
            starved,
            narrow: None,
            answer,
            takes,
            tries_on: false,
            seed,
        }
    }

    /// A blob of this length is read.
    pub(super) fn read(self, length: u64) -> Read {
        let mut random = Random::new(self.seed);
        let mut uniform = move || random.next() as f64 / u64::MAX as f64;
        let mut breadth = Breadth::new(8, length);
        let mut read =
            Read { connections: 1, widest: 1, seconds: 0.0, found: None, trials: 0, tried: 0, widenings: Vec::new() };
        let (mut left, mut factor, mut stall, mut trial) = (length as f64, 1.0, 0_u64, None);
        let mut sockets = [Socket { from: 1, ..Socket::default() }; 9];
        let starved = if self.starved > 0 { (self.starved as f64 * (0.25 + 0.75 * uniform())) as u64 } else { 0 };
        let (mut has_moment, mut until) = (true, 2);
        let narrow = self.narrow.map(|(rate, until)| (rate, (until as f64 * (0.1 + 0.9 * uniform())) as u64));
        let mut millis = 0;
        while left >= 1.0 && millis < 1_000_000 {
            millis += 1;
            let now = Moment::from_micros(1_000_000 + millis * 1000);
            if self.noise > 0.0 && uniform() * (self.every as f64) < 1.0 {
                // Twelve uniform numbers are about a normal one.
                let normal = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
                factor = (1.0 + self.noise * normal).max(0.05);
            }
            if stall == 0 && self.stalls.is_some_and(|every| uniform() * (every as f64) < 1.0) {
                stall = 200;
            }
            stall = stall.saturating_sub(1);
            if millis < starved && millis >= until {
                has_moment = !has_moment;
                until += if has_moment { 1 + (uniform() * 3.0) as u64 } else { 40 + (uniform() * 120.0) as u64 };
            }
            if millis < starved && !has_moment {
                continue;
            }
            if trial.is_none() && breadth.is_trial_due() {
                let stretch = breadth.trial_stretch().expect("it is due");
                let judged = breadth.tries(1, stretch, now).expect("it tells something");
                trial = Some(if self.tries_on { stretch } else { judged } as f64);
                (read.trials, read.tried) = (read.trials + 1, read.tried + judged);
                sockets[8] = Socket { from: millis + self.answer, ..Socket::default() };
            }
            // The rest of the stretch has no part in what is decided here.
            trial = trial.filter(|_| breadth.is_tried());
            let reading = usize::from(breadth.connections());
            let tries = trial.is_some();
            let is_open = |nth: usize, socket: &Socket| socket.from <= millis && (nth < reading || nth == 8 && tries);
            let open = sockets.iter().enumerate().filter(|(nth, socket)| is_open(*nth, socket)).count().max(1);
            let all = narrow.filter(|(_, until)| millis < *until).map_or(self.all, |(rate, _)| rate);
            let one = (self.each as f64).min(all as f64 * factor / open as f64) / 1000.0;
            for (nth, socket) in sockets.iter_mut().enumerate() {
                if !is_open(nth, socket) || stall > 0 && !self.stalls_here {
                    continue;
                }
                // A connection that has a limit of its own gets its first burst at once.
                let is_first = millis == socket.from && self.all == u64::MAX;
                socket.owed += if is_first { one * self.burst as f64 } else { one };
                if (millis - socket.from) % self.burst == 0 {
                    let sent = socket.owed.min(SOCKET - socket.holds);
                    (socket.owed, socket.holds) = (0.0, socket.holds + sent);
                }
                let rest = if nth == 8 { trial.unwrap_or_default() } else { left };
                if stall > 0 || socket.holds < CHUNK.min(rest).min(self.takes as f64) {
                    continue;
                }
                let came = socket.holds.min(rest).min(self.takes as f64);
                let waited = if socket.had_more { Duration::ZERO } else { Duration::MAX };
                socket.had_more = socket.holds - came >= CHUNK.min(self.takes as f64) && self.takes != u64::MAX;
                socket.holds = if self.takes == u64::MAX { 0.0 } else { socket.holds - came };
                if nth == 8 {
                    trial = Some(rest - came).filter(|rest| *rest >= 1.0);
                }
                if nth < 8 || self.tries_on {
                    left = (left - came).max(0.0);
                }
                let connection = if nth == 8 { 1 } else { nth as u8 };
                read.widenings.extend(breadth.came(connection, came.ceil() as u64, waited, left as u64, now));
                read.widest = read.widest.max(breadth.connections());
            }
            let reads_now = usize::from(breadth.connections());
            for socket in sockets.iter_mut().take(reads_now).skip(reading) {
                *socket = Socket { from: millis + self.answer, ..Socket::default() };
            }
            if reads_now > 1 {
                read.found.get_or_insert(millis as f64 / 1000.0);
            }
        }
        (read.seconds, read.connections) = (millis as f64 / 1000.0, breadth.connections());
        read
    }

    /// For how many of `reads` such reads `is` is true.
    pub(super) fn count(self, reads: u64, length: u64, is: impl Fn(&Read) -> bool) -> u64 {
        (0..reads).filter(|seed| is(&Self { seed: seed * 7919 + 1, ..self }.read(length))).count() as u64
    }
}
