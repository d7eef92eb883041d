//! The places of inodes and their contents: the order of inodes, how often each is linked, what stands behind it and what in whole blocks.

use std::collections::VecDeque;

use super::directory::Dirents;
use super::xattrs::Attributes;
use super::{BLOCK, FILE_UNIT, HEAD, INODE, MAX_INLINE, SLOT, TAR_START, metadata_start};
use crate::limits::MAX_HELD;
use crate::reason::Reason;
use crate::tree::{Body, FileBytes, NodeId, Tree};

/// Addresses have 32 bits, and the last one says that nothing is there.
const FILE: Reason = Reason::TooLarge { what: "its tar and its metadata are longer than 2 TiB" };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Plain = 0,
    Inline = 2,
    Chunks = 4,
}

/// An inode, and where it goes.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) node: NodeId,
    /// For a directory the directory that it is in.
    pub(super) parent: NodeId,
    pub(super) links: u32,
    /// The inode's offset in the metadata.
    pub(super) at: usize,
    pub(super) layout: Layout,
    pub(super) size: u64,
    /// The inode's `i_u` field: where the data is.
    pub(super) address: u32,
    /// The offset of its whole blocks in the metadata.
    pub(super) blocks: usize,
}

impl Placed {
    /// How many bytes of the content of an inline inode are in whole blocks.
    pub(super) const fn inline_from(&self) -> usize {
        let size = self.size as usize;
        size - size % BLOCK
    }

    /// How many bytes its whole blocks take.
    fn in_blocks(&self) -> usize {
        match self.layout {
            Layout::Plain => (self.size as usize).next_multiple_of(BLOCK),
            Layout::Inline => self.inline_from(),
            Layout::Chunks => 0,
        }
    }
}

/// The places of everything in the file.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) inodes: Vec<Placed>,
    /// For each node its place in `inodes`.
    index: Vec<u32>,
    /// Which block of the file the metadata begins with.
    pub(super) first_block: u32,
    /// The offsets of shared attributes and of copied blocks in the metadata.
    pub(super) shared: usize,
    pub(super) copied: usize,
    /// How long the metadata is.
    pub(super) length: usize,
}

const NOWHERE: u32 = u32::MAX;

impl Plan {
    pub(super) fn of(tree: &Tree, attributes: &Attributes, tar_length: u64) -> Result<Self, Reason> {
        let start = metadata_start(tar_length);
        let first_block = u32::try_from(start / BLOCK as u64).map_err(|_| FILE)?;
        let mut plan = Self {
            inodes: Vec::new(),
            index: vec![NOWHERE; tree.nodes()],
            first_block,
            shared: 0,
            copied: 0,
            length: 0,
        };
        plan.walk(tree);
        let mut at = HEAD;
        for placed in &mut plan.inodes {
            at = held(place(placed, tree, attributes.size(placed.node), at))?;
        }
        plan.shared = at.next_multiple_of(BLOCK);
        let mut at = held((plan.shared + attributes.shared_bytes()).next_multiple_of(BLOCK))?;
        for placed in &mut plan.inodes {
            if matches!(tree.node(placed.node).body, Body::Directory(_) | Body::Symlink(_)) {
                placed.blocks = at;
                let address = first_block as usize + at / BLOCK;
                placed.address = u32::try_from(address).map_err(|_| FILE)?;
                at = held(at + placed.in_blocks())?;
            }
        }
        plan.copied = at;
        held(at + tree.copied.len())?;
        // Some readers read shared attributes by the block from where each begins.
        let end = start + (at + tree.copied.len() + BLOCK) as u64;
        let end = end.next_multiple_of(FILE_UNIT);
        if end / BLOCK as u64 >= u64::from(u32::MAX) {
            return Err(FILE);
        }
        plan.length = (end - start) as usize;
        Ok(plan)
    }

    /// Puts all inodes that have a name in order, by breadth, and counts their names.
    fn walk(&mut self, tree: &Tree) {
        self.add(NodeId::ROOT, NodeId::ROOT);
        let mut directories = VecDeque::from([NodeId::ROOT]);
        while let Some(directory) = directories.pop_front() {
            let Body::Directory(entries) = &tree.node(directory).body else { continue };
            let mut subdirectories = 0;
            for id in entries.values() {
                if self.index[id.index()] == NOWHERE {
                    self.add(*id, directory);
                }
                if matches!(tree.node(*id).body, Body::Directory(_)) {
                    subdirectories += 1;
                    directories.push_back(*id);
                } else {
                    self.placed_mut(*id).links += 1;
                }
            }
            // A directory's links: its name, its `.`, and each `..` in it.
            self.placed_mut(directory).links = 2 + subdirectories;
        }
    }

    fn add(&mut self, node: NodeId, parent: NodeId) {
        self.index[node.index()] = self.inodes.len() as u32;
        let placed = Placed { node, parent, links: 0, at: 0, layout: Layout::Plain, size: 0, address: 0, blocks: 0 };
        self.inodes.push(placed);
    }

    fn placed_mut(&mut self, node: NodeId) -> &mut Placed {
        let index = self.index[node.index()];
        &mut self.inodes[index as usize]
    }

    /// The number of a node's inode.
    pub(super) fn nid(&self, node: NodeId) -> u64 {
        let index = self.index[node.index()];
        (self.inodes[index as usize].at / SLOT) as u64
    }

    /// The block of the file in which a place of the metadata is.
    pub(super) const fn block_of(&self, at: usize) -> u32 {
        self.first_block + (at / BLOCK) as u32
    }
}

/// Gives an end of the metadata back, unless that is more than may be held. Sizes that are added at a time are bounded, so that no sum
/// overflows.
const fn held(end: usize) -> Result<usize, Reason> {
    if end > MAX_HELD { Err(Reason::TooLarge { what: "its metadata is longer than 512 MiB" }) } else { Ok(end) }
}

/// Places an inode at `at` or behind it, and says where the next one may begin.
fn place(placed: &mut Placed, tree: &Tree, xattrs: usize, at: usize) -> usize {
    let node = tree.node(placed.node);
    let mut chunk_map = 0;
    // The end of the content that may stand behind the inode.
    let tail = match &node.body {
        Body::Directory(entries) => {
            placed.size = Dirents::size(entries.keys().map(|name| &**name)) as u64;
            placed.size as usize % BLOCK
        }
        Body::Symlink(target) => {
            placed.size = target.len() as u64;
            target.len() % BLOCK
        }
        Body::File { size, content } => {
            placed.size = *size;
            match content {
                FileBytes::Tar(offset) if *size > 0 => placed.address = ((TAR_START + offset) / BLOCK as u64) as u32,
                FileBytes::Tar(_) => {}
                FileBytes::Chunks(chunks) => {
                    placed.layout = Layout::Chunks;
                    placed.address = chunks.bits - BLOCK.trailing_zeros();
                    chunk_map = chunks.map.len() * 4;
                }
            }
            0
        }
        Body::Char(number) | Body::Block(number) => {
            placed.address = *number;
            0
        }
        Body::Fifo => 0,
    };
    // No inode crosses a block's end, and neither does a tail.
    let fits = |at: &usize, tail: usize| at % BLOCK + INODE <= BLOCK && (at + INODE + xattrs) % BLOCK + tail <= BLOCK;
    // Older kernels want a symbolic link that is shorter than a block in its inode's own block, and call it corrupted elsewhere.
    let is_short_link = matches!(node.body, Body::Symlink(_)) && placed.size < BLOCK as u64;
    let fits_inline = |at: &usize| fits(at, tail) && !(is_short_link && at % BLOCK + INODE + xattrs + tail > BLOCK);
    // The superblock says where the root is.
    let slots = if placed.node == NodeId::ROOT { 1 } else { BLOCK / SLOT };
    let mut places = (at..).step_by(SLOT).take(slots);
    let inline = if (1..=MAX_INLINE).contains(&tail) { places.clone().find(fits_inline) } else { None };
    let (begin, behind) = match inline {
        Some(begin) => {
            placed.layout = Layout::Inline;
            (begin, tail)
        }
        None => (places.find(|at| fits(at, 0)).unwrap_or(at), chunk_map),
    };
    placed.at = begin;
    (begin + INODE + xattrs + behind).next_multiple_of(SLOT)
}
