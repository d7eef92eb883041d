//! A trial: a second connection reads a stretch, whose first bytes tell whether it gets them in addition to what the first one gets.
//!
//! If the link is the limit, both share it: the second one takes twice the time in which the first one would have read as much, and the
//! first one gets half meanwhile. If each connection has a limit of its own, the second one is as fast as the first, which goes on as
//! before. A trial has to show both, by so much that chance does not decide.
//!
//! The time is counted from the request, or from the first bytes if the answer takes long to begin. Neither is known more exactly than by the
//! moments in which the first connection's bytes come. An origin that sends in bursts sends all of a trial in one burst. For such an origin a
//! trial succeeds if its bytes come many times as fast as the first connection's do in the long run, and the bursts are as regular as a server's.
//! (On a busy machine bytes also come in bursts, but irregularly.)

use std::time::Duration;

use darter_core::Moment;

use super::windows::MeasuredRate;

/// Both connections have to get at least this many times what the first one got alone, and the second one no less than half of that.
const MIN_GAIN: f64 = 1.3;

/// If the gain would have to be greater than this for chance not to decide, a trial tells nothing.
const MAX_GAIN: f64 = 1.7;

/// The margin for chance, in standard deviations of what the first connection gets in the time of a trial.
const MARGIN: f64 = 3.0;

/// A trial is one burst when it comes this many times as fast as the first connection's bytes.
const BURST: f64 = 2.5;

/// Pauses between bursts are at least this many times as long as the first connection takes for as many bytes.
const LONG_PAUSE: f64 = 1.9;

/// If a trial was one burst, the first connection counts as having its usual rate meanwhile if it got no more than this many times that.
const MAX_OTHERS: f64 = 1.5;

/// A trial whose answer is slow to begin is judged by this many times as many bytes.
const SLOW: u64 = 3;

/// A trial counts though the machine stood still, if that took no more than one part in this of the trial's time.
const STILL: u32 = 4;

/// Arrivals within this time count as one moment.
const MOMENT: Duration = Duration::from_millis(1);

/// See the module's text.
#[derive(Debug)]
pub(super) struct Trial {
    /// The number of the connection that tries.
    connection: u8,
    length: u64,
    /// All bytes that it reads.
    most: u64,
    wanted: f64,
    pace: MeasuredRate,
    asked: Moment,
    /// Of the first connection: when bytes last came before the second was asked; how many came since; when the last came; and the longest time without.
    before: Moment,
    others: u64,
    others_last: Moment,
    others_gap: Duration,
    /// When the second connection's first bytes came, with their number, and how many came in all.
    first: Option<(Moment, u64)>,
    came: u64,
    /// When all its bytes had come.
    end: Option<Moment>,
}

/// The result of a trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    /// The rate of both connections as a multiple of the rate of one, as far as there being two is the reason.
    pub(super) gain: f64,
    /// The rate of both connections as a multiple of the rate of one, all of it.
    pub(super) together: f64,
    /// The gain from which on two connections count as getting more.
    pub(super) wanted: f64,
    /// How long the answer took to begin.
    pub(super) answered: Duration,
    /// True if the gain came in one burst, where the first connection gets bursts: chance has no part in that.
    pub(super) is_burst: bool,
}

/// The gain from which on two connections count as getting more, in a trial that takes `time`; `None` if it would tell
/// nothing.
pub(super) fn wanted(pace: &MeasuredRate, time: Duration) -> Option<f64> {
    let wanted = 1.0 + (pace.noise_in(time) * MARGIN).max(MIN_GAIN - 1.0);
    (wanted <= MAX_GAIN).then_some(wanted)
}

impl Trial {
    /// A trial of `connection`, judged by `length` bytes (or by `most` if its answer begins late), which have to bring `wanted` times the rate of one. Bytes of the first connection last came at `before`.
    pub(super) const fn new(
        connection: u8,
        (length, most, wanted): (u64, u64, f64),
        pace: MeasuredRate,
        before: Moment,
        now: Moment,
    ) -> Self {
        let (others, others_gap) = (0, Duration::ZERO);
        Self {
            connection,
            length,
            most,
            wanted,
            pace,
            asked: now,
            before,
            others,
            others_last: before,
            others_gap,
            first: None,
            came: 0,
            end: None,
        }
    }

    pub(super) const fn connection(&self) -> u8 {
        self.connection
    }

    /// Since when the first byte, or the end, is waited for.
    pub(super) fn waits_from(&self) -> Moment {
        self.first.map_or(self.asked, |(first, _)| first)
    }

    /// Bytes came on the first connection, or on the second. Counts `bytes` that came, and gives the outcome once it is
    /// known.
    pub(super) fn came(&mut self, is_first: bool, bytes: u64, now: Moment) -> Option<Outcome> {
        let wanted = self.wanted;
        if is_first {
            self.others += bytes;
            self.others_gap = self.others_gap.max(now.since(self.others_last));
            self.others_last = now;
            return self.end.map(|end| self.outcome(end));
        }
        if self.end.is_some() {
            return None;
        }
        if self.first.is_none() {
            self.first = Some((now, bytes));
            if now.since(self.asked).as_secs_f64() > self.time() && !self.pace.comes_in_bursts() {
                // Only bytes after the first ones count, and a few of them tell nothing on a busy machine.
                self.length = (self.length * SLOW).min(self.most);
                self.others_gap = Duration::ZERO;
            }
        }
        self.came += bytes;
        if self.came < self.length {
            return None;
        }
        self.end = Some(now);
        if self.is_burst(now) {
            return Some(Outcome { gain: 2.0, together: 2.0, wanted, answered: self.answered(), is_burst: true });
        }
        // Otherwise the first one's bytes of this time are known when its next bytes come.
        (self.others > 0).then(|| self.outcome(now))
    }

    /// How long the first connection takes for as many bytes, in seconds.
    fn time(&self) -> f64 {
        self.length as f64 / self.pace.rate
    }

    fn answered(&self) -> Duration {
        self.first.map_or(Duration::ZERO, |(first, _)| first.since(self.asked))
    }

    fn is_burst(&self, end: Moment) -> bool {
        let span = end.since(self.first.map_or(self.asked, |(first, _)| first)).max(MOMENT);
        let is_quick = span.as_secs_f64() * BURST <= self.time() && end.since(self.asked).as_secs_f64() <= self.time();
        // If the first connection got more than its bursts meanwhile, the link gives more than before: its earlier rate was no limit.
        let others_time = (end.since(self.before) + self.pace.gap).as_secs_f64();
        let is_as_before = self.others as f64 <= self.pace.rate * others_time * MAX_OTHERS;
        is_quick && is_as_before && self.pace.is_regular && self.pace.gap.as_secs_f64() >= self.time() * LONG_PAUSE
    }

    fn outcome(&self, end: Moment) -> Outcome {
        let grain = self.pace.gap.max(MOMENT);
        let rate = |bytes: u64, span: Duration| bytes as f64 / span.max(grain).as_secs_f64() / self.pace.rate;
        let all = rate(self.came, end.since(self.asked));
        let (first, at_first) = self.first.unwrap_or((self.asked, 0));
        let still = (grain * 2 + MOMENT * 5).max(end.since(first) / STILL);
        let stood_still = self.others_gap.max(end.since(self.others_last)) > still;
        let later = if stood_still { 0.0 } else { rate(self.came.saturating_sub(at_first), end.since(first)) };
        let second = all.max(later);
        let others =
            self.others as f64 / self.others_last.since(self.before).max(MOMENT).as_secs_f64() / self.pace.rate;
        // What is above the earlier rate is not due to there being two.
        let gain = (others.min(1.0) + second.min(1.0)).min(2.0 * second);
        Outcome { gain, together: others + second, wanted: self.wanted, answered: self.answered(), is_burst: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 MB/s, in bytes that come every so many milliseconds.
    fn pace(gap: u64, noise: f64) -> MeasuredRate {
        let (span, gap) = (Duration::from_millis(50), Duration::from_millis(gap));
        MeasuredRate { rate: 8e6, span: span.max(gap), gap, is_regular: true, noise, is_waited_for: true }
    }

    fn at(millis: u64) -> Moment {
        Moment::from_micros(9_000_000 + millis * 1000)
    }

    /// A trial of 160 kB, 20 ms of one connection: how many kilobytes come on which connection after how many milliseconds.
    fn gain(pace: MeasuredRate, came: impl IntoIterator<Item = (u64, bool, u64)>) -> Option<f64> {
        let mut trial = Trial::new(1, (160_000, 160_000, MIN_GAIN), pace, at(0), at(0));
        let mut came = came.into_iter();
        let outcome =
            came.find_map(|(millis, is_first, kilobytes)| trial.came(is_first, kilobytes * 1000, at(millis)))?;
        Some(outcome.gain)
    }

    /// Bytes that come every two milliseconds on each connection, on the second one after the answer's time.
    fn both(each: u64, answered: u64) -> impl Iterator<Item = (u64, bool, u64)> {
        (1..200).map(|nth| nth * 2).flat_map(move |millis| {
            let second = (millis > answered).then_some((millis, false, each));
            [Some((millis, true, each)), second].into_iter().flatten()
        })
    }

    #[test]
    fn who_gets_as_much_as_the_first_one_doubles_it_and_who_shares_does_not() {
        let gain_of = |each, answered| gain(pace(2, 0.0), both(each, answered)).unwrap();
        assert!(gain_of(16, 1) > 1.9, "each has a limit of its own");
        assert!(gain_of(8, 1) < 1.1, "both share a link");
        assert!(gain_of(16, 6) > 1.3, "it takes a while to answer");
        assert!(gain_of(16, 60) > 1.7, "it takes long to answer: what counts is what comes then");
        assert!(gain_of(8, 60) < 1.1);
    }

    #[test]
    fn a_burst_tells_where_the_first_connection_gets_bursts_and_nowhere_else() {
        let burst = [(3, false, 80), (4, false, 80)];
        assert_eq!(gain(pace(250, 0.01), burst), Some(2.0));
        let after = |kilobytes: u64| gain(pace(250, 0.01), [(2, true, kilobytes)].into_iter().chain(burst));
        assert_eq!(after(2000), Some(2.0), "one burst, as before");
        assert!(after(4000) != Some(2.0), "two at once: the link gives more than before");
        let irregular = MeasuredRate { is_regular: false, ..pace(250, 0.01) };
        assert_eq!(gain(irregular, burst), None, "the machine had a moment");
        let smooth = gain(pace(2, 0.0), [(2, true, 16), (30, false, 40), (31, false, 120), (32, true, 200)]);
        assert!(smooth.unwrap() < 1.3, "{smooth:?}: both stood still and what waited was read at once");
    }

    #[test]
    fn what_the_first_connection_gets_meanwhile_is_waited_for() {
        // All comes by ticks of ten milliseconds, in whichever order.
        let shared =
            [(10, false, 40), (10, true, 40), (20, false, 40), (20, true, 40), (30, false, 40), (40, false, 40)];
        assert!(gain(pace(10, 0.0), shared.into_iter().chain([(40, true, 40)])).unwrap() < 1.1);
        let each = [(10, false, 80), (10, true, 80), (20, false, 80)];
        assert_eq!(gain(pace(10, 0.0), each.into_iter().take(3)).map(|gain| gain > 1.9), Some(true));
        let at_once = [(9, false, 160)];
        assert_eq!(gain(pace(10, 0.0), at_once), None);
        let then = gain(pace(10, 0.0), at_once.into_iter().chain([(10, true, 0)])).unwrap();
        assert!(then < 1.1, "{then}: the first one got nothing");
    }

    #[test]
    fn a_noisy_rate_asks_for_more_or_for_a_longer_trial() {
        let (short, long) = (Duration::from_millis(20), Duration::from_millis(500));
        assert_eq!(wanted(&pace(2, 0.0), short), Some(MIN_GAIN));
        let more = wanted(&pace(2, 0.1), short).unwrap();
        assert!(more > MIN_GAIN && more < MAX_GAIN, "{more}");
        assert_eq!(wanted(&pace(2, 0.3), short), None);
        assert!(wanted(&pace(2, 0.2), long).is_some());
    }
}
