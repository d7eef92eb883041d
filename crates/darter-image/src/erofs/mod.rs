//! The format on the disk: EROFS, written for this one purpose.
//!
//! Facts from the kernel's documentation (<https://docs.kernel.org/filesystems/erofs.html>) and `fs/erofs/erofs_fs.h`. All numbers are
//! little-endian, blocks are 512 bytes, and addresses are blocks of the whole file.
//!
//! | bytes of the file | what |
//! |---|---|
//! | 0..1024 | zeros |
//! | 1024..1152 | superblock ([`superblock`]) |
//! | 1152..4096 | zeros |
//! | 4096..4096 + T | the tar, of T bytes |
//! | up to the next multiple of 512 | zeros: here `meta_blkaddr` points, from where inodes are counted |
//! | 64 bytes | head of the metadata: below |
//! | inodes | each at a multiple of 32 bytes from the metadata's beginning, its number (nid) being that multiple; the root is nid 2 |
//! | from the next multiple of 512 | shared extended attributes ([`xattrs`]), at `xattr_blkaddr` |
//! | from the next multiple of 512 | whole blocks of directories and long symbolic links, in the order of inodes |
//! | from there | copied blocks of sparse files |
//! | up to a multiple of 4096 of the file | zeros, at least 512 |
//!
//! The metadata's head is Darter's own; EROFS leaves that place alone:
//!
//! | bytes | what |
//! |---|---|
//! | 0..12 | `darter-erofs` |
//! | 12..16 | version of this layout and of what `tree` makes of a tar, now 2 |
//! | 16..24, 24..32 | length of the tar, and of the metadata |
//! | 32..64 | first 32 bytes of the tar's digest |
//!
//! Every inode is an extended one, 64 bytes:
//!
//! | bytes | field | here |
//! |---|---|---|
//! | 0..2 | `i_format` | 1 (extended), and in bits 1..4 the layout: 0 plain, 2 inline, 4 chunks |
//! | 2..4 | `i_xattr_icount` | 0, or 1 + (bytes of extended attributes - 12) / 4 |
//! | 4..6 | `i_mode` | type and permissions |
//! | 8..16 | `i_size` | |
//! | 16..20 | `i_u` | first block, device number, or of chunks their size as a power of two of blocks |
//! | 20..24 | `i_ino` | its place among all inodes, from 1 |
//! | 24..28, 28..32 | `i_uid`, `i_gid` | |
//! | 32..40, 40..44 | `i_mtime`, `i_mtime_nsec` | |
//! | 44..48 | `i_nlink` | |
//! | 48 | reserved, and read by nobody else | of a directory: 0, or 1 if no member names it, 2 if one does after what is in it |
//!
//! Behind it are its extended attributes and then, in the inline layout, the last part of its content, which crosses no block's end; in the chunk
//! layout four bytes for each chunk: its first block, or 2^32 - 1 for a hole.
//!
//! Files are plain, their first block is in the tar; sparse ones are chunks. Directories and symbolic links are inline where their last
//! part is 448 bytes or fewer; the root only if it fits behind its inode without moving that, and a link of fewer than 512 bytes only in
//! its inode's own block. The order of inodes is that of a walk by breadth, names sorted as bytes, so that what one directory holds
//! is side by side.

mod directory;
mod place;
mod superblock;
mod xattrs;

#[cfg(test)]
mod tests;

use std::ops::Range;

use darter_core::Digest;

use self::place::{Layout, Placed, Plan};
use self::xattrs::Attributes;
use crate::chunks::HOLE;
use crate::reason::Reason;
use crate::tree::{Body, FileBytes, Tree};

/// The offset of the tar in the file. The bytes before it are written last.
pub const TAR_START: u64 = 4096;

/// The offset of the metadata in the file, behind a tar of `tar_length` bytes.
pub const fn metadata_start(tar_length: u64) -> u64 {
    (TAR_START + tar_length).next_multiple_of(BLOCK as u64)
}

/// The version of the file's layout, and of what containerd's rules make of a tar's members. Another version is another file.
pub const FORMAT: u32 = 2;

/// The unit of addresses.
pub(crate) const BLOCK: usize = 512;

/// Nids are counted in this unit.
pub(crate) const SLOT: usize = 32;

/// The bytes of an inode.
pub(crate) const INODE: usize = 64;

/// The byte of an inode that says how the members name a directory.
pub(crate) const NAMING: usize = 48;

/// The bytes of the metadata's head.
pub(crate) const HEAD: usize = 64;

/// The most bytes at a content's end that stand behind its inode: with that they fill a block.
const MAX_INLINE: usize = BLOCK - INODE;

/// The file's length is a multiple of this, as pages are.
const FILE_UNIT: u64 = 4096;

pub(crate) const MAGIC: &[u8; 12] = b"darter-erofs";

/// The bytes of the metadata's head that hold the tar's length.
pub(crate) const TAR_LENGTH: Range<usize> = 16..24;

/// The bytes of the file that hold the number of the metadata's first block.
pub(crate) const META_ADDRESS: Range<usize> = superblock::START + 40..superblock::START + 44;

/// The bytes of the file that hold the number of the first block of shared attributes.
pub(crate) const SHARED_ADDRESS: Range<usize> = superblock::START + 44..superblock::START + 48;

/// The parts that are written.
pub(crate) struct Written {
    pub(crate) superblock: Box<[u8; TAR_START as usize]>,
    pub(crate) metadata: Vec<u8>,
    pub(crate) inodes: u64,
}

/// Bytes of known length, which are written in places.
struct Page(Vec<u8>);

impl Page {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_le_bytes());
    }
}

/// Writes the file system of a tree whose files are in a tar of this length and digest.
pub(crate) fn write(tree: &mut Tree, tar_length: u64, diff_id: &Digest) -> Result<Written, Reason> {
    let attributes = Attributes::of(tree)?;
    let plan = Plan::of(tree, &attributes, tar_length)?;
    let mut page = Page(vec![0; plan.length]);
    page.put(0, MAGIC);
    page.put32(12, FORMAT);
    page.put64(TAR_LENGTH.start, tar_length);
    page.put64(24, plan.length as u64);
    let identity = &diff_id.value()[..32];
    page.put(32, identity);
    for (index, placed) in plan.inodes.iter().enumerate() {
        write_inode(&mut page, tree, &plan, &attributes, index, placed);
    }
    attributes.write_shared(&mut page, tree, plan.shared);
    page.put(plan.copied, &tree.copied);
    let has_chunks = plan.inodes.iter().any(|placed| placed.layout == Layout::Chunks);
    let superblock = superblock::write(&plan, identity, has_chunks);
    Ok(Written { superblock, metadata: page.0, inodes: plan.inodes.len() as u64 })
}

fn write_inode(page: &mut Page, tree: &Tree, plan: &Plan, attributes: &Attributes, index: usize, placed: &Placed) {
    let node = tree.node(placed.node);
    let xattrs = attributes.size(placed.node);
    let at = placed.at;
    page.put16(at, 1 | (placed.layout as u16) << 1);
    if xattrs > 0 {
        page.put16(at + 2, ((xattrs - xattrs::HEAD) / 4 + 1) as u16);
    }
    page.put16(at + 4, node.file_type() | node.mode);
    page.put64(at + 8, placed.size);
    page.put32(at + 16, placed.address);
    page.put32(at + 20, index as u32 + 1);
    page.put32(at + 24, node.uid);
    page.put32(at + 28, node.gid);
    page.put64(at + 32, node.mtime.seconds.cast_unsigned());
    page.put32(at + 40, node.mtime.nanos);
    page.put32(at + 44, placed.links);
    page.put(at + NAMING, &[node.naming as u8]);
    attributes.write_inode(page, tree, placed.node, at + INODE);
    let behind = at + INODE + xattrs;
    match &node.body {
        Body::Directory(entries) => {
            let parent = plan.nid(placed.parent);
            let dirents = directory::Dirents::new(entries, plan.nid(placed.node), parent);
            let mut block = placed.blocks;
            for dirents in dirents.blocks() {
                let is_last_inline = placed.layout == Layout::Inline && block == placed.blocks + placed.inline_from();
                let to = if is_last_inline { behind } else { block };
                directory::write(page, to, dirents, |id| (plan.nid(id), tree.node(id).file_type()));
                block += BLOCK;
            }
        }
        Body::Symlink(target) => {
            let from = if placed.layout == Layout::Inline { placed.inline_from() } else { target.len() };
            page.put(placed.blocks, &target[..from]);
            page.put(behind, &target[from..]);
        }
        Body::File { content: FileBytes::Chunks(chunks), .. } => {
            let first = behind.next_multiple_of(4);
            for (chunk, block) in chunks.map.iter().enumerate() {
                let block = if *block == HOLE { HOLE } else { block + (TAR_START as usize / BLOCK) as u32 };
                page.put32(first + chunk * 4, block);
            }
            for (chunk, block) in &chunks.copied {
                page.put32(first + chunk * 4, plan.block_of(plan.copied) + block);
            }
        }
        Body::File { .. } | Body::Char(_) | Body::Block(_) | Body::Fifo => {}
    }
}
