//! First-touch profiles on disk: `DATA_DIR/profiles/<blob>`, one small file for each expanded layer with a known profile.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `DARTPROF` |
//! | 8 | 1 | version of this layout: 1 |
//! | 9 | 1 | base-two logarithm of the piece length |
//! | 10 | … | `Kept` in postcard's encoding: `total?, [{node, [{first, end}]}]: records, [{first, end}]?: pinned` |
//! | … | 32 | BLAKE3 of everything before |
//!
//! Later releases only append fields to these. A damaged file counts as missing; one of a greater version belongs to a newer Darter, and stays
//! unchanged. A profile is removed with its blob: when the blob is removed, soon after it is evicted, and when an agent starts that does not have the blob.
//! A newer Darter's goes only with a blob that a user removes: that Darter may keep blobs of which this one does not know.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;

use darter_core::{BlobId, NodeId, PieceLength};
use darter_store::dir::Access;
use darter_store::{Dir, StoreError};
use darter_swarm::{Bounds, Profile, Touches};
use serde::{Deserialize, Serialize};

const DIRECTORY: &str = "profiles";
const MAGIC: &[u8; 8] = b"DARTPROF";
const VERSION: u8 = 1;
const CHECKSUM: usize = 32;

#[derive(Serialize, Deserialize)]
struct Kept {
    total: Option<u32>,
    records: Vec<(NodeId, Vec<Range<u32>>)>,
    pinned: Option<Vec<Range<u32>>>,
}

/// The profiles of a data directory.
#[derive(Clone, Debug)]
pub struct Profiles(Dir);

impl Profiles {
    /// Opens the profiles of a data directory. Blocking.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let dir = Dir::open(data_dir)?;
        let profiles = dir.sub_or_anew(DIRECTORY);
        profiles.map(Self).map_err(|source| StoreError::Io { action: "open", path: dir.path_of(DIRECTORY), source })
    }

    /// Writes a profile and replaces an earlier one. Returns false if a newer version wrote the existing file, which then stays. Blocking.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep(&self, blob: BlobId, pieces: PieceLength, profile: &Profile) -> io::Result<bool> {
        let name = name_of(blob);
        if is_newer(&self.0, &name) {
            return Ok(false);
        }
        self.0.replace(&name, &format!("{name}.new"), &[&encode(pieces, profile)], false).map(|()| true)
    }

    /// The stored profile of a blob; `None` if there is none, or none for this piece length. Blocking.
    pub fn recall(&self, blob: BlobId, pieces: PieceLength) -> Option<Profile> {
        decode(&self.0.read(&name_of(blob)).ok()?, pieces)
    }

    /// Removes a blob's profile. Blocking.
    pub fn forget(&self, blob: BlobId) {
        // It is no error if there is none.
        let _ = self.0.remove(name_of(blob));
    }

    /// Removes the profiles of blobs that are gone, while others may be written: `blobs` is called for the existing blobs after the profiles were listed. Blocking.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget_gone(&self, blobs: impl FnOnce() -> HashSet<BlobId>) -> io::Result<()> {
        let kept: Vec<BlobId> = self.0.names()?.iter().filter_map(|name| name.parse().ok()).collect();
        if !kept.is_empty() {
            let blobs = blobs();
            let gone = kept.into_iter().filter(|blob| !blobs.contains(blob));
            gone.filter(|blob| !is_newer(&self.0, &name_of(*blob))).for_each(|blob| self.forget(blob));
        }
        Ok(())
    }

    /// Removes all profiles except those of `blobs`, and those that a newer version wrote, of which it returns the number. Files with other names may be a
    /// newer version's, and stay. Blocking.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep_only(&self, blobs: &HashSet<BlobId>) -> io::Result<usize> {
        let mut newer = Vec::new();
        for name in self.0.names()? {
            let stem = name.strip_suffix(".new").unwrap_or(&name);
            let Ok(blob) = stem.parse::<BlobId>() else { continue };
            if stem == name && is_newer(&self.0, &name) {
                newer.push(name);
                continue;
            }
            if (stem != name || !blobs.contains(&blob))
                && let Err(error) = self.0.remove(&name)
            {
                tracing::warn!(path = %self.0.path_of(&name).display(), %error, "an old profile can't be removed");
            }
        }
        if let Some(example) = newer.first().map(|name| self.0.path_of(name)) {
            tracing::warn!(profiles = newer.len(), example = %example.display(), "profiles that a newer version wrote are left alone: until it runs, no profiles of these layers are kept");
        }
        Ok(newer.len())
    }
}

/// True if a newer version wrote a file.
fn is_newer(dir: &Dir, name: &str) -> bool {
    let mut head = Vec::new();
    let read = dir.open_file(name, Access::Read);
    let read = read.and_then(|file| file.take(MAGIC.len() as u64 + 1).read_to_end(&mut head));
    read.is_ok() && version_of(&head).is_some_and(|version| version > VERSION)
}

fn name_of(blob: BlobId) -> String {
    blob.to_string()
}

fn version_of(bytes: &[u8]) -> Option<u8> {
    bytes.strip_prefix(MAGIC)?.first().copied()
}

fn encode(pieces: PieceLength, profile: &Profile) -> Vec<u8> {
    let runs = |touches: &Touches| touches.stretches().to_vec();
    let records = profile.records().iter().map(|(by, touches)| (*by, runs(touches))).collect();
    let kept = Kept { total: profile.bounds().total, records, pinned: profile.pinned().map(runs) };
    let mut bytes = MAGIC.to_vec();
    bytes.extend([VERSION, pieces.log2()]);
    bytes.extend(postcard::to_stdvec(&kept).expect("numbers always encode"));
    let checksum = darter_core::manifest::root_of(&bytes);
    bytes.extend(checksum.0);
    bytes
}

fn decode(bytes: &[u8], pieces: PieceLength) -> Option<Profile> {
    if version_of(bytes)? != VERSION {
        return None;
    }
    let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if darter_core::manifest::root_of(content).0 != checksum {
        return None;
    }
    let (log2, content) = content[MAGIC.len() + 1..].split_first()?;
    if *log2 != pieces.log2() {
        return None;
    }
    let (Kept { total, records, pinned }, _) = postcard::take_from_bytes(content).ok()?;
    let bounds = Bounds { total, piece_bytes: pieces.bytes() };
    let heard = |runs| Touches::heard(runs, bounds);
    let records = records.into_iter().map(|(by, runs)| (by, heard(runs))).collect();
    Some(Profile::kept(bounds, records, pinned.map(heard)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: BlobId = BlobId([9; 32]);

    fn pieces() -> PieceLength {
        PieceLength::from_log2(19).unwrap()
    }

    fn profile() -> Profile {
        let mut profile = Profile::new(Bounds { total: Some(600), piece_bytes: pieces().bytes() });
        profile.record(NodeId([1; 16]), [300..302, 0..1]);
        let only = 5..6;
        profile.pin(Some(vec![only]));
        profile
    }

    /// The next release has to read what this release writes.
    #[test]
    fn the_bytes_are_those_that_were_written_down() {
        let bytes = encode(pieces(), &profile());
        let body = [
            &MAGIC[..],
            &[1, 19],
            // total, one record of node 1: 300..302 and 0..1
            &[1, 0xd8, 4, 1],
            &[1; 16],
            &[2, 0xac, 2, 0xae, 2, 0, 1],
            // pinned: 5..6
            &[1, 1, 5, 6],
        ]
        .concat();
        assert_eq!(bytes[..bytes.len() - CHECKSUM], body);
        assert_eq!(decode(&bytes, pieces()), Some(profile()));
        let mut longer = [&body[..], b"of a later release"].concat();
        longer.extend(darter_core::manifest::root_of(&longer).0);
        assert_eq!(decode(&longer, pieces()), Some(profile()), "what was added is skipped");
        let mut damaged = bytes.clone();
        damaged[20] ^= 1;
        let mut newer = bytes.clone();
        newer[8] = 2;
        for other in [&damaged[..], &newer, &bytes[..bytes.len() - 1], b"", b"DARTPROF", b"DARTPROF\x01"] {
            assert_eq!(decode(other, pieces()), None);
        }
        assert_eq!(decode(&bytes, PieceLength::from_log2(20).unwrap()), None, "other pieces");
    }

    #[test]
    fn it_outlives_the_process_and_goes_with_the_blob_and_a_newer_ones_stays() {
        let dir = tempfile::tempdir().unwrap();
        let profiles = Profiles::open(dir.path()).unwrap();
        assert!(profiles.keep(BLOB, pieces(), &profile()).unwrap());
        let again = Profiles::open(dir.path()).unwrap();
        assert_eq!(again.recall(BLOB, pieces()), Some(profile()));
        again.keep_only(&HashSet::from([BLOB])).unwrap();
        again.forget_gone(|| HashSet::from([BLOB])).unwrap();
        assert!(again.recall(BLOB, pieces()).is_some());
        // A profile that is being written meanwhile is not a leftover.
        let other = BlobId([8; 32]);
        let writing = dir.path().join(DIRECTORY).join(format!("{other}.new"));
        std::fs::write(&writing, b"half of it").unwrap();
        let kept_meanwhile = || {
            assert!(again.keep(other, pieces(), &profile()).unwrap());
            HashSet::new()
        };
        again.forget_gone(kept_meanwhile).unwrap();
        assert!(again.recall(BLOB, pieces()).is_none() && again.recall(other, pieces()).is_some());
        again.forget(other);
        assert!(again.keep(BLOB, pieces(), &profile()).unwrap());
        again.keep_only(&HashSet::new()).unwrap();
        assert!(again.recall(BLOB, pieces()).is_none());
        let path = dir.path().join(DIRECTORY).join(BLOB.to_string());
        std::fs::write(&path, b"DARTPROF\x02 of a newer one").unwrap();
        assert!(!again.keep(BLOB, pieces(), &profile()).unwrap(), "it says so");
        assert_eq!(again.keep_only(&HashSet::new()).unwrap(), 1);
        again.forget_gone(HashSet::new).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"DARTPROF\x02 of a newer one");
        again.forget(BLOB);
        assert!(!path.exists());
    }
}
