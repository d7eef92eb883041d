//! Hashes that an origin declares in its headers, and whether the bytes match them.
//!
//! | header | hash of |
//! |---|---|
//! | `Repr-Digest` (RFC 9530), `Digest` (RFC 3230), `x-goog-hash`, `X-Linked-Etag` of the Hugging Face hub, in its redirect | the whole, also if a part is sent |
//! | `X-Checksum-*` (Artifactory, Nexus), `x-ms-blob-content-md5` (Azure), `X-Bz-Content-Sha1` (Backblaze), `x-oss-hash-crc64ecma`, `x-cos-hash-crc64ecma` | the whole |
//! | `Content-Digest` (RFC 9530) | the bytes that are sent |
//! | `Content-MD5`, `x-amz-checksum-*` | the bytes that are sent; but some servers send the hash of the whole with each part |
//!
//! A [`Witness`] checks all hashes of known algorithms while all bytes pass, also those of further answers if the first one breaks off. Callers that store the bytes hold the last ones back until then. The
//! hash of a part is checked while the part passes, and its last bytes are held back. Values are base64 or hexadecimal, which their length tells; Alibaba's and Tencent's are decimal numbers. If two
//! hashes of one answer can't both be right, the answer is refused before anything is read.
//!
//! Values of unknown algorithms, values of the wrong length, and composite checksums (of the checksums of parts) are ignored.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest as lc;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use darter_core::{Digest, DigestHasher};
use http::HeaderMap;

use crate::body::Body;
use crate::checksum::{Crc, Md5};
use crate::error::{ErrorKind, OriginError};

mod part;

/// Base64 without required padding, since some servers leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The hashes that an answer declares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    hashes: Vec<Hash>,
}

/// A hash that an answer declares.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hash {
    algorithm: Algorithm,
    value: Vec<u8>,
    /// The header that says so.
    header: String,
    of: Scope,
}

/// The bytes of which a hash is, if a part is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Whole,
    Part,
    Either,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha512,
    Sha1,
    Md5,
    Crc64Nvme,
    Crc64Ecma,
    Crc32c,
    Crc32,
}

/// Headers with one hash of the whole, also if a part is sent.
const OF_WHOLE: [(&str, Algorithm); 8] = [
    ("x-checksum-sha256", Algorithm::Sha256),
    ("x-checksum-sha512", Algorithm::Sha512),
    ("x-checksum-sha1", Algorithm::Sha1),
    ("x-checksum-md5", Algorithm::Md5),
    ("x-ms-blob-content-md5", Algorithm::Md5),
    ("x-bz-content-sha1", Algorithm::Sha1),
    ("x-oss-hash-crc64ecma", Algorithm::Crc64Ecma),
    ("x-cos-hash-crc64ecma", Algorithm::Crc64Ecma),
];

/// Hashes the bytes of a whole resource as they pass, in order, and says in the end whether they match the hashes that its
/// origin declared.
pub struct Witness {
    promises: Vec<Promise>,
    what: String,
}

/// A declared hash, and the hash of the bytes so far.
struct Promise {
    hash: Hash,
    hasher: Hasher,
    /// Present if the declared hash may be that of the part rather than of the whole; set once it is known not to be.
    not_of_part: Option<Arc<AtomicBool>>,
}

impl Witness {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.promises.iter_mut().for_each(|promise| promise.hasher.update(bytes));
    }

    /// Compares the hashes, after all bytes were added.
    ///
    /// # Errors
    /// [`ErrorKind::Contradicted`].
    pub fn verdict(self) -> Result<(), OriginError> {
        for Promise { hash, hasher, not_of_part } in self.promises {
            let is_of_whole = not_of_part.is_none_or(|it| it.load(Ordering::Relaxed));
            if is_of_whole && hasher.finish() != hash.value {
                return Err(hash.contradicted(&self.what));
            }
        }
        Ok(())
    }

    /// The hashes of a later answer for which the bytes before that answer have to be read, too: those that are certainly of the whole, and that
    /// `known` does not check already.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] if both can't be right.
    pub fn beside(mut self, known: Option<&Self>) -> Result<Option<Self>, OriginError> {
        let known = || known.into_iter().flat_map(|known| &known.promises).map(|promise| &promise.hash);
        for Promise { hash, .. } in &self.promises {
            if let Some(other) = known().find(|other| other.contradicts(hash)) {
                let text = format!(
                    "{} changed while it was read: {} declares another hash than {} before",
                    self.what, hash.header, other.header
                );
                return Err(OriginError::new(ErrorKind::Changed, text));
            }
        }
        self.promises.retain(|Promise { hash, .. }| {
            let is_known = known().any(|other| (other.algorithm, &other.value) == (hash.algorithm, &hash.value));
            hash.of == Scope::Whole && !is_known
        });
        Ok((!self.promises.is_empty()).then_some(self))
    }

    /// Also checks the hashes of `other`, to which the same bytes were added.
    pub fn join(&mut self, other: Self) {
        self.promises.extend(other.promises);
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.promises.iter().map(|promise| &promise.hash)).finish()
    }
}

enum Hasher {
    Digest(DigestHasher),
    Sha1(Box<lc::Context>),
    Md5(Md5),
    Crc(Box<Crc>),
}

impl Declared {
    /// The hashes that an answer declares. `linked` is the `X-Linked-Etag` of a redirect before it; `is_whole` says that the answer has the
    /// whole.
    ///
    /// # Errors
    /// [`ErrorKind::Contradicted`] if two headers contradict each other.
    pub(crate) fn of(
        headers: &HeaderMap,
        linked: Option<&str>,
        is_whole: bool,
        what: &str,
    ) -> Result<Self, OriginError> {
        let mut hashes = all_of(headers, linked);
        for hash in hashes.iter_mut().filter(|_| is_whole) {
            hash.of = Scope::Whole;
        }
        for (at, hash) in hashes.iter().enumerate() {
            if let Some(other) = hashes[..at].iter().find(|other| hash.contradicts(other)) {
                let text = format!(
                    "{what}: the origin contradicts itself: {} and {} declare different {} hashes; ask who runs it",
                    other.header,
                    hash.header,
                    hash.algorithm.name()
                );
                return Err(OriginError::new(ErrorKind::Contradicted, text));
            }
        }
        Ok(Self { hashes })
    }

    /// Refuses declared hashes that contradict this digest of the whole.
    pub(crate) fn agrees(&self, digest: Option<Digest>, what: &str) -> Result<(), OriginError> {
        let Some(digest) = digest else { return Ok(()) };
        let of_whole = self.hashes.iter().filter(|hash| hash.of == Scope::Whole);
        let mut same = of_whole.filter(|hash| digest.algorithm() == hash.algorithm.name());
        match same.find(|hash| hash.value != digest.value()) {
            Some(hash) => {
                let text = format!(
                    "{what}: the origin declares other content than {digest} ({}): check the digest and the address",
                    hash.header
                );
                Err(OriginError::new(ErrorKind::Contradicted, text))
            }
            None => Ok(()),
        }
    }

    /// The body, which ends with an error instead of its last bytes if the hash of a part does not match; and the witness of
    /// the whole, if a hash of the whole is declared.
    pub(crate) fn check(self, body: Body, what: String) -> (Body, Option<Witness>) {
        let (mut of_part, mut of_whole) = (Vec::new(), Vec::new());
        for hash in self.hashes {
            let not_of_part = (hash.of == Scope::Either).then(Arc::<AtomicBool>::default);
            if hash.of != Scope::Part {
                of_whole.push(hash.clone().begin(not_of_part.clone()));
            }
            if hash.of != Scope::Whole {
                of_part.push(hash.begin(not_of_part));
            }
        }
        let witness = (!of_whole.is_empty()).then(|| Witness { promises: of_whole, what: what.clone() });
        let body = match of_part.is_empty() {
            true => body,
            false => part::checked(body, of_part, what),
        };
        (body, witness)
    }
}

impl Hash {
    fn begin(self, not_of_part: Option<Arc<AtomicBool>>) -> Promise {
        Promise { hasher: self.algorithm.hasher(), hash: self, not_of_part }
    }

    /// True if both can't be right.
    fn contradicts(&self, other: &Self) -> bool {
        let same = self.algorithm == other.algorithm && self.of == other.of && self.of != Scope::Either;
        same && self.value != other.value
    }

    fn contradicted(&self, what: &str) -> OriginError {
        let text = format!(
            "{what}: the bytes that came contradict the {} that the origin declares ({}); nothing was kept",
            self.algorithm.name(),
            self.header
        );
        OriginError::new(ErrorKind::Contradicted, text)
    }
}

/// The known algorithms.
fn all_of(headers: &HeaderMap, linked: Option<&str>) -> Vec<Hash> {
    let mut found = Vec::new();
    let mut take = |algorithm: Option<Algorithm>, text: &str, header: &str, of: Scope| {
        if let Some(algorithm) = algorithm
            && let Some(value) = value_of(text, algorithm)
        {
            let hash = Hash { algorithm, value, header: header.to_owned(), of };
            if !found.contains(&hash) {
                found.push(hash);
            }
        }
    };
    let texts = |name: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
        values.collect::<Vec<_>>()
    };
    for (name, of) in [("repr-digest", Scope::Whole), ("content-digest", Scope::Part), ("digest", Scope::Whole)] {
        for (algorithm, value) in
            texts(name).iter().flat_map(|text| text.split(',')).filter_map(|it| it.split_once('='))
        {
            // RFC 9530 has the value between colons, and may have parameters after it.
            let value = value.split(';').next().unwrap_or_default().trim().trim_matches(':');
            take(Algorithm::named(algorithm), value, name, of);
        }
    }
    for value in texts("content-md5") {
        take(Some(Algorithm::Md5), &value, "content-md5", Scope::Either);
    }
    for (name, algorithm) in OF_WHOLE {
        for value in texts(name) {
            take(Some(algorithm), &value, name, Scope::Whole);
        }
    }
    // A checksum put together of those of parts says nothing of the whole.
    let kind = texts("x-amz-checksum-type");
    let is_a = |kind_of: &str| kind.iter().any(|text| text.trim().eq_ignore_ascii_case(kind_of));
    let of = if is_a("full_object") { Scope::Whole } else { Scope::Either };
    for algorithm in ["sha256", "sha512", "sha1", "md5", "crc64nvme", "crc32c", "crc32"] {
        let name = format!("x-amz-checksum-{algorithm}");
        for value in texts(&name).iter().filter(|value| !is_a("composite") && !value.contains('-')) {
            take(Algorithm::named(algorithm), value, &name, of);
        }
    }
    // The hash is of what is stored, which may have been decompressed on its way.
    let as_stored = texts("x-goog-stored-content-encoding").iter().all(|text| text == "identity");
    for (algorithm, value) in
        texts("x-goog-hash").iter().flat_map(|text| text.split(',')).filter_map(|it| it.split_once('='))
    {
        take(Algorithm::named(algorithm).filter(|_| as_stored), value, "x-goog-hash", Scope::Whole);
    }
    let own = texts("x-linked-etag");
    for tag in own.iter().map(String::as_str).chain(linked) {
        // The SHA-256 of a large file; what is as long as a SHA-1 is Git's name for a small one, and no hash of its bytes.
        let tag = tag.trim().trim_start_matches("W/").trim_matches('"');
        let is_sha256 = tag.len() == 64;
        take(Some(Algorithm::Sha256).filter(|_| is_sha256), tag, "x-linked-etag", Scope::Whole);
    }
    found
}

/// Decodes a value in base64 or hexadecimal, or a decimal number if the algorithm's header has one.
fn value_of(text: &str, algorithm: Algorithm) -> Option<Vec<u8>> {
    let (text, length) = (text.trim().trim_matches('"'), algorithm.length());
    if algorithm == Algorithm::Crc64Ecma {
        return text.parse::<u64>().ok().map(|number| number.to_be_bytes().to_vec());
    }
    if text.len() == 2 * length && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digits = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
        return (0..length).map(digits).collect();
    }
    BASE64.decode(text).ok().filter(|value| value.len() == length)
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "sha-256" | "sha256" | "id-sha-256" => Some(Self::Sha256),
            "sha-512" | "sha512" | "id-sha-512" => Some(Self::Sha512),
            // RFC 3230 and RFC 9530 call SHA-1 "sha".
            "sha" | "sha-1" | "sha1" => Some(Self::Sha1),
            "md5" => Some(Self::Md5),
            "crc64nvme" => Some(Self::Crc64Nvme),
            "crc32c" => Some(Self::Crc32c),
            "crc32" => Some(Self::Crc32),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
            Self::Crc64Nvme => "crc64nvme",
            Self::Crc64Ecma => "crc64ecma",
            Self::Crc32c => "crc32c",
            Self::Crc32 => "crc32",
        }
    }

    const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Sha1 => 20,
            Self::Md5 => 16,
            Self::Crc64Nvme | Self::Crc64Ecma => 8,
            Self::Crc32c | Self::Crc32 => 4,
        }
    }

    fn hasher(self) -> Hasher {
        match self {
            Self::Sha256 => Hasher::Digest(Digest::Sha256([0; 32]).hasher()),
            Self::Sha512 => Hasher::Digest(Digest::Sha512([0; 64]).hasher()),
            Self::Sha1 => Hasher::Sha1(Box::new(lc::Context::new(&lc::SHA1_FOR_LEGACY_USE_ONLY))),
            Self::Md5 => Hasher::Md5(Md5::new()),
            Self::Crc64Nvme => Hasher::Crc(Box::new(Crc::nvme())),
            Self::Crc64Ecma => Hasher::Crc(Box::new(Crc::ecma())),
            Self::Crc32c => Hasher::Crc(Box::new(Crc::castagnoli())),
            Self::Crc32 => Hasher::Crc(Box::new(Crc::ieee())),
        }
    }
}

impl Hasher {
    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Digest(hasher) => hasher.update(data),
            Self::Sha1(hasher) => hasher.update(data),
            Self::Md5(hasher) => hasher.update(data),
            Self::Crc(hasher) => hasher.update(data),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Digest(hasher) => hasher.finish().value().to_vec(),
            Self::Sha1(hasher) => hasher.finish().as_ref().to_vec(),
            Self::Md5(hasher) => hasher.finish().to_vec(),
            Self::Crc(hasher) => hasher.finish(),
        }
    }
}

#[cfg(test)]
mod tests;
