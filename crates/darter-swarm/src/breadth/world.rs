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

/// The socket of the connection that tries; those before it are the connections that read.
const TRYING: usize = 8;

/// One connection: what it may take out of the socket, and when its answer begins.
#[derive(Clone, Copy, Default)]
struct Socket {
    owed: f64,
    holds: f64,
    from: u64,
    /// True if there was more than this host could take when it last took something.
    had_more: bool,
}

impl Socket {
    /// A connection whose answer begins at `from`, in milliseconds.
    fn opened(from: u64) -> Self {
        Self { from, ..Self::default() }
    }

    /// The origin has sent `bytes` more by this millisecond, which come in bursts, if the world has some.
    fn fill(&mut self, bytes: f64, millis: u64, world: &World) {
        // A connection that has a limit of its own gets its first burst at once.
        let is_first = millis == self.from && world.all == u64::MAX;
        self.owed += if is_first { bytes * world.burst as f64 } else { bytes };
        if (millis - self.from).is_multiple_of(world.burst) {
            let sent = self.owed.min(SOCKET - self.holds);
            (self.owed, self.holds) = (0.0, self.holds + sent);
        }
    }

    /// How many of the `rest` bytes this host takes, and how long it waited for them; `None` if there are too few to be given.
    fn take(&mut self, rest: f64, world: &World) -> Option<(f64, Duration)> {
        let takes = world.takes as f64;
        if self.holds < CHUNK.min(rest).min(takes) {
            return None;
        }
        let came = self.holds.min(rest).min(takes);
        let waited = if self.had_more { Duration::ZERO } else { Duration::MAX };
        self.had_more = self.holds - came >= CHUNK.min(takes) && world.takes != u64::MAX;
        self.holds = if world.takes == u64::MAX { 0.0 } else { self.holds - came };
        Some((came, waited))
    }
}

/// What happens at random during one read.
struct Chance {
    random: Random,
    /// The share of the world's rate that all connections together get now.
    factor: f64,
    /// For how many more milliseconds nothing comes.
    stall: u64,
    /// Until this millisecond the machine has other work.
    starved: u64,
    /// True if it has a moment for this read nevertheless.
    has_moment: bool,
    /// The millisecond at which that changes.
    until: u64,
    /// The rate of all connections together in bytes per second, until this millisecond.
    narrow: Option<(u64, u64)>,
}

impl Chance {
    fn new(world: &World) -> Self {
        let random = Random::new(world.seed);
        let mut chance =
            Self { random, factor: 1.0, stall: 0, starved: 0, has_moment: true, until: 2, narrow: world.narrow };
        if world.starved > 0 {
            chance.starved = (world.starved as f64 * (0.25 + 0.75 * chance.uniform())) as u64;
        }
        if let Some((rate, until)) = world.narrow {
            chance.narrow = Some((rate, (until as f64 * (0.1 + 0.9 * chance.uniform())) as u64));
        }
        chance
    }

    fn uniform(&mut self) -> f64 {
        self.random.next() as f64 / u64::MAX as f64
    }

    /// A millisecond passes. False if the machine does nothing for this read in it.
    fn passes(&mut self, millis: u64, world: &World) -> bool {
        if world.noise > 0.0 && self.uniform() * (world.every as f64) < 1.0 {
            // Twelve uniform numbers are about a normal one.
            let normal = (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0;
            self.factor = (1.0 + world.noise * normal).max(0.05);
        }
        if self.stall == 0 && world.stalls.is_some_and(|every| self.uniform() * (every as f64) < 1.0) {
            self.stall = 200;
        }
        self.stall = self.stall.saturating_sub(1);
        if millis >= self.starved {
            return true;
        }
        if millis >= self.until {
            self.has_moment = !self.has_moment;
            let (least, more) = if self.has_moment { (1, 3.0) } else { (40, 120.0) };
            self.until += least + (self.uniform() * more) as u64;
        }
        self.has_moment
    }

    /// The bytes that each of `open` connections gets in this millisecond.
    fn share(&self, open: usize, millis: u64, world: &World) -> f64 {
        let all = self.narrow.filter(|(_, until)| millis < *until).map_or(world.all, |(rate, _)| rate);
        (world.each as f64).min(all as f64 * self.factor / open as f64) / 1000.0
    }
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
        let mut chance = Chance::new(&self);
        let mut breadth = Breadth::new(8, length);
        let mut read =
            Read { connections: 1, widest: 1, seconds: 0.0, found: None, trials: 0, tried: 0, widenings: Vec::new() };
        let (mut left, mut trial) = (length as f64, None);
        let mut sockets = [Socket::opened(1); TRYING + 1];
        let mut millis = 0;
        while left >= 1.0 && millis < 1_000_000 {
            millis += 1;
            let now = Moment::from_micros(1_000_000 + millis * 1000);
            if !chance.passes(millis, &self) {
                continue;
            }
            if trial.is_none() && breadth.is_trial_due() {
                let stretch = breadth.trial_stretch().expect("it is due");
                let judged = breadth.tries(1, stretch, now).expect("it tells something");
                trial = Some(if self.tries_on { stretch } else { judged } as f64);
                (read.trials, read.tried) = (read.trials + 1, read.tried + judged);
                sockets[TRYING] = Socket::opened(millis + self.answer);
            }
            // The rest of the stretch has no part in what is decided here.
            trial = trial.filter(|_| breadth.is_tried());
            let reading = usize::from(breadth.connections());
            let tries = trial.is_some();
            let is_open =
                |nth: usize, socket: &Socket| socket.from <= millis && (nth < reading || nth == TRYING && tries);
            let open = sockets.iter().enumerate().filter(|(nth, socket)| is_open(*nth, socket)).count().max(1);
            let share = chance.share(open, millis, &self);
            for (nth, socket) in sockets.iter_mut().enumerate() {
                if !is_open(nth, socket) || chance.stall > 0 && !self.stalls_here {
                    continue;
                }
                socket.fill(share, millis, &self);
                if chance.stall > 0 {
                    continue;
                }
                let rest = if nth == TRYING { trial.unwrap_or_default() } else { left };
                let Some((came, waited)) = socket.take(rest, &self) else { continue };
                if nth == TRYING {
                    trial = Some(rest - came).filter(|rest| *rest >= 1.0);
                }
                if nth != TRYING || self.tries_on {
                    left = (left - came).max(0.0);
                }
                let connection = if nth == TRYING { 1 } else { nth as u8 };
                read.widenings.extend(breadth.came(connection, came.ceil() as u64, waited, left as u64, now));
                read.widest = read.widest.max(breadth.connections());
            }
            let reads_now = usize::from(breadth.connections());
            for socket in sockets.iter_mut().take(reads_now).skip(reading) {
                *socket = Socket::opened(millis + self.answer);
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
