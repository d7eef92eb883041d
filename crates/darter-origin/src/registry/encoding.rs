//! Answers with a `Content-Encoding` that was not requested.
//!
//! Documents (manifests, lists, tokens, error messages) are decoded: they are JSON, so it is clear which bytes are meant, even if the header is wrong and they are not encoded. A blob is refused before its
//! first byte: its digest is that of one form only, and the header does not say of which (object stores have `Content-Encoding: gzip` for layers that are stored as they are). Engines then go to the
//! registry themselves.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use futures_util::stream::{self, StreamExt};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, StatusCode};

use crate::body::Body;
use crate::error::{ErrorKind, OriginError, status_text};

/// How many encoded bytes are decoded in one step; the decoded bytes of one step are in memory.
const STEP: usize = 4096;

/// The encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// gzip (RFC 1952).
    Gzip,
    /// zlib (RFC 1950), which HTTP calls `deflate`.
    Deflate,
    /// Another encoding, or several.
    Unknown,
}

/// Values of the header that are not encodings of the bytes: S3 keeps the `aws-chunked` of uploads, and some servers write a character
/// set or a transfer encoding of mail there.
const NOTHING: [&[u8]; 10] =
    [b"", b"identity", b"aws-chunked", b"none", b"utf-8", b"utf8", b"iso-8859-1", b"us-ascii", b"binary", b"8bit"];

/// The encoding that the headers name, if there is one.
pub(super) fn encoding_of(headers: &HeaderMap) -> Option<Encoding> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    let mut names = names.map(|name| name.trim_ascii().to_ascii_lowercase());
    let mut encoding = None;
    while let Some(name) = names.by_ref().find(|name| !NOTHING.contains(&name.as_slice())) {
        encoding = Some(match (encoding, name.as_slice()) {
            (None, b"gzip" | b"x-gzip") => Encoding::Gzip,
            (None, b"deflate") => Encoding::Deflate,
            _ => Encoding::Unknown,
        });
    }
    encoding
}

/// The error for an answer with an encoding that was not requested.
pub(super) fn unasked(status: StatusCode, headers: &HeaderMap, what: &str) -> OriginError {
    let encoding = headers.get(CONTENT_ENCODING).map_or(&b""[..], |value| value.as_bytes());
    let encoding = String::from_utf8_lossy(encoding);
    let text = format!(
        "{what} came (HTTP {}) with Content-Encoding: {encoding}, which nobody asked for: ask who runs the registry, or \
         the proxy before it",
        status_text(status)
    );
    OriginError::new(ErrorKind::Encoded, text)
}

/// The decoded bytes of a body; `None` for an unknown encoding.
pub(super) fn decoded(body: Body, encoding: Encoding, what: String) -> Option<Body> {
    let decoder = match encoding {
        Encoding::Gzip => Decoder::Gzip(MultiGzDecoder::new(Vec::new())),
        Encoding::Deflate => Decoder::Deflate(ZlibDecoder::new(Vec::new())),
        Encoding::Unknown => return None,
    };
    let decoding = Decoding { body, decoder, begun: false, encoded: Bytes::new(), what };
    Some(stream::unfold(Some(decoding), |decoding| async { decoding?.next().await }).boxed())
}

enum Decoder {
    /// The header is wrong: the body is not encoded.
    None,
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
    /// Deflate without the zlib format around it, which some servers send under the same name.
    Raw(DeflateDecoder<Vec<u8>>),
}

impl Decoder {
    /// This encoding, or another one if the body can't begin with this byte. No document begins with one that an encoding begins with.
    fn begun_by(self, first: u8) -> Self {
        // JSON and HTML, with or without a byte order mark.
        let is_text = first.is_ascii_whitespace() || matches!(first, b'{' | b'[' | b'"' | b'<' | 0xef);
        match self {
            Self::Gzip(_) if first != 0x1f => Self::None,
            Self::Deflate(_) if is_text => Self::None,
            Self::Deflate(_) if first & 0x0f != 8 => Self::Raw(DeflateDecoder::new(Vec::new())),
            decoder => decoder,
        }
    }

    fn decode(&mut self, encoded: &[u8]) -> io::Result<Bytes> {
        let plain = match self {
            Self::None => return Ok(Bytes::copy_from_slice(encoded)),
            Self::Gzip(decoder) => {
                decoder.write_all(encoded)?;
                std::mem::take(decoder.get_mut())
            }
            Self::Deflate(decoder) => {
                decoder.write_all(encoded)?;
                std::mem::take(decoder.get_mut())
            }
            Self::Raw(decoder) => {
                decoder.write_all(encoded)?;
                std::mem::take(decoder.get_mut())
            }
        };
        Ok(plain.into())
    }

    fn finish(&mut self) -> io::Result<Bytes> {
        let plain = match self {
            Self::None => return Ok(Bytes::new()),
            Self::Gzip(decoder) => {
                decoder.try_finish()?;
                std::mem::take(decoder.get_mut())
            }
            Self::Deflate(decoder) => {
                decoder.try_finish()?;
                std::mem::take(decoder.get_mut())
            }
            Self::Raw(decoder) => {
                decoder.try_finish()?;
                std::mem::take(decoder.get_mut())
            }
        };
        Ok(plain.into())
    }
}

struct Decoding {
    body: Body,
    decoder: Decoder,
    begun: bool,
    encoded: Bytes,
    what: String,
}

impl Decoding {
    async fn next(mut self) -> Option<(Result<Bytes, OriginError>, Option<Self>)> {
        loop {
            let step = self.encoded.split_to(self.encoded.len().min(STEP));
            let plain = if step.is_empty() {
                match self.body.next().await {
                    Some(Ok(chunk)) => {
                        if let Some(first) = chunk.first().filter(|_| !self.begun) {
                            self.decoder = self.decoder.begun_by(*first);
                            self.begun = true;
                        }
                        self.encoded = chunk;
                        continue;
                    }
                    Some(Err(error)) => return Some((Err(error), None)),
                    None => {
                        let last = self.decoder.finish().map_err(|error| self.broken(error));
                        return last.map_or_else(|error| Some((Err(error), None)), |last| Some((Ok(last), None)));
                    }
                }
            } else {
                self.decoder.decode(&step)
            };
            match plain {
                Ok(plain) if plain.is_empty() => {}
                Ok(plain) => return Some((Ok(plain), Some(self))),
                Err(error) => return Some((Err(self.broken(error)), None)),
            }
        }
    }

    fn broken(&self, error: io::Error) -> OriginError {
        let text = format!("{} can't be decoded as its Content-Encoding says: ask who runs the registry", self.what);
        OriginError::new(ErrorKind::Protocol, text).caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn named(values: &[&'static str]) -> Option<Encoding> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, http::HeaderValue::from_static(value));
        }
        encoding_of(&headers)
    }

    #[test]
    fn what_says_nothing_of_the_bytes_is_no_encoding() {
        for nothing in [&[][..], &[""], &["identity"], &["aws-chunked, Identity"], &["UTF-8"], &["binary", "none"]] {
            assert_eq!(named(nothing), None, "{nothing:?}");
        }
        assert_eq!(named(&["aws-chunked", "X-GZip"]), Some(Encoding::Gzip));
        assert_eq!(named(&["deflate"]), Some(Encoding::Deflate));
        for unknown in [&["br"][..], &["zstd"], &["gzip, gzip"], &["gzip", "br"]] {
            assert_eq!(named(unknown), Some(Encoding::Unknown), "{unknown:?}");
        }
    }

    async fn decode(bytes: Vec<u8>, encoding: Encoding) -> Result<Vec<u8>, OriginError> {
        let chunks: Vec<_> = bytes.chunks(1000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let mut body = decoded(stream::iter(chunks).boxed(), encoding, "it".into()).unwrap();
        let mut plain = Vec::new();
        while let Some(chunk) = body.next().await {
            plain.extend_from_slice(&chunk?);
        }
        Ok(plain)
    }

    #[tokio::test]
    async fn bodies_are_decoded_and_broken_ones_are_errors() {
        let plain: Vec<u8> = (0..300_000_u32).flat_map(|n| n.to_string().into_bytes()).collect();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&plain).unwrap();
        let zlib = zlib.finish().unwrap();
        assert!(decode(zlib[2..zlib.len() - 4].to_vec(), Encoding::Deflate).await.unwrap() == plain);
        assert!(decode(zlib, Encoding::Deflate).await.unwrap() == plain);
        assert!(decode(gzip.clone(), Encoding::Gzip).await.unwrap() == plain);
        decode(gzip[..gzip.len() - 9].to_vec(), Encoding::Gzip).await.unwrap_err();
        decode(b"\x1fnot gzip at all".to_vec(), Encoding::Gzip).await.unwrap_err();
        // A document that only the header calls encoded is one all the same.
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            assert_eq!(decode(b"{\"tags\":[]}".to_vec(), encoding).await.unwrap(), b"{\"tags\":[]}");
        }
    }
}
