//! A reader of expanded layers that believes nothing: every number is checked against what it may be.

#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(&bytes[at..at + N]);
    u64::from_le_bytes(wide)
}

struct Image<'a> {
    bytes: &'a [u8],
    metadata: usize,
    shared: usize,
    /// How many names each inode has.
    names: BTreeMap<u64, u64>,
}

/// Checks a whole file, and says how many inodes it has.
pub fn check(bytes: &[u8]) -> u64 {
    assert_eq!(bytes.len() % 4096, 0);
    let superblock = &bytes[1024..1152];
    assert_eq!(number::<4>(superblock, 0), 0xe0f5_e1e2);
    assert_eq!(number::<4>(superblock, 36) as usize * 512, bytes.len());
    let metadata = number::<4>(superblock, 40) as usize * 512;
    let shared = number::<4>(superblock, 44) as usize * 512;
    assert!(4096 <= metadata && metadata < shared && shared < bytes.len());
    let mut image = Image { bytes, metadata, shared, names: BTreeMap::new() };
    let root = number::<2>(superblock, 14);
    assert_eq!(root, 2);
    let mut directories = vec![(root, root)];
    let mut seen = BTreeSet::from([root]);
    let mut links = BTreeMap::new();
    while let Some((nid, parent)) = directories.pop() {
        let mut subdirectories = 0;
        for (name, target, kind) in image.directory(nid) {
            match name.as_slice() {
                b"." => assert_eq!(target, nid),
                b".." => assert_eq!(target, parent),
                _ => {
                    assert!(!name.contains(&b'/') && !name.contains(&0) && name.len() <= 255);
                    *image.names.entry(target).or_default() += 1;
                    let is_new = seen.insert(target);
                    let (file_type, count) = image.inode(target);
                    assert_eq!(file_type, [0, 0o10, 0o4, 0o2, 0o6, 0o1, 0, 0o12][kind]);
                    links.insert(target, count);
                    if kind == 2 {
                        assert!(is_new, "a directory has one name");
                        subdirectories += 1;
                        directories.push((target, nid));
                    }
                }
            }
        }
        assert_eq!(image.inode(nid).1, 2 + subdirectories);
        links.remove(&nid);
    }
    for (nid, count) in links {
        assert_eq!(image.names[&nid], count);
    }
    assert_eq!(number::<8>(superblock, 16), seen.len() as u64);
    seen.len() as u64
}

impl Image<'_> {
    fn at(&self, nid: u64) -> usize {
        let at = self.metadata + nid as usize * 32;
        assert!(at >= self.metadata + 64 && at + 64 <= self.shared, "an inode is behind its area");
        assert!(at % 512 <= 448, "an inode crosses a block's end");
        at
    }

    /// An inode's type and how often it is linked, after checking all that it points at.
    fn inode(&self, nid: u64) -> (u64, u64) {
        let at = self.at(nid);
        let (format, count) = (number::<2>(self.bytes, at), number::<2>(self.bytes, at + 2));
        let mode = number::<2>(self.bytes, at + 4);
        let size = number::<8>(self.bytes, at + 8) as usize;
        let address = number::<4>(self.bytes, at + 16);
        assert!(number::<4>(self.bytes, at + 40) < 1_000_000_000);
        self.attributes(at + 64, count as usize);
        if matches!(mode >> 12, 0o10 | 0o4 | 0o12) {
            let behind = self.behind(at);
            match format {
                1 => assert!(size == 0 || address as usize * 512 + size <= self.bytes.len()),
                5 => {
                    let tail = size % 512;
                    assert!((1..=448).contains(&tail) && behind % 512 + tail <= 512);
                    let is_short_link = mode >> 12 == 0o12 && size < 512;
                    assert!(!is_short_link || at % 512 + (behind - at) + tail <= 512, "older kernels refuse this link");
                    assert!(size < 512 || address as usize * 512 + (size - tail) <= self.bytes.len());
                }
                9 => {
                    let bits = 9 + address;
                    let chunks = (size as u64).div_ceil(1 << bits);
                    assert!(behind + chunks as usize * 4 <= self.shared);
                    for chunk in 0..chunks {
                        let block = number::<4>(self.bytes, behind + chunk as usize * 4);
                        let length = (size as u64 - (chunk << bits)).min(1 << bits);
                        assert!(block == 0xffff_ffff || block * 512 + length <= self.bytes.len() as u64);
                    }
                }
                other => panic!("format {other}"),
            }
        }
        (mode >> 12, number::<4>(self.bytes, at + 44))
    }

    fn behind(&self, at: usize) -> usize {
        let count = number::<2>(self.bytes, at + 2) as usize;
        at + 64 + if count == 0 { 0 } else { 12 + (count - 1) * 4 }
    }

    fn attributes(&self, at: usize, count: usize) {
        if count == 0 {
            return;
        }
        let end = at + 12 + (count - 1) * 4;
        assert!(count > 1 && end <= self.shared);
        let shared = usize::from(self.bytes[at + 4]);
        for index in 0..shared {
            let entry = self.shared + number::<4>(self.bytes, at + 12 + index * 4) as usize * 4;
            assert!(entry + 512 <= self.bytes.len());
            self.attribute(entry);
        }
        let mut next = at + 12 + shared * 4;
        while next < end {
            next = self.attribute(next);
        }
        assert_eq!(next, end);
    }

    fn attribute(&self, at: usize) -> usize {
        let (name, namespace) = (usize::from(self.bytes[at]), self.bytes[at + 1]);
        assert!(matches!(namespace, 1..=4 | 6));
        (at + 4 + name + number::<2>(self.bytes, at + 2) as usize).next_multiple_of(4)
    }

    /// Names, nids and kinds of a directory.
    fn directory(&self, nid: u64) -> Vec<(Vec<u8>, u64, usize)> {
        let at = self.at(nid);
        let (format, size) = (number::<2>(self.bytes, at), number::<8>(self.bytes, at + 8) as usize);
        let first = number::<4>(self.bytes, at + 16) as usize * 512;
        let mut all: Vec<(Vec<u8>, u64, usize)> = Vec::new();
        for begin in (0..size).step_by(512) {
            let length = (size - begin).min(512);
            let from = if format == 5 && length < 512 { self.behind(at) } else { first + begin };
            let block = &self.bytes[from..from + length];
            let count = number::<2>(block, 8) as usize / 12;
            for index in 0..count {
                let entry = index * 12;
                let name_at = number::<2>(block, entry + 8) as usize;
                let end = if index + 1 < count { number::<2>(block, entry + 20) as usize } else { length };
                let name = &block[name_at..end];
                // In a block that is not the last one, zeros may follow.
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                assert!(!name.is_empty());
                assert!(all.last().is_none_or(|last| last.0.as_slice() < name), "names are in order");
                all.push((name.to_vec(), number::<8>(block, entry), usize::from(block[entry + 10])));
            }
        }
        all
    }
}
