//! Maps of sparse files: which parts of a file its data is.
//!
//! Old GNU: entries of twelve digits' offset and twelve digits' length, four in the header and 21 in each block that follows. PAX 0.0 and
//! 0.1: in records. PAX 1.0: decimal numbers in lines at the beginning of the data, up to the end of the last line's block.

use super::header::{BLOCK, Block, decimal, number};
use crate::limits::MAX_SPECIAL;

/// A part of a file that is in the tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its offset in the file.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

const WRONG: &str = "its map is wrong";
const TOO_LONG: &str = "its map is longer than 1 MiB";

/// The bytes of one entry of old GNU's map.
const ENTRY: usize = 24;

/// Checks a map against the length of its file, and of what is stored of it.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> Result<(), &'static str> {
    let (mut end, mut sum) = (0, 0_u64);
    for segment in segments {
        let next = segment.offset.checked_add(segment.length).ok_or(WRONG)?;
        if segment.offset < end || next > size {
            return Err(WRONG);
        }
        end = next;
        sum += segment.length;
    }
    if sum == stored { Ok(()) } else { Err("its map and its data have different lengths") }
}

fn segment(offset: i64, length: i64) -> Result<Segment, &'static str> {
    let positive = |number: i64| u64::try_from(number).map_err(|_| WRONG);
    Ok(Segment { offset: positive(offset)?, length: positive(length)? })
}

/// A map in the records' form: numbers with commas between them.
pub(super) fn map_of_record(text: &[u8], entries: i64) -> Result<Vec<Segment>, &'static str> {
    let mut segments = Vec::new();
    if !text.is_empty() {
        let mut numbers = text.split(|byte| *byte == b',').map(|number| decimal(number).ok_or(WRONG));
        while let Some(offset) = numbers.next() {
            segments.push(segment(offset?, numbers.next().ok_or(WRONG)??)?);
        }
    }
    if i64::try_from(segments.len()) == Ok(entries) { Ok(segments) } else { Err(WRONG) }
}

/// Old GNU's map, as far as it came.
#[derive(Debug)]
pub(super) struct OldMap {
    /// How long the file is.
    pub(super) size: i64,
    pub(super) segments: Vec<Segment>,
    /// True if another block of it follows.
    pub(super) goes_on: bool,
    blocks: u64,
}

impl OldMap {
    /// The part of it in the header.
    pub(super) fn parse(header: &Block) -> Result<Self, &'static str> {
        let size = number(&header[483..495])?;
        if size < 0 {
            return Err("a negative length");
        }
        let mut map = Self { size, segments: Vec::new(), goes_on: false, blocks: 0 };
        map.take(&header[386..482], header[482])?;
        Ok(map)
    }

    /// Takes the next block of it.
    pub(super) fn extend(&mut self, block: &Block) -> Result<(), &'static str> {
        self.blocks += 1;
        if self.blocks * BLOCK as u64 > MAX_SPECIAL {
            return Err(TOO_LONG);
        }
        self.take(&block[..21 * ENTRY], block[21 * ENTRY])
    }

    fn take(&mut self, entries: &[u8], goes_on: u8) -> Result<(), &'static str> {
        for entry in entries.chunks_exact(ENTRY).take_while(|entry| entry[0] != 0) {
            self.segments.push(segment(number(&entry[..12])?, number(&entry[12..])?)?);
        }
        self.goes_on = goes_on > 0;
        Ok(())
    }
}

/// The map at the beginning of the data, as far as it came.
#[derive(Debug, Default)]
pub(super) struct MapText {
    length: u64,
    /// How many entries there are, once that is known.
    entries: Option<usize>,
    /// An entry's offset whose length has not come.
    offset: Option<i64>,
    /// A line whose end has not come.
    line: Vec<u8>,
    segments: Vec<Segment>,
}

impl MapText {
    /// Takes the next block; the map once all of it is here.
    pub(super) fn push(&mut self, block: &Block) -> Result<Option<Vec<Segment>>, &'static str> {
        self.length += BLOCK as u64;
        if self.length > MAX_SPECIAL {
            return Err(TOO_LONG);
        }
        for byte in block {
            if self.entries == Some(self.segments.len()) {
                break;
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let number = decimal(&self.line).ok_or(WRONG)?;
            self.line.clear();
            match (self.entries, self.offset.take()) {
                (None, _) => self.entries = Some(usize::try_from(number).map_err(|_| WRONG)?),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => self.segments.push(segment(offset, number)?),
            }
        }
        let is_whole = self.entries == Some(self.segments.len());
        Ok(is_whole.then(|| std::mem::take(&mut self.segments)))
    }
}
