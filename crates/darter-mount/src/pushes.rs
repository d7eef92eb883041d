//! What the kernel is given before it asks: the bytes behind a long run of reads, as far as they are here. Pure.
//!
//! The kernel asks for 128 KiB and waits, and asks again: over a keeper in another process, most of the time goes by between question and answer. A
//! reader that has read [`MIN_RUN`] in order is *led* from then on: a thread puts what follows into the kernel's page cache, step by step, up to a window's end,
//! while the reader copies what is there already. No question tells of that, so a led reader is heard of again where the window ends. It is as long as a
//! quarter of what was read, up to [`MAX_WINDOW`]: more than that is put into memory for nobody by a reader that stops.
//!
//! A reader that is faster than the thread asks for what is not there yet. The thread goes on behind what was asked for, and leaves [`LEAD`] to the kernel, which asks
//! for that much by itself.

use darter_core::ByteRange;

/// Bytes in order after which a reader is led. Starting programs read less than that of most files.
pub const MIN_RUN: u64 = 2 << 20;

/// The longest window.
pub const MAX_WINDOW: u64 = 8 << 20;

/// What the kernel reads ahead by itself.
const LEAD: u64 = 128 << 10;

/// What is put there at a time.
pub const STEP: u64 = 512 << 10;

/// How far reads of a run may be out of order.
const SLACK: u64 = 512 << 10;

/// Runs that are remembered; the one that was read least recently is forgotten, unless it is led.
const MAX_RUNS: usize = 16;

/// Readers that are led at a time.
const MAX_LED: usize = 4;

/// A run of reads.
#[derive(Clone, Copy, Debug)]
struct Run {
    id: u64,
    /// Where it began.
    start: u64,
    /// One past the last byte that was asked for, or put there.
    at: u64,
    /// Where the next step begins, at the earliest.
    next: u64,
    /// Where the window ends, and began, while a thread leads the reader.
    led: Option<ByteRange>,
    /// A window that was put there, of which it is not known yet that it was read.
    unread: Option<ByteRange>,
}

/// What follows from a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// A thread is to lead this run now.
    pub lead: Option<u64>,
    /// This was read meanwhile without a question.
    pub was_read: Option<ByteRange>,
}

/// The long runs of one file.
#[derive(Debug, Default)]
pub struct Pushes {
    length: u64,
    ids: u64,
    /// The most recently used one last.
    runs: Vec<Run>,
}

impl Pushes {
    /// Nobody has read anything of a file of this length.
    pub const fn new(length: u64) -> Self {
        Self { length, ids: 0, runs: Vec::new() }
    }

    /// The kernel asks for `range`.
    pub fn read(&mut self, range: ByteRange) -> Followed {
        let follows =
            |run: &Run| (run.at.saturating_sub(SLACK).max(run.start)..=run.at + SLACK).contains(&range.start());
        let Some(found) = self.runs.iter().rposition(follows) else {
            self.begin(range);
            return Followed::default();
        };
        let mut run = self.runs.remove(found);
        run.at = run.at.max(range.end());
        if run.led.is_none() || range.end() > run.next {
            run.next = run.at + LEAD;
        }
        let mut followed = Followed::default();
        if run.led.is_none() {
            // Its window is read to the end, or nearly.
            followed.was_read = run.unread.take();
            let window = ((run.at - run.start) / 4).min(MAX_WINDOW);
            let led = ByteRange::new(run.next, run.next + window).clamp_to(self.length);
            let has_room = self.runs.iter().filter(|run| run.led.is_some()).count() < MAX_LED;
            if run.at - run.start >= MIN_RUN && has_room && !led.is_empty() {
                (run.led, followed.lead) = (Some(led), Some(run.id));
            }
        }
        self.runs.push(run);
        followed
    }

    fn begin(&mut self, range: ByteRange) {
        if self.runs.len() >= MAX_RUNS
            && let Some(oldest) = self.runs.iter().position(|run| run.led.is_none())
        {
            self.runs.remove(oldest);
        }
        self.ids += 1;
        let (start, at) = (range.start(), range.end());
        self.runs.push(Run { id: self.ids, start, at, next: at + LEAD, led: None, unread: None });
    }

    /// What to put there next; `None`: the window is at its end.
    pub fn step(&mut self, id: u64) -> Option<ByteRange> {
        let run = self.runs.iter_mut().find(|run| run.id == id)?;
        let led = run.led?;
        let step = ByteRange::new(run.next, (run.next + STEP).min(led.end())).clamp_to(self.length);
        if run.next >= led.end() || step.is_empty() {
            run.unread = Some(led);
            run.led = None;
            return None;
        }
        (run.at, run.next) = (step.end(), step.end());
        Some(step)
    }

    /// A step can't be put there: the reader is led no further.
    pub fn stop(&mut self, id: u64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.id == id) {
            run.led = None;
            // It begins anew.
            run.start = run.at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u64 = 128 << 10;
    const GIB: u64 = 1 << 30;

    fn at(number: u64) -> ByteRange {
        ByteRange::new(number * READ, (number + 1) * READ)
    }

    /// Reads in order up to where a reader is led from.
    fn led(pushes: &mut Pushes, first: u64) -> (u64, u64) {
        let reads = (first..).map(|number| (number, pushes.read(at(number)).lead));
        let (last, lead) = reads.take(100).find(|(_, lead)| lead.is_some()).unwrap();
        (last, lead.unwrap())
    }

    #[test]
    fn a_reader_is_led_after_a_long_run_and_heard_of_again_at_the_windows_end() {
        let mut pushes = Pushes::new(GIB);
        let (last, id) = led(&mut pushes, 100);
        assert_eq!(last, 100 + MIN_RUN / READ - 1);
        let first = at(last).end() + LEAD;
        let mut next = first;
        while let Some(step) = pushes.step(id) {
            assert_eq!(step.start(), next);
            next = step.end();
        }
        assert_eq!(next, first + MIN_RUN / 4);
        assert_eq!(pushes.step(id), None);
        // What the kernel reads ahead by itself, and then what comes behind the window.
        let again = pushes.read(ByteRange::new(next, next + READ));
        assert_eq!(again.was_read, Some(ByteRange::new(first, next)));
        assert_eq!(again.lead, Some(id));
        let mut most = 0;
        for _ in 0..100 {
            let mut put = 0;
            while let Some(step) = pushes.step(id) {
                (put, next) = (put + step.len(), step.end());
            }
            most = most.max(put);
            pushes.read(ByteRange::new(next, next + READ));
        }
        assert_eq!(most, MAX_WINDOW);
    }

    #[test]
    fn whoever_jumps_or_reads_little_is_not_led() {
        let mut pushes = Pushes::new(GIB);
        for number in [70, 5000, 90, 6000, 0, 2500, 40, 8000] {
            for step in 0..8 {
                assert_eq!(pushes.read(at(number + step)), Followed::default(), "{number}");
            }
        }
        for number in 0..10_000 {
            assert_eq!(pushes.read(at(number * 7 % 8000 * 8)).lead, None);
        }
        assert!(pushes.runs.len() <= MAX_RUNS);
    }

    #[test]
    fn a_reader_that_is_faster_is_led_from_farther_on() {
        let mut pushes = Pushes::new(GIB);
        let (mut last, mut id) = led(&mut pushes, 0);
        while last * READ < 8 * MIN_RUN {
            let mut end = 0;
            while let Some(step) = pushes.step(id) {
                end = step.end();
            }
            (last, id) = led(&mut pushes, end / READ);
        }
        // The kernel's own read-ahead is left to it, and no reason to leave more.
        assert_eq!(pushes.read(at(last + 1)), Followed::default());
        let first = pushes.step(id).unwrap();
        assert_eq!(first.start(), at(last + 2).start());
        let asked = ByteRange::new(first.end(), first.end() + READ / 4);
        assert_eq!(pushes.read(asked), Followed::default(), "one thread is enough");
        assert_eq!(pushes.step(id).unwrap().start(), asked.end() + LEAD);
    }

    #[test]
    fn nothing_is_put_behind_the_end_and_what_failed_begins_anew() {
        let length = MIN_RUN + READ * 2 + 7;
        let mut pushes = Pushes::new(length);
        let (_, id) = led(&mut pushes, 0);
        let step = pushes.step(id).unwrap();
        assert_eq!((step.end(), pushes.step(id)), (length, None));
        let mut pushes = Pushes::new(GIB);
        let (last, id) = led(&mut pushes, 0);
        pushes.step(id).unwrap();
        pushes.stop(id);
        assert_eq!(pushes.step(id), None);
        let (again, _) = led(&mut pushes, last + 4);
        assert!(again >= last + MIN_RUN / READ, "{last} {again}");
    }

    #[test]
    fn of_many_readers_some_are_led() {
        let mut pushes = Pushes::new(GIB);
        let mut count = 0;
        for number in 0..2 * MIN_RUN / READ {
            for reader in 0..8 {
                count += usize::from(pushes.read(at(reader * 1000 + number)).lead.is_some());
            }
        }
        assert_eq!(count, MAX_LED);
    }
}
