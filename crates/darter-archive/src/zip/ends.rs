//! The end of a zip, which says where the list of its members is, and how long.
//!
//! Something may stand before the zip, such as a program that unpacks it; offsets count from the zip's own beginning then. So the list is known by
//! its end, where the record about it begins.

use darter_core::ByteRange;

use super::{damaged, number};
use crate::error::ArchiveError;

/// The record at the very end, without the comment behind it.
const END: usize = 22;

/// The record that says where the one of zip64 is.
const LOCATOR: usize = 20;

/// The record of zip64, as far as it is read.
pub(super) const ZIP64_END: u64 = 56;

/// All of it that can be in a zip, with the longest comment.
pub(super) const LONGEST_TAIL: u64 = (END + LOCATOR + u16::MAX as usize) as u64 + ZIP64_END;

/// Stands where a number of zip64 is meant.
const IN_ZIP64: u64 = 0xffff_ffff;

/// The place of the list, by the records behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) list: ByteRange,
    /// How many members are in it.
    pub(super) members: u64,
    /// How many bytes stand before the zip.
    pub(super) before: u64,
}

/// The result of looking into the tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Here(Ends),
    /// The record of zip64 has to be read, at `at`.
    Zip64 {
        ends: Ends,
        at: u64,
    },
}

impl Ends {
    /// Looks through the last bytes of a file, which begin at `begin`.
    pub(super) fn find(tail: &[u8], begin: u64) -> Result<Found, ArchiveError> {
        let is_end = |at: &usize| {
            tail[*at..].starts_with(b"PK\x05\x06") && *at + END + number::<2>(tail, at + 20) as usize == tail.len()
        };
        let last = tail.len().checked_sub(END);
        let found = last.and_then(|last| (0..=last).rev().find(is_end));
        let at = found.ok_or_else(|| damaged("the list of members at its end is missing"))?;
        let field = |place: usize| number::<2>(tail, at + place);
        if field(4) != field(6) && field(6) != 0xffff || (field(4) != 0 && field(4) != 0xffff) {
            return Err(damaged("it is one of several parts: put them together first"));
        }
        let (size, offset) = (number::<4>(tail, at + 12), number::<4>(tail, at + 16));
        let locator = at.checked_sub(LOCATOR).filter(|locator| tail[*locator..].starts_with(b"PK\x06\x07"));
        if let Some(locator) = locator {
            if number::<4>(tail, locator + 16) > 1 {
                return Err(damaged("it is one of several parts: put them together first"));
            }
            // The record lies right before the locator, whatever stands before the zip.
            let told = number::<8>(tail, locator + 8);
            let here = begin + locator as u64;
            let right_before = here.checked_sub(ZIP64_END).ok_or_else(|| damaged("its zip64 record is missing"))?;
            let before = locator.checked_sub(ZIP64_END as usize);
            let is_there = before.is_some_and(|before| tail[before..].starts_with(b"PK\x06\x06"));
            let at = if is_there { right_before } else { told };
            if at > right_before {
                return Err(damaged("its zip64 record is missing"));
            }
            let ends = Self { list: ByteRange::new(0, 0), members: 0, before: 0 };
            return Ok(Found::Zip64 { ends, at });
        }
        if size == IN_ZIP64 || offset == IN_ZIP64 {
            return Err(damaged("its zip64 record is missing"));
        }
        Self::of((size, offset), field(10), begin + at as u64).map(Found::Here)
    }

    /// A list of this size and with this offset that ends here.
    fn of((size, offset): (u64, u64), members: u64, end: u64) -> Result<Self, ArchiveError> {
        let begin = end.checked_sub(size);
        match begin.and_then(|begin| Some((begin, begin.checked_sub(offset)?))) {
            Some((begin, before)) => Ok(Self { list: ByteRange::new(begin, end), members, before }),
            None => Err(damaged("its list of members would begin before the file")),
        }
    }

    /// These ends with what the record of zip64 says, which is at `at`.
    pub(super) fn with_zip64(self, record: &[u8], at: u64) -> Result<Self, ArchiveError> {
        if record.len() as u64 != ZIP64_END || !record.starts_with(b"PK\x06\x06") {
            return Err(damaged("its zip64 record is missing"));
        }
        if number::<4>(record, 16) != 0 || number::<4>(record, 20) != 0 {
            return Err(damaged("it is one of several parts: put them together first"));
        }
        let (members, size, offset) = (number::<8>(record, 32), number::<8>(record, 40), number::<8>(record, 48));
        Self::of((size, offset), members, at)
    }
}
