//! The rate of one connection, window by window, and how reliable it is.
//!
//! On a busy machine a short window mostly measures which process had the processor, while a limit gives a connection the same rate in each
//! window. So a rate counts only once several windows were measured, together with the difference between them. If they differ much, the windows
//! become longer, so that chance evens out and a limit remains.
//!
//! A window begins and ends when bytes come, so that an origin that sends in bursts has whole bursts in it, and is as long as these need.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

use darter_core::Moment;

/// A window is at least this long, about as long as a trial, and has at least `MIN_BYTES`.
const WINDOW: Duration = Duration::from_millis(20);
const MIN_BYTES: u64 = 16 << 10;

/// Windows that are lengthened because they differ become no longer than this.
const MAX_WINDOW: Duration = Duration::from_millis(80);

/// Rates that differ by no more than this part are the same.
const AGREE: f64 = 0.1;

/// Bursts come regularly if no gap between them differs from the median one by more than this part.
const REGULAR: f64 = 0.25;

/// A burst begins with the first byte after at least this time without one.
const MIN_PAUSE: Duration = Duration::from_millis(40);

/// There are no bursts any more if none began for this many times as long as a burst and its pause take.
const NO_BURSTS: u32 = 3;

/// After this many windows that are mostly a gap, bytes count as coming in bursts.
const MIN_BURSTS: usize = 3;

/// With fewer windows than this, the one that differs most decides.
const FEW: usize = 6;

/// How many windows count.
const KEPT: usize = 30;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Windows {
    /// How long the next window is, at least.
    length: Duration,
    /// Of the present window: since when its bytes are counted, how many came, and for how long nothing could be read.
    since: Moment,
    bytes: u64,
    idle: Duration,
    /// The longest time without a byte in the present window.
    gap: Duration,
    /// When bytes last came.
    last: Option<Moment>,
    done: VecDeque<Window>,
    /// The present burst: since when, its bytes, and for how long nothing could be read.
    burst: (Moment, u64, Duration),
    /// Earlier bursts, each with the pause behind it.
    bursts: VecDeque<Window>,
}

/// Bytes of some time, or of a burst and the pause behind it.
#[derive(Clone, Copy, Debug)]
struct Window {
    rate: f64,
    span: Duration,
    gap: Duration,
    /// True if the origin was waited for most of the time.
    is_waited_for: bool,
}

/// The average of several windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MeasuredRate {
    /// In bytes per second.
    pub(super) rate: f64,
    /// How long a window was.
    pub(super) span: Duration,
    /// The longest time without a byte in most of them.
    pub(super) gap: Duration,
    /// True if that is about the same in nearly all of them.
    pub(super) is_regular: bool,
    /// How far windows lie apart, as a part of the rate: about one standard deviation.
    pub(super) noise: f64,
    /// True if the origin was waited for most of the time. If not, this agent takes no more, whatever is sent.
    pub(super) is_waited_for: bool,
}

impl MeasuredRate {
    /// True if bytes come in bursts, at regular times, with pauses that are most of the time.
    pub(super) fn comes_in_bursts(&self) -> bool {
        self.is_regular && self.gap >= MIN_PAUSE && self.gap * 2 >= self.span
    }

    /// True if both rates may be the same one.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        (self.rate / other.rate - 1.0).abs() <= AGREE + self.noise.max(other.noise)
    }

    /// The deviation to be expected of what comes in another time than a window's.
    pub(super) fn noise_in(&self, time: Duration) -> f64 {
        self.noise * (self.span.as_secs_f64() / time.as_secs_f64().max(1e-4)).max(1.0).sqrt()
    }
}

impl Windows {
    pub(super) const fn new() -> Self {
        let (since, bytes, idle, gap) = (Moment::ZERO, 0, Duration::ZERO, Duration::ZERO);
        let burst = (Moment::ZERO, 0, Duration::ZERO);
        let done = VecDeque::new();
        Self { length: WINDOW, since, bytes, idle, gap, last: None, done, burst, bursts: VecDeque::new() }
    }

    /// When bytes last came.
    pub(super) const fn last(&self) -> Option<Moment> {
        self.last
    }

    /// `bytes` came after a wait of `waited`. Returns true if a window, or a burst before them, ended with these bytes.
    pub(super) fn came(&mut self, bytes: u64, waited: Duration, now: Moment) -> bool {
        let Some(last) = self.last.replace(now) else {
            self.since = now;
            self.burst = (now, bytes, Duration::ZERO);
            return false;
        };
        let between = now.since(last);
        let is_burst_over = self.goes_into_burst(bytes, waited.min(between), between, now);
        self.bytes += bytes;
        self.idle += waited.min(between);
        self.gap = self.gap.max(between);
        let span = now.since(self.since);
        if span < self.length || self.bytes < MIN_BYTES {
            return is_burst_over;
        }
        let rate = self.bytes as f64 / span.as_secs_f64();
        self.done.push_back(Window { rate, span, gap: self.gap, is_waited_for: self.idle * 2 >= span });
        if self.done.len() > KEPT {
            self.done.pop_front();
        }
        (self.since, self.bytes, self.idle, self.gap) = (now, 0, Duration::ZERO, Duration::ZERO);
        true
    }

    /// Counts bytes as a part of a burst. Returns true if they begin another one.
    ///
    /// A host that has other work takes a while to read a burst, so that windows end in the middle of it. And a server that limits its rate
    /// waits after each burst until the next one may go. So a burst's rate is that of its own bytes, over the time until the next one.
    fn goes_into_burst(&mut self, bytes: u64, waited: Duration, between: Duration, now: Moment) -> bool {
        let (since, came, idle) = &mut self.burst;
        *idle += waited;
        let span = now.since(*since);
        if between < MIN_PAUSE {
            *came += bytes;
            if self.bursts.back().is_some_and(|before| span > before.span * NO_BURSTS) {
                self.bursts.clear();
            }
            return false;
        }
        let rate = *came as f64 / span.as_secs_f64();
        self.bursts.push_back(Window { rate, span, gap: between, is_waited_for: *idle * 2 >= span });
        if self.bursts.len() > KEPT {
            self.bursts.pop_front();
        }
        self.burst = (now, bytes, Duration::ZERO);
        true
    }

    /// Forgets all windows: bytes so far tell nothing of the rate from now on. The next bytes begin a window.
    pub(super) fn clear(&mut self) {
        self.done.clear();
        self.bursts.clear();
        self.last = None;
        (self.bytes, self.idle, self.gap) = (0, Duration::ZERO, Duration::ZERO);
    }

    /// Makes windows longer, if there are many of them: their rates lie too far apart.
    pub(super) fn lengthen(&mut self) {
        if self.done.len() >= KEPT / 2 && self.length < MAX_WINDOW {
            self.length *= 2;
            self.done.clear();
        }
    }

    /// The average of regular bursts, or else of the windows, once there are at least `least` of the shortest kind, or fewer longer ones.
    pub(super) fn pace(&self, least: usize) -> Option<MeasuredRate> {
        average(&self.bursts).filter(|pace| pace.comes_in_bursts() && self.bursts.len() >= MIN_BURSTS).or_else(|| {
            let (pace, count) = (average(&self.done)?, self.done.len());
            // Bursts make them longer; those that became longer because shorter ones lie apart may agree by chance.
            let fewest = if self.length > WINDOW { least } else { least.div_ceil(5) };
            // The machine may have had few moments until now.
            let fewest = if pace.gap * 2 >= pace.span { fewest.max(MIN_BURSTS) } else { fewest };
            let are_enough =
                count >= fewest && pace.span * u32::try_from(count).ok()? >= WINDOW * u32::try_from(least).ok()?;
            are_enough.then_some(pace)
        })
    }
}

fn average(windows: &VecDeque<Window>) -> Option<MeasuredRate> {
    let count = windows.len();
    let span = median(windows.iter().map(|window| window.span), Duration::cmp)?;
    let gap = median(windows.iter().map(|window| window.gap), Duration::cmp)?;
    let rate = median(windows.iter().map(|window| window.rate), f64::total_cmp)?;
    let is_same = |other: Duration| (other.as_secs_f64() / gap.as_secs_f64().max(1e-4) - 1.0).abs() <= REGULAR;
    let same = windows.iter().filter(|window| is_same(window.gap)).count();
    let mut apart: Vec<f64> = windows.iter().map(|window| (window.rate - rate).abs() / rate).collect();
    apart.sort_by(f64::total_cmp);
    let noise = if count < FEW {
        apart.last().copied()?
    } else {
        // The machine may have stood still in one of them, or the first one had what waited in the socket.
        apart[..count - 1].iter().sum::<f64>() / (count - 1) as f64 * 1.5
    };
    let waited_for = windows.iter().filter(|window| window.is_waited_for).count();
    let is_regular = same * 8 >= count * 7;
    Some(MeasuredRate { rate, span, gap, is_regular, noise, is_waited_for: waited_for * 2 > count })
}

/// The one in the middle.
fn median<T: Copy>(values: impl Iterator<Item = T>, order: impl Fn(&T, &T) -> Ordering) -> Option<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_by(order);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each entry: after how many milliseconds how many kilobytes come.
    fn windows(came: impl IntoIterator<Item = (u64, u64)>, waited: Duration) -> Windows {
        let mut windows = Windows::new();
        let mut now = Moment::from_micros(1_000_000);
        for (millis, kilobytes) in came {
            now = now + Duration::from_millis(millis);
            windows.came(kilobytes * 1000, waited, now);
        }
        windows
    }

    #[test]
    fn what_comes_evenly_or_in_bursts_has_the_rate_of_whole_bursts() {
        for (every, bytes, span) in [(10, 80, 20), (30, 240, 30), (250, 2000, 250)] {
            let pace = windows([(every, bytes); 101], Duration::MAX).pace(10).unwrap();
            assert!((pace.rate - 8e6).abs() < 1.0 && pace.noise < 1e-9 && pace.is_waited_for, "{pace:?}");
            assert_eq!((pace.span, pace.gap), (Duration::from_millis(span), Duration::from_millis(every)));
        }
        // A burst comes in several pieces.
        let burst = [(245, 500), (1, 500), (2, 500), (2, 500)];
        let pace = windows(std::iter::repeat_n(burst, 9).flatten(), Duration::MAX).pace(10).unwrap();
        assert!((pace.rate - 8e6).abs() < 1.0 && pace.noise < 1e-9, "{pace:?}");
    }

    #[test]
    fn short_windows_have_to_be_several_and_long_ones_three() {
        assert!(windows([(10, 80); 20], Duration::MAX).pace(10).is_none());
        assert!(windows([(10, 80); 21], Duration::MAX).pace(10).is_some());
        assert!(windows([(250, 2000); 3], Duration::MAX).pace(10).is_none());
        assert!(windows([(250, 2000); 4], Duration::MAX).pace(10).is_some_and(|pace| pace.is_regular));
        let moments = [(90, 300), (140, 500), (80, 250), (200, 700), (100, 350), (160, 500)];
        assert!(windows(moments, Duration::MAX).pace(10).is_some_and(|pace| !pace.is_regular));
        assert!(windows([(10, 1); 30], Duration::MAX).pace(10).is_none(), "too little came");
    }

    #[test]
    fn one_window_in_which_the_machine_stood_still_is_no_noise_and_what_differs_each_time_is() {
        let still = (0..90).map(|nth| if nth == 33 { (200, 80) } else { (10, 80) });
        let pace = windows(still, Duration::MAX).pace(10).unwrap();
        assert!(pace.noise < 0.01 && pace.gap == Duration::from_millis(10), "{pace:?}");
        let uneven = (0..61).map(|nth| if (nth + 1) / 2 % 2 == 0 { (10, 100) } else { (10, 60) });
        let noise = windows(uneven, Duration::MAX).pace(10).unwrap().noise;
        assert!((0.1..0.6).contains(&noise), "{noise}");
    }

    #[test]
    fn an_agent_that_has_all_hands_full_does_not_wait_for_the_origin() {
        for (waited, is_waited_for) in [(2, false), (7, true)] {
            let pace = windows([(10, 80); 50], Duration::from_millis(waited)).pace(10).unwrap();
            assert_eq!(pace.is_waited_for, is_waited_for);
        }
    }

    #[test]
    fn windows_become_longer_when_many_of_them_lie_apart() {
        let mut few = windows([(10, 80); 23], Duration::MAX);
        few.lengthen();
        assert!(few.pace(10).is_some());
        let mut many = windows([(10, 80); 40], Duration::MAX);
        many.lengthen();
        assert!(many.pace(1).is_none() && many.length == WINDOW * 2);
    }
}
