//! How many bytes a holder hands to a connection ahead of its cable.
//!
//! Bytes that a socket has taken and not sent are decided: they go out though the request was called back meanwhile, and before any that would have
//! been better by then. With too little in the socket the cable rests until the holder's task is woken. Both are matters of time and not of bytes, so
//! a connection is handed what it sends within 40 ms.
//!
//! The rate is measured by how long a piece waits for room. A piece that never waits tells nothing, and a burst that a shaper lets
//! through tells little: the limit starts low, and several quick pieces in a row raise it.
//!
//! Invariants: a limit is a power of two from [`MIN_AHEAD`] to [`MAX_AHEAD`]; it changes only when the rate asks for twice as much or
//! half as much, so a socket is told seldom.
//!
//! Non-goals: sockets, and bytes that were sent and not acknowledged, which the connection's own window bounds.

use std::time::Duration;

use crate::Moment;

/// The least that a connection may be handed ahead: what a task that is woken late is forgiven.
pub const MIN_AHEAD: u32 = 16 << 10;

/// The most: enough for the time until a task is woken at 10 Gbit/s.
pub const MAX_AHEAD: u32 = 128 << 10;

/// How long what is handed over ahead takes to be sent.
const SPAN: Duration = Duration::from_millis(40);

/// A single piece that seems quicker than this counts as this, in bytes per second: twice what the largest limit needs.
const MAX_SAMPLE: f32 = 2.0 * MAX_AHEAD as f32 / 0.04;

/// The part of a new sample in the rate.
const WEIGHT: f32 = 0.125;

/// The bytes that one connection may be handed ahead, by the rate at which it takes pieces.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    limit: u32,
    /// Bytes per second; zero before the first sample.
    rate: f32,
    /// Bytes that waited in the socket at `handed`.
    left: f32,
    /// When the last piece was handed over.
    handed: Moment,
}

impl Default for Ahead {
    fn default() -> Self {
        Self { limit: MIN_AHEAD, rate: 0.0, left: 0.0, handed: Moment::ZERO }
    }
}

impl Ahead {
    /// Bytes that may wait in the socket and were never sent.
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// A piece of `bytes` was handed over from `began` to `now`, waiting for room as often as the limit demanded. Returns whether the limit
    /// has changed.
    pub fn handed_over(&mut self, bytes: u32, began: Moment, now: Moment) -> bool {
        let took = now.since(began).as_secs_f32();
        if let Some(sent) = self.sent_meanwhile(bytes, began, took) {
            let sample = (sent / took.max(1e-6)).min(MAX_SAMPLE);
            self.rate += (sample - self.rate) * WEIGHT;
        }
        self.handed = now;
        let before = self.limit;
        let useful = self.rate * SPAN.as_secs_f32();
        while self.limit < MAX_AHEAD && useful >= 2.0 * self.limit as f32 {
            self.limit *= 2;
        }
        while self.limit > MIN_AHEAD && useful <= 0.5 * self.limit as f32 {
            self.limit /= 2;
        }
        self.limit != before
    }

    /// Bytes that the socket sent while it took the piece, as far as that shows; takes note of what is left in it.
    fn sent_meanwhile(&mut self, bytes: u32, began: Moment, took: f32) -> Option<f32> {
        let (bytes, limit) = (bytes as f32, self.limit as f32);
        // Before the first sample it counts as empty.
        let gone = if self.rate > 0.0 { self.rate * began.since(self.handed).as_secs_f32() } else { f32::INFINITY };
        let waiting = (self.left - gone).max(0.0) + bytes;
        self.left = waiting.min(limit);
        if waiting > limit {
            return Some(waiting - limit);
        }
        // All of it had room, it seemed. If it waited for longer than a full socket would take, the socket was full.
        (self.rate > 0.0 && took * self.rate > limit).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection whose cable carries `rate` bytes per second, and what its socket has not sent yet.
    struct Socket {
        ahead: Ahead,
        rate: f64,
        unsent: f64,
        now: f64,
        told: u32,
    }

    impl Socket {
        fn of(rate: f64) -> Self {
            Self { ahead: Ahead::default(), rate, unsent: 0.0, now: 1.0, told: 0 }
        }

        fn rest(&mut self, seconds: f64) {
            self.now += seconds;
            self.unsent = (self.unsent - seconds * self.rate).max(0.0);
        }

        /// Hands over a piece, and waits for room as the limit demands.
        fn take(&mut self, bytes: u32) {
            let moment = |seconds: f64| Moment::from_micros((seconds * 1e6) as u64);
            let began = self.now;
            self.unsent += f64::from(bytes);
            let over = self.unsent - f64::from(self.ahead.limit());
            if over > 0.0 {
                self.rest(over / self.rate);
            }
            self.told += u32::from(self.ahead.handed_over(bytes, moment(began), moment(self.now)));
        }

        fn after(mut self, pieces: u32, bytes: u32) -> Self {
            (0..pieces).for_each(|_| self.take(bytes));
            self
        }
    }

    const KIB: u32 = 1 << 10;

    /// A rate in megabits per second.
    fn mbit(rate: f64) -> f64 {
        rate * 125_000.0
    }

    #[test]
    fn a_connection_is_handed_what_it_sends_in_a_span_and_no_less_than_the_least_nor_more_than_the_most() {
        let limit = |rate: f64, piece: u32| Socket::of(mbit(rate)).after(200, piece).ahead.limit() / KIB;
        for piece in [64 * KIB, 256 * KIB, 1024 * KIB] {
            assert_eq!(limit(0.1, piece), 16);
            assert_eq!(limit(1.25, piece), 16, "a quarter of 5 Mbit/s");
            assert_eq!(limit(5.0, piece), 16);
            assert_eq!(limit(8.0, piece), 32);
            assert_eq!(limit(16.0, piece), 64);
            assert_eq!(limit(50.0, piece), 128);
            assert_eq!(limit(200.0, piece), 128);
            assert_eq!(limit(10_000.0, piece), 128);
        }
    }

    #[test]
    fn a_socket_is_told_seldom() {
        assert_eq!(Socket::of(mbit(5.0)).after(1000, 64 * KIB).told, 0);
        assert!(Socket::of(mbit(1000.0)).after(1000, 256 * KIB).told <= 3);
        let mut changing = Socket::of(mbit(40.0));
        for nth in 0..1000 {
            changing.rate = mbit(if nth % 2 == 0 { 32.0 } else { 48.0 });
            changing.take(256 * KIB);
        }
        assert!(changing.told <= 3, "told {} times", changing.told);
    }

    #[test]
    fn a_rate_that_changes_is_followed_both_ways() {
        let mut socket = Socket::of(mbit(200.0)).after(50, 256 * KIB);
        assert_eq!(socket.ahead.limit(), MAX_AHEAD);
        socket.rate = mbit(2.0);
        socket = socket.after(50, 256 * KIB);
        assert_eq!(socket.ahead.limit(), MIN_AHEAD);
        socket.rate = mbit(200.0);
        assert_eq!(socket.after(50, 256 * KIB).ahead.limit(), MAX_AHEAD);
    }

    #[test]
    fn a_cable_that_became_slow_is_noticed_by_pieces_that_fit_into_the_socket_too() {
        let mut socket = Socket::of(mbit(200.0)).after(50, 64 * KIB);
        assert_eq!(socket.ahead.limit(), MAX_AHEAD);
        socket.rate = mbit(2.0);
        assert_eq!(socket.after(100, 64 * KIB).ahead.limit(), MIN_AHEAD);
    }

    #[test]
    fn a_burst_that_a_shaper_lets_through_does_not_raise_it_for_long() {
        let mut socket = Socket::of(1e12);
        socket.take(64 * KIB);
        socket.rate = mbit(1.25);
        socket = socket.after(20, 64 * KIB);
        assert_eq!(socket.ahead.limit(), MIN_AHEAD);
    }

    #[test]
    fn small_content_that_never_waits_tells_nothing_of_the_rate() {
        let mut socket = Socket::of(mbit(5.0));
        for _ in 0..1000 {
            socket.take(10_000);
            socket.rest(1.0);
        }
        assert_eq!((socket.ahead.limit(), socket.told), (MIN_AHEAD, 0));
    }

    #[test]
    fn pieces_with_pauses_between_them_are_measured_without_the_pauses() {
        let mut socket = Socket::of(mbit(200.0));
        for _ in 0..50 {
            socket.take(256 * KIB);
            socket.rest(0.5);
        }
        assert_eq!(socket.ahead.limit(), MAX_AHEAD);
    }
}
