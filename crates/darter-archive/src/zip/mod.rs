//! Members of a zip: the list at its end is read, and nothing else. Zip64 included.
//!
//! | file | what lives there |
//! |---|---|
//! | `ends` | what stands at the end: where the list is, and how long |
//! | `listed` | one member in the list |
//! | `names` | names in the code page of the first PCs |
//!
//! The list is believed, as by every program that unpacks zips, in so far as it is possible: members must lie before it, one behind the other, so
//! that no byte belongs to two of them (by which small zips become endless), and data can't become longer than deflate makes it. A member's own header
//! is read when the member is opened ([`Local`]).
//!
//! Formats: APPNOTE.TXT 6.3.10 of PKWARE; "extended timestamp" and "Unicode path" of Info-ZIP's extrafld.txt.

mod ends;
mod listed;
mod names;

use darter_core::ByteRange;
use darter_image::reason::shown;
use darter_image::tar::Time;

use self::ends::{Ends, Found, LONGEST_TAIL, ZIP64_END};
use self::listed::{HEADER, Listed};
use crate::error::ArchiveError;
use crate::limits::{MAX_DEFLATE, MAX_PATH};
use crate::tree::{Body, Contents, NodeId, Tree, TreeBuilder, Zipped};

/// How much of the list is read at a time.
const STEP: u64 = 1 << 20;

/// Bytes of a member's own header, before name and extra fields.
const LOCAL: u64 = 30;

pub(crate) fn damaged(what: impl Into<String>) -> ArchiveError {
    ArchiveError::Zip { what: what.into() }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut wide = [0; 8];
    if let Some(found) = bytes.get(at..at + N) {
        wide[..N].copy_from_slice(found);
    }
    u64::from_le_bytes(wide)
}

/// True if a file that begins so is a zip.
pub(crate) fn begins(head: &[u8]) -> bool {
    [b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"].iter().any(|magic| head.starts_with(*magic))
}

/// A zip that is being looked through.
#[derive(Debug)]
pub(crate) struct ZipScan {
    state: State,
    length: u64,
    /// True if it may be something else: only the end tells.
    unsure: bool,
    members: Members,
}

#[derive(Debug)]
enum State {
    Tail,
    Zip64 { ends: Ends, at: u64 },
    List { ends: Ends, at: u64, kept: Vec<u8> },
    Done,
}

#[derive(Debug)]
struct Members {
    builder: TreeBuilder,
    mtime: Time,
    count: u64,
    /// For each member the offset of its header, and the earliest end of its data.
    places: Vec<(u64, u64)>,
}

impl ZipScan {
    /// A file that begins as zips do.
    pub(crate) const fn begin_known(length: u64, mtime: Time, unsure: bool, builder: TreeBuilder) -> Self {
        let members = Members { builder, mtime, count: 0, places: Vec::new() };
        Self { state: State::Tail, length, unsure, members }
    }

    pub(crate) fn new(length: u64, mtime: Time) -> Self {
        Self::begin_known(length, mtime, false, TreeBuilder::new(mtime))
    }

    /// A file that begins in another way.
    pub(crate) fn behind(length: u64, mtime: Time) -> Self {
        Self::begin_known(length, mtime, true, TreeBuilder::new(mtime))
    }

    pub(crate) fn wants(&self) -> Option<ByteRange> {
        match &self.state {
            State::Tail => Some(ByteRange::new(self.length.saturating_sub(LONGEST_TAIL), self.length)),
            State::Zip64 { at, .. } => Some(ByteRange::new(*at, at + ZIP64_END)),
            State::List { ends, at, .. } => Some(ByteRange::new(*at, (at + STEP).min(ends.list.end()))),
            State::Done => None,
        }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Tail => {
                let begin = self.length - bytes.len() as u64;
                let found = match Ends::find(bytes, begin) {
                    Err(_) if self.unsure => return Err(ArchiveError::Unknown),
                    found => found?,
                };
                match found {
                    Found::Here(ends) => self.list(ends),
                    Found::Zip64 { ends, at } => {
                        self.state = State::Zip64 { ends, at };
                        Ok(())
                    }
                }
            }
            State::Zip64 { ends, at } => {
                let ends = ends.with_zip64(bytes, at)?;
                self.list(ends)
            }
            State::List { ends, at, mut kept } => {
                kept.extend_from_slice(bytes);
                let at = at + bytes.len() as u64;
                let used = self.members.take(&kept, &ends, self.length)?;
                kept.drain(..used);
                if at < ends.list.end() {
                    self.state = State::List { ends, at, kept };
                    return Ok(());
                }
                if !kept.is_empty() || self.members.count != ends.members {
                    let (found, told) = (self.members.count, ends.members);
                    return Err(damaged(format!("its list should have {told} members, and {found} can be read in it")));
                }
                self.members.check_places(ends.list.start())
            }
            State::Done => Ok(()),
        }
    }

    fn list(&mut self, ends: Ends) -> Result<(), ArchiveError> {
        if ends.list.is_empty() && ends.members > 0 {
            return Err(damaged("its list is empty and should have members"));
        }
        if !ends.list.is_empty() {
            self.state = State::List { ends, at: ends.list.start(), kept: Vec::new() };
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Tree, ArchiveError> {
        match self.state {
            State::Done => {
                let mut tree = self.members.builder.finish()?;
                tree.put_ends(&self.members.places);
                Ok(tree)
            }
            _ => Err(damaged("its end is missing")),
        }
    }
}

impl Members {
    /// Takes the members that are whole in these bytes of the list; how many bytes these are.
    fn take(&mut self, bytes: &[u8], ends: &Ends, length: u64) -> Result<usize, ArchiveError> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            if rest.len() < HEADER {
                return Ok(used);
            }
            let Some(listed) = Listed::parse(rest)? else { return Ok(used) };
            used += listed.length;
            self.count += 1;
            if self.count > ends.members {
                return Err(damaged("its list has more members than it should"));
            }
            self.add(&listed, ends, length)?;
        }
    }

    fn add(&mut self, listed: &Listed, ends: &Ends, length: u64) -> Result<(), ArchiveError> {
        let name = || shown(&listed.name);
        let header = ends.before.checked_add(listed.header).filter(|header| *header < length);
        let data = listed.compressed.checked_add(LOCAL + listed.name_length);
        let (Some(header), Some(end)) = (header, header.zip(data).and_then(|(header, data)| header.checked_add(data)))
        else {
            return Err(damaged(format!("{}: it would lie behind the end of the zip", name())));
        };
        self.places.push((header, end));
        let mode = listed.mode();
        let mtime = listed.mtime.unwrap_or(self.mtime);
        let contents = match listed.unreadable() {
            Some(why) => Contents::Unreadable(why),
            None => {
                let is_possible = match listed.deflated() {
                    true => listed.size / MAX_DEFLATE <= listed.compressed,
                    false => listed.size == listed.compressed,
                };
                if !is_possible {
                    let (size, compressed) = (listed.size, listed.compressed);
                    return Err(damaged(format!("{}: {compressed} bytes can't become {size}", name())));
                }
                let (deflated, crc) = (listed.deflated(), listed.crc);
                Contents::Zipped(Box::new(Zipped { header, end, compressed: listed.compressed, deflated, crc }))
            }
        };
        let body = match () {
            () if listed.is_directory() => Body::Directory { parent: NodeId::ROOT, entries: Box::new([]) },
            () if listed.is_symlink() => {
                if listed.size == 0 || listed.size > MAX_PATH as u64 {
                    let what = "a symbolic link's target is 1 to 4095 bytes";
                    return Err(ArchiveError::Name { name: name(), what });
                }
                Body::SymlinkIn { size: listed.size, contents }
            }
            () => Body::File { size: listed.size, contents },
        };
        self.builder.add(&listed.name, mode, mtime, body).map(drop)
    }

    /// Sees to it that no byte belongs to two members.
    fn check_places(&mut self, list: u64) -> Result<(), ArchiveError> {
        self.places.sort_unstable();
        let next = self.places.iter().skip(1).map(|(header, _)| *header).chain([list]);
        for ((header, end), next) in self.places.iter().zip(next) {
            if *end > next {
                let what = format!(
                    "the member whose header is at byte {header} overlaps what follows it, as in a decompression bomb"
                );
                return Err(damaged(what));
            }
        }
        let ends: Vec<u64> = self.places.iter().skip(1).map(|(header, _)| *header).chain([list]).collect();
        for ((_, end), next) in self.places.iter_mut().zip(ends) {
            *end = next;
        }
        Ok(())
    }
}

impl Tree {
    /// Tells members where the next one begins. `places` is sorted.
    fn put_ends(&mut self, places: &[(u64, u64)]) {
        self.each_zipped(|zipped| {
            if let Ok(at) = places.binary_search_by_key(&zipped.header, |(header, _)| *header) {
                zipped.end = places[at].1;
            }
        });
    }
}

/// A member's own header, before its data.
#[derive(Clone, Copy, Debug)]
pub struct Local(Zipped);

impl Local {
    /// Of this member.
    pub const fn of(zipped: Zipped) -> Self {
        Self(zipped)
    }

    /// The header's place.
    pub const fn range(&self) -> ByteRange {
        ByteRange::new(self.0.header, self.0.header + LOCAL)
    }

    /// The place of the member's data, by the header's `bytes`.
    ///
    /// # Errors
    /// They are no header, or tell of another member than the list, or of data that lies in the next one.
    pub fn data(&self, bytes: &[u8]) -> Result<ByteRange, ArchiveError> {
        let header = self.0.header;
        let wrong = |what: &str| Err(damaged(format!("the member's own header at byte {header} {what}")));
        if bytes.len() as u64 != LOCAL || !bytes.starts_with(b"PK\x03\x04") {
            return wrong("is missing");
        }
        let method = number::<2>(bytes, 8);
        if (method == listed::DEFLATED) != self.0.deflated || number::<2>(bytes, 6) & listed::ENCRYPTED != 0 {
            return wrong("says something else than the list at the zip's end");
        }
        let begin = header + LOCAL + number::<2>(bytes, 26) + number::<2>(bytes, 28);
        let range = ByteRange::new(begin, begin.saturating_add(self.0.compressed));
        if range.end() > self.0.end { wrong("lets its data reach into the next member") } else { Ok(range) }
    }
}
