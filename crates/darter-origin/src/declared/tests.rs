//! Declarations of origins as they are understood, and bytes that do not bear them out.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::HeaderName;

use super::*;

const TEXT: &[u8] = b"123456789";
const SHA256: &str = "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=";
const SHA256_HEX: &str = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let header =
        |(name, value): &(&str, &str)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(header) {
        headers.append(name, value);
    }
    headers
}

fn declared(pairs: &[(&str, &str)], is_whole: bool) -> Declared {
    Declared::of(&headers(pairs), None, is_whole, "x").unwrap()
}

fn names(pairs: &[(&str, &str)]) -> Vec<String> {
    declared(pairs, true).hashes.into_iter().map(|hash| hash.header).collect()
}

/// Returns true if a body of these bytes comes through, with what is left to check of the whole.
async fn passed(declared: Declared, bytes: &'static [u8]) -> (bool, Option<Witness>) {
    let chunks = bytes.chunks(4).map(|chunk| Ok(Bytes::from_static(chunk))).collect::<Vec<_>>();
    let (body, witness) = declared.check(stream::iter(chunks).boxed(), "x".into());
    let passed: Vec<_> = body.collect().await;
    let came: Vec<u8> = passed.iter().flatten().flat_map(|chunk| chunk.to_vec()).collect();
    let failed = passed.iter().any(|it| it.as_ref().is_err_and(|error| *error.kind() == ErrorKind::Contradicted));
    assert_eq!(failed, came.len() < bytes.len(), "the last bytes are held back from a wrong body only");
    (!failed, witness)
}

/// True if these bytes are the whole that is declared.
fn bears_out(witness: Option<Witness>, bytes: &[u8]) -> bool {
    let Some(mut witness) = witness else { return true };
    bytes.chunks(5).for_each(|chunk| witness.update(chunk));
    let verdict = witness.verdict();
    assert!(verdict.as_ref().err().is_none_or(|error| *error.kind() == ErrorKind::Contradicted));
    verdict.is_ok()
}

/// The same; `None` if nothing is declared of the whole.
fn is_borne_out(declared: Declared, bytes: &[u8]) -> Option<bool> {
    let (_, witness) = declared.check(stream::empty().boxed(), "x".into());
    Some(bears_out(Some(witness?), bytes))
}

const UNDERSTOOD: &[(&str, &str)] = &[
    ("Repr-Digest", "sha-256=:FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=:"),
    ("Repr-Digest", "sha-256=:FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU:;q=1"),
    ("Content-Digest", "unixsum=:AA==:, sha-256=:FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=:"),
    ("Repr-Digest", "sha=:98O8HYCOBHMq32eZZczDTKeuNEE=:"),
    ("Digest", "SHA-256=FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
    ("Digest", "sha-256=15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ("Digest", "id-sha-256=FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
    ("Digest", "sha-512=2eZ2LdHI6vbWGzxhkvxAjU1tXxF20MKRabwk5xw/J0rSf81YEbMT1oH35V7ALXPUmclUVba1u1A6z1dPuo/+hQ=="),
    ("Digest", "SHA=98O8HYCOBHMq32eZZczDTKeuNEE="),
    ("Digest", "sha=F7C3BC1D808E04732ADF679965CCC34CA7AE3441"),
    ("Digest", "md5=JfnnlDI7RTiF9RgfG2JNCw=="),
    ("Content-MD5", "JfnnlDI7RTiF9RgfG2JNCw=="),
    ("Content-MD5", "25f9e794323b453885f5181f1b624d0b"),
    ("x-amz-checksum-sha256", SHA256),
    ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
    ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
    ("x-amz-checksum-crc32c", "4waSgw=="),
    ("x-amz-checksum-crc32", "y/Q5Jg=="),
    ("x-goog-hash", "crc32c=4waSgw=="),
    ("x-goog-hash", "md5=JfnnlDI7RTiF9RgfG2JNCw=="),
    ("x-goog-hash", "crc32c=4waSgw==,md5=JfnnlDI7RTiF9RgfG2JNCw=="),
    ("X-Checksum-Sha256", SHA256_HEX),
    (
        "X-Checksum-Sha512",
        "d9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274ad27fcd5811b313d681f7e55ec02d73d499c95455b6b5bb503acf574fba8ffe85",
    ),
    ("X-Checksum-Sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
    ("X-Checksum-Md5", "25f9e794323b453885f5181f1b624d0b"),
    ("x-ms-blob-content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
    ("X-Bz-Content-Sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
    ("x-oss-hash-crc64ecma", "11051210869376104954"),
    ("x-cos-hash-crc64ecma", "11051210869376104954"),
    ("X-Linked-Etag", "\"15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225\""),
    ("X-Linked-Etag", "W/\"15E2B0D3C33891EBB0F1EF609EC419420C20E320CE94C65FBC8C3312448EB225\""),
];

#[test]
fn every_declaration_is_checked() {
    for pair in UNDERSTOOD {
        assert!(!names(&[*pair]).is_empty(), "{pair:?} is not understood");
        assert_eq!(is_borne_out(declared(&[*pair], true), TEXT), Some(true), "{pair:?}");
        assert_eq!(is_borne_out(declared(&[*pair], true), b"12345678X"), Some(false), "{pair:?}");
    }
    for pair in [
        ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=-3"),
        ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE=-3"),
        ("Repr-Digest", "sha-999=:AAAA:"),
        ("Repr-Digest", "sha-256=?1"),
        ("Digest", "adler32=03da0195, unixsum=30637"),
        ("X-Linked-Etag", "\"0123\""),
        // Git's name for a small file.
        ("X-Linked-Etag", "\"f7c3bc1d808e04732adf679965ccc34ca7ae3441\""),
        ("Content-MD5", "?"),
        ("Content-MD5", "98O8HYCOBHMq32eZZczDTKeuNEE="),
        ("Digest", "md5"),
        ("X-Bz-Content-Sha1", "none"),
        ("X-Bz-Content-Sha1", "unverified:f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("x-oss-hash-crc64ecma", "995dc9bbdf1939fa"),
        ("X-Checksum-Sha1", "25f9e794323b453885f5181f1b624d0b"),
        ("Etag", "\"15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225\""),
    ] {
        assert_eq!(names(&[pair]), [""; 0], "{pair:?}");
    }
}

#[test]
fn what_is_not_of_the_whole_is_not_taken_for_it() {
    let strong = ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE=");
    assert_eq!(names(&[strong, ("x-amz-checksum-type", "COMPOSITE")]), [""; 0]);
    assert_eq!(names(&[strong, ("x-amz-checksum-type", "FULL_OBJECT")]), ["x-amz-checksum-sha1"]);
    let google = ("x-goog-hash", "crc32c=4waSgw==");
    assert_eq!(names(&[google, ("x-goog-stored-content-encoding", "gzip")]), [""; 0]);
    assert_eq!(names(&[google, ("x-goog-stored-content-encoding", "identity")]), ["x-goog-hash"]);
}

// A weak one that is wrong beside a strong one that is right says that something is wrong, too.
#[test]
fn all_that_are_declared_are_checked() {
    let right = ("Repr-Digest", "sha-256=:FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=:");
    for wrong in [("x-goog-hash", "crc32c=AAAAAA=="), ("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA==")] {
        assert_eq!(is_borne_out(declared(&[right, wrong], true), TEXT), Some(false), "{wrong:?}");
        assert_eq!(is_borne_out(declared(&[wrong, right], true), TEXT), Some(false), "{wrong:?}");
    }
}

#[test]
fn an_origin_that_contradicts_itself_is_told_by_both_headers() {
    let other = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";
    let right = format!("sha-256=:{SHA256}:");
    let told = |pairs: &[(&str, &str)], linked| {
        let declared = Declared::of(&headers(pairs), linked, true, "x");
        declared.map(|_| ()).map_err(|error| (error.kind().clone(), error.to_string()))
    };
    for (pairs, linked, both) in [
        (vec![("repr-digest", right.as_str()), ("digest", other)], None, ["repr-digest", "digest"]),
        (vec![("repr-digest", other)], Some(SHA256_HEX), ["repr-digest", "x-linked-etag"]),
        (vec![("repr-digest", other), ("repr-digest", right.as_str())], None, ["repr-digest", "repr-digest"]),
        (
            vec![("x-goog-hash", "md5=AAAAAAAAAAAAAAAAAAAAAA=="), ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw==")],
            None,
            ["x-goog-hash", "content-md5"],
        ),
    ] {
        let (kind, text) = told(&pairs, linked).unwrap_err();
        assert_eq!(kind, ErrorKind::Contradicted);
        assert!(both.iter().all(|name| text.contains(name)), "{text}");
    }
    // In another form it is the same.
    assert_eq!(
        told(&[("repr-digest", right.as_str()), ("digest", &format!("sha-256={SHA256_HEX}"))], Some(SHA256_HEX)),
        Ok(())
    );
}

#[tokio::test]
async fn of_a_part_each_header_says_something_else() {
    // The body is a part of TEXT.
    const PART: &[u8] = b"123456";
    const PART_MD5: &str = "4QrcOUm6Wau+VuBX8g+IPg==";
    let of_part = |pair, bytes| async move { passed(declared(&[pair], false), bytes).await };
    for pair in [
        ("Repr-Digest", "md5=:JfnnlDI7RTiF9RgfG2JNCw==:"),
        ("x-goog-hash", "crc32c=4waSgw=="),
        ("x-linked-etag", SHA256_HEX),
    ] {
        for (whole, right) in [(TEXT, true), (PART, false)] {
            let (came, witness) = of_part(pair, PART).await;
            assert!(came, "{pair:?} says nothing of the part");
            assert_eq!(bears_out(witness, whole), right, "{pair:?}");
        }
    }
    let (came, witness) = of_part(("Content-Digest", "md5=:4QrcOUm6Wau+VuBX8g+IPg==:"), PART).await;
    assert!(came && witness.is_none());
    assert!(!of_part(("Content-Digest", "md5=:JfnnlDI7RTiF9RgfG2JNCw==:"), PART).await.0, "it is of the part");

    // Of the part, or of the whole as some servers have it; but of neither it is wrong.
    let (came, witness) = of_part(("Content-MD5", PART_MD5), PART).await;
    assert!(came && bears_out(witness, TEXT));
    for (whole, right) in [(TEXT, true), (b"12345678X", false)] {
        let (came, witness) = of_part(("Content-MD5", "JfnnlDI7RTiF9RgfG2JNCw=="), PART).await;
        assert!(came);
        assert_eq!(bears_out(witness, whole), right);
    }
    // That both are there is no contradiction.
    let both = [("Repr-Digest", "md5=:JfnnlDI7RTiF9RgfG2JNCw==:"), ("Content-MD5", PART_MD5)];
    let (came, witness) = passed(declared(&both, false), PART).await;
    assert!(came && bears_out(witness, TEXT));
    // Of what broke off nothing is known.
    let broken = stream::iter([Ok(Bytes::from_static(b"12")), Err(OriginError::new(ErrorKind::Truncated, "cut"))]);
    let (body, witness) = declared(&[("Content-MD5", PART_MD5)], false).check(broken.boxed(), "x".into());
    let came: Vec<_> = body.collect().await;
    assert!(came[0].is_ok() && came[1].is_err() && came.len() == 2);
    assert!(bears_out(witness, TEXT));
}

#[test]
fn what_a_later_answer_says_of_the_whole_is_checked_once_or_is_of_another_version() {
    let witness = |pair| declared(&[pair], false).check(stream::empty().boxed(), "x".into()).1.unwrap();
    let known = || witness(("Repr-Digest", "sha-256=:FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=:"));
    let same = format!("sha-256={SHA256_HEX}");
    assert!(witness(("Digest", same.as_str())).beside(Some(&known())).unwrap().is_none());
    // It may be of the part.
    assert!(witness(("Content-MD5", "JfnnlDI7RTiF9RgfG2JNCw==")).beside(Some(&known())).unwrap().is_none());
    let mut both = known();
    both.join(witness(("x-goog-hash", "crc32c=AAAAAA==")).beside(Some(&both)).unwrap().unwrap());
    assert!(!bears_out(Some(both), TEXT));
    let other = witness(("Digest", "sha-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="));
    let error = other.beside(Some(&known())).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Changed);
    assert!(error.to_string().contains("repr-digest") && error.to_string().contains("digest declares"), "{error}");
}

#[test]
fn the_right_digest_comes_through_and_the_wrong_one_is_refused_at_once() {
    let declared = declared(&[("repr-digest", &format!("sha-256=:{SHA256}:"))], true);
    assert!(declared.agrees(Some(Digest::sha256(TEXT)), "x").is_ok() && declared.agrees(None, "x").is_ok());
    assert!(declared.agrees(Some(Digest::sha256(b"other")), "x").is_err());
}
