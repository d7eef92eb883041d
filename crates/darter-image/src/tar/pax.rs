//! Records of PAX extended headers: `LENGTH KEY=VALUE\n`, LENGTH in decimal digits and of the whole record.
//!
//! Extended attributes are those of `SCHILY.xattr.`, as containerd takes them. `LIBARCHIVE.xattr.` and `SCHILY.acl.` stand beside them in
//! archives of bsdtar and of `tar --acls`; containerd ignores them, and so does this.

use std::collections::BTreeMap;

use super::Time;
use super::header::{Header, decimal};
use super::sparse::{self, Segment};

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE_MAP: &[u8] = b"GNU.sparse.map";

/// The records of one extended header. The last of those with one key counts.
#[derive(Debug)]
pub(super) struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

/// A sparse file as its records describe it.
#[derive(Debug)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
    /// `None` if the map stands at the beginning of the data.
    pub(super) map: Option<Vec<Segment>>,
}

impl Records {
    /// Reads the records; says what is wrong with them.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, &'static str> {
        let mut records = BTreeMap::new();
        // Form 0.0 of sparse files has two records for each part.
        let mut map: Vec<u8> = Vec::new();
        let mut numbers = 0_usize;
        while !bytes.is_empty() {
            let (record, rest) = next_record(bytes).ok_or("a PAX record that is none")?;
            bytes = rest;
            let (key, value) = split_at(record, b'=').ok_or("a PAX record without a value")?;
            let with_zero = match key {
                b"path" | b"linkpath" | b"uname" | b"gname" => value,
                _ => key,
            };
            if key.is_empty() || with_zero.contains(&0) {
                return Err("a zero byte in a PAX record");
            }
            match key {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    let is_offset = key == b"GNU.sparse.offset";
                    if (numbers.is_multiple_of(2)) != is_offset || value.contains(&b',') {
                        return Err("PAX records of a sparse file in a wrong order");
                    }
                    if numbers > 0 {
                        map.push(b',');
                    }
                    map.extend_from_slice(value);
                    numbers += 1;
                }
                _ => {
                    records.insert(key.to_vec(), value.to_vec());
                }
            }
        }
        if numbers > 0 {
            records.insert(SPARSE_MAP.to_vec(), map);
        }
        Ok(Self(records))
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// Puts what the records say in the place of what the header says. An empty value leaves that.
    pub(super) fn apply(&self, header: &mut Header) -> Result<(), &'static str> {
        let given = |key: &[u8]| self.get(key).filter(|value| !value.is_empty());
        if let Some(path) = given(b"path") {
            header.name = path.to_vec();
        }
        if let Some(path) = given(b"linkpath") {
            header.link = path.to_vec();
        }
        for (key, field) in
            [(b"uid".as_slice(), &mut header.uid), (b"gid", &mut header.gid), (b"size", &mut header.size)]
        {
            if let Some(value) = given(key) {
                *field = decimal(value).ok_or("a PAX record whose number is none")?;
            }
        }
        for key in [b"atime".as_slice(), b"ctime", b"mtime"] {
            if let Some(value) = given(key) {
                let time = time(value).ok_or("a PAX record whose time is none")?;
                if key == b"mtime" {
                    header.mtime = time;
                }
            }
        }
        Ok(())
    }

    /// The sparse file that they describe, if the member is one of a form that is known.
    pub(super) fn sparse(&self) -> Result<Option<Sparse>, &'static str> {
        let text = |key: &[u8]| self.get(key).unwrap_or_default();
        let in_data = match (text(b"GNU.sparse.major"), text(b"GNU.sparse.minor")) {
            (b"0", b"0" | b"1") => false,
            (b"1", b"0") => true,
            (b"", b"") if !text(SPARSE_MAP).is_empty() => false,
            _ => return Ok(None),
        };
        let given = |key: &[u8]| Some(text(key)).filter(|value| !value.is_empty());
        let size = given(b"GNU.sparse.size").or_else(|| given(b"GNU.sparse.realsize"));
        let size = size.map(|size| decimal(size).ok_or("its length is no number")).transpose()?;
        let map = match in_data {
            true => None,
            false => {
                let entries = decimal(text(b"GNU.sparse.numblocks")).ok_or("the length of its map is no number")?;
                Some(sparse::map_of_record(text(SPARSE_MAP), entries)?)
            }
        };
        Ok(Some(Sparse { name: given(b"GNU.sparse.name").map(<[u8]>::to_vec), size, map }))
    }

    /// The extended attributes among them.
    pub(super) fn into_xattrs(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let named = |(key, value): (Vec<u8>, Vec<u8>)| Some((key.strip_prefix(XATTR)?.to_vec(), value));
        self.0.into_iter().filter_map(named).collect()
    }
}

/// The next record, without its length and its line's end, and what follows it.
fn next_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digits, _) = split_at(bytes, b' ')?;
    let length = usize::try_from(decimal(digits)?).ok()?;
    if length < 5 || length > bytes.len() || length < digits.len() + 2 {
        return None;
    }
    let (record, rest) = bytes.split_at(length);
    record[digits.len() + 1..].strip_suffix(b"\n").map(|record| (record, rest))
}

fn split_at(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..place], &bytes[place + 1..]))
}

/// Seconds with up to nine decimal places; further ones are dropped.
fn time(text: &[u8]) -> Option<Time> {
    let (whole, part) = split_at(text, b'.').unwrap_or((text, b""));
    let seconds = decimal(whole)?;
    if !part.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| u32::from(part.get(at).map_or(0, |digit| digit - b'0'));
    let nanos = (0..9).fold(0, |nanos, at| nanos * 10 + digit(at));
    if whole.starts_with(b"-") && nanos > 0 {
        return Some(Time { seconds: seconds.saturating_sub(1), nanos: 1_000_000_000 - nanos });
    }
    Some(Time { seconds, nanos })
}
