//! [`Tree`]: directories, files and links, and where files' bytes are. Read-only once it is built.
//!
//! A path's parts are taken below the root, whatever it begins with; empty parts and `.` say nothing, and one with `..` is refused. A
//! member of a name that is there already takes its place, a directory's attributes apart. Directories that no member names are made.
//! Symbolic links are followed by nobody here: a member below one is refused.

use std::collections::BTreeMap;

use darter_image::reason::shown;
use darter_image::tar::Time;

use crate::error::ArchiveError;
use crate::limits::{MAX_HELD, MAX_NAME, MAX_NAMED, MAX_PATH};

/// Names something in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The root of every tree.
    pub const ROOT: Self = Self(0);

    /// The node's place among all.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The node with this place.
    pub fn at(index: usize) -> Option<Self> {
        u32::try_from(index).ok().map(Self)
    }
}

/// Something in a directory: its name, and what it is.
pub type Entry = (Box<[u8]>, NodeId);

/// Something in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its permissions.
    pub mode: u16,
    /// When it was last modified.
    pub mtime: Time,
    /// How many names it has.
    pub links: u32,
    /// The node's content: a file's, a directory's or a link's.
    pub body: Body,
}

/// The content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A directory: where it is, and its entries, sorted by name.
    Directory {
        /// The directory that it is in; the root is in itself.
        parent: NodeId,
        /// Its entries.
        entries: Box<[Entry]>,
    },
    /// A file.
    File {
        /// How long it is.
        size: u64,
        /// The place of its bytes.
        contents: Contents,
    },
    /// A symbolic link whose target is known.
    Symlink(Box<[u8]>),
    /// A symbolic link whose target is what a file has.
    SymlinkIn {
        /// How long the target is.
        size: u64,
        /// The place of its bytes.
        contents: Contents,
    },
    /// A named pipe.
    Fifo,
    /// A device.
    Device {
        /// True for one of blocks.
        block: bool,
        /// Its numbers.
        number: (u32, u32),
    },
}

/// The place of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// The whole of one of several files, by its number.
    Whole(u32),
    /// Bytes of the archive, from this offset on.
    Stored(u64),
    /// Parts of the file that are bytes of the archive; what is between them is zeros. Sorted.
    Sparse(Box<[Extent]>),
    /// A member of a zip.
    Zipped(Box<Zipped>),
    /// The bytes can't be read, for this reason.
    Unreadable(&'static str),
}

/// A part of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its offset in the file.
    pub offset: u64,
    /// Its offset in the archive.
    pub at: u64,
    /// How long it is.
    pub length: u64,
}

/// A member of a zip, as the list at the end has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zipped {
    /// The offset of its own header.
    pub header: u64,
    /// The offset of the next member's header, or of the list: its data ends before that.
    pub end: u64,
    /// How long its data is.
    pub compressed: u64,
    /// True if its data has to be inflated.
    pub deflated: bool,
    /// The CRC-32 of its bytes.
    pub crc: u32,
}

/// The tree of an archive, or of a list of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
    /// How many files there are, without those in whose place another one came.
    pub files: u64,
    /// How many bytes they have together.
    pub bytes: u64,
    /// Of files that can't be read, how many there are, and some of them, each with the reason.
    pub unreadable: (u64, Vec<(String, &'static str)>),
}

impl Tree {
    /// Something in it.
    pub fn get(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node.index())
    }

    /// How many things there are.
    pub const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True if there is nothing but the root.
    pub const fn is_empty(&self) -> bool {
        self.nodes.len() < 2
    }

    /// The entries of a directory; `None` if it is none.
    pub fn entries(&self, directory: NodeId) -> Option<&[Entry]> {
        match &self.get(directory)?.body {
            Body::Directory { entries, .. } => Some(entries),
            _ => None,
        }
    }

    /// The entry that a directory has under a name.
    pub fn look_up(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        let entries = self.entries(directory)?;
        let at = entries.binary_search_by(|(entry, _)| (**entry).cmp(name)).ok()?;
        Some(entries[at].1)
    }

    pub(crate) fn each_zipped(&mut self, mut each: impl FnMut(&mut Zipped)) {
        for node in &mut self.nodes {
            if let Body::File { contents: Contents::Zipped(zipped), .. }
            | Body::SymlinkIn { contents: Contents::Zipped(zipped), .. } = &mut node.body
            {
                each(zipped);
            }
        }
    }

    /// The entry at a path, parts with slashes between them.
    pub fn find(&self, path: &str) -> Option<NodeId> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        parts.try_fold(NodeId::ROOT, |at, part| self.look_up(at, part.as_bytes()))
    }
}

/// Builds a tree.
#[derive(Debug)]
pub struct TreeBuilder {
    nodes: Vec<Building>,
    /// For directories that no member names.
    mtime: Time,
    held: usize,
    members: u64,
}

#[derive(Debug)]
struct Building {
    node: Node,
    /// A directory's entries, by name.
    entries: BTreeMap<Box<[u8]>, NodeId>,
}

/// The most memory of a node and its name, besides the name's bytes: the list of nodes is half empty when it has just grown, at the end the finished
/// nodes are there, too, and nodes of maps are half empty; and each name is an allocation.
const PER_NODE: usize = 2 * size_of::<Building>() + size_of::<Node>() + 2 * size_of::<Entry>() + 32;

/// The most memory that a directory takes besides: the first node of its map, which has room for eleven names, and later its list.
const PER_DIRECTORY: usize = 12 * size_of::<Entry>() + 2 * size_of::<Entry>();

impl TreeBuilder {
    /// A tree with nothing in it. `mtime` is the time of directories that no member names.
    pub fn new(mtime: Time) -> Self {
        let mut builder = Self { nodes: Vec::new(), mtime, held: 0, members: 0 };
        builder.nodes.push(builder.directory(NodeId::ROOT));
        builder
    }

    fn directory(&self, parent: NodeId) -> Building {
        let body = Body::Directory { parent, entries: Box::new([]) };
        Building { node: Node { mode: 0o755, mtime: self.mtime, links: 0, body }, entries: BTreeMap::new() }
    }

    fn hold(&mut self, bytes: usize) -> Result<(), ArchiveError> {
        self.held += bytes;
        if self.held > MAX_HELD { Err(ArchiveError::TooMany { members: self.members }) } else { Ok(()) }
    }

    fn is_directory(&self, node: NodeId) -> bool {
        matches!(self.nodes[node.index()].node.body, Body::Directory { .. })
    }

    /// Puts a member at a path.
    ///
    /// # Errors
    /// The path is none, or the tree would take too much memory.
    pub fn add(&mut self, path: &[u8], mode: u16, mtime: Time, body: Body) -> Result<NodeId, ArchiveError> {
        self.members += 1;
        // A scan keeps this of each besides, also of one that makes nothing.
        self.hold(size_of::<(u64, u64)>())?;
        let is_directory = matches!(body, Body::Directory { .. });
        let Some((parent, name)) = self.place(path)? else {
            // The member is the root itself, of which only a directory can say something.
            if is_directory {
                let root = &mut self.nodes[0].node;
                (root.mode, root.mtime) = (mode, mtime);
            }
            return Ok(NodeId::ROOT);
        };
        if is_directory
            && let Some(there) = self.nodes[parent.index()].entries.get(name).copied()
            && self.is_directory(there)
        {
            let node = &mut self.nodes[there.index()].node;
            (node.mode, node.mtime) = (mode, mtime);
            return Ok(there);
        }
        let more = match &body {
            Body::Symlink(target) => target.len(),
            Body::File { contents: Contents::Sparse(extents), .. } => size_of_val(&**extents),
            Body::File { contents: Contents::Zipped(_), .. } | Body::SymlinkIn { .. } => size_of::<Zipped>(),
            _ => 0,
        };
        self.hold(more)?;
        let body = if is_directory { Body::Directory { parent, entries: Box::new([]) } } else { body };
        let building = Building { node: Node { mode, mtime, links: 0, body }, entries: BTreeMap::new() };
        self.enter(parent, name, building)
    }

    /// Gives a file that is there another name.
    ///
    /// # Errors
    /// It is not there, or the path is none.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), ArchiveError> {
        self.members += 1;
        let nothing = || ArchiveError::LinkToNothing { name: shown(path), target: shown(target) };
        let found = self.find(target)?.filter(|found| !self.is_directory(*found)).ok_or_else(nothing)?;
        let Some((parent, name)) = self.place(path)? else { return Err(nothing()) };
        if self.nodes[parent.index()].entries.get(name) == Some(&found) {
            return Ok(());
        }
        self.hold(PER_NODE + name.len())?;
        self.name(parent, name, found);
        Ok(())
    }

    fn find(&self, path: &[u8]) -> Result<Option<NodeId>, ArchiveError> {
        let mut at = NodeId::ROOT;
        for part in parts(path)? {
            match self.nodes[at.index()].entries.get(part) {
                Some(next) => at = *next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// The directory that a path's last part is in, made if need be, and that part; `None` for the root itself.
    fn place<'a>(&mut self, path: &'a [u8]) -> Result<Option<(NodeId, &'a [u8])>, ArchiveError> {
        let mut parts = parts(path)?.peekable();
        let mut at = NodeId::ROOT;
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return Ok(Some((at, part)));
            }
            at = match self.nodes[at.index()].entries.get(part).copied() {
                Some(next) if self.is_directory(next) => next,
                Some(_) => return Err(ArchiveError::BelowFile { name: shown(path) }),
                None => {
                    let made = self.directory(at);
                    self.enter(at, part, made)?
                }
            };
        }
        Ok(None)
    }

    fn enter(&mut self, parent: NodeId, name: &[u8], building: Building) -> Result<NodeId, ArchiveError> {
        let more = if matches!(building.node.body, Body::Directory { .. }) { PER_DIRECTORY } else { 0 };
        self.hold(PER_NODE + more + name.len())?;
        let node = NodeId::at(self.nodes.len()).ok_or(ArchiveError::TooMany { members: self.members })?;
        self.nodes.push(building);
        self.name(parent, name, node);
        Ok(node)
    }

    fn name(&mut self, parent: NodeId, name: &[u8], node: NodeId) {
        self.nodes[parent.index()].entries.insert(name.into(), node);
    }

    /// The tree. Only nodes that can be reached are in it: nothing below a directory that was replaced by something else.
    ///
    /// # Errors
    /// There are files, and none of them can be read.
    pub fn finish(mut self) -> Result<Tree, ArchiveError> {
        let (mut files, mut bytes, mut unreadable, mut is_readable) = (0, 0_u64, (0, Vec::new()), false);
        self.nodes[0].node.links = 1;
        let mut todo = vec![NodeId::ROOT];
        while let Some(directory) = todo.pop() {
            let entries = std::mem::take(&mut self.nodes[directory.index()].entries);
            for (name, at) in &entries {
                let node = &mut self.nodes[at.index()].node;
                node.links += 1;
                match &node.body {
                    Body::Directory { .. } => todo.push(*at),
                    Body::File { size, contents } if node.links == 1 => {
                        files += 1;
                        bytes = bytes.saturating_add(*size);
                        let Contents::Unreadable(why) = contents else {
                            is_readable = true;
                            continue;
                        };
                        let why = *why;
                        unreadable.0 += 1;
                        if unreadable.1.len() < MAX_NAMED {
                            unreadable.1.push((shown(&self.path(directory, name)), why));
                        }
                    }
                    _ => {}
                }
            }
            if let Body::Directory { entries: done, .. } = &mut self.nodes[directory.index()].node.body {
                *done = entries.into_iter().collect();
            }
        }
        if let (false, Some((name, why))) = (is_readable, unreadable.1.first()) {
            return Err(ArchiveError::Unreadable { name: name.clone(), why });
        }
        let nodes = self.nodes.into_iter().map(|building| building.node).collect();
        Ok(Tree { nodes, files, bytes, unreadable })
    }

    /// The path of something in a directory whose own entries are being looked through: those above it have been.
    fn path(&self, mut directory: NodeId, name: &[u8]) -> Vec<u8> {
        let mut parts = vec![name];
        while let Body::Directory { parent, .. } = &self.nodes[directory.index()].node.body
            && directory != NodeId::ROOT
            && let Body::Directory { entries, .. } = &self.nodes[parent.index()].node.body
        {
            parts.extend(entries.iter().find(|(_, at)| *at == directory).map(|(name, _)| &**name));
            directory = *parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }
}

/// The parts of a path that say something.
fn parts(path: &[u8]) -> Result<impl Iterator<Item = &[u8]>, ArchiveError> {
    let wrong = |what| Err(ArchiveError::Name { name: shown(path), what });
    if path.len() > MAX_PATH {
        return wrong("its path is longer than 4095 bytes");
    }
    if path.contains(&0) {
        return wrong("there is a zero byte in its path");
    }
    for part in path.split(|byte| *byte == b'/') {
        if part == b".." {
            return Err(ArchiveError::Outside { name: shown(path) });
        }
        if part.len() > MAX_NAME {
            return wrong("a name in its path is longer than 255 bytes");
        }
    }
    Ok(path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(at: u64) -> Body {
        Body::File { size: 1, contents: Contents::Stored(at) }
    }

    fn directory() -> Body {
        Body::Directory { parent: NodeId::ROOT, entries: Box::new([]) }
    }

    fn add(builder: &mut TreeBuilder, path: &str, body: Body) -> Result<NodeId, ArchiveError> {
        builder.add(path.as_bytes(), 0o600, Time { seconds: 5, nanos: 0 }, body)
    }

    fn stored(tree: &Tree, path: &str) -> Option<u64> {
        match &tree.get(tree.find(path)?)?.body {
            Body::File { contents: Contents::Stored(at), .. } => Some(*at),
            _ => None,
        }
    }

    #[test]
    fn paths_lead_below_the_root_and_the_later_of_two_members_counts() {
        let mut builder = TreeBuilder::new(Time::default());
        add(&mut builder, "/etc//./passwd", file(1)).unwrap();
        add(&mut builder, "a/b/c", file(2)).unwrap();
        add(&mut builder, "./a", directory()).unwrap();
        add(&mut builder, "twice", file(3)).unwrap();
        add(&mut builder, "twice", file(4)).unwrap();
        add(&mut builder, "was/dir", file(5)).unwrap();
        add(&mut builder, "was", file(6)).unwrap();
        let tree = builder.finish().unwrap();
        for (path, at) in
            [("etc/passwd", Some(1)), ("a/b/c", Some(2)), ("twice", Some(4)), ("was", Some(6)), ("was/dir", None)]
        {
            assert_eq!(stored(&tree, path), at, "{path}");
        }
        let a = tree.get(tree.find("a").unwrap()).unwrap();
        assert_eq!(
            (a.mode, a.mtime.seconds),
            (0o600, 5),
            "what is said later of a directory counts, and what is in it stays"
        );
        let names: Vec<_> = tree.entries(NodeId::ROOT).unwrap().iter().map(|(name, _)| name.to_vec()).collect();
        assert_eq!(names, [b"a".to_vec(), b"etc".to_vec(), b"twice".to_vec(), b"was".to_vec()]);
    }

    #[test]
    fn hard_links_are_names_of_one_thing() {
        let mut builder = TreeBuilder::new(Time::default());
        add(&mut builder, "one", file(1)).unwrap();
        builder.link(b"d/two", b"./one").unwrap();
        builder.link(b"d/two", b"one").unwrap();
        assert!(matches!(builder.link(b"x", b"none"), Err(ArchiveError::LinkToNothing { .. })));
        assert!(matches!(builder.link(b"x", b"d"), Err(ArchiveError::LinkToNothing { .. })));
        add(&mut builder, "one", file(9)).unwrap();
        let tree = builder.finish().unwrap();
        assert_eq!((stored(&tree, "one"), stored(&tree, "d/two")), (Some(9), Some(1)));
        assert_eq!(tree.get(tree.find("d/two").unwrap()).unwrap().links, 1);
    }

    #[test]
    fn what_is_below_a_replaced_directory_is_counted_nowhere() {
        let unreadable = || Body::File { size: 9, contents: Contents::Unreadable("is encrypted") };
        let mut builder = TreeBuilder::new(Time::default());
        add(&mut builder, "was/readable", file(1)).unwrap();
        add(&mut builder, "was/secret", unreadable()).unwrap();
        add(&mut builder, "replaced", unreadable()).unwrap();
        builder.link(b"kept", b"was/readable").unwrap();
        add(&mut builder, "was", file(2)).unwrap();
        add(&mut builder, "replaced", file(3)).unwrap();
        add(&mut builder, "a/b/secret", unreadable()).unwrap();
        let tree = builder.finish().unwrap();
        assert_eq!((tree.files, tree.bytes), (4, 12));
        assert_eq!(tree.unreadable, (1, vec![("a/b/secret".to_owned(), "is encrypted")]));
        assert_eq!(tree.get(tree.find("kept").unwrap()).unwrap().links, 1, "its other name is gone");
    }

    #[test]
    fn at_least_the_memory_is_counted_that_is_taken_also_of_chains_of_directories() {
        let taken = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches("kB").trim().parse::<usize>().unwrap() << 10
        };
        // Memory that other tests take meanwhile.
        const OTHERS: usize = 16 << 20;
        let before = taken();
        let mut builder = TreeBuilder::new(Time::default());
        for number in 0..150 {
            add(&mut builder, &format!("{number}{}", "/d".repeat(1000)), directory()).unwrap();
        }
        let counted = builder.held;
        let built = taken().saturating_sub(before);
        let tree = builder.finish().unwrap();
        let finished = taken().saturating_sub(before);
        assert!(tree.len() > 150_000);
        assert!(built.max(finished) < counted + OTHERS, "{built} and {finished} bytes, and {counted} counted");
        assert!(counted < 4 * built, "and no multiple of it: {counted}, {built}");
    }

    #[test]
    fn what_leads_out_or_through_no_directory_is_refused_by_name() {
        let mut builder = TreeBuilder::new(Time::default());
        add(&mut builder, "file", file(1)).unwrap();
        add(&mut builder, "link", Body::Symlink(b"/etc".as_slice().into())).unwrap();
        for path in ["../x", "a/../../x", "a/..", ".."] {
            assert_eq!(add(&mut builder, path, file(1)), Err(ArchiveError::Outside { name: path.to_owned() }));
        }
        for path in ["file/x", "link/x"] {
            assert_eq!(add(&mut builder, path, file(1)), Err(ArchiveError::BelowFile { name: path.to_owned() }));
        }
        for path in ["a\0b".to_owned(), "n".repeat(256), "d/".repeat(2100)] {
            assert!(matches!(add(&mut builder, &path, file(1)), Err(ArchiveError::Name { .. })), "{path}");
        }
        assert_eq!(add(&mut builder, "./", file(1)), Ok(NodeId::ROOT), "the root stays a directory");
        assert!(builder.finish().unwrap().entries(NodeId::ROOT).is_some());
    }

    #[test]
    fn an_archive_of_which_nothing_can_be_read_says_why() {
        let unreadable = || Body::File { size: 9, contents: Contents::Unreadable("is encrypted") };
        let mut builder = TreeBuilder::new(Time::default());
        add(&mut builder, "secret", unreadable()).unwrap();
        let mut other = TreeBuilder::new(Time::default());
        add(&mut other, "secret", unreadable()).unwrap();
        add(&mut other, "public", file(1)).unwrap();
        let told = builder.finish().unwrap_err().to_string();
        assert!(told.contains("secret is encrypted"), "{told}");
        assert_eq!(other.finish().unwrap().unreadable, (1, vec![("secret".to_owned(), "is encrypted")]));
    }
}
