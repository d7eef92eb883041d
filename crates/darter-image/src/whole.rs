//! The whole file: made of a layer as it is read, and checked against what would be made of the tar in it.
//!
//! The caller keeps the bytes: they are given and taken by offset.

use std::io::Read;

use darter_core::{Digest, DigestHasher};

use crate::erofs::{BLOCK, FORMAT, HEAD, MAGIC, META_ADDRESS, TAR_LENGTH, TAR_START, metadata_start};
use crate::expand::{Expanded, Expander};
use crate::layer::{LayerDigests, LayerError, LayerReader};
use crate::reason::Reason;

/// How many bytes are taken at a time.
const CHUNK: usize = 128 << 10;

/// Reads a `stored` layer and passes the file to `write` in parts: the tar as it arrives, then the metadata after it, then the superblock before it.
///
/// If the digest of the stored bytes is `known`, because the caller computes it, they are not hashed here. Once all of the layer was read, and before the
/// file is completed, `check` decides by the digests of the stored bytes and of the tar whether it is the right layer; if the layer can't be decompressed
/// to a tar, by the first digest alone. `goes_on` is told how many stored bytes were read.
///
/// # Errors
/// The errors of the caller's own functions; otherwise the reason why the layer can't be read or expressed. A layer that can't be expressed is first read
/// to its end and checked: it may be another layer, or damaged on its way.
pub fn expand_layer<E: From<LayerError>>(
    stored: impl Read,
    known: Option<Digest>,
    mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    check: impl FnOnce(&Digest, Option<&Digest>) -> Result<(), E>,
    mut goes_on: impl FnMut(u64),
) -> Result<(LayerDigests, Expanded), E> {
    let (mut reader, unreadable) = LayerReader::begin(stored, known)?;
    let mut expander = Expander::new();
    let mut chunk = vec![0; CHUNK];
    let mut at = TAR_START;
    let mut failed = unreadable.map(LayerError::from);
    while failed.is_none() {
        let pushed = reader.next(&mut chunk).and_then(|read| {
            expander.push(&chunk[..read])?;
            Ok(read)
        });
        match pushed {
            Ok(0) => break,
            Ok(read) => {
                write(at, &chunk[..read])?;
                at += read as u64;
                goes_on(reader.stored_length());
            }
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        if !matches!(error, LayerError::Read(_)) {
            check(&reader.digest_to_end()?, None)?;
        }
        return Err(error.into());
    }
    let digests = reader.finish()?;
    check(&digests.stored, Some(&digests.tar))?;
    let expanded = expander.finish(&digests.tar).map_err(LayerError::from)?;
    // Up to where the metadata begins there are zeros, which may be a hole.
    write(metadata_start(expanded.tar_length), &expanded.metadata)?;
    write(0, &*expanded.superblock)?;
    Ok((digests, expanded))
}

/// The offset of the metadata in a file that begins with `beginning`, as its superblock says; `None` if these bytes are too few.
pub fn metadata_at(beginning: &[u8]) -> Option<u64> {
    beginning.get(META_ADDRESS).map(|address| number(address) * BLOCK as u64)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Why a file is not what this release makes of the tar that it is said to hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotExpanded<E> {
    /// The file can't be read.
    #[error("can't read it")]
    Read(#[source] E),
    /// The tar in it is another one.
    #[error("it holds another tar, with the digest {got}")]
    OtherTar {
        /// The digest that the tar in it has.
        got: Box<Digest>,
    },
    /// The tar can't be expressed.
    #[error("its tar can't be made mountable")]
    Reason(#[source] Reason),
    /// The file has other bytes than are made of that tar.
    #[error("it has other bytes than are made of its tar: {0}")]
    Otherwise(&'static str),
}

/// Makes what belongs before and behind the tar in a file of this length once more, and compares.
///
/// # Errors
/// [`NotExpanded`].
pub fn check_expanded<E>(
    length: u64,
    diff_id: &Digest,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<(), NotExpanded<E>> {
    let mut read = |offset, buffer: &mut [u8]| read(offset, buffer).map_err(NotExpanded::Read);
    let mut superblock = Box::new([0; TAR_START as usize]);
    if length < TAR_START {
        return Err(NotExpanded::Otherwise("it is too short"));
    }
    read(0, &mut superblock[..])?;
    let metadata_at = metadata_at(&superblock[..]).unwrap_or_default();
    let mut head = [0; HEAD];
    if metadata_at < TAR_START || metadata_at + HEAD as u64 > length {
        return Err(NotExpanded::Otherwise("its superblock points past its end"));
    }
    read(metadata_at, &mut head)?;
    if &head[..MAGIC.len()] != MAGIC || number(&head[MAGIC.len()..MAGIC.len() + 4]) != u64::from(FORMAT) {
        return Err(NotExpanded::Otherwise("it is of another format"));
    }
    let tar_length = number(&head[TAR_LENGTH]);
    if tar_length > length || metadata_start(tar_length) != metadata_at {
        return Err(NotExpanded::Otherwise("its superblock does not point behind its tar"));
    }

    let (mut expander, mut hasher) = (Expander::new(), DigestHasher::sha256());
    let mut chunk = vec![0; CHUNK];
    let mut left = tar_length;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        read(TAR_START + (tar_length - left), &mut chunk[..part])?;
        hasher.update(&chunk[..part]);
        // The reason is told at the end: another tar is worse.
        let _ = expander.push(&chunk[..part]);
        left -= part as u64;
    }
    let got = hasher.finish();
    if got != *diff_id {
        return Err(NotExpanded::OtherTar { got: Box::new(got) });
    }
    let expanded = expander.finish(diff_id).map_err(NotExpanded::Reason)?;
    if expanded.superblock != superblock {
        return Err(NotExpanded::Otherwise("its superblock"));
    }
    if expanded.length() != length {
        return Err(NotExpanded::Otherwise("its length"));
    }
    let behind_tar = TAR_START + tar_length;
    let gap = usize::try_from(metadata_at - behind_tar).unwrap_or_default().min(CHUNK);
    read(behind_tar, &mut chunk[..gap])?;
    if chunk[..gap].iter().any(|byte| *byte != 0) {
        return Err(NotExpanded::Otherwise("what fills the block behind the tar"));
    }
    let mut at = metadata_at;
    for made in expanded.metadata.chunks(CHUNK) {
        read(at, &mut chunk[..made.len()])?;
        if chunk[..made.len()] != *made {
            return Err(NotExpanded::Otherwise("its metadata"));
        }
        at += made.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::building;

    /// A tar of one file, with some zeros more at its end.
    fn tar(name: &str, trailing: usize) -> Vec<u8> {
        let mut tar = building::tar::tar([building::tar::file(name, [7; 600])]);
        tar.resize(tar.len() + trailing, 0);
        tar
    }

    fn made_of(tar: &[u8]) -> (Vec<u8>, Digest) {
        let mut file = Vec::new();
        let write = |at: u64, bytes: &[u8]| {
            let (at, end) = (at as usize, at as usize + bytes.len());
            file.resize(file.len().max(end), 0);
            file[at..end].copy_from_slice(bytes);
            Ok::<_, LayerError>(())
        };
        let (digests, expanded) = expand_layer(tar, None, write, |_, _| Ok(()), |_| ()).unwrap();
        assert_eq!(expanded.length(), file.len() as u64);
        (file, digests.tar)
    }

    fn checked(file: &[u8], diff_id: &Digest) -> Result<(), NotExpanded<Infallible>> {
        check_expanded(file.len() as u64, diff_id, |at, buffer| {
            buffer.copy_from_slice(&file[at as usize..][..buffer.len()]);
            Ok(())
        })
    }

    #[test]
    fn what_is_made_of_a_layer_is_found_right_and_each_other_byte_wrong() {
        // Of a length that fills no block, too.
        for trailing in [0, 3] {
            let (file, diff_id) = made_of(&tar("a", trailing));
            checked(&file, &diff_id).unwrap();
            for at in (0..file.len()).step_by(37).chain([file.len() - 1]) {
                let mut wrong = file.clone();
                wrong[at] ^= 1;
                let told = checked(&wrong, &diff_id).unwrap_err();
                let in_tar = (TAR_START..TAR_START + 2560).contains(&(at as u64));
                assert!(!in_tar || matches!(told, NotExpanded::OtherTar { .. }), "{at}: {told}");
            }
            for length in [0, 100, 4096, file.len() - 4096] {
                assert!(checked(&file[..length], &diff_id).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn a_right_file_of_another_tar_is_another_tar() {
        let (file, own) = made_of(&tar("a", 0));
        let (_, other) = made_of(&tar("b", 0));
        let told = checked(&file, &other).unwrap_err();
        assert!(matches!(&told, NotExpanded::OtherTar { got } if **got == own), "{told}");
    }

    #[test]
    fn what_can_not_be_expressed_is_checked_by_the_digest_of_all_of_it() {
        let mut packed = zstd::bulk::compress(&tar("a", 300_000), 1).unwrap();
        packed.truncate(packed.len() - 3);
        let gzipped = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
            std::io::Write::write_all(&mut encoder, &tar("a", 300_000)).unwrap();
            encoder.finish().unwrap()
        };
        let damaged = |stored: &[u8]| {
            let mut damaged = stored.to_vec();
            damaged[stored.len() / 2] ^= 0x40;
            damaged
        };
        let page = format!("<html>{}</html>", "log in ".repeat(100_000)).into_bytes();
        let cut = gzipped[..gzipped.len() - 9].to_vec();
        let xz = [&b"\xfd7zXZ\0"[..], &[7; 200_000]].concat();
        for stored in [packed, damaged(&gzipped), cut, page, xz] {
            let mut seen = None;
            let check = |digest: &Digest, tar: Option<&Digest>| {
                seen = Some((*digest, tar.is_some()));
                Ok::<_, LayerError>(())
            };
            let error = expand_layer(&stored[..], None, |_, _| Ok(()), check, |_| ()).unwrap_err();
            assert!(!matches!(error, LayerError::Read(_)), "{error:?}");
            assert_eq!(seen.map(|(digest, _)| digest), Some(Digest::sha256(&stored)), "{error:?}");
        }
    }

    #[test]
    fn a_layer_that_is_not_the_right_one_is_no_whole_file() {
        let mut parts = Vec::new();
        let refused = |_: &Digest, _: Option<&Digest>| Err(LayerError::Read(std::io::ErrorKind::InvalidData.into()));
        let write = |at: u64, _: &[u8]| {
            parts.push(at);
            Ok(())
        };
        expand_layer(&tar("a", 0)[..], None, write, refused, |_| ()).unwrap_err();
        assert!(parts.iter().all(|at| *at >= TAR_START), "no superblock");
    }
}
