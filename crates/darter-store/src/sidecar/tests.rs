use darter_core::manifest::root_of;
use darter_core::{Digest, PieceIndex, Version};
use proptest::prelude::*;

use super::*;

/// Makes the checksum right again, so that decoding goes on to the content.
fn reseal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - CHECKSUM);
    let checksum = root_of(&bytes);
    bytes.extend_from_slice(&checksum.0);
    bytes
}

fn any_sidecar() -> impl Strategy<Value = Sidecar> {
    let info =
        (any::<String>(), any::<Option<[u8; 32]>>(), any::<Option<String>>(), any::<Option<u64>>(), any::<u64>());
    let info = info.prop_map(|(name, digest, etag, length, created)| BlobInfo {
        name,
        digest: digest.map(Digest::Sha256),
        version: Version { etag, length, ..Version::default() },
        created,
    });
    let pieces = (14u8..=24, prop::collection::vec(any::<[u8; 32]>(), 0..200), any::<bool>(), any::<u16>());
    // Of most blobs all hashes are known, or the first ones.
    let gap = prop::option::weighted(0.3, (0usize..200, 0usize..200));
    (any::<[u8; 32]>(), info, pieces, (prop::collection::vec(any::<bool>(), 200), gap), any::<bool>()).prop_map(
        |(id, info, (log2, hashes, whole, short), (held, gap), pinned)| {
            let pieces = PieceLength::from_log2(log2).unwrap();
            let full = hashes.len() as u64 * pieces.bytes();
            let mut manifest = Manifest::new(pieces, whole.then(|| full.saturating_sub(u64::from(short % 16_384))));
            let hashes: Vec<PieceHash> = hashes.into_iter().map(PieceHash).collect();
            match gap.filter(|_| whole) {
                Some((one, other)) => {
                    let (from, to) = (one.min(other).min(hashes.len()), one.max(other).min(hashes.len()));
                    manifest.extend(to as u32, &hashes[to..]).unwrap();
                    manifest.extend(0, &hashes[..from]).unwrap();
                }
                None => assert_eq!(manifest.extend(0, &hashes).unwrap() as usize, hashes.len()),
            }
            let held: PieceSet = manifest.known().iter().filter(|piece| held[piece.as_usize()]).collect();
            let complete = manifest.is_whole() && held.len() == manifest.prefix();
            Sidecar { id: BlobId(id), info, manifest, held, complete, pinned }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(sidecar in any_sidecar()) {
        prop_assert_eq!(Sidecar::decode(&sidecar.encode()).unwrap(), sidecar);
    }

    #[test]
    fn a_changed_byte_is_noticed(sidecar in any_sidecar(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = sidecar.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(Sidecar::decode(&bytes).is_err());
    }

    #[test]
    fn a_cut_is_noticed(sidecar in any_sidecar(), at in any::<prop::sample::Index>()) {
        let bytes = sidecar.encode();
        prop_assert!(Sidecar::decode(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Sidecar::decode(&bytes);
    }

    /// With a right checksum over wrong content: whatever is accepted keeps the invariants.
    #[test]
    fn forged_content_never_breaks_an_invariant(
        sidecar in any_sidecar(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = sidecar.encode();
        for (at, value) in changes {
            // Most changes to the header, where the counts are.
            let room = (bytes.len() - CHECKSUM).min(200);
            bytes[at.index(room)] = value;
        }
        if let Ok(read) = Sidecar::decode(&reseal(bytes)) {
            prop_assert!(read.held.iter().all(|piece| read.manifest.hash(piece).is_some()));
            prop_assert!(!read.complete || read.manifest.root().is_some());
            prop_assert_eq!(read.facts().complete, read.complete);
        }
    }
}

#[test]
fn the_layout_does_not_change_unnoticed() {
    let pieces = PieceLength::from_log2(18).unwrap();
    let mut manifest = Manifest::new(pieces, Some(300_000));
    manifest.extend(0, &[PieceHash([7; 32]), PieceHash([8; 32])]).unwrap();
    let sidecar = Sidecar {
        id: BlobId([9; 32]),
        info: BlobInfo {
            name: "n".into(),
            digest: None,
            version: Version { etag: Some("\"e\"".into()), last_modified: None, length: Some(300_000), nonce: None },
            created: 5,
        },
        manifest,
        held: [PieceIndex(1)].into_iter().collect(),
        complete: false,
        pinned: true,
    };
    let mut expected = b"DARTPIEC".to_vec();
    expected.extend([1, 0b110, 18, 0, 2, 0, 0, 0]);
    expected.extend(300_000u64.to_le_bytes());
    expected.extend([9; 32]);
    expected.extend([17, 0, 0, 0, 1, 0, 0, 0]);
    expected.extend([1, b'n', 0, 1, 3, b'"', b'e', b'"', 0, 1, 0xe0, 0xa7, 0x12, 0, 5]);
    let info_length = expected.len() - HEADER;
    expected[56] = u8::try_from(info_length).unwrap();
    expected.extend([7; 32]);
    expected.extend([8; 32]);
    expected.extend(2u64.to_le_bytes());
    let bytes = sidecar.encode();
    assert_eq!(bytes[..bytes.len() - CHECKSUM], expected);
}

/// The beginning, a gap, the last piece: what reading the end of a cold blob leaves.
#[test]
fn hashes_with_gaps_are_a_version_of_their_own_until_the_gaps_are_filled() {
    let mut manifest = Manifest::new(PieceLength::from_log2(14).unwrap(), Some(70 * 16_384));
    manifest.extend(0, &[PieceHash([7; 32])]).unwrap();
    manifest.extend(69, &[PieceHash([8; 32])]).unwrap();
    let info = BlobInfo::default();
    let held = [PieceIndex(69)].into_iter().collect();
    let mut sidecar = Sidecar { id: BlobId([9; 32]), info, manifest, held, complete: false, pinned: false };
    let mut expected = b"DARTPIEC".to_vec();
    expected.extend([2, 0b100, 14, 0, 2, 0, 0, 0]);
    expected.extend((70 * 16_384u64).to_le_bytes());
    expected.extend([9; 32]);
    let info = postcard::to_stdvec(&sidecar.info).unwrap();
    expected.extend([info.len() as u8, 0, 0, 0, 2, 0, 0, 0]);
    expected.extend(&info);
    expected.extend([[7; 32], [8; 32]].concat());
    expected.extend([0u64, 1 << 5].map(u64::to_le_bytes).concat());
    expected.extend([2, 0, 0, 0]);
    expected.extend([1u64, 1 << 5].map(u64::to_le_bytes).concat());
    let bytes = sidecar.encode();
    assert_eq!(bytes[..bytes.len() - CHECKSUM], expected);
    assert_eq!(Sidecar::decode(&bytes).unwrap(), sidecar.clone());
    sidecar.manifest.extend(1, &[PieceHash([5; 32]); 68]).unwrap();
    assert_eq!(sidecar.encode()[8], 1, "the release before reads it");
}

#[test]
fn another_version_is_named() {
    let sidecar = Sidecar {
        id: BlobId([0; 32]),
        info: BlobInfo::default(),
        manifest: Manifest::new(PieceLength::UNKNOWN_BLOB, None),
        held: PieceSet::new(),
        complete: false,
        pinned: false,
    };
    let mut bytes = sidecar.encode();
    bytes[8] = 3;
    assert!(matches!(Sidecar::decode(&reseal(bytes.clone())), Err(SidecarError::Newer(3))));
    // Other changes of a newer version: the length of the header, the checksum.
    for length in [9, HEADER, bytes.len() + 1000] {
        let mut other = bytes.clone();
        other.resize(length, 0x5a);
        assert!(matches!(Sidecar::decode(&other), Err(SidecarError::Newer(3))), "{length}");
    }
    bytes[8] = 0;
    assert!(matches!(Sidecar::decode(&reseal(bytes.clone())), Err(SidecarError::Version(0))));
    // Another error's cause is kept.
    (bytes[8], bytes[10]) = (1, 99);
    let error = Sidecar::decode(&reseal(bytes)).unwrap_err();
    let told = darter_core::in_full(&error).to_string();
    assert!(told.starts_with("the piece length can't be decoded: "), "{told}");
}

#[test]
fn a_length_whose_pieces_cannot_be_counted_is_no_length() {
    let most = u64::from(u32::MAX) * 16_384;
    let sidecar = Sidecar {
        id: BlobId([0; 32]),
        info: BlobInfo::default(),
        manifest: Manifest::new(PieceLength::from_log2(14).unwrap(), Some(most)),
        held: PieceSet::new(),
        complete: false,
        pinned: false,
    };
    let mut bytes = sidecar.encode();
    assert_eq!(Sidecar::decode(&bytes).unwrap(), sidecar);
    for length in [most + 1, u64::MAX] {
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        assert!(matches!(Sidecar::decode(&reseal(bytes.clone())), Err(SidecarError::Content("length"))));
    }
}
