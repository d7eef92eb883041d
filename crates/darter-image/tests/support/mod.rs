//! Helpers that tests of this crate share.

#![allow(dead_code, unreachable_pub)]

pub mod drawn;
pub mod read;
pub mod tar;
pub mod walk;

use darter_core::Digest;
use darter_image::{Expander, Reason, metadata_start};

/// The file that a tar becomes, when it comes in chunks of this size.
pub fn expand_by(tar: &[u8], chunk: usize) -> Result<Vec<u8>, Reason> {
    let mut expander = Expander::new();
    for chunk in tar.chunks(chunk) {
        expander.push(chunk)?;
    }
    let expanded = expander.finish(&Digest::sha256(tar))?;
    let mut file = expanded.superblock.to_vec();
    file.extend_from_slice(tar);
    file.resize(metadata_start(expanded.tar_length) as usize, 0);
    file.extend_from_slice(&expanded.metadata);
    assert_eq!(file.len() as u64, expanded.length());
    Ok(file)
}

/// The same in chunks of an odd size.
pub fn expand(tar: &[u8]) -> Result<Vec<u8>, Reason> {
    expand_by(tar, 4093)
}
