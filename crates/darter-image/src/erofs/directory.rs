//! Blocks of directories: for each entry 12 bytes (nid, 8; where its name begins, 2; type, 1; nothing, 1), then the names. Entries are sorted
//! by name as bytes, `.` and `..` among them, over all blocks of a directory. The first name begins where the entries end, and the last
//! one ends with the block or at a zero byte.

use std::collections::BTreeMap;

use super::{BLOCK, Page};
use crate::tree::NodeId;

/// The bytes of one entry, without its name.
const ENTRY: usize = 12;

/// An entry: its name, and the inode that it names or that is known already.
pub(super) struct Dirent<'a> {
    name: &'a [u8],
    target: Target,
}

#[derive(Clone, Copy)]
enum Target {
    Node(NodeId),
    /// A directory.
    Nid(u64),
}

/// All entries of a directory, in order.
pub(super) struct Dirents<'a>(Vec<Dirent<'a>>);

impl<'a> Dirents<'a> {
    pub(super) fn new(entries: &'a BTreeMap<Box<[u8]>, NodeId>, own: u64, parent: u64) -> Self {
        let dots = [(b".".as_slice(), own), (b"..".as_slice(), parent)];
        let dots = dots.map(|(name, nid)| Dirent { name, target: Target::Nid(nid) });
        let named = entries.iter().map(|(name, id)| Dirent { name, target: Target::Node(*id) });
        let mut all: Vec<_> = named.chain(dots).collect();
        all.sort_unstable_by_key(|dirent| dirent.name);
        Self(all)
    }

    /// The entries of each block.
    pub(super) fn blocks(&self) -> Vec<&[Dirent<'a>]> {
        let mut blocks = Vec::new();
        let mut rest = self.0.as_slice();
        while !rest.is_empty() {
            let mut filled = 0;
            let fitting = rest.iter().take_while(|dirent| {
                filled += ENTRY + dirent.name.len();
                filled <= BLOCK
            });
            // One always fits: names are at most 255 bytes.
            let (block, behind) = rest.split_at(fitting.count().max(1));
            blocks.push(block);
            rest = behind;
        }
        blocks
    }

    /// How long a directory with these names, which are sorted, is.
    pub(super) fn size<'n>(names: impl Iterator<Item = &'n [u8]>) -> usize {
        let mut dots = [b".".as_slice(), b".."].into_iter().peekable();
        let mut full = 0;
        let mut filled = 0;
        let mut add = |name: &[u8]| {
            let length = ENTRY + name.len();
            if filled + length > BLOCK {
                full += BLOCK;
                filled = 0;
            }
            filled += length;
            full + filled
        };
        let mut size = 0;
        for name in names {
            while dots.peek().is_some_and(|dot| *dot < name) {
                size = dots.next().map_or(size, &mut add);
            }
            size = add(name);
        }
        dots.fold(size, |_, dot| add(dot))
    }
}

/// Writes a block's entries at `at`. `inode` gives a node's nid and the type bits of its mode.
pub(super) fn write(page: &mut Page, at: usize, block: &[Dirent<'_>], inode: impl Fn(NodeId) -> (u64, u16)) {
    let mut name_at = block.len() * ENTRY;
    for (index, dirent) in block.iter().enumerate() {
        let (nid, file_type) = match dirent.target {
            Target::Node(id) => inode(id),
            Target::Nid(nid) => (nid, 0o040_000),
        };
        let entry = at + index * ENTRY;
        page.put64(entry, nid);
        page.put16(entry + 8, name_at as u16);
        page.put(entry + 10, &[kind(file_type)]);
        page.put(at + name_at, dirent.name);
        name_at += dirent.name.len();
    }
}

/// A type as entries say it.
const fn kind(file_type: u16) -> u8 {
    match file_type {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o120_000 => 7,
        _ => 0,
    }
}
