//! The bytes that the demo shares: generated ones need no memory and no disk, and are the same on every machine.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use darter_core::{Digest, DigestHasher};

/// Content that can be read at any offset.
#[derive(Debug)]
pub(super) enum Content {
    /// Incompressible bytes, a function of their offset.
    Generated { length: u64 },
    /// A file's bytes.
    File { file: File, length: u64 },
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// One behind the other.
    Joined(Vec<Content>),
}

impl Content {
    /// Generated content of this length.
    pub(super) const fn generated(length: u64) -> Self {
        Self::Generated { length }
    }

    /// A file's content.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("can't read {}", path.display()))?;
        let found = file.metadata()?;
        if !found.is_file() || found.len() == 0 {
            bail!("{} is not a file with content", path.display());
        }
        Ok(Self::File { file, length: found.len() })
    }

    /// Length in bytes.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Generated { length } | Self::File { length, .. } => *length,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Joined(parts) => parts.iter().map(Self::length).sum(),
        }
    }

    /// Reads exactly `buffer` from `offset`.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Generated { .. } => {
                generate(offset, buffer);
                Ok(())
            }
            Self::File { file, .. } => file.read_exact_at(buffer, offset),
            Self::Bytes(bytes) => {
                let part = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)?.get(..buffer.len()));
                buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::Joined(parts) => read_joined(parts, offset, buffer),
        }
    }

    /// SHA-256 of all of it.
    pub(super) fn digest(&self) -> io::Result<Digest> {
        let mut hasher = DigestHasher::sha256();
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < self.length() {
            let part = &mut buffer[..usize::try_from(self.length() - offset).unwrap_or(usize::MAX).min(1 << 20)];
            self.read_at(offset, part)?;
            hasher.update(part);
            offset += part.len() as u64;
        }
        Ok(hasher.finish())
    }
}

fn read_joined(parts: &[Content], mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    for part in parts {
        let length = part.length();
        if offset < length {
            let count = usize::try_from(length - offset).unwrap_or(usize::MAX).min(buffer.len());
            let (now, later) = buffer.split_at_mut(count);
            part.read_at(offset, now)?;
            (buffer, offset) = (later, 0);
        } else {
            offset -= length;
        }
    }
    if buffer.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// SplitMix64 of each eight bytes' number: any range can be made without what stands before it.
fn generate(offset: u64, buffer: &mut [u8]) {
    let mut number = offset / 8;
    let mut skip = (offset % 8) as usize;
    let mut rest = buffer;
    while !rest.is_empty() {
        let word = splitmix(number).to_le_bytes();
        let count = (8 - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&word[skip..skip + count]);
        rest = later;
        skip = 0;
        number += 1;
    }
}

const fn splitmix(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
