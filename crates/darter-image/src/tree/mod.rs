//! Unpacking a tar as containerd does it for overlayfs: each member in turn, as its `archive.Apply` would do it on a disk with
//! `OverlayConvertWhiteout`, so that a layer that is mounted is the layer that would have been unpacked.
//!
//! Consequences that may surprise:
//!
//! - Symbolic links of the layer lead to where its members go, within its root ([`paths`](crate::paths): not always where the kernel would go). Directories that are missing on the way are made, 0755 and root's.
//! - The root is the layer's own: a member `./` changes nothing.
//! - A member replaces what has its name, except that a directory stays a directory with what is in it. Directories get their times at
//!   the end, from the members in order; so does what replaced one of them.
//! - A hard link's header counts for the file: owner, mode, time, attributes. It has to link to what came before it.
//! - `.wh.NAME` becomes a character device 0:0, `.wh..wh..opq` the attribute `trusted.overlay.opaque` of its directory. If NAME is there already,
//!   containerd fails; here it stays, and a directory becomes opaque, since whiteouts hide what is below the layer.
//! - Times before 1970, and after 2262, become 1970-01-01. Symbolic links have mode 0777.
//! - Attributes `user.*` of what is neither file nor directory, all of `trusted.*`, and those of namespaces that Linux does not know are left out.
//!   Default ACLs are inherited, and an ACL's entries follow the mode.
//!
//! Times that unpacking takes from its own clock, of whiteouts and of directories that no member names, are the member's and 1970.
//!
//! | file | what lives there |
//! |---|---|
//! | `resolve` | where a path leads, in this tree |
//! | `attributes` | owner, mode, time and extended attributes of a member on what it makes |
//! | `acl` | POSIX ACLs in their binary form |
//! | `pool` | extended attributes, each kept once |

mod acl;
mod attributes;
mod pool;
mod resolve;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

pub(crate) use self::acl::with_mode as acl_with_mode;
pub(crate) use self::pool::{Namespace, Pool, Xattr, XattrId};
use crate::chunks::{ChunkPlan, Chunks, CopiedRange, plan};
use crate::limits::{MAX_COPIED, MAX_HELD, MAX_NAME, MAX_PATH};
use crate::paths::{PathEnd, clean};
use crate::reason::{Reason, shown};
use crate::tar::{MemberKind, Sink, TarMember, Time};

/// The beginning of a whiteout's name.
const WHITEOUT: &[u8] = b".wh.";

/// The name that makes its directory hide everything below.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Bytes of memory that a node takes besides its name, about: its own size, its place in its directory, and its part of what the writer
/// holds.
const NODE_WEIGHT: usize = 256;

/// Bytes that the names in a directory take besides: the first of them has room for ten more beside it.
const DIRECTORY_WEIGHT: usize = 256;

/// A file, directory or other thing, in [`Tree::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) const ROOT: Self = Self(0);

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    pub(crate) const fn of_index(index: usize) -> Self {
        Self(index as u32)
    }
}

/// How the members name a directory. Its number is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// Before anything is in it; said of all that is no directory, too.
    First = 0,
    /// Not at all.
    Never = 1,
    /// After something was made in it.
    Late = 2,
}

/// A thing with one inode.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) body: Body,
    pub(crate) naming: Naming,
    /// Without the bits of the type.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Sorted, one of each name.
    pub(crate) xattrs: Vec<XattrId>,
    /// How many bytes these take in EROFS if none is shared.
    xattr_bytes: usize,
}

#[derive(Debug)]
pub(crate) enum Body {
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    File {
        size: u64,
        content: FileBytes,
    },
    Symlink(Box<[u8]>),
    /// The number as the kernel writes it in 32 bits.
    Char(u32),
    Block(u32),
    Fifo,
}

/// The place of a file's bytes.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// At this byte of the tar.
    Tar(u64),
    Chunks(Box<Chunks>),
}

impl Node {
    const fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    /// The bits of the mode that say what it is.
    pub(crate) const fn file_type(&self) -> u16 {
        match self.body {
            Body::Directory(_) => 0o040_000,
            Body::File { .. } => 0o100_000,
            Body::Symlink(_) => 0o120_000,
            Body::Char(_) => 0o020_000,
            Body::Block(_) => 0o060_000,
            Body::Fifo => 0o010_000,
        }
    }
}

/// The tree that the members so far have made.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    pub(crate) pool: Pool,
    /// The access ACL that says what a default ACL says.
    access_acls: HashMap<XattrId, XattrId>,
    /// Blocks of sparse files that no inode can point at.
    pub(crate) copied: Vec<u8>,
    /// Ranges of the coming data that have to be copied, and how much of it came.
    copying: Vec<CopiedRange>,
    came: u64,
    /// Directories' names and times, for the end.
    times: Vec<(Box<[u8]>, Time)>,
    /// How much memory all of this takes, about.
    held: usize,
    /// How many names were passed again because of links.
    steps: u64,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let root = Node {
            body: Body::Directory(BTreeMap::new()),
            naming: Naming::First,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            xattrs: Vec::new(),
            xattr_bytes: 0,
        };
        Self {
            nodes: vec![root],
            pool: Pool::default(),
            access_acls: HashMap::new(),
            copied: Vec::new(),
            copying: Vec::new(),
            came: 0,
            times: Vec::new(),
            held: 0,
            steps: 0,
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    /// How many nodes there ever were.
    pub(crate) const fn nodes(&self) -> usize {
        self.nodes.len()
    }

    fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.node(directory).body {
            Body::Directory(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    /// Notes that so much more memory is taken.
    fn hold(&mut self, bytes: usize) -> Result<(), Reason> {
        self.held += bytes;
        if self.held > MAX_HELD {
            return Err(Reason::TooLarge { what: "its names, attributes and maps take more than 512 MiB" });
        }
        Ok(())
    }

    /// Makes something in a directory. Anything that had the name is gone.
    fn create(&mut self, directory: NodeId, name: &[u8], body: Body, mode: u16) -> Result<NodeId, Reason> {
        let is_directory = matches!(body, Body::Directory(_));
        self.hold(NODE_WEIGHT + name.len() + if is_directory { DIRECTORY_WEIGHT } else { 0 })?;
        let full = |_| Reason::TooLarge { what: "more than 2^32 members" };
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(full)?);
        let parent = self.node(directory);
        // As every file system on Linux does it.
        let gid = if parent.mode & 0o2000 == 0 { 0 } else { parent.gid };
        let (naming, mtime) = (Naming::First, Time::default());
        let mut node = Node { body, naming, mode, uid: 0, gid, mtime, xattrs: Vec::new(), xattr_bytes: 0 };
        if !matches!(node.body, Body::Symlink(_)) {
            node.xattrs = self.inherited(directory, is_directory)?;
            node.xattr_bytes = node.xattrs.iter().map(|id| self.pool.get(*id).length()).sum();
        }
        self.nodes.push(node);
        self.put(directory, name, id);
        Ok(id)
    }

    fn put(&mut self, directory: NodeId, name: &[u8], id: NodeId) {
        if let Body::Directory(entries) = &mut self.node_mut(directory).body {
            entries.insert(name.into(), id);
        }
    }

    fn remove(&mut self, directory: NodeId, name: &[u8]) {
        if let Body::Directory(entries) = &mut self.node_mut(directory).body {
            entries.remove(name);
        }
    }

    /// The directory that a path leads to; what is missing of it is made.
    fn directory(&mut self, place: &PathEnd<NodeId>, name: &[u8]) -> Result<NodeId, Reason> {
        let mut directory = place.known;
        for missing in &place.missing {
            // A link's target may say any name.
            if missing.len() > MAX_NAME {
                return Err(Reason::TooLong { name: shown(name) });
            }
            directory = self.create(directory, missing, Body::Directory(BTreeMap::new()), 0o755)?;
            self.node_mut(directory).naming = Naming::Never;
        }
        if self.node(directory).is_directory() { Ok(directory) } else { Err(Reason::BelowFile { name: shown(name) }) }
    }

    fn apply(&mut self, member: &TarMember) -> Result<bool, Reason> {
        let name = clean(&member.name);
        // Records may say what no header can.
        if name.contains(&0) || member.link.contains(&0) {
            return Err(Reason::ZeroByte { name: shown(&name) });
        }
        let (above, base) = resolve::split(&name);
        // The name of a whiteout is not that of anything that is made.
        let made = base.strip_prefix(WHITEOUT).unwrap_or(base);
        let too_long = |part: &[u8]| part.len() > MAX_NAME;
        if name.len() > MAX_PATH || too_long(made) || above.split(|byte| *byte == b'/').any(too_long) {
            return Err(Reason::TooLong { name: shown(&name) });
        }
        if matches!(base, b"" | b"." | b"..") {
            // The root, whose attributes are not the layer's.
            return Ok(false);
        }
        let place = self.resolve(above, &name)?;
        let directory = self.directory(&place, &name)?;
        if let Some(hidden) = base.strip_prefix(WHITEOUT) {
            self.whiteout(directory, base, hidden, member)?;
            return Ok(false);
        }
        if let MemberKind::Unknown(kind) = member.kind {
            return Err(Reason::Kind { name: shown(&name), kind: char::from(kind) });
        }
        let there = self.child(directory, base);
        let kept = there.filter(|there| member.kind == MemberKind::Directory && self.node(*there).is_directory());
        if kept.is_none() && there.is_some() {
            self.remove(directory, base);
        }
        let mut wanted = false;
        let node = match member.kind {
            MemberKind::Global | MemberKind::Unknown(_) => return Ok(false),
            MemberKind::Directory => {
                let time = attributes::bounded(member.mtime);
                self.hold(name.len() + 2 * size_of::<usize>() + size_of::<Time>())?;
                self.times.push((name.clone().into(), time));
                match kept {
                    Some(kept) => {
                        let naming = &mut self.node_mut(kept).naming;
                        *naming = if *naming == Naming::Never { Naming::Late } else { *naming };
                        kept
                    }
                    None => self.create(directory, base, Body::Directory(BTreeMap::new()), 0o755)?,
                }
            }
            MemberKind::Regular => {
                let content = self.content(member, &name)?;
                wanted = !self.copying.is_empty();
                self.create(directory, base, Body::File { size: member.size, content }, 0o644)?
            }
            MemberKind::HardLink => {
                let target = self.link_target(&member.link, &name)?;
                self.hold(NODE_WEIGHT / 4 + base.len())?;
                self.put(directory, base, target);
                target
            }
            MemberKind::Symlink => {
                let length = member.link.len();
                if !(1..=MAX_PATH).contains(&length) {
                    return Err(Reason::Target { name: shown(&name), length });
                }
                self.hold(length)?;
                self.create(directory, base, Body::Symlink(member.link.clone().into()), 0o777)?
            }
            MemberKind::Char => self.create(directory, base, Body::Char(device(member, &name)?), 0)?,
            MemberKind::Block => self.create(directory, base, Body::Block(device(member, &name)?), 0)?,
            MemberKind::Fifo => self.create(directory, base, Body::Fifo, 0)?,
        };
        self.give_attributes(node, member, &name)?;
        Ok(wanted)
    }

    /// The node that a hard link links to.
    fn link_target(&mut self, link: &[u8], name: &[u8]) -> Result<NodeId, Reason> {
        let (above, base) = resolve::split(link);
        let place = self.resolve(above, name)?;
        let target = match base {
            _ if !place.missing.is_empty() => None,
            // The end of the rest of the path, which may be a file.
            b"" | b"." => Some(place.known),
            b".." => return Err(Reason::LinkToDirectory { name: shown(name), target: shown(link) }),
            base => self.child(place.known, base),
        };
        let target = target.ok_or_else(|| Reason::LinkToNothing { name: shown(name), target: shown(link) })?;
        if self.node(target).is_directory() {
            return Err(Reason::LinkToDirectory { name: shown(name), target: shown(link) });
        }
        Ok(target)
    }

    fn whiteout(&mut self, directory: NodeId, base: &[u8], hidden: &[u8], member: &TarMember) -> Result<(), Reason> {
        if base == OPAQUE {
            return self.make_opaque(directory);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Reason::Whiteout { name: shown(&member.name) });
        }
        match self.child(directory, hidden) {
            Some(there) if self.node(there).is_directory() => self.make_opaque(there),
            Some(_) => Ok(()),
            None => {
                let node = self.create(directory, hidden, Body::Char(0), 0)?;
                self.give_owner(node, member);
                self.node_mut(node).mtime = attributes::bounded(member.mtime);
                Ok(())
            }
        }
    }

    fn make_opaque(&mut self, directory: NodeId) -> Result<(), Reason> {
        let opaque = Xattr { namespace: Namespace::Trusted, name: (*b"overlay.opaque").into(), value: (*b"y").into() };
        self.set_xattr(directory, opaque)
    }

    /// The place of a file's bytes. Afterwards, [`Self::copying`] has the runs of them that have to be copied.
    fn content(&mut self, member: &TarMember, name: &[u8]) -> Result<FileBytes, Reason> {
        self.copying.clear();
        let Some(segments) = &member.segments else { return Ok(FileBytes::Tar(member.data)) };
        let copied = self.copied.len() as u64;
        let planned = plan(member.size, segments, member.data, copied, MAX_COPIED - copied);
        let what = "it has more parts that can't be pointed at than may be copied";
        match planned.ok_or_else(|| Reason::Sparse { name: shown(name), what })? {
            ChunkPlan::Whole => Ok(FileBytes::Tar(member.data)),
            ChunkPlan::Chunks { chunks, copies, copied_bytes } => {
                let copied = usize::try_from(copied_bytes).unwrap_or(usize::MAX);
                self.hold(chunks.map.len() * 4 + chunks.copied.len() * size_of::<(usize, u32)>() + copied)?;
                self.copied.resize(self.copied.len() + copied, 0);
                (self.copying, self.came) = (copies, 0);
                // The next copy is the last.
                self.copying.reverse();
                Ok(FileBytes::Chunks(Box::new(chunks)))
            }
        }
    }

    /// Nothing more comes: directories get their times.
    pub(crate) fn finish(&mut self) -> Result<(), Reason> {
        for (name, time) in std::mem::take(&mut self.times) {
            match self.resolve(&name, &name) {
                Ok(PathEnd { known, missing }) if missing.is_empty() => self.node_mut(known).mtime = time,
                // A path that is no longer there, or can't be reached any more, has no time.
                Ok(_) | Err(Reason::BelowFile { .. } | Reason::TooManyLinks { .. }) => {}
                Err(reason) => return Err(reason),
            }
        }
        Ok(())
    }
}

impl Sink for Tree {
    fn member(&mut self, member: TarMember) -> Result<bool, Reason> {
        self.apply(&member)
    }

    fn data(&mut self, bytes: &[u8]) {
        let end = self.came + bytes.len() as u64;
        while let Some(copy) = self.copying.last().copied().filter(|copy| copy.from < end) {
            let from = copy.from.max(self.came);
            let until = (copy.from + copy.length).min(end);
            let at = (from - self.came) as usize;
            let to = (copy.to + (from - copy.from)) as usize;
            let length = (until - from) as usize;
            self.copied[to..to + length].copy_from_slice(&bytes[at..at + length]);
            if copy.from + copy.length > end {
                break;
            }
            self.copying.pop();
        }
        self.came = end;
    }
}

/// A device's number as the kernel writes it: what does not fit is cut off, as `mknod` does it.
fn device(member: &TarMember, name: &[u8]) -> Result<u32, Reason> {
    let TarMember { major, minor, .. } = *member;
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok((major & 0xfff) << 8 | minor & 0xff | (minor & 0xf_ff00) << 12),
        _ => Err(Reason::Device { name: shown(name), major, minor }),
    }
}
