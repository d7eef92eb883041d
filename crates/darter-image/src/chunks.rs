//! How a sparse file points at the tar: in chunks of one power of two, each of which is a hole, stands in the tar as it is, or is
//! copied behind the tar.
//!
//! Large chunks make short maps, but a chunk that is partly a hole, or whose bytes don't lie at a multiple of 512, must be copied. The size
//! taken is the one for which map and copies together are the least; of equal ones the largest. Programs that write sparse files into tars
//! find holes in units of 512 bytes or of a file system's blocks, so that nothing is copied but, in some, the file's last bytes.

use crate::limits::MAX_CHUNKS;
use crate::tar::Segment;

/// The unit of addresses: EROFS with blocks of 512 bytes.
const BLOCK: u64 = 512;

/// Chunks are 2^9 to 2^40 bytes.
const BITS: std::ops::RangeInclusive<u32> = 9..=40;

/// A chunk that is a hole.
pub(crate) const HOLE: u32 = u32::MAX;

/// The chunk map of a sparse file: the place of each of its chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// A chunk is two to this power.
    pub(crate) bits: u32,
    /// For each chunk a block of the tar, or [`HOLE`].
    pub(crate) map: Vec<u32>,
    /// Chunks that are copied, and from which block among the copies on.
    pub(crate) copied: Vec<(usize, u32)>,
}

/// Bytes of a member's data that have to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopiedRange {
    /// The chunk's offset in the member's data.
    pub(crate) from: u64,
    pub(crate) length: u64,
    /// The chunk's offset among the copies.
    pub(crate) to: u64,
}

/// How a sparse file is expressed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChunkPlan {
    /// The member's data is the file.
    Whole,
    Chunks {
        chunks: Chunks,
        copies: Vec<CopiedRange>,
        copied_bytes: u64,
    },
}

/// A part of a file that stands in the tar as it is.
#[derive(Clone, Copy, Debug)]
struct Extent {
    begin: u64,
    end: u64,
    /// The extent's offset in the member's data.
    data: u64,
}

impl Extent {
    /// The chunks that it touches.
    const fn touched(&self, bits: u32) -> std::ops::Range<u64> {
        self.begin >> bits..((self.end - 1) >> bits) + 1
    }

    /// Those among them that need no copy.
    fn direct(&self, bits: u32, size: u64) -> std::ops::Range<u64> {
        let begin = self.begin.div_ceil(1 << bits);
        let end = if self.end == size { size.div_ceil(1 << bits) } else { self.end >> bits };
        // A member's data begins at a multiple of 512.
        if self.data % BLOCK != self.begin % BLOCK { begin..begin } else { begin..end.max(begin) }
    }
}

/// Plans a file of `size` bytes, whose data of these segments begins at byte `data` of the tar. Copies go behind the `copied` bytes
/// that there are already, and are at most `room`. `None` if it can't be done.
pub(crate) fn plan(size: u64, segments: &[Segment], data: u64, copied: u64, room: u64) -> Option<ChunkPlan> {
    if size == 0 {
        return Some(ChunkPlan::Whole);
    }
    let extents = extents(segments);
    if let [only] = extents.as_slice()
        && only.begin == 0
        && only.end == size
    {
        return Some(ChunkPlan::Whole);
    }
    let possible = BITS.filter(|bits| size.div_ceil(1 << bits) <= MAX_CHUNKS);
    let costed = possible.map(|bits| (bits, copied_chunks(&extents, bits, size)));
    let costed = costed.map(|(bits, copies)| (bits, copies.map(|chunk| length_of(chunk, bits, size)).sum::<u64>()));
    let fitting = costed.filter(|(_, bytes)| *bytes <= room);
    let (bits, _) = fitting.min_by_key(|(bits, bytes)| (size.div_ceil(1 << bits) * 4 + bytes, u32::MAX - bits))?;

    let length = usize::try_from(size.div_ceil(1 << bits)).ok()?;
    let mut chunks = Chunks { bits, map: vec![HOLE; length], copied: Vec::new() };
    for extent in &extents {
        for chunk in extent.direct(bits, size) {
            let at = data + extent.data + ((chunk << bits) - extent.begin);
            chunks.map[usize::try_from(chunk).ok()?] = u32::try_from(at / BLOCK).ok()?;
        }
    }
    let mut end = copied;
    for chunk in copied_chunks(&extents, bits, size) {
        chunks.copied.push((usize::try_from(chunk).ok()?, u32::try_from(end / BLOCK).ok()?));
        end += length_of(chunk, bits, size);
    }
    let copies = copies(&extents, &chunks);
    Some(ChunkPlan::Chunks { chunks, copies, copied_bytes: end - copied })
}

/// The segments, without empty ones, and adjoining ones as one.
fn extents(segments: &[Segment]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut data = 0;
    for segment in segments.iter().filter(|segment| segment.length > 0) {
        let end = segment.offset + segment.length;
        match extents.last_mut() {
            Some(last) if last.end == segment.offset => last.end = end,
            _ => extents.push(Extent { begin: segment.offset, end, data }),
        }
        data += segment.length;
    }
    extents
}

/// The chunks that have to be copied, in order.
fn copied_chunks(extents: &[Extent], bits: u32, size: u64) -> impl Iterator<Item = u64> {
    let mut last = None;
    let each = extents.iter().flat_map(move |extent| {
        let (touched, direct) = (extent.touched(bits), extent.direct(bits, size));
        let before = touched.start..direct.start.clamp(touched.start, touched.end);
        let after = direct.end.clamp(before.end, touched.end)..touched.end;
        before.chain(after)
    });
    // Two extents may touch one chunk.
    each.filter(move |chunk| last.replace(*chunk) != Some(*chunk))
}

/// How long a chunk is, in whole blocks.
fn length_of(chunk: u64, bits: u32, size: u64) -> u64 {
    (size - (chunk << bits)).min(1 << bits).next_multiple_of(BLOCK)
}

/// Which bytes of the data go into copied chunks.
fn copies(extents: &[Extent], chunks: &Chunks) -> Vec<CopiedRange> {
    let mut copies = Vec::new();
    let mut next = 0;
    for (chunk, block) in &chunks.copied {
        let begin = (*chunk as u64) << chunks.bits;
        let end = begin + (1 << chunks.bits);
        while extents.get(next).is_some_and(|extent| extent.end <= begin) {
            next += 1;
        }
        for extent in extents[next..].iter().take_while(|extent| extent.begin < end) {
            let (from, until) = (extent.begin.max(begin), extent.end.min(end));
            copies.push(CopiedRange {
                from: extent.data + (from - extent.begin),
                length: until - from,
                to: u64::from(*block) * BLOCK + (from - begin),
            });
        }
    }
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(size: u64, segments: &[(u64, u64)]) -> ChunkPlan {
        let segments: Vec<_> =
            segments.iter().map(|(offset, length)| Segment { offset: *offset, length: *length }).collect();
        plan(size, &segments, 1024, 0, 1 << 20).unwrap()
    }

    #[test]
    fn aligned_parts_are_pointed_at_and_chunks_are_as_large_as_that_allows() {
        let ChunkPlan::Chunks { chunks, copies, copied_bytes } = plan_of(1 << 20, &[(0, 8192), (65_536, 4096)]) else {
            panic!()
        };
        assert_eq!((chunks.bits, copied_bytes, copies.len()), (12, 0, 0));
        assert_eq!(chunks.map.len(), 256);
        let held: Vec<_> = chunks.map.iter().enumerate().filter(|(_, block)| **block != HOLE).collect();
        assert_eq!(held, [(0, &2), (1, &10), (16, &18)]);
    }

    #[test]
    fn what_ends_within_a_block_is_copied_unless_the_file_ends_there() {
        let ChunkPlan::Chunks { chunks, copies, .. } = plan_of(10_000, &[(4096, 100), (9_900, 100)]) else { panic!() };
        assert_eq!(chunks.copied.len(), 2);
        let bytes = |copy: &CopiedRange| (copy.from, copy.length);
        assert_eq!(copies.iter().map(bytes).collect::<Vec<_>>(), [(0, 100), (100, 100)]);
        assert_eq!(copies[0].to % 512, 0);

        let ChunkPlan::Chunks { chunks, copies, .. } = plan_of(8_292, &[(8192, 100)]) else { panic!() };
        assert_eq!((chunks.copied.len(), copies.len()), (0, 0));
        assert_eq!(*chunks.map.last().unwrap(), 2);
    }

    #[test]
    fn a_file_without_holes_is_its_data_and_one_without_data_a_hole() {
        assert_eq!(plan_of(1000, &[(0, 600), (600, 400), (1000, 0)]), ChunkPlan::Whole);
        let ChunkPlan::Chunks { chunks, .. } = plan_of(1 << 40, &[(1 << 40, 0)]) else { panic!() };
        assert_eq!((chunks.bits, chunks.map), (40, vec![HOLE]));
    }

    #[test]
    fn a_file_that_neither_fits_as_a_map_nor_as_copies_is_refused() {
        let segments = [Segment { offset: 1, length: 4096 }];
        assert!(plan(1 << 20, &segments, 0, 0, 4608).is_some());
        assert_eq!(plan(1 << 20, &segments, 0, 0, 4607), None);
    }
}
