//! From the body of an origin's answer to stored pieces: the bytes are cut into pieces, and each is hashed and stored as soon as it is complete.
//!
//! Invariants: a piece is stored under the hash that it had at its first reading, or the answer is of another version; while a blob's
//! length is unknown, a full piece waits for the next byte, since it may be the blob's only one, unless its first piece is made last. If the version
//! can be checked, a piece that was cut off by a broken body is completed from the next answer.
//!
//! `reading` decides which range to request, and when.

use std::sync::Arc;

use bytes::Bytes;
use darter_api::Giver;
use darter_core::{Moment, PieceIndex, PieceLength, Source};
use darter_origin::{ErrorKind, OriginError, Reading, Witness};
use darter_store::{Put, StoreError};
use darter_swarm::{OriginReader, OriginRun};
use darter_wire::{MAX_BLOB_LENGTH, MAX_PIECES};
use futures_util::StreamExt as _;

use super::Transfer;
use super::manners::MAX_SILENCE;
use super::parts::RangeSupport;
use super::turns::Turn;
use super::whole::Fresh;
use crate::error::FetchError;

/// Why a run ended.
pub(super) enum RunEnd {
    /// The plan has changed, or the run is complete.
    Replan,
    /// The origin failed.
    Origin(OriginError),
    /// Something on this agent failed.
    Here(FetchError),
    /// The answer to a range begins with the first byte.
    Whole(Reading),
}

/// A piece that is being assembled.
pub(super) struct Assembly {
    pub(super) reader: OriginReader,
    pub(super) piece: PieceIndex,
    pub(super) bytes: Vec<u8>,
    /// Bytes of the body before the first byte that is wanted.
    pub(super) skip: u64,
    /// True if the answer is read completely, and compared with the pieces that are here.
    pub(super) through: bool,
    /// True if nothing shows whether the answer is of the same version as what is here.
    pub(super) anew: bool,
    /// True if the answer continues to the blob's end.
    pub(super) to_the_end: bool,
}

/// What a run leaves to the next run of the same reader.
pub(super) struct Leftover {
    pub(super) reader: OriginReader,
    /// When its first run began, if there was one.
    pub(super) began: Option<Moment>,
    /// An open answer of the origin that begins with the first byte.
    pub(super) answer: Option<Reading>,
    /// How often the origin has failed since a run ended as it should, or bytes arrived.
    pub(super) tries: u32,
    /// The unfinished piece.
    pub(super) assembly: Option<Assembly>,
    /// When a byte last arrived that was not here before.
    pub(super) progress: Moment,
    /// The offset after the furthest byte that arrived.
    pub(super) reached: u64,
    /// How many bytes that were here already arrived again since then.
    pub(super) again: u64,
    /// True if the next run begins with the first byte, and known pieces are compared.
    pub(super) anew: bool,
    pub(super) parts: RangeSupport,
}

impl Leftover {
    pub(super) const fn new(reader: OriginReader, now: Moment) -> Self {
        Self {
            reader,
            began: None,
            answer: None,
            tries: 0,
            assembly: None,
            progress: now,
            reached: 0,
            again: 0,
            anew: false,
            parts: RangeSupport::Given,
        }
    }

    /// True if its reader reads all that is lacking, in order.
    pub(super) fn reads_everything(&self) -> bool {
        self.reader == OriginReader::Everything
    }

    /// True if its reader reads only ranges for which somebody waits.
    pub(super) fn is_on_errands(&self) -> bool {
        self.reader == OriginReader::Errands
    }

    /// How many bytes of the unfinished piece have arrived.
    pub(super) fn bytes(&self) -> u64 {
        self.assembly.as_ref().map_or(0, |assembly| assembly.bytes.len() as u64)
    }
}

impl Transfer {
    /// Reads the origin's answer to the request of a run.
    pub(super) async fn consume(
        self: &Arc<Self>,
        run: OriginRun,
        reading: Reading,
        turn: &mut Turn<'_>,
        left: &mut Leftover,
    ) -> RunEnd {
        let _connection = self.context.metrics.origin_connection();
        let first = if left.anew { PieceIndex(0) } else { run.first };
        let start = self.start_at(first, left);
        if reading.start > start {
            let text = format!("{} sent bytes from {} on, not from {start}", self.source, reading.start);
            return RunEnd::Origin(OriginError::new(ErrorKind::Protocol, text));
        }
        if !left.reads_everything() && reading.start < start {
            return RunEnd::Whole(reading);
        }
        if let Some(end) = self.accept_answer(first, reading.witness, reading.length, left).await {
            return end;
        }
        let through = left.reads_everything() && (left.anew || reading.start < start);
        let mut assembly = self.assemble(run, first, reading.start, through, left);
        let run = if through { OriginRun { end: None, ..run } } else { run };
        let (mut body, mut at) = (reading.body, reading.start);
        loop {
            if !turn.has_begun() && !self.begins_piece(turn, &mut assembly).await {
                return RunEnd::Replan;
            }
            let asked = self.context.now();
            let chunk = tokio::select! {
                biased;
                chunk = turn.wait_for(next_chunk(&mut body, left.reader, &self.source)) => chunk,
                () = self.closed.cancelled() => return RunEnd::Replan,
            };
            let waited = self.context.now().since(asked);
            let mut chunk = match chunk {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => {
                    left.assembly = Some(assembly).filter(|assembly| self.can_go_on_after(assembly));
                    return RunEnd::Origin(error);
                }
                None => break,
            };
            let length = chunk.len() as u64;
            at += length;
            skip(&mut chunk, &mut assembly.skip);
            let is_new = !chunk.is_empty() && assembly.piece >= run.first;
            self.notes_progress(at, is_new, left);
            let is_held_up = self.meter_origin(length).await;
            if !through {
                self.origin_gave(left.reader, length, waited, is_held_up);
            }
            if let Some(end) = self.take_chunk(chunk, &mut assembly, turn).await {
                return end;
            }
        }
        turn.end();
        self.end_of_body(run, assembly, left).await
    }

    /// The offset of the first byte that is wanted of an answer for the pieces from `first` on.
    fn start_at(&self, first: PieceIndex, left: &Leftover) -> u64 {
        self.piece_length.offset(first) + left.bytes()
    }

    /// Takes in what the head of an answer for the pieces from `first` on says of the whole. Returns how the run ends, if it does.
    async fn accept_answer(
        self: &Arc<Self>,
        first: PieceIndex,
        witness: Option<Witness>,
        length: Option<u64>,
        left: &mut Leftover,
    ) -> Option<RunEnd> {
        // Only the reader of everything uses the hashes that the origin declares for the whole.
        if left.reads_everything() {
            if left.anew {
                self.whole.begin(self.hasher(), witness);
            } else if self.start_at(first, left) == 0 {
                self.whole.is_declared(witness);
            } else if let Some(later) = witness
                && let Err(error) = self.heed(later, first).await
            {
                return Some(RunEnd::Origin(error));
            }
        }
        let length = length?;
        if length == 0 {
            self.note_streamed(Some(0));
        }
        self.accept_length(length).err().map(|error| self.wrong_length(error))
    }

    /// The assembly with which an answer begins whose body starts at the offset `answered`. It continues the unfinished piece; if the answer is read
    /// `through`, the pieces before the run are compared, too, and it begins with the first of the answer.
    fn assemble(
        &self,
        run: OriginRun,
        first: PieceIndex,
        answered: u64,
        through: bool,
        left: &mut Leftover,
    ) -> Assembly {
        let (piece, start) = match through {
            true => {
                let piece = PieceIndex(self.piece_length.count(answered));
                (piece, self.piece_length.offset(piece))
            }
            false => (first, self.start_at(first, left)),
        };
        let begun = left.assembly.take().filter(|_| !through);
        Assembly {
            reader: left.reader,
            piece,
            bytes: begun.map_or_else(|| Vec::with_capacity(self.room()), |assembly| assembly.bytes),
            skip: start - answered,
            through,
            anew: left.anew,
            to_the_end: left.reads_everything() && run.end.is_none_or(|end| self.pieces() == Some(end.0)),
        }
    }

    /// The bytes of a full piece.
    fn room(&self) -> usize {
        usize::try_from(self.piece_length.bytes()).expect("at most 16 MiB")
    }

    /// Bytes came, up to the offset `at`. Bytes that arrived before and were lost are no progress: an origin may break off at the same byte for ever.
    fn notes_progress(&self, at: u64, is_new: bool, left: &mut Leftover) {
        if is_new && at > left.reached {
            (left.progress, left.reached, left.again) = (self.context.now(), at, 0);
            self.moved();
        } else if at > left.again {
            left.again = at;
            self.moved();
        }
    }

    /// Adds bytes to the current piece, and handles each piece that they complete. Returns how the run ends, if it does.
    async fn take_chunk(
        self: &Arc<Self>,
        mut chunk: Bytes,
        assembly: &mut Assembly,
        turn: &mut Turn<'_>,
    ) -> Option<RunEnd> {
        let room = self.room();
        while !chunk.is_empty() {
            // While the length is unknown, a full piece waits for the next byte: it may be the blob's only one.
            if assembly.bytes.len() == room {
                turn.end();
                if let Some(end) = self.piece_came(assembly).await {
                    return Some(end);
                }
            }
            if assembly.bytes.is_empty() && chunk.len() == room {
                // A whole piece: taken without copying, unless others share the memory.
                assembly.bytes = std::mem::take(&mut chunk).into();
            } else {
                let take = chunk.len().min(room - assembly.bytes.len());
                assembly.bytes.extend_from_slice(&chunk.split_to(take));
            }
            if self.is_whole_piece(assembly) {
                turn.end();
                if let Some(end) = self.piece_came(assembly).await {
                    return Some(end);
                }
            }
        }
        None
    }

    /// True if the rest of a piece can be requested, and checked to be of the same version.
    fn can_go_on_after(&self, assembly: &Assembly) -> bool {
        // A full piece may be the last one of a blob of unknown length.
        self.can_be_continued() && assembly.bytes.len() as u64 != self.piece_length.bytes()
    }

    /// Handles the end of the body, which is the end of a blob of unknown length.
    async fn end_of_body(self: &Arc<Self>, run: OriginRun, mut assembly: Assembly, left: &mut Leftover) -> RunEnd {
        let is_all = assembly.through && assembly.anew;
        if assembly.piece < run.first {
            return self.ended_before(run, &assembly);
        }
        if assembly.skip > 0 {
            let text = format!("{} ended before what it sent at first", self.source);
            return RunEnd::Origin(OriginError::new(ErrorKind::Truncated, text));
        }
        if self.stored.length().is_none() {
            let length = self.piece_length.offset(assembly.piece) + assembly.bytes.len() as u64;
            if length == 0 {
                let mut hashing = self.whole.take().await;
                let verdict = hashing.witness.take().map(Witness::verdict);
                self.whole.give_back(hashing);
                if let Some(Err(error)) = verdict {
                    return RunEnd::Origin(error);
                }
            }
            self.note_streamed(Some(length));
            if let Err(error) = self.accept_length(length) {
                return RunEnd::Here(error);
            }
            if !assembly.bytes.is_empty()
                && let Some(end) = self.piece_came(&mut assembly).await
            {
                return end;
            }
        } else if run.end != Some(assembly.piece) && self.pieces() != Some(assembly.piece.0) {
            // Not every origin says how much it sends. Without a pause, it might end early for ever.
            let text = format!("{} ended within piece {}", self.source, assembly.piece);
            left.assembly = Some(assembly).filter(|assembly| self.can_go_on_after(assembly));
            return RunEnd::Origin(OriginError::new(ErrorKind::Truncated, text));
        }
        if is_all {
            self.is_one_version();
        }
        RunEnd::Replan
    }

    fn accept_length(self: &Arc<Self>, length: u64) -> Result<(), FetchError> {
        if self.stored.length() == Some(length) {
            return Ok(());
        }
        check_length(&self.source, self.piece_length, length)?;
        self.stored.set_length(length)?;
        self.total_known();
        Ok(())
    }

    /// Handles the current piece: if the whole answer is read, a piece that is here is compared.
    async fn piece_came(self: &Arc<Self>, assembly: &mut Assembly) -> Option<RunEnd> {
        if assembly.through && self.stored.holds(assembly.piece) {
            return self.compare_piece(assembly).await;
        }
        self.may_be_of_another_version(assembly);
        self.store_piece(assembly).await
    }

    fn is_whole_piece(&self, assembly: &Assembly) -> bool {
        let Some(length) = self.stored.length() else {
            // A blob whose beginning is made last has further pieces, and none of these is held back until the whole was checked.
            let is_full = assembly.bytes.len() as u64 == self.piece_length.bytes();
            return is_full && self.source.is_headed_last() && assembly.piece.0 > 0;
        };
        assembly.bytes.len() as u64 == self.piece_length.range(assembly.piece, length).len()
    }

    /// Hashes and stores the current piece, and goes on to the next one. Returns how the run ends, if it does.
    async fn store_piece(self: &Arc<Self>, assembly: &mut Assembly) -> Option<RunEnd> {
        let piece = assembly.piece;
        let bytes = std::mem::take(&mut assembly.bytes);
        let length = bytes.len() as u64;
        let (stored, piece_length) = (Arc::clone(&self.stored), self.piece_length);
        let only = stored.length().is_some_and(|length| piece_length.count(length) == 1);
        let is_last = stored.length() == Some(piece_length.offset(piece) + length);
        let mut hashing = self.whole.take_at(piece_length.offset(piece));
        let put = self.context.disk.run(move || {
            let put = Fresh { piece, bytes: &bytes, only, is_last }.put(&*stored, &mut hashing);
            (put, bytes, hashing)
        });
        let (put, mut bytes, hashing) = put.await;
        match (hashing, &put) {
            (Some(hashing), Ok(Ok(_))) => self.hashed(hashing),
            (Some(hashing), _) => self.whole.give_back(hashing),
            (None, Ok(Ok(_))) => self.hash_if_next(piece),
            (None, _) => {}
        }
        match put {
            Ok(Err(error)) => return Some(RunEnd::Origin(error)),
            Ok(Ok(put)) => {
                bytes.clear();
                assembly.bytes = bytes;
                assembly.piece = PieceIndex(piece.0 + 1);
                match put {
                    Put::Stored => {
                        self.learned_run(piece.0..piece.0 + 1);
                        self.total_known();
                        self.stored_piece(piece, length, None, Giver::Origin);
                    }
                    Put::AlreadyHeld => self.is_here(piece),
                }
            }
            // The known hash is from an earlier reading: the origin has other bytes now, under the same version.
            Err(StoreError::WrongPiece { .. }) => {
                let text = format!("{} changed while it was read (piece {piece})", self.source);
                return Some(RunEnd::Origin(OriginError::new(ErrorKind::Changed, text)));
            }
            Err(error) => return Some(RunEnd::Here(error.into())),
        }
        if let Some(error) = self.unfit() {
            return Some(RunEnd::Here(error.into()));
        }
        if matches!(assembly.reader, OriginReader::Beside(_)) && self.stored.passes() {
            return Some(RunEnd::Replan);
        }
        if let Err(error) = self.room_to_read(assembly.piece).await {
            return Some(RunEnd::Here(error));
        }
        (!self.reads_on(assembly)).then_some(RunEnd::Replan)
    }
}

/// The next bytes of a body. A further connection is waited for only for a short time, since others can read its stretch.
pub(super) async fn next_chunk(
    body: &mut darter_origin::Body,
    reader: OriginReader,
    source: &Source,
) -> Option<Result<Bytes, OriginError>> {
    if !matches!(reader, OriginReader::Beside(_)) {
        return body.next().await;
    }
    tokio::time::timeout(MAX_SILENCE, body.next()).await.unwrap_or_else(|_| {
        let text = format!("{source} sent nothing for {} s on one of several connections", MAX_SILENCE.as_secs());
        Some(Err(OriginError::new(ErrorKind::Timeout, text)))
    })
}

fn skip(chunk: &mut Bytes, skip: &mut u64) {
    let skipped = usize::try_from(*skip).unwrap_or(usize::MAX).min(chunk.len());
    let _ = chunk.split_to(skipped);
    *skip -= skipped as u64;
}

/// Refuses lengths that an origin may claim but no swarm can handle.
pub(crate) fn check_length(source: &Source, pieces: PieceLength, length: u64) -> Result<(), OriginError> {
    if length <= MAX_BLOB_LENGTH && pieces.count(length) <= MAX_PIECES {
        return Ok(());
    }
    let text = format!("{source} is said to have {length} bytes, more than darter can carry; fetch it without");
    Err(OriginError::new(ErrorKind::Protocol, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_no_swarm_can_carry_are_refused() {
        let (source, _) = Source::from_url("http://a.example/b".parse().unwrap(), &[], None);
        let fits = |length| check_length(&source, PieceLength::for_blob(length), length).is_ok();
        assert!(fits(0) && fits(1 << 40));
        assert!(!fits(1 << 60) && !fits(u64::MAX));
    }
}
