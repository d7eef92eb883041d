//! Members of a tar that comes in chunks of any size: what each is, and where in the tar its bytes are.
//!
//! A parser of its own rather than the `tar` crate, since that one pulls from a reader, does not know PAX's sparse files, and takes or
//! refuses other archives than Go's `archive/tar`, through which containerd reads layers. Archives that it takes are taken here and mean the same,
//! member by member: v7, ustar, PAX, GNU and STAR headers, long names, sparse files of old GNU's form and of PAX's 0.0, 0.1 and 1.0. Archives that it
//! refuses are refused, but for two kinds of members that containerd then does not unpack: old GNU's sparse files, and contiguous files (type `7`),
//! which are ordinary ones.
//!
//! | file | what lives there |
//! |---|---|
//! | `header` | one block of 512 bytes: fields, numbers, checksum |
//! | `pax` | records of extended headers |
//! | `sparse` | maps of sparse files |
//!
//! Formats: POSIX.1-2024 `pax`; "Basic Tar Format" and "Storing Sparse Files" in GNU tar's manual; tar(5) of libarchive.

mod header;
mod pax;
mod sparse;

#[cfg(test)]
mod tests;

use self::header::{BLOCK, Block, Format, Header};
use self::pax::Records;
pub use self::sparse::Segment;
use self::sparse::{MapText, OldMap};
use crate::limits::{MAX_SPECIAL, MAX_TAR};
use crate::reason::{Reason, shown};

const TOO_LONG: Reason = Reason::TooLarge { what: "its tar is longer than 256 GiB" };

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds; before 1970 they are negative.
    pub seconds: i64,
    /// Nanoseconds after these.
    pub nanos: u32,
}

/// The kind of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// A file.
    Regular,
    /// Another name of a member before it.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A global extended header: it makes nothing, but has a name.
    Global,
    /// Of a type that file systems don't have, or that only one tar program knows.
    Unknown(u8),
}

/// A member, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TarMember {
    /// Its kind.
    pub kind: MemberKind,
    /// As the tar says it: neither cleaned nor below anything.
    pub name: Vec<u8>,
    /// The target of a link.
    pub link: Vec<u8>,
    /// Its permissions.
    pub mode: u16,
    /// Its owner.
    pub uid: i64,
    /// Its group.
    pub gid: i64,
    /// When it was last modified.
    pub mtime: Time,
    /// A device's number.
    pub major: i64,
    /// A device's number.
    pub minor: i64,
    /// How long the file is; 0 of what has no data, whatever the header says.
    pub size: u64,
    /// The offset of its data in the tar: a multiple of 512.
    pub data: u64,
    /// Which parts of a sparse file its data is, one after the other.
    pub segments: Option<Vec<Segment>>,
    /// Its extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The receiver of the members.
pub trait Sink {
    /// Takes the next member. True to get its data.
    ///
    /// # Errors
    /// The member can't be used: nothing more is read.
    fn member(&mut self, member: TarMember) -> Result<bool, Reason>;
    /// Takes the next bytes of the data of a member that wanted it.
    fn data(&mut self, bytes: &[u8]);
}

/// Reads a tar as it comes.
#[derive(Debug)]
pub struct Parser {
    /// How many bytes came.
    at: u64,
    state: TarState,
    /// The block that is being filled.
    block: Block,
    filled: usize,
    /// The offset of the last header.
    begin: u64,
    /// Records of extended headers for the next member.
    records: Option<Records>,
    long_name: Vec<u8>,
    long_link: Vec<u8>,
}

#[derive(Debug)]
enum TarState {
    /// In a member's header.
    Header,
    /// Behind one block of zeros: another one ends the tar.
    Zero,
    /// In an extended header's data.
    Special { header: Box<Header>, left: u64, bytes: Vec<u8> },
    /// In the further headers of an old GNU sparse file.
    MoreMap { header: Box<Header>, map: OldMap },
    /// In the map at the beginning of the data of a sparse file of PAX's form 1.0.
    Map { member: Box<TarMember>, left: u64, text: MapText },
    /// In a member's data.
    Data { left: u64, padding: u64, wanted: bool },
    /// In what fills a block.
    Padding(u64),
    /// Behind the end.
    End,
}

impl Parser {
    /// A parser of a tar of which nothing has come.
    pub fn new() -> Self {
        Self {
            at: 0,
            state: TarState::Header,
            block: [0; BLOCK],
            filled: 0,
            begin: 0,
            records: None,
            long_name: Vec::new(),
            long_link: Vec::new(),
        }
    }

    /// How many bytes came, or were passed over.
    pub const fn length(&self) -> u64 {
        self.at
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// They are no tar's, or the receiver can't use a member.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), Reason> {
        if self.at.saturating_add(bytes.len() as u64) > MAX_TAR {
            return Err(TOO_LONG);
        }
        while !bytes.is_empty() {
            let used = match &mut self.state {
                TarState::Data { left, padding, wanted } => {
                    let used = clamp(*left, bytes.len());
                    if *wanted {
                        sink.data(&bytes[..used]);
                    }
                    *left -= used as u64;
                    if *left == 0 {
                        self.state = TarState::Padding(*padding);
                        self.skip_nothing();
                    }
                    used
                }
                TarState::Padding(left) => {
                    let used = clamp(*left, bytes.len());
                    *left -= used as u64;
                    self.skip_nothing();
                    used
                }
                TarState::Special { left, bytes: kept, .. } => {
                    let used = clamp(*left, bytes.len());
                    kept.extend_from_slice(&bytes[..used]);
                    *left -= used as u64;
                    self.at += used as u64;
                    if *left == 0 {
                        self.special(sink)?;
                    }
                    bytes = &bytes[used..];
                    continue;
                }
                TarState::End => bytes.len(),
                TarState::Header | TarState::Zero | TarState::MoreMap { .. } | TarState::Map { .. } => {
                    let used = (BLOCK - self.filled).min(bytes.len());
                    if self.filled == 0 && matches!(self.state, TarState::Header) {
                        self.begin = self.at;
                    }
                    self.block[self.filled..][..used].copy_from_slice(&bytes[..used]);
                    self.filled += used;
                    self.at += used as u64;
                    if self.filled == BLOCK {
                        self.filled = 0;
                        self.block_is_full(sink)?;
                    }
                    bytes = &bytes[used..];
                    continue;
                }
            };
            self.at += used as u64;
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// Passes over what is next and wanted by nobody, the data of a member, out of `there` bytes that there are. If the bytes lie in a file, they
    /// need not be read.
    ///
    /// # Errors
    /// The member is longer than that.
    pub fn skip(&mut self, there: u64) -> Result<(), Reason> {
        let (data, padding) = match &self.state {
            TarState::Data { left, padding, wanted: false } => (*left, *padding),
            TarState::Padding(left) => (0, *left),
            _ => return Ok(()),
        };
        if data > there {
            return Err(Reason::Truncated { at: self.at.saturating_add(there), what: "a file" });
        }
        self.at = self.at.saturating_add(data + padding.min(there - data));
        self.state = TarState::Header;
        if self.at > MAX_TAR { Err(TOO_LONG) } else { Ok(()) }
    }

    /// True once the tar's end has come: what follows says nothing.
    pub const fn is_over(&self) -> bool {
        matches!(self.state, TarState::End)
    }

    /// Says that nothing more comes. A tar may end without the blocks of zeros, and in what fills a member's last block.
    ///
    /// # Errors
    /// It ends in something else.
    pub fn finish(&self) -> Result<(), Reason> {
        let what = match &self.state {
            TarState::Header | TarState::Zero if self.filled == 0 => return Ok(()),
            TarState::Padding(_) | TarState::End => return Ok(()),
            TarState::Header | TarState::Zero => "a header",
            TarState::Special { .. } => "an extended header",
            TarState::MoreMap { .. } | TarState::Map { .. } => "the map of a sparse file",
            TarState::Data { .. } => "a file",
        };
        Err(Reason::Truncated { at: self.at, what })
    }

    /// Leaves a state in which nothing is left to come.
    fn skip_nothing(&mut self) {
        if matches!(self.state, TarState::Padding(0)) {
            self.state = TarState::Header;
        }
    }

    fn malformed(&self, what: &'static str) -> Reason {
        Reason::Malformed { at: self.begin, what }
    }

    fn block_is_full(&mut self, sink: &mut impl Sink) -> Result<(), Reason> {
        match std::mem::replace(&mut self.state, TarState::Header) {
            TarState::Header if self.block == [0; BLOCK] => self.state = TarState::Zero,
            TarState::Zero if self.block == [0; BLOCK] => self.state = TarState::End,
            TarState::Zero => return Err(self.malformed("a block of zeros, and then something else")),
            TarState::MoreMap { header, mut map } => {
                map.extend(&self.block).map_err(|what| self.sparse(&header.name, what))?;
                self.old_sparse(header, map, sink)?;
            }
            TarState::Map { member, left, mut text } => {
                let left = left - BLOCK as u64;
                match text.push(&self.block).map_err(|what| self.sparse(&member.name, what))? {
                    Some(segments) => self.sparse_member(*member, segments, left, sink)?,
                    None if left < BLOCK as u64 => {
                        return Err(self.sparse(&member.name, "its map is longer than its data"));
                    }
                    None => self.state = TarState::Map { member, left, text },
                }
            }
            _ => self.header(sink)?,
        }
        Ok(())
    }

    fn sparse(&self, name: &[u8], what: &'static str) -> Reason {
        Reason::Sparse { name: shown(name), what }
    }

    fn header(&mut self, sink: &mut impl Sink) -> Result<(), Reason> {
        let header = Header::parse(&self.block).map_err(|what| self.malformed(what))?;
        match header.kind {
            b'x' | b'g' | b'L' | b'K' => {
                let left = u64::try_from(header.size).map_err(|_| self.malformed("a negative length"))?;
                if left > MAX_SPECIAL {
                    return Err(self.malformed("an extended header of more than 1 MiB"));
                }
                self.state = TarState::Special { header: Box::new(header), left, bytes: Vec::new() };
                if left == 0 {
                    self.special(sink)?;
                }
                Ok(())
            }
            _ => self.member(header, sink),
        }
    }

    /// An extended header is here.
    fn special(&mut self, sink: &mut impl Sink) -> Result<(), Reason> {
        let TarState::Special { header, bytes, .. } = std::mem::replace(&mut self.state, TarState::Header) else {
            return Ok(());
        };
        self.state = TarState::Padding(padding(bytes.len() as u64));
        self.skip_nothing();
        match header.kind {
            b'L' => self.long_name = header::text(&bytes).to_vec(),
            b'K' => self.long_link = header::text(&bytes).to_vec(),
            kind => {
                let records = Records::parse(&bytes).map_err(|what| self.malformed(what))?;
                if kind == b'x' {
                    self.records = Some(records);
                    return Ok(());
                }
                // A global header says nothing of later members, and a reader that does as Go does forgets what was said of the next one.
                self.forget();
                let name = records.get(b"path").filter(|path| !path.is_empty()).map_or(header.name, <[u8]>::to_vec);
                let member = TarMember { kind: MemberKind::Global, name, ..TarMember::nothing() };
                sink.member(member)?;
            }
        }
        Ok(())
    }

    fn forget(&mut self) {
        (self.records, self.long_name, self.long_link) = (None, Vec::new(), Vec::new());
    }

    /// A member's header is here, and all that was said of it before.
    fn member(&mut self, mut header: Header, sink: &mut impl Sink) -> Result<(), Reason> {
        // Whatever its records say of it.
        self.check_length(&header)?;
        if let Some(records) = &self.records {
            records.apply(&mut header).map_err(|what| self.malformed(what))?;
        }
        if !self.long_name.is_empty() {
            header.name = std::mem::take(&mut self.long_name);
        }
        if !self.long_link.is_empty() {
            header.link = std::mem::take(&mut self.long_link);
        }
        // Before there was a type for directories, their names ended so. They have no data, but their headers may have a length.
        if header.kind == 0 {
            header.kind = if header.name.ends_with(b"/") { b'5' } else { b'0' };
        }
        self.check_length(&header)?;
        if header.kind == b'S' {
            if header.format != Format::Gnu {
                return Err(self.malformed("a sparse file that is not in GNU's format"));
            }
            let map = OldMap::parse(&self.block).map_err(|what| self.sparse(&header.name, what))?;
            return self.old_sparse(Box::new(header), map, sink);
        }
        let sparse = match &self.records {
            Some(records) => records.sparse().map_err(|what| self.sparse(&header.name, what))?,
            None => None,
        };
        let stored = header.stored();
        let Some(sparse) = sparse else {
            let member = self.complete(header);
            return self.take(member, stored, sink);
        };
        if let Some(name) = sparse.name {
            header.name = name;
        }
        if header.is_header_only() {
            return Err(self.sparse(&header.name, "it is no file"));
        }
        if let Some(size) = sparse.size {
            header.size = size;
        }
        self.check_length(&header)?;
        let member = self.complete(header);
        match sparse.map {
            Some(segments) => self.sparse_member(member, segments, stored, sink),
            None if stored < BLOCK as u64 => Err(self.sparse(&member.name, "its map is longer than its data")),
            None => {
                self.state = TarState::Map { member: Box::new(member), left: stored, text: MapText::default() };
                Ok(())
            }
        }
    }

    /// Refuses a negative length, unless nobody looks at it.
    fn check_length(&self, header: &Header) -> Result<(), Reason> {
        if header.size < 0 && !header.is_header_only() { Err(self.malformed("a negative length")) } else { Ok(()) }
    }

    /// The map of an old GNU sparse file, or its next part, is here.
    fn old_sparse(&mut self, mut header: Box<Header>, map: OldMap, sink: &mut impl Sink) -> Result<(), Reason> {
        if map.goes_on {
            self.state = TarState::MoreMap { header, map };
            return Ok(());
        }
        let stored = header.stored();
        header.size = map.size;
        let member = self.complete(*header);
        self.sparse_member(member, map.segments, stored, sink)
    }

    /// A sparse file's data begins, of which this many bytes are stored.
    fn sparse_member(
        &mut self,
        mut member: TarMember,
        segments: Vec<Segment>,
        stored: u64,
        sink: &mut impl Sink,
    ) -> Result<(), Reason> {
        sparse::check(&segments, member.size, stored).map_err(|what| self.sparse(&member.name, what))?;
        member.segments = Some(segments);
        self.take(member, stored, sink)
    }

    /// Hands a member over, of which this many bytes are stored behind what came.
    fn take(&mut self, mut member: TarMember, stored: u64, sink: &mut impl Sink) -> Result<(), Reason> {
        member.data = self.at;
        let wanted = sink.member(member)?;
        self.state = match stored {
            0 => TarState::Header,
            left => TarState::Data { left, padding: padding(left), wanted },
        };
        Ok(())
    }

    /// The member that a header, and what was said of it before, describes.
    fn complete(&mut self, header: Header) -> TarMember {
        let kind = match header.kind {
            b'0' | b'7' | b'S' => MemberKind::Regular,
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Symlink,
            b'3' => MemberKind::Char,
            b'4' => MemberKind::Block,
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            kind => MemberKind::Unknown(kind),
        };
        let size = if header.is_header_only() { 0 } else { header.size.unsigned_abs() };
        let xattrs = self.records.take().map(Records::into_xattrs).unwrap_or_default();
        self.forget();
        TarMember {
            kind,
            name: header.name,
            link: header.link,
            mode: (header.mode & 0o7777) as u16,
            uid: header.uid,
            gid: header.gid,
            mtime: header.mtime,
            major: header.major,
            minor: header.minor,
            size,
            data: 0,
            segments: None,
            xattrs,
        }
    }
}

impl TarMember {
    pub(crate) const fn nothing() -> Self {
        Self {
            kind: MemberKind::Regular,
            name: Vec::new(),
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time { seconds: 0, nanos: 0 },
            major: 0,
            minor: 0,
            size: 0,
            data: 0,
            segments: None,
            xattrs: Vec::new(),
        }
    }
}

/// True if these bytes can be the first of a tar with members: a header of any format. One without begins with zeros, as much else does.
pub fn is_header(bytes: &[u8]) -> bool {
    let Ok(block) = Block::try_from(bytes) else { return false };
    block != [0; BLOCK] && Header::parse(&block).is_ok()
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

/// The number of bytes that fill the last block of `length` bytes.
const fn padding(length: u64) -> u64 {
    length.wrapping_neg() % BLOCK as u64
}

/// The lesser of the bytes that are left and those that are here.
fn clamp(left: u64, here: usize) -> usize {
    usize::try_from(left).map_or(here, |left| left.min(here))
}
