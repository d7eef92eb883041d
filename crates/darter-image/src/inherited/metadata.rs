//! A reader of a layer's metadata: its directories, and where paths lead. Every number is checked, and everything ends.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::Attributes;
use crate::erofs::{BLOCK, HEAD, INODE, META_ADDRESS, NAMING, SHARED_ADDRESS, SLOT};
use crate::limits::MAX_PATH;
use crate::paths::{Astray, Kind, Names, follow};
use crate::tar::Time;
use crate::tree::{Namespace, Naming};

/// The bytes in front of an inode's attributes.
const XATTR_HEAD: usize = 12;

/// The bytes of an entry of a directory, without its name.
const ENTRY: usize = 12;

/// The kind of an entry that is a directory.
const DIRECTORY: u8 = 2;

const ROOT: u64 = (HEAD / SLOT) as u64;

/// Bytes of the paths of one layer's directories.
const MAX_PATHS: usize = 64 << 20;

/// Looks at directories in one comparison: some seconds.
const MAX_LOOKS: u64 = 1 << 24;

/// Bytes of attributes that are read in one comparison. An attribute that is stored once may be a million directories'.
const MAX_ATTRIBUTES: u64 = 64 << 20;

/// Memory that an attribute takes besides its bytes.
const PER_ATTRIBUTE: u64 = 64;

/// Metadata that no release of Darter writes, or that would take too much to compare.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the layers' directories can't be compared: {0}")]
pub struct Unsound(&'static str);

type Result<T> = std::result::Result<T, Unsound>;

/// The looks and the bytes of attributes that a comparison may still take.
pub(super) struct Allowance {
    looks: Cell<u64>,
    attributes: Cell<u64>,
}

impl Allowance {
    pub(super) const fn new() -> Self {
        Self::of(MAX_LOOKS, MAX_ATTRIBUTES)
    }

    pub(super) const fn of(looks: u64, attributes: u64) -> Self {
        Self { looks: Cell::new(looks), attributes: Cell::new(attributes) }
    }

    fn look(&self, count: usize) -> Result<()> {
        Self::take(&self.looks, count as u64, "it takes too long to compare")
    }

    fn take(from: &Cell<u64>, count: u64, why: &'static str) -> Result<()> {
        from.set(from.get().checked_sub(count).ok_or(Unsound(why))?);
        Ok(())
    }
}

/// The directories of a layer, as its metadata has them.
#[derive(Clone)]
pub struct LayerDirectories {
    metadata: Arc<Vec<u8>>,
    /// The offset of the metadata in the file.
    start: usize,
    /// The offset of shared attributes in the metadata.
    shared: usize,
}

impl std::fmt::Debug for LayerDirectories {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LayerDirectories {{ metadata: {} bytes at {} }}", self.metadata.len(), self.start)
    }
}

/// An inode, as far as it is of interest here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    pub(super) nid: u64,
    at: usize,
    is_inline: bool,
    /// How many bytes of attributes stand behind it.
    xattrs: usize,
    mode: u16,
    size: usize,
    address: usize,
}

/// A directory that was made before a member named it, if one did.
pub(super) struct Unnamed {
    /// True if a member names it later.
    pub(super) is_late: bool,
    pub(super) path: Vec<u8>,
    pub(super) inode: Inode,
    /// The inode of the directory that it is in.
    pub(super) parent: u64,
}

/// The end of a path.
pub(super) enum Resolved {
    Nothing,
    Directory(Inode),
    /// Something else, there or on the way.
    Other,
}

impl LayerDirectories {
    /// The metadata of a file with this beginning (of 4 KiB), and these bytes from where [the metadata begins](crate::metadata_at) to its end.
    ///
    /// # Errors
    /// [`Unsound`].
    pub fn new(beginning: &[u8], metadata: Vec<u8>) -> Result<Self> {
        let block = |range: Range<usize>| {
            let bytes =
                beginning.get(range).and_then(<[u8]>::first_chunk).ok_or(Unsound("its beginning is too short"))?;
            Ok(u32::from_le_bytes(*bytes) as usize * BLOCK)
        };
        let (start, shared) = (block(META_ADDRESS)?, block(SHARED_ADDRESS)?);
        let shared = shared.checked_sub(start).ok_or(Unsound("attributes before the metadata"))?;
        Ok(Self { metadata: Arc::new(metadata), start, shared })
    }

    /// The paths of directories that may have something of the layers below: no member of the tar names them, or one does after what is in them.
    ///
    /// # Errors
    /// [`Unsound`].
    pub fn maybe_unnamed(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.unnamed()?.into_iter().map(|unnamed| unnamed.path).collect())
    }

    /// The directories that were made before a member named them, those above others first.
    pub(super) fn unnamed(&self) -> Result<Vec<Unnamed>> {
        let (mut unnamed, mut seen) = (Vec::new(), HashSet::new());
        let (mut left, mut room) = (self.metadata.len(), MAX_PATHS);
        let mut rest = VecDeque::from([(Vec::new(), self.inode(ROOT)?)]);
        while let Some((path, directory)) = rest.pop_front() {
            if !seen.insert(directory.nid) {
                return Err(Unsound("a directory with two names"));
            }
            left = left.checked_sub(directory.size).ok_or(Unsound("longer directories than it holds"))?;
            for (name, nid, kind) in self.entries(&directory)? {
                if kind != DIRECTORY || matches!(name, b"." | b"..") {
                    continue;
                }
                let inode = self.inode(nid)?;
                if !inode.is_directory() {
                    return Err(Unsound("an entry of another kind than what it names"));
                }
                let path = if path.is_empty() { name.to_vec() } else { [&path, b"/".as_slice(), name].concat() };
                room = room.checked_sub(path.len()).ok_or(Unsound("too many directories to be looked at"))?;
                if path.len() > MAX_PATH {
                    return Err(Unsound("a path that is too long"));
                }
                let naming = self.naming(&inode)?;
                if naming != Naming::First {
                    let is_late = naming == Naming::Late;
                    unnamed.push(Unnamed { is_late, path: path.clone(), inode, parent: directory.nid });
                }
                rest.push_back((path, inode));
            }
        }
        Ok(unnamed)
    }

    fn naming(&self, inode: &Inode) -> Result<Naming> {
        match self.number::<1>(inode.at + NAMING)? {
            0 => Ok(Naming::First),
            1 => Ok(Naming::Never),
            2 => Ok(Naming::Late),
            _ => Err(Unsound("a directory that is named in a strange way")),
        }
    }

    fn time(&self, inode: &Inode) -> Result<Time> {
        let seconds = self.number::<8>(inode.at + 32)?.cast_signed();
        Ok(Time { seconds, nanos: self.number::<4>(inode.at + 40)? as u32 })
    }

    pub(super) fn attributes(&self, inode: &Inode, allowance: &Allowance) -> Result<Attributes> {
        Ok(Attributes {
            mode: inode.mode & 0o7777,
            uid: self.number::<4>(inode.at + 24)? as u32,
            gid: self.number::<4>(inode.at + 28)? as u32,
            mtime: self.time(inode)?,
            xattrs: self.xattrs(inode, allowance)?,
        })
    }

    fn xattrs(&self, inode: &Inode, allowance: &Allowance) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut xattrs = BTreeMap::new();
        if inode.xattrs == 0 {
            return Ok(xattrs);
        }
        let (at, end) = (inode.at + INODE, inode.at + INODE + inode.xattrs);
        let shared = self.number::<1>(at + 4)? as usize;
        for index in 0..shared {
            let place = self.number::<4>(at + XATTR_HEAD + index * 4)? as usize;
            self.xattr(self.shared.saturating_add(place * 4), &mut xattrs, allowance)?;
        }
        let mut next = at + XATTR_HEAD + shared * 4;
        while next < end {
            next = self.xattr(next, &mut xattrs, allowance)?;
        }
        Ok(xattrs)
    }

    /// Adds an attribute, and says where the next one begins.
    fn xattr(&self, at: usize, to: &mut BTreeMap<Vec<u8>, Vec<u8>>, allowance: &Allowance) -> Result<usize> {
        let head = self.bytes(at, 4)?;
        let (name_length, value_length) = (usize::from(head[0]), usize::from(u16::from_le_bytes([head[2], head[3]])));
        let cost = PER_ATTRIBUTE + (name_length + value_length) as u64;
        Allowance::take(&allowance.attributes, cost, "it has too many attributes to be compared")?;
        let name = self.bytes(at + 4, name_length)?;
        let value = self.bytes(at + 4 + name_length, value_length)?;
        let namespace = Namespace::of_number(head[1]).ok_or(Unsound("an attribute of a strange kind"))?;
        if namespace != Namespace::Trusted {
            to.insert([namespace.prefix(), name].concat(), value.to_vec());
        }
        Ok((at + 4 + name_length + value_length).next_multiple_of(4))
    }

    /// Follows a path within the layer. A path that has no end, or would lead through a file, ends at [`Resolved::Other`].
    pub(super) fn resolve(&self, path: &[u8], allowance: &Allowance) -> Result<Resolved> {
        match follow(&mut Looking { directories: self, allowance }, path) {
            Ok(end) if !end.missing.is_empty() => Ok(Resolved::Nothing),
            Ok(end) if end.known.is_directory() => Ok(Resolved::Directory(end.known)),
            Ok(_) | Err(Astray::BelowFile | Astray::TooManyLinks | Astray::TooLong) => Ok(Resolved::Other),
            Err(Astray::Host) => Err(Unsound("where links lead depends on the host")),
            Err(Astray::Names(error)) => Err(error),
        }
    }

    /// True if there is something at this path, or on the way to it that is no directory: then nothing of layers below is seen there.
    pub(super) fn covers(&self, path: &[u8], allowance: &Allowance) -> Result<bool> {
        let mut here = self.inode(ROOT)?;
        for part in parts(path) {
            if !here.is_directory() {
                return Ok(true);
            }
            allowance.look(1)?;
            let Some(next) = self.child(&here, &part)? else { return Ok(false) };
            here = self.inode(next)?;
        }
        Ok(true)
    }

    fn child(&self, directory: &Inode, name: &[u8]) -> Result<Option<u64>> {
        let blocks = self.content(directory)?;
        // Names are in order: the last block that begins with one that is not behind it.
        let mut place = None;
        let (mut low, mut high) = (0, blocks.count());
        while low < high {
            let middle = low.midpoint(high);
            let first = Entries::of(blocks.get(middle))?.next().ok_or(Unsound("an empty block of a directory"))??;
            if first.0 <= name {
                place = Some(middle);
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(place) = place else { return Ok(None) };
        for entry in Entries::of(blocks.get(place))? {
            let (its, nid, _) = entry?;
            if its == name {
                return Ok(Some(nid));
            }
        }
        Ok(None)
    }

    fn entries(&self, directory: &Inode) -> Result<Vec<(&[u8], u64, u8)>> {
        let mut all = Vec::new();
        for block in self.content(directory)?.all() {
            for entry in Entries::of(block)? {
                all.push(entry?);
            }
        }
        Ok(all)
    }

    /// The content of a directory or a link, by blocks.
    fn content(&self, inode: &Inode) -> Result<Blocks<'_>> {
        let tail = if inode.is_inline { inode.size % BLOCK } else { 0 };
        let whole = inode.size - tail;
        let mut blocks = Blocks::default();
        if whole > 0 {
            let at = inode.address.checked_sub(self.start).ok_or(Unsound("a directory that is not in it"))?;
            blocks.whole = self.bytes(at, whole)?;
        }
        if tail > 0 {
            blocks.tail = self.bytes(inode.at + INODE + inode.xattrs, tail)?;
        }
        Ok(blocks)
    }

    fn inode(&self, nid: u64) -> Result<Inode> {
        let at = usize::try_from(nid).ok().and_then(|nid| nid.checked_mul(SLOT));
        let at = at.filter(|at| *at < self.metadata.len()).ok_or(Unsound("an inode behind its end"))?;
        let count = self.number::<2>(at + 2)? as usize;
        let size = usize::try_from(self.number::<8>(at + 8)?).map_err(|_| Unsound("a size"))?;
        let mode = self.number::<2>(at + 4)? as u16;
        let inode = Inode {
            nid,
            at,
            is_inline: self.number::<2>(at)? == (1 | 2 << 1),
            xattrs: if count == 0 { 0 } else { XATTR_HEAD + (count - 1) * 4 },
            mode,
            size,
            address: self.number::<4>(at + 16)? as usize * BLOCK,
        };
        if (inode.is_directory() && size > self.metadata.len()) || (inode.is_link() && size > MAX_PATH) {
            return Err(Unsound("longer content than there is"));
        }
        Ok(inode)
    }

    fn number<const N: usize>(&self, at: usize) -> Result<u64> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.bytes(at, N)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn bytes(&self, at: usize, length: usize) -> Result<&[u8]> {
        let end = at.checked_add(length);
        end.and_then(|end| self.metadata.get(at..end)).ok_or(Unsound("something behind its end"))
    }
}

/// A layer while a path is followed.
struct Looking<'a> {
    directories: &'a LayerDirectories,
    allowance: &'a Allowance,
}

impl Names for Looking<'_> {
    type Node = Inode;
    type Error = Unsound;

    fn root(&mut self) -> Result<Inode> {
        self.directories.inode(ROOT)
    }

    fn child(&mut self, directory: Inode, name: &[u8]) -> Result<Option<Inode>> {
        self.directories.child(&directory, name)?.map(|nid| self.directories.inode(nid)).transpose()
    }

    fn kind(&mut self, node: Inode) -> Result<Kind> {
        Ok(match node {
            _ if node.is_directory() => Kind::Directory,
            _ if node.is_link() => Kind::Link(self.directories.content(&node)?.all().collect::<Vec<_>>().concat()),
            _ => Kind::Other,
        })
    }

    fn count(&mut self, names: usize) -> Result<()> {
        self.allowance.look(names)
    }
}

impl Inode {
    const fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    const fn is_link(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }
}

/// The blocks of some content: those that lie together, and an end that lies behind the inode.
#[derive(Default)]
struct Blocks<'a> {
    whole: &'a [u8],
    tail: &'a [u8],
}

impl<'a> Blocks<'a> {
    fn count(&self) -> usize {
        self.whole.len().div_ceil(BLOCK) + usize::from(!self.tail.is_empty())
    }

    fn get(&self, index: usize) -> &'a [u8] {
        let (start, end) = (index * BLOCK, self.whole.len().min((index + 1) * BLOCK));
        if start < end { &self.whole[start..end] } else { self.tail }
    }

    fn all(&self) -> impl Iterator<Item = &'a [u8]> {
        (0..self.count()).map(|index| self.get(index))
    }
}

/// The entries of a block: names, inodes and kinds.
struct Entries<'a> {
    block: &'a [u8],
    count: usize,
    next: usize,
}

impl<'a> Entries<'a> {
    fn of(block: &'a [u8]) -> Result<Self> {
        let first = block.get(8..10).ok_or(Unsound("a short block of a directory"))?;
        let names = usize::from(u16::from_le_bytes([first[0], first[1]]));
        if names % ENTRY != 0 || names > block.len() {
            return Err(Unsound("a block of a directory with parts of entries"));
        }
        Ok(Self { block, count: names / ENTRY, next: 0 })
    }

    fn name_at(&self, index: usize) -> usize {
        let at = index * ENTRY + 8;
        usize::from(u16::from_le_bytes([self.block[at], self.block[at + 1]]))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(&'a [u8], u64, u8)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            return None;
        }
        let (index, at) = (self.next, self.next * ENTRY);
        self.next += 1;
        let end = if self.next < self.count { self.name_at(self.next) } else { self.block.len() };
        let Some(name) = self.block.get(self.name_at(index)..end) else {
            return Some(Err(Unsound("a name that is not in its block")));
        };
        // In a block that is not the last one, zeros may follow.
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let nid = u64::from_le_bytes(*self.block[at..].first_chunk()?);
        Some(Ok((name, nid, self.block[at + 10])))
    }
}

fn parts(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec).collect()
}
