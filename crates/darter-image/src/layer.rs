//! [`LayerReader`]: a layer as registries store it, as a stream of tar bytes.
//!
//! Both digests are computed as it is read: of the bytes as they are stored, and of the tar (the diff id). Limits keep a small layer from
//! becoming an endless tar, and a decoder from taking more than the 128 MiB of the largest window.

use std::io::{self, BufReader, Cursor, Read};

use darter_core::{Blame, Blamed, Digest, DigestHasher, Fault, Retry};
use flate2::bufread::MultiGzDecoder;

use crate::compression::{Compression, MAGIC_LENGTH, Unreadable};
use crate::limits::{MAX_RATIO, MAX_TAR, MAX_ZSTD_WINDOW_LOG, MIN_BOMB};
use crate::reason::Reason;

/// How many stored bytes are read at a time.
const BUFFER: usize = 128 << 10;

/// Why a layer can't be read, or can't be expressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The layer can't be read from where it is.
    #[error("can't read the layer")]
    Read(#[source] io::Error),
    /// The layer's compressed form is damaged or ends too early.
    #[error("the layer's {name} data is damaged or incomplete after {after} bytes of tar", name = .compression.name())]
    Damaged {
        /// How it is compressed.
        compression: Compression,
        /// How many bytes of tar were right.
        after: u64,
        /// The decoder's error.
        #[source]
        source: io::Error,
    },
    /// The layer's compression is not one that is read here.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The layer becomes far longer than layers do.
    #[error("the layer becomes more than {tar} bytes of tar from {stored} bytes: refused as a decompression bomb (a tar may be {MAX_RATIO} times as long and {max_gib} GiB)", max_gib = MAX_TAR >> 30)]
    Bomb {
        /// How many bytes of tar came.
        tar: u64,
        /// Out of how many bytes.
        stored: u64,
    },
    /// The layer's tar can't be expressed as EROFS.
    #[error("the layer can't be made mountable: pull it the ordinary way")]
    Reason(#[from] Reason),
}

impl Blamed for LayerError {
    fn blame(&self) -> Blame {
        match self {
            Self::Read(error) => error.blame(),
            Self::Reason(reason) => reason.blame(),
            Self::Damaged { .. } | Self::Unreadable(_) | Self::Bomb { .. } => Blame::new(Fault::Origin, Retry::Never),
        }
    }
}

/// A layer's digests, once all of it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDigests {
    /// How it was compressed.
    pub compression: Compression,
    /// Of the bytes as they are stored.
    pub stored: Digest,
    /// How many these are.
    pub stored_length: u64,
    /// Of the tar: the diff id.
    pub tar: Digest,
    /// How long that is.
    pub tar_length: u64,
}

/// Reads a layer, and gives its tar.
pub struct LayerReader<R: Read> {
    decoder: Decoder<R>,
    compression: Compression,
    /// The digest of the stored bytes, where somebody else computes it.
    known: Option<Digest>,
    tar: DigestHasher,
    tar_length: u64,
    min_bomb: u64,
}

enum Decoder<R: Read> {
    Plain(BufReader<Stored<R>>),
    Gzip(Box<MultiGzDecoder<BufReader<Stored<R>>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Stored<R>>>>),
}

impl<R: Read> LayerReader<R> {
    /// Begins to read a layer.
    ///
    /// # Errors
    ///
    /// Its first bytes can't be read, or are of a compression that is not read here.
    pub fn new(stored: R) -> Result<Self, LayerError> {
        match Self::begin(stored, None)? {
            (reader, None) => Ok(reader),
            (_, Some(unreadable)) => Err(unreadable.into()),
        }
    }

    /// Begins to read a layer; one of another compression is told apart, and nothing but [`Self::digest_to_end`] makes sense of it. The
    /// digest of the stored bytes is computed unless it is `known`.
    pub(crate) fn begin(mut stored: R, known: Option<Digest>) -> Result<(Self, Option<Unreadable>), LayerError> {
        let mut head = Vec::with_capacity(MAGIC_LENGTH);
        stored.by_ref().take(MAGIC_LENGTH as u64).read_to_end(&mut head).map_err(LayerError::Read)?;
        let (compression, unreadable) = match Compression::of_bytes(&head) {
            Ok(compression) => (compression, None),
            Err(unreadable) => (Compression::None, Some(unreadable)),
        };
        // A tar's bytes are hashed as such.
        let hasher = (compression != Compression::None && known.is_none()).then(DigestHasher::sha256);
        let stored = Stored { head: Cursor::new(head), rest: stored, hasher, length: 0, failed: None };
        let stored = BufReader::with_capacity(BUFFER, stored);
        let decoder = match compression {
            Compression::None => Decoder::Plain(stored),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(stored))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(LayerError::Read)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).map_err(LayerError::Read)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        let tar = DigestHasher::sha256();
        let reader = Self { decoder, compression, known, tar, tar_length: 0, min_bomb: MIN_BOMB };
        Ok((reader, unreadable))
    }

    /// How the layer is compressed.
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// How many stored bytes were read.
    pub fn stored_length(&self) -> u64 {
        self.stored().length
    }

    /// Reads the next bytes of the tar; none at its end.
    ///
    /// # Errors
    ///
    /// The layer can't be read, is damaged, or becomes too long.
    pub fn next(&mut self, buffer: &mut [u8]) -> Result<usize, LayerError> {
        let read = loop {
            let read = match &mut self.decoder {
                Decoder::Plain(plain) => plain.read(buffer),
                Decoder::Gzip(gzip) => gzip.read(buffer),
                Decoder::Zstd(zstd) => zstd.read(buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let read = read.map_err(|error| self.failure(error))?;
        self.tar.update(&buffer[..read]);
        self.tar_length += read as u64;
        let stored = self.stored_length();
        let is_bomb = self.tar_length > self.min_bomb && self.tar_length / MAX_RATIO > stored;
        if is_bomb || self.tar_length > MAX_TAR {
            return Err(LayerError::Bomb { tar: self.tar_length, stored });
        }
        Ok(read)
    }

    /// Ends the reading, and gives the layer's digests. To be called once [`Self::next`] has given nothing more.
    ///
    /// # Errors
    ///
    /// When the bytes behind the compressed data can't be read.
    pub fn finish(mut self) -> Result<LayerDigests, LayerError> {
        let mut rest = [0; 4096];
        while self.next(&mut rest)? > 0 {}
        let (compression, tar_length) = (self.compression, self.tar_length);
        let tar = self.tar.finish();
        let stored = match self.decoder {
            Decoder::Plain(plain) => plain.into_inner(),
            Decoder::Gzip(gzip) => gzip.into_inner().into_inner(),
            Decoder::Zstd(zstd) => zstd.finish().into_inner(),
        };
        let stored_length = stored.length;
        let stored = self.known.unwrap_or_else(|| stored.hasher.map_or(tar, DigestHasher::finish));
        Ok(LayerDigests { compression, stored, stored_length, tar, tar_length })
    }

    /// Reads the rest as it is stored, of which nothing can be made, and gives the digest of all stored bytes.
    ///
    /// # Errors
    ///
    /// It can't be read, or has no end.
    pub(crate) fn digest_to_end(self) -> Result<Digest, LayerError> {
        let (known, tar_length) = (self.known, self.tar_length);
        let found = match self.decoder {
            // The layer's bytes are hashed as the tar's.
            Decoder::Plain(plain) => digest_of_rest(plain, self.tar, tar_length),
            Decoder::Gzip(gzip) => gzip.into_inner().into_inner().digest_to_end(tar_length),
            Decoder::Zstd(zstd) => zstd.finish().into_inner().digest_to_end(tar_length),
        }?;
        Ok(known.unwrap_or(found))
    }

    fn stored(&self) -> &Stored<R> {
        match &self.decoder {
            Decoder::Plain(plain) => plain.get_ref(),
            Decoder::Gzip(gzip) => gzip.get_ref().get_ref(),
            Decoder::Zstd(zstd) => zstd.get_ref().get_ref(),
        }
    }

    /// The failure, blamed on the right party: the decoder passes on what the layer's own reader says.
    fn failure(&mut self, error: io::Error) -> LayerError {
        let stored = match &mut self.decoder {
            Decoder::Plain(plain) => plain.get_mut(),
            Decoder::Gzip(gzip) => gzip.get_mut().get_mut(),
            Decoder::Zstd(zstd) => zstd.get_mut().get_mut(),
        };
        match stored.failed.take() {
            Some(kind) if kind == error.kind() => LayerError::Read(error),
            _ => LayerError::Damaged { compression: self.compression, after: self.tar_length, source: error },
        }
    }
}

/// A layer's bytes as they are stored.
struct Stored<R> {
    /// Bytes that were read already, to know the compression.
    head: Cursor<Vec<u8>>,
    rest: R,
    hasher: Option<DigestHasher>,
    length: u64,
    /// How reading them failed.
    failed: Option<io::ErrorKind>,
}

/// Reads to the end, after this many bytes of tar.
fn digest_of_rest(mut rest: impl Read, mut hasher: DigestHasher, tar: u64) -> Result<Digest, LayerError> {
    let (mut buffer, mut length) = (vec![0; BUFFER], 0);
    loop {
        let read = match rest.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(LayerError::Read)?,
        };
        if read == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
        if length > MAX_TAR {
            return Err(LayerError::Bomb { tar, stored: length });
        }
    }
}

impl<R: Read> Stored<R> {
    fn digest_to_end(mut self, tar: u64) -> Result<Digest, LayerError> {
        let hasher = self.hasher.take().unwrap_or_else(DigestHasher::sha256);
        digest_of_rest(self, hasher, tar)
    }
}

impl<R: Read> Read for Stored<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = self.head.read(buffer)?;
        if read == 0 {
            read = self.rest.read(buffer).inspect_err(|error| self.failed = Some(error.kind()))?;
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        self.length += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 1).unwrap()
    }

    fn read(stored: &[u8]) -> Result<(Vec<u8>, LayerDigests), LayerError> {
        let mut reader = LayerReader::new(stored)?;
        let (mut tar, mut buffer) = (Vec::new(), [0; 1000]);
        loop {
            match reader.next(&mut buffer)? {
                0 => return Ok((tar, reader.finish()?)),
                read => tar.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[test]
    fn every_compression_in_one_part_or_several_gives_the_same_tar_and_both_digests() {
        let tar: Vec<u8> = (0..300_000_u32).flat_map(|at| (at / 7).to_le_bytes()).collect();
        let (front, back) = tar.split_at(123_456);
        // A frame that `zstd:chunked` has at its end, and other writers at the beginning.
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for (stored, compression) in [
            (tar.clone(), Compression::None),
            (gzip(&tar), Compression::Gzip),
            ([gzip(front), gzip(b""), gzip(back)].concat(), Compression::Gzip),
            (zstd(&tar), Compression::Zstd),
            ([zstd(front), zstd(back), skipped.to_vec()].concat(), Compression::Zstd),
            ([skipped.to_vec(), zstd(&tar)].concat(), Compression::Zstd),
        ] {
            let (read, digests) = read(&stored).unwrap();
            assert!(read == tar, "{compression:?}");
            assert_eq!((digests.compression, digests.stored_length), (compression, stored.len() as u64));
            assert_eq!((digests.stored, digests.tar), (Digest::sha256(&stored), Digest::sha256(&tar)));
            assert_eq!(digests.tar_length, tar.len() as u64);
        }
        let (nothing, digests) = read(b"").unwrap();
        assert_eq!((nothing.len(), digests.tar), (0, Digest::sha256(b"")));
    }

    #[test]
    fn what_is_cut_or_damaged_is_an_error() {
        let tar = vec![7; 100_000];
        for mut stored in [gzip(&tar), zstd(&tar)] {
            let cut = stored[..stored.len() - 3].to_vec();
            assert!(matches!(read(&cut), Err(LayerError::Damaged { .. })));
            let middle = stored.len() / 2;
            stored[middle] ^= 0x40;
            assert!(matches!(read(&stored), Err(LayerError::Damaged { .. })));
        }
        assert!(matches!(read(&[gzip(&tar), b"garbage behind it".to_vec()].concat()), Err(LayerError::Damaged { .. })));
        assert!(matches!(read(b"\xfd7zXZ\0"), Err(LayerError::Unreadable(Unreadable("xz")))));
    }

    #[test]
    fn whoever_cannot_be_read_is_told_apart_from_what_is_damaged() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let begun = gzip(&[7; 100_000]);
        let mut reader = LayerReader::new(begun[..50].chain(Broken)).unwrap();
        let error = loop {
            match reader.next(&mut [0; 65_536]) {
                Ok(0) => panic!("no error"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(&error, LayerError::Read(_)), "{error:?}");
        assert!(error.blame().may_pass());
    }

    #[test]
    fn a_small_layer_that_becomes_an_endless_tar_is_refused() {
        struct Zeros;
        impl Read for Zeros {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(0);
                Ok(buffer.len())
            }
        }
        let mut stored = Vec::new();
        let mut encoder = zstd::stream::write::Encoder::new(&mut stored, 1).unwrap();
        io::copy(&mut Zeros.take(64 << 20), &mut encoder).unwrap();
        encoder.finish().unwrap();
        let mut reader = LayerReader::new(stored.as_slice()).unwrap();
        reader.min_bomb = 4 << 20;
        let mut buffer = vec![0; 1 << 20];
        let error = loop {
            match reader.next(&mut buffer) {
                Ok(0) => panic!("no error"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, LayerError::Bomb { tar, .. } if tar < 32 << 20), "{error:?}");
    }
}
