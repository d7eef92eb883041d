//! One member in a zip's list.

use darter_image::tar::Time;

use super::{damaged, names, number};
use crate::error::ArchiveError;

/// Bytes of an entry before name, extra fields and comment.
pub(super) const HEADER: usize = 46;

/// The flag of encrypted data.
pub(super) const ENCRYPTED: u64 = 1;

const STRONGLY_ENCRYPTED: u64 = 1 << 6;
const MASKED: u64 = 1 << 13;
const UTF8: u64 = 1 << 11;

/// Compression methods.
const STORED: u64 = 0;
pub(super) const DEFLATED: u64 = 8;

/// Systems that a member was made on.
const FAT: u64 = 0;
const UNIX: u64 = 3;
const DARWIN: u64 = 19;

/// Kinds in a mode of Unix.
const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// Extra fields.
const ZIP64: u64 = 0x0001;
const TIMES: u64 = 0x5455;
const UNICODE_PATH: u64 = 0x7075;
const AES: u64 = 0x9901;

/// Stands where a number of zip64 is meant.
const IN_ZIP64: u64 = 0xffff_ffff;

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// How many bytes of the list are about it.
    pub(super) length: usize,
    pub(super) name: Vec<u8>,
    /// How long its name is in the zip.
    pub(super) name_length: u64,
    pub(super) compressed: u64,
    pub(super) size: u64,
    pub(super) crc: u32,
    /// The offset of its header from the zip's beginning.
    pub(super) header: u64,
    pub(super) mtime: Option<Time>,
    made_on: u64,
    flags: u64,
    method: u64,
    attributes: u32,
    is_aes: bool,
}

impl Listed {
    /// Reads the first member in these bytes; `None` if not all of it is there.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, ArchiveError> {
        if !bytes.starts_with(b"PK\x01\x02") {
            return Err(damaged("something else stands in its list of members"));
        }
        let length_at = |at| number::<2>(bytes, at) as usize;
        let (name_length, extra_length, comment_length) = (length_at(28), length_at(30), length_at(32));
        let length = HEADER + name_length + extra_length + comment_length;
        if bytes.len() < length {
            return Ok(None);
        }
        let raw = &bytes[HEADER..HEADER + name_length];
        let extra = &bytes[HEADER + name_length..HEADER + name_length + extra_length];
        let mut listed = Self {
            length,
            name: Vec::new(),
            name_length: name_length as u64,
            compressed: number::<4>(bytes, 20),
            size: number::<4>(bytes, 24),
            crc: number::<4>(bytes, 16) as u32,
            header: number::<4>(bytes, 42),
            mtime: dos_time(number::<2>(bytes, 14), number::<2>(bytes, 12)),
            made_on: number::<1>(bytes, 5),
            flags: number::<2>(bytes, 8),
            method: number::<2>(bytes, 10),
            attributes: number::<4>(bytes, 38) as u32,
            is_aes: false,
        };
        if number::<2>(bytes, 34) != 0 && number::<2>(bytes, 34) != 0xffff {
            return Err(damaged("it is one of several parts: put them together first"));
        }
        let unicode = listed.take_extra(raw, extra)?;
        listed.name = match unicode {
            Some(name) => name,
            None if listed.flags & UTF8 != 0 || std::str::from_utf8(raw).is_ok() => raw.to_vec(),
            None => names::of_pc(raw).into_bytes(),
        };
        // Some programs of Windows write them so.
        if listed.made_on == FAT && !listed.name.contains(&b'/') {
            listed.name.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
        }
        Ok(Some(listed))
    }

    /// Takes what extra fields say; the name in one of them. Fields that can't be read end them, as for most programs.
    fn take_extra(&mut self, raw: &[u8], mut extra: &[u8]) -> Result<Option<Vec<u8>>, ArchiveError> {
        let mut name = None;
        while extra.len() >= 4 {
            let (kind, length) = (number::<2>(extra, 0), number::<2>(extra, 2) as usize);
            let Some(field) = extra.get(4..4 + length) else { break };
            match kind {
                ZIP64 => self.take_zip64(field)?,
                TIMES if field.len() >= 5 && field[0] & 1 != 0 => {
                    let seconds = number::<4>(field, 1) as u32;
                    self.mtime = Some(Time { seconds: i64::from(seconds.cast_signed()), nanos: 0 });
                }
                UNICODE_PATH if field.len() > 5 && field[0] == 1 => {
                    let is_of_this = number::<4>(field, 1) == u64::from(crc32fast::hash(raw));
                    name = Some(field[5..].to_vec()).filter(|name| is_of_this && std::str::from_utf8(name).is_ok());
                }
                AES => self.is_aes = true,
                _ => {}
            }
            extra = &extra[4 + length..];
        }
        let is_left = [self.size, self.compressed, self.header].contains(&IN_ZIP64);
        if is_left { Err(damaged("a length that zip64 should tell is missing")) } else { Ok(name) }
    }

    fn take_zip64(&mut self, field: &[u8]) -> Result<(), ArchiveError> {
        let mut at = 0;
        for number_of in [&mut self.size, &mut self.compressed, &mut self.header] {
            if *number_of != IN_ZIP64 {
                continue;
            }
            if field.len() < at + 8 {
                return Err(damaged("a length that zip64 should tell is missing"));
            }
            *number_of = number::<8>(field, at);
            at += 8;
        }
        Ok(())
    }

    pub(super) const fn deflated(&self) -> bool {
        self.method == DEFLATED
    }

    /// Why its data can't be read, if it can't.
    pub(super) const fn unreadable(&self) -> Option<&'static str> {
        if self.flags & (ENCRYPTED | STRONGLY_ENCRYPTED | MASKED) != 0 || self.is_aes {
            return Some("is encrypted");
        }
        match self.method {
            STORED | DEFLATED => None,
            9 => Some("is packed with deflate64, which is not read here"),
            12 => Some("is packed with bzip2, which is not read here"),
            14 => Some("is packed with LZMA, which is not read here"),
            93 => Some("is packed with zstd, which is not read here"),
            95 => Some("is packed with xz, which is not read here"),
            _ => Some("is packed in a way that is not read here"),
        }
    }

    /// The mode of Unix, if it has one.
    const fn unix(&self) -> Option<u32> {
        match self.made_on {
            UNIX | DARWIN if self.attributes >> 16 != 0 => Some(self.attributes >> 16),
            _ => None,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.name.ends_with(b"/") || self.unix().is_some_and(|mode| mode & KIND == DIRECTORY)
    }

    pub(super) fn is_symlink(&self) -> bool {
        self.unix().is_some_and(|mode| mode & KIND == SYMLINK) && !self.is_directory()
    }

    pub(super) fn mode(&self) -> u16 {
        match self.unix() {
            Some(mode) if mode & KIND == 0 || matches!(mode & KIND, REGULAR | DIRECTORY | SYMLINK) => {
                (mode & 0o777) as u16
            }
            _ if self.is_directory() => 0o755,
            // The attribute of what may not be written to.
            _ if self.made_on == FAT && self.attributes & 1 != 0 => 0o444,
            _ => 0o644,
        }
    }
}

/// A time as PCs have it, which says nothing of the zone: it is taken as UTC.
fn dos_time(date: u64, time: u64) -> Option<Time> {
    let (year, month, day) = (1980 + (date >> 9), (date >> 5) & 15, date & 31);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days before that month in a year that begins in March, so that a leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // Those from the first of March of the year 0 to 1970.
    let days = i64::try_from(days).ok()? - 719_468;
    let (hour, minute, second) = (time >> 11, (time >> 5) & 63, (time & 31) * 2);
    let seconds = i64::try_from(hour * 3600 + minute * 60 + second).ok()?;
    Some(Time { seconds: days * 86_400 + seconds, nanos: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_pcs_are_dates() {
        let of = |year: u64, month: u64, day: u64, hour: u64, minute: u64, second: u64| {
            let date = (year - 1980) << 9 | month << 5 | day;
            dos_time(date, hour << 11 | minute << 5 | (second / 2)).map(|time| time.seconds)
        };
        assert_eq!(of(1980, 1, 1, 0, 0, 0), Some(315_532_800));
        assert_eq!(of(2000, 2, 29, 12, 30, 58), Some(951_827_458));
        assert_eq!(of(2026, 11, 29, 23, 59, 58), Some(1_795_996_798));
        assert_eq!(of(2107, 12, 31, 0, 0, 0), Some(4_354_732_800));
        assert_eq!((of(1980, 0, 1, 0, 0, 0), of(1980, 13, 1, 0, 0, 0), of(1980, 1, 0, 0, 0, 0)), (None, None, None));
    }
}
