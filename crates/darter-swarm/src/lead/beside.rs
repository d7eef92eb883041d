//! Plans for further connections to the origin, if several get more than one.
//!
//! The reader of everything goes on from the first piece that nobody has, a *stretch* at a time, also while it is the only one. Each other
//! connection reads the next stretch that nobody reads, behind the one of the first reader. So the beginning of the blob comes first,
//! and no answer has to be broken off. A second connection is tried with such a stretch, whose bytes are kept.
//!
//! A connection that is much slower than the others keeps its stretch for longer than all others theirs. So a connection that finds nothing left to
//! read takes the end of that stretch (see [`rests`](super::rests)).
//!
//! Invariant: as everywhere in this module, no piece is read by two readers at a time.

use std::time::Duration;

use darter_core::{Moment, PieceIndex, PieceLength, PieceSet};

use crate::breadth::{Breadth, Widening};
use crate::lead::{Lead, OriginReader, OriginRun};

impl Lead {
    /// A blob of `length` bytes may be read by up to `connections` at a time, as far as more of them get more. Only the first call counts.
    /// If another blob of the origin showed that more connections get no more, they are not tried before `known_until`.
    pub(crate) fn read_by(
        &mut self,
        connections: u8,
        known_until: Option<Moment>,
        piece_length: PieceLength,
        length: u64,
    ) {
        if self.readings.lengths.is_none() {
            self.readings.lengths = Some((piece_length, length));
            self.readings.breadth = Breadth::new(connections, length);
            if let Some(until) = known_until {
                self.readings.breadth.wait_until(until);
            }
        }
    }

    /// Bytes came from the origin after a wait of `waited`: for the reader of everything, for a further one, or for a trial, which counts as the first
    /// further one. Returns whether more or fewer connections read from now on.
    pub(crate) fn origin_came(
        &mut self,
        reader: OriginReader,
        bytes: u64,
        waited: Duration,
        now: Moment,
    ) -> Option<Widening> {
        let connection = match reader {
            OriginReader::Everything => 0,
            OriginReader::Beside(number) => number + 1,
            OriginReader::Errands => return None,
        };
        if self.is_reading(reader) {
            self.readings.speeds.came(reader, bytes, now);
        }
        let left = self.left();
        self.readings.breadth.came(connection, bytes, waited, left, now)
    }

    /// True if a second connection is to try whether both get more.
    pub(crate) const fn is_origin_trial_due(&self) -> bool {
        self.readings.everything && self.readings.breadth.is_trial_due()
    }

    /// Connection number `number` tries: the stretch that it reads from now on; `None` if there is none left, or it would tell
    /// nothing.
    pub(crate) fn origin_trial(&mut self, number: u8, known: &PieceSet, now: Moment) -> Option<OriginRun> {
        let (piece_length, length) = self.readings.lengths?;
        let pieces = self.readings.breadth.trial_stretch()?.div_ceil(piece_length.bytes());
        let run = self.stretch_beside(number, known, u32::try_from(pieces).unwrap_or(u32::MAX).max(1))?;
        let (first, end) = (piece_length.offset(run.first), piece_length.offset(run.end?).min(length));
        self.readings.breadth.tries(number + 1, end - first, now)?;
        self.begins(OriginReader::Beside(number), run);
        Some(run)
    }

    /// The agent's own limit delays the origin's bytes: no number of connections gets more.
    pub(crate) const fn origin_held_up(&mut self) {
        self.readings.breadth.held_up();
    }

    /// Another blob that took a part of the link to the origin has ended: this one gets more from now on, whether connections are limited or not.
    pub(crate) fn origin_given_back(&mut self, now: Moment) {
        self.readings.breadth.given_back(now);
    }

    /// A further reader, which began at `began`, failed for a reason that may pass.
    pub(crate) fn origin_failed(&mut self, began: Moment, now: Moment) {
        self.readings.breadth.failed(began, now);
    }

    /// The origin does not serve several readers: it answered a range with everything, or asked for a pause.
    pub(crate) fn origin_refused(&mut self, now: Moment) {
        self.readings.breadth.refused(now);
    }

    /// True if a second connection tries just now.
    pub(crate) const fn is_origin_tried(&self) -> bool {
        self.readings.breadth.is_tried()
    }

    /// How many connections are to read everything.
    pub(crate) const fn connections(&self) -> u8 {
        self.readings.breadth.connections()
    }

    /// About how many bytes are lacking.
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

    /// The pieces that a connection reads in addition to the reader of everything.
    pub(super) fn plan_beside(&mut self, number: u8, known: &PieceSet, now: Moment) -> Option<OriginRun> {
        if number + 1 >= self.connections() || !self.readings.everything {
            return None;
        }
        if self.is_slower_than_the_rest(OriginReader::Beside(number), self.stretch()?, now) {
            return None;
        }
        let stretch = self.stretch()?;
        let run = self.stretch_beside(number, known, stretch);
        if run.is_some() || !self.shorten_a_slow_one(OriginReader::Beside(number), now) {
            return run;
        }
        self.stretch_beside(number, known, stretch)
    }

    /// The next `stretch` pieces that nobody reads.
    fn stretch_beside(&self, number: u8, known: &PieceSet, stretch: u32) -> Option<OriginRun> {
        let total = self.total?;
        let is_gap = |piece: &u32| self.is_gap(OriginReader::Beside(number), PieceIndex(*piece), known);
        let from = self.readings.of(OriginReader::Everything).map_or(0, |at| at.end);
        let first = (from..total).find(is_gap)?;
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
        trials: usize,
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
            let (slow, readers, trials, requests, most) = Default::default();
            Self { lead, pieces, length, each, all, slow, ticks: 1, readers, trials, times, came, requests, most }
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
            let is_free = |number: &u8| self.readers.iter().all(|(other, ..)| *other != OriginReader::Beside(*number));
            let free = (0..8).find(is_free).unwrap();
            let known = self.lead.owned().clone();
            if self.lead.is_origin_trial_due()
                && let Some(run) = self.lead.origin_trial(free, &known, now)
            {
                (self.trials, self.requests) = (self.trials + 1, self.requests + 1);
                self.readers.push((OriginReader::Beside(free), run, 0, 5));
            }
            let open = self.readers.iter().filter(|(.., wait)| *wait == 0).count().max(1) as u64;
            let one = self.each.min(self.all / open) / TICKS;
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

    /// At the end other connections read the stretch of a slow one.
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
        assert!(read.most <= 2 && (1..=2).contains(&read.trials), "{} at a time, {} trials", read.most, read.trials);
        assert!(read.requests <= 6, "{} requests", read.requests);
        let alone = Reading::new(1, 160 * MIB, (u64::MAX, 40 * MIB)).read();
        assert!(read.ticks <= alone.ticks + 5 * read.requests as u64, "what the answers took to begin");
        let lag = read.prefixes().iter().zip(alone.prefixes()).map(|(several, one)| several.saturating_sub(one)).max();
        assert!(lag <= Some(TICKS / 2), "{lag:?}: as long as trials read their stretches");
    }

    /// No answer is broken off, so that nothing of it comes in vain: each reads its run to the end.
    #[test]
    fn each_connection_reads_what_it_asked_for() {
        for (each, all) in [(8 * MIB, u64::MAX), (u64::MAX, 40 * MIB)] {
            let mut read = Reading::new(8, 512 * MIB, (each, all));
            while read.lead.owned().len() < read.pieces {
                let before = read.readers.clone();
                read.step();
                for (reader, run, ..) in before {
                    let end = run.end.expect("each has an end");
                    let is_read = read.readers.iter().any(|(other, it, ..)| *other == reader && it.end == Some(end));
                    assert!(is_read || read.lead.owned().contains(PieceIndex(end.0 - 1)), "{reader:?} was broken off");
                }
            }
        }
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
        assert_eq!(read.most, 4);
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
