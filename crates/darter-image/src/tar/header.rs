//! One header: 512 bytes.
//!
//! | bytes | field | in which formats |
//! |---|---|---|
//! | 0..100 | name | all |
//! | 100..108, 108..116, 116..124 | mode, uid, gid | all |
//! | 124..136, 136..148 | size, mtime | all |
//! | 148..156, 156, 157..257 | checksum, type, name of a link's target | all |
//! | 257..265 | magic and version: `ustar\0` `00`, or of GNU `ustar  \0` | but v7 |
//! | 329..337, 337..345 | major and minor number of a device | but v7 |
//! | 345..500 | what stands before the name | ustar, PAX |
//! | 345..476, 476..488, 488..500, 508..512 | the same, atime, ctime, `tar\0` | STAR |
//! | 345..357, 357..369, 386..482, 482, 483..495 | atime, ctime, four entries of a sparse file's map, whether more follow, its size | GNU |
//!
//! A number is octal digits between spaces and zeros, or, where its first bit is set, a big-endian two's complement.

use super::Time;

/// The unit of a tar.
pub(super) const BLOCK: usize = 512;

/// One unit of a tar.
pub(super) type Block = [u8; BLOCK];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Gnu,
    Star,
}

/// A header's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: Format,
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: Time,
    pub(super) major: i64,
    pub(super) minor: i64,
}

impl Header {
    /// Reads a block; says what is wrong with it.
    pub(super) fn parse(block: &Block) -> Result<Self, &'static str> {
        let format = format(block).ok_or("wrong checksum")?;
        let mut header = Self {
            format,
            kind: block[156],
            name: text(&block[..100]).to_vec(),
            link: text(&block[157..257]).to_vec(),
            mode: number(&block[100..108])?,
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size: number(&block[124..136])?,
            mtime: Time { seconds: number(&block[136..148])?, nanos: 0 },
            major: 0,
            minor: 0,
        };
        if format == Format::V7 {
            return Ok(header);
        }
        header.major = number(&block[329..337])?;
        header.minor = number(&block[337..345])?;
        let prefix = match format {
            Format::Star => {
                number(&block[476..488])?;
                number(&block[488..500])?;
                text(&block[345..476])
            }
            // Go wrote prefixes into GNU's headers until 1.8, over times that are seldom used.
            Format::Gnu => {
                let wrong = |field: &[u8]| field[0] != 0 && number(field).is_err();
                let prefix = text(&block[345..500]);
                let is_prefix = wrong(&block[345..357]) || wrong(&block[357..369]);
                if is_prefix && prefix.is_ascii() { prefix } else { b"" }
            }
            Format::Ustar | Format::V7 => text(&block[345..500]),
        };
        if !prefix.is_empty() {
            header.name = [prefix, b"/", &header.name].concat();
        }
        Ok(header)
    }

    /// True if no data follows, whatever the size says. Not known of the old type 0 before the member's whole name is.
    pub(super) const fn is_header_only(&self) -> bool {
        matches!(self.kind, b'1'..=b'6')
    }

    /// How many bytes of data follow.
    pub(super) const fn stored(&self) -> u64 {
        if self.is_header_only() { 0 } else { self.size.unsigned_abs() }
    }
}

/// The format of a block whose checksum is right.
fn format(block: &Block) -> Option<Format> {
    let told = number_of_octal(&block[148..156]).ok()?;
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        // As some programs of old added.
        signed += i64::from(byte.cast_signed());
    }
    if told != unsigned && told != signed {
        return None;
    }
    Some(match (&block[257..263], &block[263..265]) {
        (b"ustar\0", _) if block[508..] == *b"tar\0" => Format::Star,
        (b"ustar\0", _) => Format::Ustar,
        (b"ustar ", b" \0") => Format::Gnu,
        _ => Format::V7,
    })
}

/// A field's text, which a zero byte may end.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.iter().position(|byte| *byte == 0).map_or(field, |end| &field[..end])
}

/// A field's number.
pub(super) fn number(field: &[u8]) -> Result<i64, &'static str> {
    const TOO_LARGE: &str = "a number that is too large";
    let Some(first) = field.first().filter(|first| **first & 0x80 != 0) else { return number_of_octal(field) };
    // A negative number is written with its bits inverted.
    let invert = if first & 0x40 == 0 { 0 } else { 0xff };
    let mut value = 0_u64;
    for (at, byte) in field.iter().enumerate() {
        let mut byte = byte ^ invert;
        if at == 0 {
            byte &= 0x7f;
        }
        if value >> 56 > 0 {
            return Err(TOO_LARGE);
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).map_err(|_| TOO_LARGE)?;
    Ok(if invert == 0 { value } else { !value })
}

fn number_of_octal(field: &[u8]) -> Result<i64, &'static str> {
    const WRONG: &str = "a number that is none";
    let is_filler = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(begin) = field.iter().position(|byte| !is_filler(byte)) else { return Ok(0) };
    let end = field.iter().rposition(|byte| !is_filler(byte)).map_or(begin, |last| last + 1);
    let digits = text(&field[begin..end]);
    let mut value = 0_u64;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) || value >> 61 > 0 {
            return Err(WRONG);
        }
        value = value << 3 | u64::from(digit - b'0');
    }
    Ok(value.cast_signed())
}

/// A decimal number, which may have a sign.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
