use proptest::prelude::*;

use super::*;

/// Bytes that shrink: words of a small vocabulary.
fn text(length: usize) -> Vec<u8> {
    let words = (0..length as u32).map(|at| at.wrapping_mul(2_654_435_761) >> 24);
    words.flat_map(|word| format!("word{word} ").into_bytes()).take(length).collect()
}

/// Bytes that don't.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn unpacked(packed: &PackedPiece) -> Result<Vec<u8>> {
    let mut plain = b"of the piece before".to_vec();
    Unpacker::default().unpack(packed, &mut plain)?;
    Ok(plain)
}

/// A body with this length in front, whatever the frame.
fn body(length: u32, frame: &[u8]) -> Bytes {
    [&length.to_le_bytes()[..], frame].concat().into()
}

fn frame(plain: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(plain, LEVEL).unwrap()
}

#[test]
fn what_shrinks_by_a_tenth_is_packed_and_comes_back_as_it_was() {
    let mut packer = Packer::default();
    for length in [100, 4096, 1 << 19, 1 << 20] {
        let plain = text(length);
        let packed = packer.pack(&plain).expect("it shrinks");
        assert!(packed.length() as usize <= length - length / 10, "{length}");
        assert_eq!(packed.plain_length() as usize, length);
        let read = PackedPiece::read(packed.body().clone(), length as u32).unwrap();
        assert!(unpacked(&read).unwrap() == plain, "{length}");
        assert_eq!(read.compact(), packed);
    }
    for length in [0, 1, 7, 100, 1 << 19] {
        assert_eq!(packer.pack(&noise(length)), None, "{length}");
    }
    // Half of it shrinks to nothing, so all of it by a half; a tenth of it by less than a tenth.
    let mixed = |of_ten: usize| [noise(100_000 - 10_000 * of_ten), vec![7; 10_000 * of_ten]].concat();
    assert!(packer.pack(&mixed(5)).is_some() && packer.pack(&mixed(1)).is_none());
}

#[test]
fn lengths_that_lie_and_bytes_behind_the_end_are_errors_and_a_bomb_writes_no_more_than_its_length() {
    let plain = text(10_000);
    let right = frame(&plain);
    assert!(unpacked(&PackedPiece::read(body(10_000, &right), 10_000).unwrap()).unwrap() == plain);
    for length in [1, 9_999, 10_001, 1 << 20] {
        let lying = PackedPiece::read(body(length, &right), 1 << 20).unwrap();
        assert!(unpacked(&lying).is_err(), "{length}");
    }
    // A hundred megabytes in ten kilobytes, with the length that it has and with another.
    let bomb = frame(&vec![0; 100 << 20]);
    assert!(bomb.len() < 20_000);
    assert!(PackedPiece::read(body(100 << 20, &bomb), 1 << 20).is_err(), "longer than what was asked for");
    let mut into = Vec::new();
    let lying = PackedPiece::read(body(1 << 20, &bomb), 1 << 20).unwrap();
    assert!(Unpacker::default().unpack(&lying, &mut into).is_err());
    assert!(into.capacity() <= 1 << 20);
    let [two, behind, skipped] = [&right[..], &[0], &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]];
    for more in [two, behind, skipped] {
        let longer = PackedPiece::read(body(10_000, &[&right, more].concat()), 1 << 20).unwrap();
        assert!(unpacked(&longer).is_err(), "{} bytes behind the end", more.len());
    }
    let first = PackedPiece::read(body(10_000, &[skipped, &right].concat()), 1 << 20).unwrap();
    assert!(unpacked(&first).is_err(), "something before it");
}

#[test]
fn a_body_is_bounded_by_what_was_asked_for_before_anything_is_unpacked() {
    let right = frame(&text(1000));
    let read = |length, longest| PackedPiece::read(body(length, &right), longest);
    assert!(read(1000, 1000).is_ok());
    for (length, longest) in [(0, 1000), (1001, 1000), (1000, 999), (u32::MAX, u32::MAX)] {
        assert!(read(length, longest).is_err(), "{length} of {longest}");
    }
    assert!(PackedPiece::read(body(1, &noise(1000)), 1000).is_err(), "longer than the plain piece may be");
    for few in 0..=PREFIX {
        assert!(PackedPiece::read(body(1, &[]).slice(..few), 1000).is_err(), "{few} bytes");
    }
    assert!(PackedPiece::read(body(MAX_PIECE_LENGTH + 1, &right), u32::MAX).is_err());
}

proptest! {
    #[test]
    fn all_that_is_packed_comes_back(words in prop::collection::vec(0_u8..4, 0..3000), spread in 1_u8..64) {
        let plain: Vec<u8> = words.iter().map(|word| word * spread).collect();
        if let Some(packed) = Packer::default().pack(&plain) {
            prop_assert!(packed.body().len() * 10 <= plain.len() * 9);
            prop_assert!(unpacked(&packed).unwrap() == plain);
        }
    }

    /// Whatever is changed, cut off or added: an error, or bytes of the length that was named. Which bytes, their hash tells.
    #[test]
    fn broken_streams_are_errors_or_as_long_as_they_say(
        at in 0_usize..400, byte: u8, cut in 0_usize..400, more in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let right = Packer::default().pack(&text(3000)).unwrap();
        let mut wrong = right.body().to_vec();
        let end = wrong.len();
        wrong[at % end] ^= byte;
        wrong.truncate(end - cut % end);
        wrong.extend(&more);
        if let Ok(packed) = PackedPiece::read(wrong.into(), 4096)
            && let Ok(plain) = unpacked(&packed)
        {
            prop_assert_eq!(plain.len(), packed.plain_length() as usize);
            prop_assert!(plain.len() <= 4096);
        }
    }

    #[test]
    fn arbitrary_bodies_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), longest: u32) {
        let frames = [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat();
        for body in [Bytes::from(bytes), body(100, &frames)] {
            if let Ok(packed) = PackedPiece::read(body, longest) {
                let _ = unpacked(&packed);
            }
        }
    }
}
