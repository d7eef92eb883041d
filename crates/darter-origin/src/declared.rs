//! Hashes that an origin declares of what it sends, and whether the bytes bear them out.
//!
//! `Repr-Digest` and `Content-Digest` (RFC 9530), `Digest` (RFC 3230), `Content-MD5`, `x-amz-checksum-*`, `x-goog-hash`,
//! and `X-Linked-Etag` of the Hugging Face hub, which stands on its redirect. The strongest one that is understood is
//! checked by a [`Witness`] of all bytes, also of those of further answers where the first one breaks off. Whoever stores
//! them holds the last ones back until then. Not for parts of a resource.

use std::fmt;

use aws_lc_rs::digest as lc;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use darter_core::{Digest, DigestHasher};
use http::HeaderMap;

use crate::checksum::{Crc, Md5};
use crate::error::{ErrorKind, OriginError};

/// A hash that an origin declares of a whole resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Declared {
    algorithm: Algorithm,
    value: Vec<u8>,
    /// The header that says so.
    header: String,
}

/// Strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Sha256,
    Sha512,
    Sha1,
    Md5,
    Crc64Nvme,
    Crc32c,
    Crc32,
}

/// Sees the bytes of a whole resource pass, in order from the first one, and says in the end whether they are what its
/// origin declared.
pub struct Witness {
    hasher: Hasher,
    declared: Declared,
    what: String,
}

impl Witness {
    /// Takes the bytes that follow those before.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// What to say of the whole.
    ///
    /// # Errors
    /// [`ErrorKind::Contradicted`].
    pub fn verdict(self) -> Result<(), OriginError> {
        if self.hasher.finish() == self.declared.value { Ok(()) } else { Err(self.declared.contradicted(&self.what)) }
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness").field("declared", &self.declared).finish_non_exhaustive()
    }
}

enum Hasher {
    Digest(DigestHasher),
    Sha1(Box<lc::Context>),
    Md5(Md5),
    Crc(Box<Crc>),
}

impl Declared {
    /// The strongest hash of the whole that an answer declares. `linked` is the `X-Linked-Etag` of a redirect before it.
    pub(crate) fn of(headers: &HeaderMap, linked: Option<&str>) -> Option<Self> {
        let mut found = Vec::new();
        let mut take = |algorithm: Option<Algorithm>, value: Option<Vec<u8>>, header: &str| {
            if let (Some(algorithm), Some(value)) = (algorithm, value)
                && value.len() == algorithm.length()
            {
                found.push(Self { algorithm, value, header: header.to_owned() });
            }
        };
        let texts = |name: &str| {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
            values.collect::<Vec<_>>()
        };
        for name in ["repr-digest", "content-digest", "digest"] {
            for (algorithm, value) in
                texts(name).iter().flat_map(|text| text.split(',')).filter_map(|it| it.split_once('='))
            {
                // RFC 9530 has the value between colons.
                take(Algorithm::named(algorithm), base64(value.trim().trim_matches(':')), name);
            }
        }
        for value in texts("content-md5") {
            take(Some(Algorithm::Md5), base64(&value), "content-md5");
        }
        // What is put together of the checksums of parts says nothing of the whole.
        let composite = texts("x-amz-checksum-type").iter().any(|text| text.eq_ignore_ascii_case("composite"));
        for algorithm in ["sha256", "sha512", "sha1", "md5", "crc64nvme", "crc32c", "crc32"] {
            let name = format!("x-amz-checksum-{algorithm}");
            for value in texts(&name).iter().filter(|value| !composite && !value.contains('-')) {
                take(Algorithm::named(algorithm), base64(value), &name);
            }
        }
        // Of what is stored, which may have been decompressed on its way.
        let as_stored = texts("x-goog-stored-content-encoding").iter().all(|text| text == "identity");
        for (algorithm, value) in
            texts("x-goog-hash").iter().flat_map(|text| text.split(',')).filter_map(|it| it.split_once('='))
        {
            take(Algorithm::named(algorithm).filter(|_| as_stored), base64(value), "x-goog-hash");
        }
        let own = texts("x-linked-etag");
        for tag in own.iter().map(String::as_str).chain(linked) {
            let digest: Option<Digest> = format!("sha256:{}", tag.trim().trim_matches('"')).parse().ok();
            take(Some(Algorithm::Sha256), digest.map(|digest| digest.value().to_vec()), "x-linked-etag");
        }
        found.into_iter().min_by_key(|declared| declared.algorithm)
    }

    fn contradicted(&self, what: &str) -> OriginError {
        let text = format!(
            "{what}: the bytes that came contradict the {} that the origin declares ({}); nothing was kept",
            self.algorithm.name(),
            self.header
        );
        OriginError::new(ErrorKind::Contradicted, text)
    }

    /// Refuses a declared hash that can't be of content with this digest.
    pub(crate) fn agrees(&self, digest: Option<Digest>, what: &str) -> Result<(), OriginError> {
        let same = |digest: &Digest| digest.algorithm() == self.algorithm.name();
        match digest.filter(same) {
            Some(digest) if digest.value() != self.value => {
                let text = format!(
                    "{what}: the origin declares other content than {digest} ({}): check the digest and the address",
                    self.header
                );
                Err(OriginError::new(ErrorKind::Contradicted, text))
            }
            _ => Ok(()),
        }
    }

    /// What checks the whole.
    pub(crate) fn witness(self, what: String) -> Witness {
        Witness { hasher: self.algorithm.hasher(), declared: self, what }
    }
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "sha-256" | "sha256" => Some(Self::Sha256),
            "sha-512" | "sha512" => Some(Self::Sha512),
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
            Self::Crc64Nvme => 8,
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

fn base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    const TEXT: &[u8] = b"123456789";

    fn declared(name: &str, value: &str) -> Option<Declared> {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        Declared::of(&HeaderMap::from_iter([(name, value.parse().unwrap())]), None)
    }

    fn is_borne_out(declared: Declared, bytes: &[u8]) -> bool {
        let mut witness = declared.witness("x".into());
        bytes.chunks(4).for_each(|chunk| witness.update(chunk));
        let verdict = witness.verdict();
        assert!(verdict.as_ref().err().is_none_or(|error| *error.kind() == ErrorKind::Contradicted));
        verdict.is_ok()
    }

    #[test]
    fn every_declaration_is_checked() {
        for (name, value) in [
            ("Repr-Digest", "sha-256=:FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=:"),
            ("Content-Digest", "unixsum=:AA==:, sha-256=:FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=:"),
            ("Repr-Digest", "sha=:98O8HYCOBHMq32eZZczDTKeuNEE=:"),
            ("Digest", "SHA-256=FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
            (
                "Digest",
                "sha-512=2eZ2LdHI6vbWGzxhkvxAjU1tXxF20MKRabwk5xw/J0rSf81YEbMT1oH35V7ALXPUmclUVba1u1A6z1dPuo/+hQ==",
            ),
            ("Digest", "SHA=98O8HYCOBHMq32eZZczDTKeuNEE="),
            ("Digest", "md5=JfnnlDI7RTiF9RgfG2JNCw=="),
            ("Content-MD5", "JfnnlDI7RTiF9RgfG2JNCw=="),
            ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
            ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
            ("x-goog-hash", "crc32c=4waSgw=="),
            ("x-goog-hash", "md5=JfnnlDI7RTiF9RgfG2JNCw=="),
            ("x-goog-hash", "crc32c=4waSgw==,md5=JfnnlDI7RTiF9RgfG2JNCw=="),
            ("X-Linked-Etag", "\"15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225\""),
        ] {
            let declared = declared(name, value).unwrap_or_else(|| panic!("{name} is not understood"));
            assert!(is_borne_out(declared.clone(), TEXT), "{name}: {value}");
            assert!(!is_borne_out(declared, b"12345678X"), "{name}: {value}");
        }
        for (name, value) in [
            ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=-3"),
            ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE=-3"),
            ("x-amz-checksum-crc64nvme", "ae8b14860a799888"),
            ("Digest", "sha=f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            ("X-Linked-Etag", "\"0123\""),
            ("Content-MD5", "?"),
            ("Digest", "md5"),
        ] {
            assert_eq!(declared(name, value), None, "{name}");
        }
    }

    #[test]
    fn the_strongest_is_taken_and_what_is_not_of_the_whole_is_not() {
        let of = |pairs: &[(&'static str, &str)]| {
            let headers = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            Declared::of(&headers.collect(), None).map(|declared| declared.header)
        };
        let weak = ("x-amz-checksum-crc64nvme", "rosUhgp5mIg=");
        let strong = ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE=");
        assert_eq!(of(&[weak, strong]).as_deref(), Some("x-amz-checksum-sha1"));
        assert_eq!(of(&[weak, ("x-amz-checksum-type", "FULL_OBJECT")]).as_deref(), Some("x-amz-checksum-crc64nvme"));
        assert_eq!(of(&[strong, ("x-amz-checksum-type", "COMPOSITE")]), None);
        let google = ("x-goog-hash", "crc32c=4waSgw==");
        assert_eq!(of(&[google, ("x-goog-stored-content-encoding", "gzip")]), None);
        assert_eq!(of(&[google, ("x-goog-stored-content-encoding", "identity")]).as_deref(), Some("x-goog-hash"));
    }

    #[test]
    fn the_right_digest_comes_through_and_the_wrong_one_is_refused_at_once() {
        let digest = Digest::sha256(TEXT);
        let declared = declared("repr-digest", &format!("sha-256=:{}:", BASE64.encode(digest.value()))).unwrap();
        assert!(declared.agrees(Some(digest), "x").is_ok() && declared.agrees(None, "x").is_ok());
        assert!(declared.agrees(Some(Digest::sha256(b"other")), "x").is_err());
        assert!(is_borne_out(declared, TEXT));
    }
}
