//! The superblock, at byte 1024.
//!
//! | bytes | field | here |
//! |---|---|---|
//! | 0..4, 4..8 | magic, checksum | `e2 e1 f5 e0`; CRC-32C of bytes 1024..1536 with zeros in the checksum's place, not inverted at the end |
//! | 8..12 | `feature_compat` | 3: a checksum, and times of inodes are mtimes |
//! | 12 | `blkszbits` | 9 |
//! | 14..16 | `root_nid` | 2 |
//! | 16..24 | `inos` | how many inodes there are |
//! | 36..40 | `blocks` | how long the file is |
//! | 40..44, 44..48 | `meta_blkaddr`, `xattr_blkaddr` | |
//! | 48..64 | `uuid` | from the tar's digest, of version 8: overlayfs wants layers to have different ones |
//! | 80..84 | `feature_incompat` | 4 (chunks) if there is a sparse file, else 0 |
//!
//! All else is zero; above all there are no further devices.

use super::TAR_START;
use super::place::Plan;
use super::{BLOCK, HEAD, SLOT};

pub(super) const START: usize = 1024;
const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT: u32 = 3;
const CHUNKS: u32 = 4;

pub(super) fn write(plan: &Plan, identity: &[u8], has_chunks: bool) -> Box<[u8; TAR_START as usize]> {
    let mut page = Box::new([0; TAR_START as usize]);
    let mut put = |at: usize, bytes: &[u8]| page[START + at..][..bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_le_bytes());
    put(8, &COMPAT.to_le_bytes());
    put(12, &[BLOCK.trailing_zeros() as u8]);
    put(14, &((HEAD / SLOT) as u16).to_le_bytes());
    put(16, &(plan.inodes.len() as u64).to_le_bytes());
    put(36, &plan.block_of(plan.length).to_le_bytes());
    put(40, &plan.first_block.to_le_bytes());
    put(44, &plan.block_of(plan.shared).to_le_bytes());
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&identity[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    put(48, &uuid);
    put(80, &if has_chunks { CHUNKS } else { 0 }.to_le_bytes());
    let checksum = crc32c(&page[START..START + BLOCK]);
    page[START + 4..START + 8].copy_from_slice(&checksum.to_le_bytes());
    page
}

/// CRC-32C, from all ones, without the inversion at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    /// Castagnoli's polynomial, bits reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
        }
    }
    crc
}
