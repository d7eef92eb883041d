//! Plans for further connections to the origin, where several get more than one.
//!
//! The reader of everything goes on from the first piece that nobody has. Each other connection reads a *stretch*, the next one that
//! nobody reads, behind the stretch that the first reader is at; so what comes first in the blob comes first, and none of them has to
//! be broken off. Only the answer that was open before there were others is for everything. It ends where a stretch begins that
//! another connection reads, or before, once several were seen to get more, at a moment when nothing more of it is on its way.
//!
//! Whether a second connection gets more is tried with a little that nobody keeps: it is less than what the sockets of an answer hold that is
//! broken off.
//!
//! A connection that is much slower than the others keeps its stretch longer than all others theirs. So one that finds nothing left to read takes
//! the end of that stretch (see [`rests`](super::rests)).
//!
//! Invariant: as everywhere here, no piece is read by two readers at a time.

use std::time::Duration;

use darter_core::{ByteRange, Moment, PieceIndex, PieceLength, PieceSet};

use crate::breadth::{Breadth, Widening};
use crate::lead::origin::OriginReader;
use crate::lead::{Lead, OriginRun};

impl Lead {
    /// A blob of this length may be read by as many connections at a time, as far as they get more than fewer. The first word counts.
    /// If it was found out for another blob of the origin that more get nothing, they are not tried before `known_until`.
    pub fn read_by(&mut self, connections: u8, known_until: Option<Moment>, piece_length: PieceLength, length: u64) {
        if self.readings.lengths.is_none() {
            self.readings.lengths = Some((piece_length, length));
            self.readings.breadth = Breadth::new(connections, length);
            if let Some(until) = known_until {
                self.readings.breadth.wait_until(until);
            }
        }
    }

    /// Bytes came of the origin, for a reader of everything or one beside it, or of a trial for the first one beside it. They were
    /// `waited` for so long. Says whether more or fewer connections read from now on.
    pub fn origin_came(&mut self, reader: OriginReader, bytes: u64, waited: Duration, now: Moment) -> Option<Widening> {
        let connection = match reader {
            OriginReader::Everything => 0,
            OriginReader::Beside(number) => number + 1,
            OriginReader::Errands => return None,
        };
        if self.is_reading(reader) {
            self.readings.speeds.came(reader, bytes, now);
        }
        let (left, was_alone) = (self.left(), self.stretch().is_none());
        let widening = self.readings.breadth.came(connection, bytes, waited, left, now);
        if was_alone && self.stretch().is_some() {
            self.leave_the_rest();
        }
        widening
    }

    /// True if a second connection is to try whether both get more.
    pub const fn is_origin_trial_due(&self) -> bool {
        self.readings.everything && self.readings.breadth.is_trial_due()
    }

    /// A second connection tries: the bytes that it is to read, which nobody keeps.
    pub fn origin_trial(&mut self, now: Moment) -> Option<ByteRange> {
        self.readings.breadth.trial(now)
    }

    /// True if an answer for everything is to be broken off at the next moment when nothing of it is on its way: others read what comes
    /// behind the stretch that it is at, and are known to get more.
    pub fn may_break_off(&self) -> bool {
        let at = self.readings.of(OriginReader::Everything);
        self.readings.breadth.is_limited() && at.is_some_and(|at| self.total.is_some_and(|total| at.end < total))
    }

    /// The reader of everything reads on, and leaves to others what lies behind a stretch.
    fn leave_the_rest(&mut self) {
        if let Some(first) = self.readings.of(OriginReader::Everything).map(|at| at.start) {
            let end = self.end_of_stretch(first, self.total);
            self.reads(OriginReader::Everything, Some(first..end));
        }
    }

    /// The agent's own limit holds the origin up: no number of connections gets more.
    pub const fn origin_held_up(&mut self) {
        self.readings.breadth.held_up();
    }

    /// Another blob gave back its part of the link to the origin: this one gets more from now on, whether connections are limited or not.
    pub fn origin_given_back(&mut self, now: Moment) {
        self.readings.breadth.given_back(now);
    }

    /// A reader beside the one of everything, which began then, failed for a reason that may pass.
    pub fn origin_failed(&mut self, began: Moment, now: Moment) {
        self.readings.breadth.failed(began, now);
    }

    /// The origin does not serve several readers: it answered a range with everything, or asked for a pause.
    pub fn origin_refused(&mut self, now: Moment) {
        self.readings.breadth.refused(now);
    }

    /// True if a second connection tries just now.
    pub const fn is_origin_tried(&self) -> bool {
        self.readings.breadth.is_tried()
    }

    /// How many connections are to read everything.
    pub const fn connections(&self) -> u8 {
        self.readings.breadth.connections()
    }

    /// How many read everything at a time so far, at most.
    pub const fn most_connections(&self) -> u8 {
        self.readings.breadth.widest()
    }

    /// Bytes that are lacked, about.
    pub(super) fn left(&self) -> u64 {
        let pieces = self.total.unwrap_or_default().saturating_sub(self.pieces.own.len());
        self.readings.lengths.map_or(0, |(piece_length, _)| u64::from(pieces) * piece_length.bytes())
    }

    /// How many pieces a connection reads at a time; `None` for as many as it can.
    pub(super) fn stretch(&self) -> Option<u32> {
        let (piece_length, _) = self.readings.lengths?;
        let bytes = self.readings.breadth.stretch(self.left())?;
        Some(u32::try_from(bytes / piece_length.bytes()).unwrap_or(u32::MAX).max(1))
    }

    /// One past the pieces that the reader of everything is taken to be at when it comes to `first` and may go on up to `end`.
    pub(super) fn end_of_stretch(&self, first: u32, end: Option<u32>) -> u32 {
        let stretch = first.saturating_add(self.stretch().unwrap_or(1));
        end.map_or(stretch, |end| end.min(stretch))
    }

    /// The pieces that a connection reads beside the reader of everything.
    pub(super) fn plan_beside(&mut self, number: u8, known: &PieceSet, now: Moment) -> Option<OriginRun> {
        if number + 1 >= self.connections() || !self.readings.everything {
            return None;
        }
        if self.is_slower_than_the_rest(OriginReader::Beside(number), self.stretch()?, now) {
            return None;
        }
        let run = self.stretch_beside(number, known);
        if run.is_some() || !self.shorten_a_slow_one(OriginReader::Beside(number), now) {
            return run;
        }
        self.stretch_beside(number, known)
    }

    /// The next stretch that nobody reads.
    fn stretch_beside(&self, number: u8, known: &PieceSet) -> Option<OriginRun> {
        let total = self.total?;
        let is_gap = |piece: &u32| self.is_gap(OriginReader::Beside(number), PieceIndex(*piece), known);
        let from = self.readings.of(OriginReader::Everything).map_or(0, |at| at.end);
        let first = (from..total).find(is_gap)?;
        let stretch = self.stretch()?;
        let most = total.min(first.saturating_add(stretch));
        let end = (first..most).find(|piece| !is_gap(piece)).unwrap_or(most);
        Some(OriginRun { first: PieceIndex(first), end: Some(PieceIndex(end)) })
    }
}

#[cfg(test)]
mod tests {
    use darter_core::{NodeId, Place};

    use super::*;
    use crate::{Start, Tuning, Wish};

    const MIB: u64 = 1 << 20;
    const PIECE: PieceLength = PieceLength::UNKNOWN_BLOB;

    /// In a second.
    const TICKS: u64 = 250;

    fn at(ticks: u64) -> Moment {
        Moment::from_micros(ticks * 1_000_000 / TICKS)
    }

    /// A lead that reads a blob of an origin which gives each connection, and all together, this many bytes a second at most.
    struct Reading {
        lead: Lead,
        pieces: u32,
        length: u64,
        each: u64,
        all: u64,
        /// One of the readers gets no more than this.
        slow: Option<(OriginReader, u64)>,
        ticks: u64,
        /// By reader: its run, what it has of the piece that it is at, and how many ticks until its answer begins.
        readers: Vec<(OriginReader, OriginRun, u64, u64)>,
        /// Of a trial: what it lacks, and how many ticks until its answer begins; and how much was read for trials.
        trial: Option<(u64, u64)>,
        tried: u64,
        /// How often each piece was read, and when it was here.
        times: Vec<u32>,
        came: Vec<u64>,
        requests: usize,
        most: usize,
    }

    impl Reading {
        fn new(connections: u8, length: u64, (each, all): (u64, u64)) -> Self {
            let start = Start::Fresh;
            let mut lead = Lead::new(NodeId([0; 16]), Place::default(), start, Tuning::default(), 1, at(0));
            let pieces = PIECE.count(length);
            lead.set_total(pieces);
            lead.read_by(connections, None, PIECE, length);
            let (times, came) = (vec![0; pieces as usize], vec![0; pieces as usize]);
            let (slow, readers, trial, tried, requests, most) = Default::default();
            Self { lead, pieces, length, each, all, slow, ticks: 1, readers, trial, tried, times, came, requests, most }
        }

        fn begin(&mut self, reader: OriginReader) {
            let known = self.lead.owned().clone();
            if self.readers.iter().any(|(other, ..)| *other == reader) {
                return;
            }
            if let Some(run) = self.lead.origin_plan(reader, &known, at(self.ticks)) {
                self.lead.begins(reader, run);
                self.requests += 1;
                self.readers.push((reader, run, 0, 5));
            }
        }

        fn step(&mut self) {
            self.ticks += 1;
            let now = at(self.ticks);
            self.begin(OriginReader::Everything);
            for number in 0..self.lead.connections() - 1 {
                self.begin(OriginReader::Beside(number));
            }
            self.most = self.most.max(self.readers.len());
            if self.trial.is_none() && self.lead.is_origin_trial_due() {
                let range = self.lead.origin_trial(now).unwrap();
                self.trial = Some((range.len(), 1));
                (self.tried, self.requests) = (self.tried + range.len(), self.requests + 1);
            }
            let tries = usize::from(matches!(self.trial, Some((_, 0))));
            let open = (self.readers.iter().filter(|(.., wait)| *wait == 0).count() + tries).max(1) as u64;
            let one = self.each.min(self.all / open) / TICKS;
            self.trial = match self.trial.take() {
                Some((lacks, 0)) => {
                    let came = one.min(lacks);
                    self.lead.origin_came(OriginReader::Beside(0), came, Duration::MAX, now);
                    (came < lacks).then_some((lacks - came, 0))
                }
                trial => trial.map(|(lacks, wait)| (lacks, wait - 1)),
            };
            let mut going = Vec::new();
            for (reader, mut run, mut has, wait) in std::mem::take(&mut self.readers) {
                if wait > 0 {
                    going.push((reader, run, has, wait - 1));
                    continue;
                }
                let one = self.slow.filter(|(slow, _)| *slow == reader).map_or(one, |(_, most)| one.min(most / TICKS));
                self.lead.origin_came(reader, one, Duration::MAX, now);
                has += one;
                let mut goes_on = true;
                while goes_on && has >= PIECE.range(run.first, self.length).len() {
                    has -= PIECE.range(run.first, self.length).len();
                    self.times[run.first.as_usize()] += 1;
                    self.came[run.first.as_usize()] = self.ticks;
                    self.lead.own(run.first);
                    run.first = PieceIndex(run.first.0 + 1);
                    let known = self.lead.owned().clone();
                    goes_on = run.end != Some(run.first) && self.lead.goes_on(reader, run.first, &known, now);
                }
                if goes_on {
                    going.push((reader, run, has, 0));
                } else {
                    self.lead.reads(reader, None);
                }
            }
            self.readers = going;
        }

        fn read(mut self) -> Self {
            while self.lead.owned().len() < self.pieces {
                self.step();
                assert!(self.ticks < 1_000_000, "it stands still");
            }
            assert!(self.times.iter().all(|times| *times == 1), "each piece is read once");
            self
        }

        /// When all pieces up to each of them were here.
        fn prefixes(&self) -> Vec<u64> {
            let mut latest = 0;
            let all_before = |came: &u64| {
                latest = latest.max(*came);
                latest
            };
            self.came.iter().map(all_before).collect()
        }
    }

    #[test]
    fn a_store_that_limits_each_connection_gives_a_blob_as_soon_as_by_eight_ranges_and_each_piece_once() {
        let blobs =
            [(80 * MIB, 8), (1024 * MIB, 40), (257 * MIB + 1, 2), (128 * MIB, 8), (512 * MIB, 16), (600 * MIB, 30)];
        for (length, each) in blobs.map(|(length, each)| (length, each * MIB)) {
            let read = Reading::new(8, length, (each, u64::MAX)).read();
            let seconds = read.ticks as f64 / TICKS as f64;
            // Ranges of 16 MiB, eight at a time, as containerd reads; each is answered after as long.
            let direct = length.div_ceil(16 * MIB).div_ceil(8) as f64 * ((16 * MIB) as f64 / each as f64 + 0.03);
            println!("{seconds:.2} s, {direct:.2} directly; {} requests", read.requests);
            // A blob that eight connections read in two seconds is too short to find out how many
            // may read.
            assert!(seconds <= direct * if direct < 3.0 { 1.25 } else { 1.1 }, "{seconds} s, {direct} directly");
            assert_eq!(read.most, 8);
            let longest = (4 * each).clamp(8 * MIB, 64 * MIB);
            assert!(read.requests as u64 <= 20 + 2 * length / longest, "{} requests", read.requests);
            assert!(read.tried * 200 <= length, "{} bytes were read in trials", read.tried);
            let alone = Reading::new(1, length, (each, u64::MAX)).read();
            assert_eq!((alone.most, alone.requests), (1, 1));
            let later =
                read.prefixes().iter().zip(alone.prefixes()).filter(|(several, one)| **several > one + 8).count();
            assert_eq!(later, 0, "what comes first comes no later than with one connection");
        }
    }

    /// Registries count requests.
    #[test]
    fn ten_gigabytes_take_a_few_hundred_requests() {
        let read = Reading::new(8, 10 << 30, (40 * MIB, u64::MAX)).read();
        assert!((100..400).contains(&read.requests), "{} requests", read.requests);
        let slow = Reading::new(8, 10 << 30, (MIB, u64::MAX)).read();
        assert!((100..400).contains(&slow.requests), "{} requests", slow.requests);
    }

    /// What a slow connection was to read is read by others at the end.
    #[test]
    fn one_slow_connection_of_eight_does_not_hold_up_a_blob() {
        for (length, rate) in [(80 * MIB, MIB / 2), (512 * MIB, MIB), (512 * MIB, 2 * MIB)] {
            for slow in [OriginReader::Everything, OriginReader::Beside(0), OriginReader::Beside(6)] {
                let mut read = Reading::new(8, length, (8 * MIB, u64::MAX));
                while read.most < 8 {
                    read.step();
                }
                read.slow = Some((slow, rate));
                let read = read.read();
                let seconds = read.ticks as f64 / TICKS as f64;
                let best = 0.4 + length as f64 / (7 * 8 * MIB + rate) as f64;
                println!("{slow:?} {rate}: {seconds:.2} s, {best:.2} at best; {} requests", read.requests);
                assert!(seconds <= best * 1.1 + 1.2, "{slow:?}: {seconds} s, {best} at best");
            }
        }
    }

    #[test]
    fn where_more_connections_get_nothing_one_reads_and_nothing_is_asked_for_twice() {
        let read = Reading::new(8, 160 * MIB, (u64::MAX, 40 * MIB)).read();
        assert_eq!(read.most, 1);
        assert!((2..=3).contains(&read.requests) && read.tried * 200 <= 160 * MIB, "{} requests", read.requests);
        let alone = Reading::new(1, 160 * MIB, (u64::MAX, 40 * MIB)).read();
        assert!(read.ticks <= alone.ticks + 8);
        let lag = read.prefixes().iter().zip(alone.prefixes()).map(|(several, one)| several.saturating_sub(one)).max();
        assert!(lag <= Some(8), "{lag:?}: what the trials took");
    }

    #[test]
    fn the_first_answer_may_be_broken_off_only_once_several_were_seen_to_get_more() {
        let mut read = Reading::new(8, 512 * MIB, (8 * MIB, u64::MAX));
        while read.most < 4 {
            assert!(!read.lead.may_break_off());
            read.step();
        }
        assert!(!read.lead.may_break_off(), "they are measured");
        while read.most < 8 {
            read.step();
        }
        assert!(read.lead.may_break_off());
        read.lead.origin_refused(at(read.ticks));
        assert!(!read.lead.may_break_off(), "no other answer would be given");
    }

    #[test]
    fn a_small_blob_is_read_by_one_and_so_is_one_whose_origin_refuses() {
        let small = Reading::new(8, 16 * MIB, (MIB, u64::MAX)).read();
        assert_eq!((small.most, small.requests), (1, 1));
        let mut read = Reading::new(8, 256 * MIB, (8 * MIB, u64::MAX));
        while read.most < 4 {
            read.step();
        }
        read.lead.origin_refused(at(read.ticks));
        let requests = read.requests;
        for _ in 0..4 * TICKS {
            read.step();
        }
        assert_eq!(read.readers.len(), 1, "the others ended what they had begun");
        let read = read.read();
        assert!(read.requests <= requests + 3, "{} after {requests}", read.requests);
        assert_eq!(read.lead.most_connections(), 4);
    }

    #[test]
    fn who_waits_for_a_piece_is_not_made_to_wait_for_a_stretch() {
        let mut read = Reading::new(8, 1024 * MIB, (8 * MIB, u64::MAX));
        while read.most < 8 {
            read.step();
        }
        for _ in 0..2 * TICKS {
            read.step();
        }
        let known = read.lead.owned().clone();
        let (reader, run, ..) = read.readers[3];
        let (Some(end), OriginReader::Beside(_)) = (run.end, reader) else { panic!("{reader:?}") };
        assert!(end.0 - run.first.0 > 10);
        let wish = Wish { first: end.0 - 2, end: end.0 - 1, within: Duration::ZERO };
        read.lead.wish(NodeId([1; 16]), &[wish], at(read.ticks));
        let errand = read.lead.origin_plan(OriginReader::Errands, &known, at(read.ticks)).unwrap();
        assert_eq!((errand.first.0, errand.end), (wish.first, Some(PieceIndex(wish.end))));
        read.lead.begins(OriginReader::Errands, errand);
        assert!(!read.lead.goes_on(reader, PieceIndex(wish.first), &known, at(read.ticks)), "it is read by another");
    }
}
