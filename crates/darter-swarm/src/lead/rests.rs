//! The end of a slow connection's stretch, which another connection reads.
//!
//! Connections to a store get about the same rate, and end at about the same time. But one may get a tenth, because its route is lossy or its server
//! busy, and a blob would wait for its stretch. So a connection that finds nothing left to read takes the end of the stretch that would last longest, as
//! much of it as lets both end together; the slow one reads up to there, and afterwards takes no stretch that others would have read sooner.
//!
//! The bytes of the slow connection's answer that are under way at that moment are sent in vain; no others are wasted by several connections. So it is
//! done only if several connections were found to get more than one (since on a link that all share, chance makes one slow), if that one is much slower than the others,
//! so that little is under way, and if all such bytes together stay below one part in [`LOST_PART`] of the blob.
//!
//! Non-goal: the piece that the slow connection is at. A connection that gets nothing at all is ended by its reader.

use std::time::Duration;

use darter_core::Moment;

use crate::lead::{Lead, OriginReader};

/// If a stretch takes its connection no longer than this to finish, its end is left to it.
const MAX_REST_TIME: Duration = Duration::from_secs(1);

/// How long a connection that was slow counts as slow. After that it is given a stretch again, since its route or its server may have
/// changed, unless the end of the stretch could not be taken away from it any more.
const SLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection's rate is known after this time, and is the average over this time to twice as long.
const SPAN: Duration = Duration::from_millis(400);

/// A connection is slow if the others get this many times its rate.
const SLOW: f64 = 3.0;

/// How much is assumed to be under way of an answer that is broken off, in the sender's socket and on the network: `LOST_BYTES`, and what comes in `LOST_TIME`.
const LOST_BYTES: u64 = 8 << 10;
const LOST_TIME: Duration = Duration::from_millis(60);

/// The bytes under way in all broken answers together are at most one part in this of the blob.
const LOST_PART: u64 = 1000;

/// The bytes that each connection got of its stretch lately.
#[derive(Debug, Default)]
pub(super) struct Speeds {
    of: Vec<Speed>,
    /// The bytes that are assumed to have been under way in broken answers.
    lost: u64,
}

#[derive(Debug)]
struct Speed {
    reader: OriginReader,
    /// Since when bytes are counted, and how many came; `None` between two stretches.
    since: Option<Moment>,
    bytes: u64,
    /// For how long bytes were counted before, and how many came.
    before: (Duration, u64),
    /// When the last bytes came.
    last: Moment,
}

impl Speeds {
    /// Bytes came for a reader.
    pub(super) fn came(&mut self, reader: OriginReader, bytes: u64, now: Moment) {
        let Some(speed) = self.of.iter_mut().find(|speed| speed.reader == reader) else {
            return self.of.push(Speed { reader, since: Some(now), bytes: 0, before: (Duration::ZERO, 0), last: now });
        };
        speed.last = now;
        let Some(since) = speed.since else {
            (speed.since, speed.bytes, speed.before) = (Some(now), 0, (Duration::ZERO, 0));
            return;
        };
        speed.bytes += bytes;
        let time = now.since(since);
        if time >= SPAN {
            speed.before = (time, speed.bytes);
            (speed.since, speed.bytes) = (Some(now), 0);
        }
    }

    /// A reader's stretch ended.
    pub(super) fn ended(&mut self, reader: OriginReader) {
        self.of.iter_mut().filter(|speed| speed.reader == reader).for_each(|speed| speed.since = None);
    }

    /// The rate of a reader towards the end of its last stretch, and when that ended.
    fn last(&self, reader: OriginReader) -> Option<(f64, Moment)> {
        let speed = self.of.iter().find(|speed| speed.reader == reader && speed.since.is_none())?;
        let (time, bytes) = speed.before;
        (!time.is_zero()).then(|| (bytes as f64 / time.as_secs_f64(), speed.last))
    }

    /// The rate of a reader, in bytes per second, once that is known.
    fn of(&self, reader: OriginReader, now: Moment) -> Option<f64> {
        let speed = self.of.iter().find(|speed| speed.reader == reader)?;
        let (before, bytes) = speed.before;
        let time = before + now.since(speed.since?);
        (time >= SPAN).then(|| (bytes + speed.bytes) as f64 / time.as_secs_f64())
    }
}

impl Lead {
    /// True if others would have read all that is left before a connection that was slow has read a stretch.
    pub(super) fn is_slower_than_the_rest(&self, reader: OriginReader, stretch: u32, now: Moment) -> bool {
        let quick = self.readings.breadth.rate_of_one();
        let Some((last, ended)) = self.readings.speeds.last(reader) else { return false };
        let is_tried_again = now.since(ended) >= SLOW_TIMEOUT && self.may_lose(lost_at(last));
        if last * 2.0 >= quick || is_tried_again {
            return false;
        }
        let piece = self.readings.lengths.map_or(0, |(piece_length, _)| piece_length.bytes()) as f64;
        let left = self.left() as f64 / (quick * f64::from(self.connections() - 1).max(1.0));
        f64::from(stretch) * piece / last.max(1.0) > left + MAX_REST_TIME.as_secs_f64()
    }

    /// True if `bytes` more may be under way in vain, in addition to those of answers that were broken off before.
    fn may_lose(&self, bytes: u64) -> bool {
        let length = self.readings.lengths.map_or(0, |(_, length)| length);
        (self.readings.speeds.lost + bytes) * LOST_PART <= length
    }

    /// A reader finds nothing left to read: the end of the stretch that lasts longest is taken from its reader, if that is worth it.
    pub(super) fn shorten_a_slow_one(&mut self, reader: OriginReader, now: Moment) -> bool {
        let several = self.connections() > 1 && self.readings.breadth.is_limited();
        let Some((piece_length, _)) = self.readings.lengths.filter(|_| several) else { return false };
        let speed = |other: OriginReader| self.readings.speeds.of(other, now);
        let quick = self.readings.breadth.rate_of_one();
        let rest = |at: &std::ops::Range<u32>| at.end.saturating_sub(at.start + 1);
        let slow = self.readings.at.iter().enumerate().filter_map(|(nth, (other, at))| {
            let may = *other != reader && *other != OriginReader::Errands && rest(at) > 0;
            let speed = speed(*other).filter(|_| may)?.max(1.0);
            Some((f64::from(rest(at)) * piece_length.bytes() as f64 / speed, nth, speed))
        });
        let Some((time, nth, speed)) = slow.max_by(|one, other| one.0.total_cmp(&other.0)) else { return false };
        let lost = lost_at(speed);
        let is_slow = speed * SLOW <= quick;
        if !is_slow || time < MAX_REST_TIME.as_secs_f64() || !self.may_lose(lost) {
            return false;
        }
        let (_, at) = &mut self.readings.at[nth];
        let kept = (f64::from(rest(at)) * speed / (speed + quick)) as u32;
        at.end = at.start + 1 + kept;
        self.readings.speeds.lost += lost;
        true
    }
}

/// The bytes that are assumed to be under way of an answer at this rate when it is broken off.
fn lost_at(rate: f64) -> u64 {
    LOST_BYTES + (rate * LOST_TIME.as_secs_f64()) as u64
}

#[cfg(test)]
mod tests {
    use darter_core::{NodeId, PieceIndex, PieceLength, PieceSet, Place};

    use super::*;
    use crate::lead::OriginRun;
    use crate::{Start, Tuning};

    const MIB: u64 = 1 << 20;
    const PIECE: PieceLength = PieceLength::UNKNOWN_BLOB;

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    /// A lead whose connections read a blob of 512 MiB, which they share by halves.
    fn lead() -> Lead {
        let start = Start::Fresh;
        let mut lead = Lead::new(NodeId([0; 16]), Place::default(), start, Tuning::default(), 1, at(0));
        lead.set_total(1024);
        lead.read_by(2, None, PIECE, 512 * MIB);
        lead.readings.breadth.read_by_two();
        lead.readings.breadth.get_together((20 * MIB) as f64);
        let run = |first, end| OriginRun { first: PieceIndex(first), end: Some(PieceIndex(end)) };
        (0..1004).for_each(|piece| lead.own(PieceIndex(piece)));
        lead.begins(OriginReader::Beside(0), run(1004, 1024));
        lead
    }

    /// The other connection got `rate` bytes a second for `millis`.
    fn got(lead: &mut Lead, rate: u64, millis: u64) {
        for tick in (0..=millis).step_by(10) {
            lead.readings.speeds.came(OriginReader::Beside(0), rate / 100, at(tick));
        }
    }

    fn plan(lead: &mut Lead, millis: u64) -> Option<OriginRun> {
        lead.origin_plan(OriginReader::Everything, &PieceSet::new(), at(millis))
    }

    #[test]
    fn the_end_of_what_takes_a_slow_connection_long_is_read_by_another() {
        let mut lead = lead();
        got(&mut lead, MIB, 1000);
        let run = plan(&mut lead, 1000).unwrap();
        assert!((1005..=1007).contains(&run.first.0), "{run:?}: what both read in the same time");
        lead.begins(OriginReader::Everything, run);
        let known = PieceSet::new();
        for piece in 1004..run.first.0 - 1 {
            lead.own(PieceIndex(piece));
            assert!(lead.goes_on(OriginReader::Beside(0), PieceIndex(piece + 1), &known, at(1001)));
        }
        lead.own(PieceIndex(run.first.0 - 1));
        assert!(!lead.goes_on(OriginReader::Beside(0), run.first, &known, at(1002)), "it has come to the other's part");
    }

    #[test]
    fn what_takes_a_moment_and_what_is_not_known_are_left_to_their_connection() {
        let mut quick = lead();
        got(&mut quick, 16 * MIB, 1000);
        assert_eq!(plan(&mut quick, 1000), None);
        let mut new = lead();
        got(&mut new, MIB, 200);
        assert_eq!(plan(&mut new, 200), None);
        let mut silent = lead();
        got(&mut silent, 0, 1000);
        assert!(plan(&mut silent, 1000).is_some());
    }

    #[test]
    fn a_slow_connection_that_reads_no_more_shortens_nobody() {
        let mut lead = Lead::new(NodeId([0; 16]), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
        lead.set_total(1024);
        lead.read_by(2, None, PIECE, 512 * MIB);
        lead.readings.breadth.read_by_two();
        lead.readings.breadth.get_together((8 * MIB) as f64);
        let run = |first, end| OriginRun { first: PieceIndex(first), end: Some(PieceIndex(end)) };
        (0..980).for_each(|piece| lead.own(PieceIndex(piece)));
        lead.begins(OriginReader::Everything, run(980, 1000));
        for tick in (0..=1000).step_by(10) {
            lead.readings.speeds.came(OriginReader::Everything, 4 * MIB / 100, at(tick));
            lead.readings.speeds.came(OriginReader::Beside(0), MIB / 1000, at(tick));
        }
        lead.readings.speeds.ended(OriginReader::Beside(0));
        let known = PieceSet::new();
        let before = lead.readings.of(OriginReader::Everything).map(|at| at.end);
        assert_eq!(lead.origin_plan(OriginReader::Beside(0), &known, at(1000)), None, "others are quicker");
        assert_eq!(lead.readings.of(OriginReader::Everything).map(|at| at.end), before);
    }

    #[test]
    fn a_connection_that_was_slow_is_tried_again_after_a_while_unless_that_could_not_be_taken_back() {
        let tries = |lost: u64, seconds: u64| {
            let mut lead = Lead::new(NodeId([0; 16]), Place::default(), Start::Fresh, Tuning::default(), 1, at(0));
            lead.set_total(1024);
            lead.read_by(2, None, PIECE, 512 * MIB);
            lead.readings.breadth.read_by_two();
            lead.readings.breadth.get_together((80 * MIB) as f64);
            (0..900).for_each(|piece| lead.own(PieceIndex(piece)));
            let first = OriginRun { first: PieceIndex(900), end: Some(PieceIndex(910)) };
            lead.begins(OriginReader::Everything, first);
            got(&mut lead, MIB, 1000);
            lead.readings.speeds.ended(OriginReader::Beside(0));
            lead.readings.speeds.lost = lost;
            lead.origin_plan(OriginReader::Beside(0), &PieceSet::new(), at(1000 + 1000 * seconds)).is_some()
        };
        assert!(!tries(0, 1) && !tries(0, 9), "others have read the rest before");
        assert!(tries(0, 10));
        assert!(!tries(512 * MIB / LOST_PART, 10), "it would keep what it is given");
    }

    #[test]
    fn what_is_sent_in_vain_is_bounded() {
        let mut lead = lead();
        let mut shortened = 0;
        for nth in 0..100 {
            lead.readings.speeds.ended(OriginReader::Beside(0));
            lead.reads(OriginReader::Beside(0), Some(1004..1024));
            for tick in (0..=1000).step_by(10) {
                lead.readings.speeds.came(OriginReader::Beside(0), MIB / 100, at(nth * 2000 + tick));
            }
            shortened += u64::from(lead.shorten_a_slow_one(OriginReader::Everything, at(nth * 2000 + 1000)));
        }
        assert!((2..10).contains(&shortened), "{shortened}");
    }
}
