//! Inflates data from any point on at which a copy of the decoder was kept.
//!
//! Deflate has no index: a byte of the middle needs all data before it. So an [`Inflater`] is copied every now and then (43 KB: its tables, and the last
//! 32 KiB that it gave), and whoever wants bytes behind a copy begins there ([`Copies`]). A decoder of its own for it, since bindings of zlib let
//! nobody copy one.
//!
//! Invariants: what is given is never longer than the member says it is; its end is accepted only if length and CRC-32 are right, by whichever
//! copies it was reached.

use std::collections::BTreeMap;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// How far back data may refer.
const WINDOW: usize = 32 << 10;

/// The memory of a copy.
pub const COPY: usize = WINDOW + size_of::<DecompressorOxide>();

/// The most copies of one member.
pub const MAX_COPIES: u64 = 256;

/// Bytes that are given at once end at a multiple of this. A multiple of the window, so that it is never cut.
pub const CHUNK: u64 = 256 << 10;

/// How far apart copies are, at least.
const MIN_SPACING: u64 = 1 << 20;

/// Why data can't be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// The data is not deflated.
    #[error("its compressed data is damaged")]
    Data,
    /// The data becomes shorter or longer than it should be.
    #[error("it does not become as long as the archive says")]
    Length,
    /// The data is not what its checksum says.
    #[error("it is not what its checksum says")]
    Checksum,
}

/// A decoder in the middle of its work.
#[derive(Clone)]
pub struct Inflater {
    decoder: Box<DecompressorOxide>,
    window: Box<[u8]>,
    /// How many bytes of data it has taken.
    taken: u64,
    /// How many bytes it has given.
    given: u64,
    checksum: crc32fast::Hasher,
    length: u64,
    crc: u32,
    /// True once the end has come, and was right.
    is_over: bool,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inflater {{ taken: {}, given: {} of {} }}", self.taken, self.given, self.length)
    }
}

impl Inflater {
    /// At the beginning of data that becomes so long, with this checksum.
    pub fn new(length: u64, crc: u32) -> Self {
        Self {
            decoder: Box::default(),
            window: vec![0; WINDOW].into(),
            taken: 0,
            given: 0,
            checksum: crc32fast::Hasher::new(),
            length,
            crc,
            is_over: false,
        }
    }

    /// How many bytes of data it has taken: it goes on with the next one.
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// How many bytes it has given.
    pub const fn given(&self) -> u64 {
        self.given
    }

    /// Takes data and adds what it becomes to `out`, up to the next multiple of [`CHUNK`] or the end, or until the data is used up; `is_all` if
    /// nothing follows it. How many bytes it took, and whether it stopped for want of data.
    ///
    /// # Errors
    /// [`Damaged`]: nothing more can be had of it.
    pub fn inflate(&mut self, data: &[u8], is_all: bool, out: &mut Vec<u8>) -> Result<(usize, bool), Damaged> {
        let mut used = 0;
        let flags = if is_all { 0 } else { TINFL_FLAG_HAS_MORE_INPUT };
        let end = (self.given / CHUNK + 1) * CHUNK;
        // The end is looked for once all is given: only there it is known that this is all, and right.
        while !self.is_over && (self.given < end || self.given == self.length) {
            let place = (self.given % WINDOW as u64) as usize;
            // Before the window was full once, there is nothing behind it: only a decoder that may not wrap around refuses what refers there, and would
            // else be given the zeros that stand in it.
            let begins = if self.given < WINDOW as u64 { TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF } else { 0 };
            let (status, taken, given) =
                decompress(&mut self.decoder, &data[used..], &mut self.window, place, flags | begins);
            used += taken;
            self.taken += taken as u64;
            self.given += given as u64;
            if self.given > self.length {
                return Err(Damaged::Length);
            }
            let fresh = &self.window[place..place + given];
            self.checksum.update(fresh);
            out.extend_from_slice(fresh);
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput if !is_all => return Ok((used, true)),
                TINFLStatus::Done if self.given != self.length => return Err(Damaged::Length),
                TINFLStatus::Done if self.checksum.clone().finalize() != self.crc => return Err(Damaged::Checksum),
                TINFLStatus::Done => self.is_over = true,
                _ => return Err(Damaged::Data),
            }
        }
        Ok((used, false))
    }
}

/// Copies of a decoder, by how many bytes it had given.
#[derive(Debug)]
pub struct Copies<P> {
    copies: BTreeMap<u64, (Inflater, P)>,
    spacing: u64,
}

impl<P> Copies<P> {
    /// None yet, of data that becomes so long.
    pub fn of(length: u64) -> Self {
        let spacing = (length / MAX_COPIES).max(MIN_SPACING).div_ceil(CHUNK) * CHUNK;
        Self { copies: BTreeMap::new(), spacing }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.copies.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// Gives up every second one, so that those that stay are spread as before.
    pub fn thin(&mut self) {
        let mut stays = true;
        self.copies.retain(|_, _| {
            stays = !stays;
            stays
        });
    }

    /// True if there is no copy near this decoder's place yet.
    pub fn wants(&self, inflater: &Inflater) -> bool {
        let place = inflater.given / self.spacing * self.spacing;
        let is_there = self.copies.range(place..place + self.spacing).next().is_some();
        place > 0 && !is_there && !inflater.is_over
    }

    /// Keeps a copy of a decoder if there is none near that place, and if there is a permit for its memory.
    pub fn keep(&mut self, inflater: &Inflater, permit: impl FnOnce() -> Option<P>) {
        if self.wants(inflater)
            && let Some(permit) = permit()
        {
            self.copies.insert(inflater.given, (inflater.clone(), permit));
        }
    }

    /// The nearest decoder that has not given the byte at `at` yet.
    pub fn nearest(&self, at: u64) -> Option<&Inflater> {
        self.copies.range(..=at).next_back().map(|(_, (inflater, _))| inflater)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Bytes that deflate a little.
    fn content(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let byte = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b"abcdefgh"[(state >> 29) as usize]
        };
        (0..length).map(byte).collect()
    }

    /// Inflates from a decoder's place on, by pieces of this size.
    fn rest(mut inflater: Inflater, data: &[u8], step: usize, copies: &mut Copies<()>) -> Result<Vec<u8>, Damaged> {
        let mut out = Vec::new();
        while !inflater.is_over {
            let at = usize::try_from(inflater.taken()).unwrap();
            let end = (at + step).min(data.len());
            let (_, wants) = inflater.inflate(&data[at..end], end == data.len(), &mut out)?;
            if !wants {
                copies.keep(&inflater, || Some(()));
            }
        }
        Ok(out)
    }

    #[test]
    fn any_copy_gives_the_rest_whatever_the_pieces() {
        let bytes = content(5 * CHUNK as usize * 4 + 12_345);
        let data = deflated(&bytes);
        let new = || Inflater::new(bytes.len() as u64, crc32fast::hash(&bytes));
        for step in [777, 64 << 10, data.len()] {
            let mut copies = Copies::of(bytes.len() as u64);
            assert!(rest(new(), &data, step, &mut copies).unwrap() == bytes);
            assert!(copies.copies.len() >= 4, "{}", copies.copies.len());
            for at in [1 << 20, (2 << 20) + 5, bytes.len() as u64 - 1] {
                let copy = copies.nearest(at).unwrap().clone();
                let from = copy.given();
                assert!(from > 0 && from <= at && at - from < (1 << 20) + CHUNK);
                let mut none = Copies::of(0);
                assert!(rest(copy, &data, 10_000, &mut none).unwrap() == bytes[usize::try_from(from).unwrap()..]);
            }
            assert!(copies.nearest(1000).is_none());
        }
    }

    #[test]
    fn whole_chunks_have_their_end_checked_too() {
        for length in [CHUNK as usize, 3 * CHUNK as usize, 1, WINDOW] {
            let bytes = content(length);
            let data = deflated(&bytes);
            let of = |length: usize, crc: u32| rest(Inflater::new(length as u64, crc), &data, 1000, &mut Copies::of(0));
            let crc = crc32fast::hash(&bytes);
            assert!(of(length, crc).unwrap() == bytes, "{length}");
            assert_eq!(of(length, crc ^ 1), Err(Damaged::Checksum));
            assert_eq!(of(length + 1, crc), Err(Damaged::Length));
            assert_eq!(of(length - 1, crc), Err(Damaged::Length));
        }
    }

    #[test]
    fn damage_and_missing_ends_are_errors() {
        let bytes = content(200_000);
        let data = deflated(&bytes);
        let of = |data: &[u8]| {
            rest(Inflater::new(bytes.len() as u64, crc32fast::hash(&bytes)), data, 1000, &mut Copies::of(0))
        };
        assert_eq!(of(&data[..data.len() - 2]), Err(Damaged::Data));
        assert_eq!(of(b""), Err(Damaged::Data));
        let mut wrong = data;
        wrong[100] ^= 0xff;
        assert!(of(&wrong).is_err());
    }

    #[test]
    fn what_refers_to_bytes_before_the_first_is_damage_and_no_zeros() {
        // One fixed block: a match of three bytes at distance 1, and the end.
        let only_match = [0x03, 0x02, 0x00];
        // The same behind a literal zero byte, where it is right.
        let behind_a_byte = [0x63, 0x00, 0x02, 0x00];
        let of = |data: &[u8], bytes: &[u8]| {
            let new = Inflater::new(bytes.len() as u64, crc32fast::hash(bytes));
            rest(new, data, 1000, &mut Copies::of(0))
        };
        assert_eq!(of(&only_match, &[0; 3]), Err(Damaged::Data));
        assert_eq!(of(&behind_a_byte, &[0; 4]), Ok(vec![0; 4]));
    }

    #[test]
    fn the_number_of_copies_is_bounded_whatever_the_length() {
        let copies: Copies<()> = Copies::of(100 << 30);
        assert!((100_u64 << 30) / copies.spacing <= MAX_COPIES && copies.spacing.is_multiple_of(CHUNK));
    }
}
