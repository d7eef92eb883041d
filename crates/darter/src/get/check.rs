//! Checks the content, and finds its digest.
//!
//! The agent has checked every piece, and says which digests of the whole it or its lead has computed
//! (see *Trust* in ARCHITECTURE.md). So this process hashes nothing, except
//! - with `--verify-whole`: SHA-256 and the algorithm of `--digest`, over the bytes as they are in the result;
//! - if the digest of `--digest` is not among those that were computed: an older daemon names none.
//!
//! A file is hashed while it arrives, from its beginning as far as it is contiguous, by reading the file itself. A stream can't be
//! read again: its bytes are hashed on their way, and then have to pass through this process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, bail};
use darter_api::Checked;
use darter_core::{Blame, Digest, DigestHasher, Fault, Retry};

use crate::failure::Failure;

/// How many bytes are read and hashed at a time.
const BUFFER: usize = 1 << 20;

/// What decides whether content is hashed here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trust {
    /// True with `--verify-whole`: digests that others have computed do not count.
    pub(super) verify_whole: bool,
    /// True if the agent will tell which digests were checked.
    pub(super) vouched: bool,
    /// True if the content can be read again: it is a file.
    pub(super) can_reread: bool,
}

/// The check of one content: its hashers and their progress.
#[derive(Debug)]
pub(super) struct Check {
    asked: Option<Digest>,
    verify: bool,
    /// One hasher for each algorithm; none if nothing is hashed.
    hashers: Vec<DigestHasher>,
    /// How many bytes have been hashed.
    at: u64,
}

impl Check {
    /// A check that requires the digest `asked`, if it is given.
    pub(super) fn new(asked: Option<Digest>, trust: Trust) -> Self {
        let mut check = Self { asked, verify: trust.verify_whole, hashers: Vec::new(), at: 0 };
        if trust.verify_whole || (asked.is_some() && !trust.vouched && !trust.can_reread) {
            check.hashers = check.algorithms();
        }
        check
    }

    /// True if bytes are hashed as they come.
    pub(super) const fn is_hashing(&self) -> bool {
        !self.hashers.is_empty()
    }

    fn algorithms(&self) -> Vec<DigestHasher> {
        let other = self.asked.filter(|asked| asked.algorithm() != "sha256");
        let sha256 = (self.verify || other.is_none()).then(DigestHasher::sha256);
        sha256.into_iter().chain(other.map(|other| other.hasher())).collect()
    }

    /// Hashes the next bytes.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        for hasher in &mut self.hashers {
            hasher.update(bytes);
        }
        self.at += bytes.len() as u64;
    }

    /// Hashes the file's bytes from the current position up to `until`.
    pub(super) fn catch_up(&mut self, file: &File, until: u64) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        while self.at < until {
            let count = BUFFER.min(usize::try_from(until - self.at).unwrap_or(BUFFER));
            file.read_exact_at(&mut buffer[..count], self.at)?;
            self.see(&buffer[..count]);
        }
        Ok(())
    }

    /// The bytes from `at` on were replaced: hashing starts over if it was beyond.
    pub(super) fn replaced(&mut self, at: u64) {
        if at < self.at {
            self.hashers = self.algorithms();
            self.at = 0;
        }
    }

    /// The content is complete: `length` bytes, in `file` if it can be read again. Returns a digest to report, SHA-256 if
    /// known.
    pub(super) fn conclude(
        mut self,
        length: u64,
        told: &[Checked],
        file: Option<&File>,
    ) -> anyhow::Result<Option<Digest>> {
        let told: Vec<Digest> = told.iter().map(|checked| checked.digest).collect();
        let like = |digests: &[Digest], other: Digest| {
            digests.iter().copied().find(|digest| digest.algorithm() == other.algorithm())
        };
        if let (Some(asked), false) = (self.asked, self.is_hashing())
            && like(&told, asked).is_none()
        {
            self.hashers = self.algorithms();
        }
        if self.is_hashing()
            && let Some(file) = file
        {
            self.catch_up(file, length).context("can't read what was written")?;
        }
        if self.is_hashing() && self.at != length {
            bail!("the daemon did not check the digest, and the output can't be read again: add --verify-whole");
        }
        let found: Vec<Digest> = std::mem::take(&mut self.hashers).into_iter().map(DigestHasher::finish).collect();
        let known: Vec<Digest> = found.iter().chain(&told).copied().collect();
        for expected in self.asked.into_iter().chain(told) {
            if let Some(got) = like(&known, expected).filter(|got| *got != expected) {
                let text = format!("wrong content: expected {expected}, got {got}; nothing was kept");
                return Err(Failure::Judged { text, blame: Blame::new(Fault::Origin, Retry::Never) }.into());
            }
        }
        let sha256 = known.iter().copied().find(|digest| digest.algorithm() == "sha256");
        Ok(sha256.or(self.asked).or_else(|| known.first().copied()))
    }
}

#[cfg(test)]
mod tests {
    use darter_api::CheckedBy;

    use super::*;

    const CONTENT: &[u8] = b"content";
    const FILE: Trust = Trust { verify_whole: false, vouched: true, can_reread: true };
    const VERIFY: Trust = Trust { verify_whole: true, ..FILE };
    const STREAM: Trust = Trust { can_reread: false, ..FILE };

    fn told(digest: Digest) -> Vec<Checked> {
        vec![Checked { digest, by: CheckedBy::Lead }]
    }

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(CONTENT, 0).unwrap();
        file
    }

    fn sha512(bytes: &[u8]) -> Digest {
        let mut hasher = format!("sha512:{}", "0".repeat(128)).parse::<Digest>().unwrap().hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn what_the_agent_vouches_for_is_not_hashed_again() {
        let (right, wrong, file) = (Digest::sha256(CONTENT), Digest::sha256(b"other"), file());
        // A file with other bytes would be found out if it were read.
        file.write_all_at(b"x", 0).unwrap();
        let check = |asked, vouched: &[Checked]| {
            let check = Check::new(asked, FILE);
            assert!(!check.is_hashing());
            check.conclude(7, vouched, Some(&file))
        };
        assert_eq!(check(Some(right), &told(right)).unwrap(), Some(right));
        assert_eq!(check(None, &told(right)).unwrap(), Some(right));
        assert_eq!(check(None, &[]).unwrap(), None, "nobody knows it, and nobody asked");
        let error = check(Some(wrong), &told(right)).unwrap_err().to_string();
        assert!(error.contains(&format!("wrong content: expected {wrong}, got {right}")), "{error}");
    }

    #[test]
    fn a_digest_that_nobody_vouches_for_is_computed() {
        let (right, wrong) = (Digest::sha256(CONTENT), Digest::sha256(b"other"));
        let check = |asked, vouched: &[Checked]| Check::new(Some(asked), FILE).conclude(7, vouched, Some(&file()));
        assert_eq!(check(right, &[]).unwrap(), Some(right));
        assert!(check(wrong, &[]).unwrap_err().to_string().contains("wrong content"));
        // An algorithm other than that of the computed digest.
        assert_eq!(check(sha512(CONTENT), &told(right)).unwrap(), Some(right));
        assert!(check(sha512(b"other"), &told(right)).is_err());
        assert!(check(right, &told(sha512(CONTENT))).is_ok());
    }

    #[test]
    fn verify_whole_believes_nobody() {
        let (right, wrong) = (Digest::sha256(CONTENT), Digest::sha256(b"other"));
        let check = |asked, vouched: &[Checked]| Check::new(asked, VERIFY).conclude(7, vouched, Some(&file()));
        assert_eq!(check(None, &[]).unwrap(), Some(right));
        assert_eq!(check(Some(right), &told(right)).unwrap(), Some(right));
        assert!(check(Some(wrong), &told(wrong)).is_err(), "an agent that vouches for something else");
        assert!(check(None, &told(wrong)).is_err());
        assert!(check(Some(sha512(CONTENT)), &[]).is_ok() && check(Some(sha512(b"other")), &[]).is_err());
    }

    #[test]
    fn a_file_is_hashed_while_it_comes_and_again_from_where_it_was_replaced() {
        let (file, right) = (file(), Digest::sha256(CONTENT));
        file.write_all_at(b"X", 2).unwrap();
        let mut check = Check::new(None, VERIFY);
        check.catch_up(&file, 5).unwrap();
        file.write_all_at(CONTENT, 0).unwrap();
        check.replaced(2);
        check.replaced(5);
        assert_eq!(check.conclude(7, &[], Some(&file)).unwrap(), Some(right));
    }

    #[test]
    fn a_stream_is_hashed_on_its_way_where_it_has_to_be() {
        let right = Digest::sha256(CONTENT);
        assert!(!Check::new(Some(right), STREAM).is_hashing(), "the agent vouches for it");
        let mut check = Check::new(Some(right), Trust { vouched: false, ..STREAM });
        assert!(check.is_hashing());
        check.see(CONTENT);
        assert_eq!(check.conclude(7, &[], None).unwrap(), Some(right));
        // A daemon that promised to name the digest and did not.
        let error = Check::new(Some(right), STREAM).conclude(7, &[], None).unwrap_err().to_string();
        assert!(error.contains("--verify-whole"), "{error}");
    }
}
