//! What is understood of what origins declare, and what comes of bytes that do not bear it out.

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

/// Whether these bytes are the whole that is declared; `None` if nothing is declared of it.
fn is_borne_out(declared: Declared, bytes: &[u8]) -> Option<bool> {
    let mut witness = declared.witness("x".into())?;
    bytes.chunks(4).for_each(|chunk| witness.update(chunk));
    let verdict = witness.verdict();
    assert!(verdict.as_ref().err().is_none_or(|error| *error.kind() == ErrorKind::Contradicted));
    Some(verdict.is_ok())
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

#[test]
fn what_is_said_of_the_whole_is_told_from_what_is_said_of_a_part() {
    for pair in [
        ("Repr-Digest", "md5=:JfnnlDI7RTiF9RgfG2JNCw==:"),
        ("x-goog-hash", "crc32c=4waSgw=="),
        ("x-linked-etag", SHA256_HEX),
    ] {
        assert_eq!(is_borne_out(declared(&[pair], false), TEXT), Some(true), "{pair:?}");
    }
    assert_eq!(is_borne_out(declared(&[("Content-Digest", "md5=:JfnnlDI7RTiF9RgfG2JNCw==:")], false), TEXT), None);
    // Of the part, or of the whole as some servers have it: that is no contradiction.
    let both = [("Repr-Digest", "md5=:JfnnlDI7RTiF9RgfG2JNCw==:"), ("Content-MD5", "4QrcOUm6Wau+VuBX8g+IPg==")];
    assert_eq!(is_borne_out(declared(&both, false), TEXT), Some(true));
}

#[test]
fn the_right_digest_comes_through_and_the_wrong_one_is_refused_at_once() {
    let declared = declared(&[("repr-digest", &format!("sha-256=:{SHA256}:"))], true);
    assert!(declared.agrees(Some(Digest::sha256(TEXT)), "x").is_ok() && declared.agrees(None, "x").is_ok());
    assert!(declared.agrees(Some(Digest::sha256(b"other")), "x").is_err());
}
