//! The last number that is taken, and the first one that is not.

use darter_core::proof::block_of;

use super::*;
use crate::{MAX_BLOB_LENGTH, MAX_PIECES, MAX_REGISTRY_HEADERS, Stretch, Wish};

const BLOB: BlobId = BlobId([0; 32]);

/// True if the first of these two numbers is taken and the second is not.
fn ends_between<T>(message: impl Fn(T) -> Message, [last, over]: [T; 2]) -> bool {
    !refused(&message(last)) && refused(&message(over))
}

#[test]
fn pieces_that_no_blob_has_are_refused_wherever_they_are_named() {
    let pieces = [MAX_PIECES - 1, MAX_PIECES].map(PieceIndex);
    let set = |piece| [piece].into_iter().collect::<PieceSet>();
    let peer = NodeId([1; 16]);
    assert!(ends_between(|piece| Message::Report { blob: BLOB, peer, piece }, pieces));
    assert!(ends_between(|piece| Message::Lost { blob: BLOB, pieces: vec![PieceIndex(0), piece] }, pieces));
    assert!(ends_between(|piece| Message::Have { blob: BLOB, pieces: vec![piece], known: 0 }, pieces));
    let url = || "http://a.example/b".parse::<url::Url>().unwrap();
    let join = |held| Message::Join {
        request: 1,
        source: Source::Url { url: url(), variant: vec![], digest: None },
        credentials: Credentials::none(),
        held,
        wants: true,
        size: None,
    };
    assert!(ends_between(|piece| join(Some(Held { blob: BLOB, pieces: set(piece) })), pieces));
    assert!(!refused(&join(None)));
    assert!(ends_between(|piece| Message::Meet { blob: BLOB, held: set(piece), known: 0, wants: true }, pieces));
    assert!(ends_between(|from| Message::AskHashes { blob: BLOB, from }, [MAX_PIECES, MAX_PIECES + 1]));
}

#[test]
fn a_blob_is_no_longer_than_its_pieces_can_be_counted() {
    let of = |log2, length| {
        let (request, blob, hashes) = (1, BLOB, Vec::new());
        Message::Joined {
            request,
            blob,
            version: Version::default(),
            piece_length: PieceLength::from_log2(log2).unwrap(),
            length,
            hashes,
            key: LeadKey([0; 32]),
            members_ask: false,
            proof: None,
            neighbours: Vec::new(),
            verdict: None,
            whole: None,
        }
    };
    assert!(ends_between(|length| of(24, Some(length)), [MAX_BLOB_LENGTH, MAX_BLOB_LENGTH + 1]));
    let all_short = u64::from(MAX_PIECES) << 14;
    assert!(ends_between(|length| of(14, Some(length)), [all_short, all_short + 1]));
    assert!(!refused(&of(14, None)));
    let manifest = |length| {
        let manifest = Manifest::new(PieceLength::from_log2(14).unwrap(), Some(length));
        Message::ManifestIs { request: 1, blob: BLOB, manifest: Some(manifest) }
    };
    assert!(ends_between(manifest, [all_short, all_short + 1]));
    assert!(!refused(&Message::ManifestIs { request: 1, blob: BLOB, manifest: None }));
    let grew = |length| {
        let (hashes, proof) = (Vec::new(), None);
        Message::Grew { blob: BLOB, from: 0, hashes, length: Some(length), members_ask: false, proof }
    };
    assert!(ends_between(grew, [MAX_BLOB_LENGTH, MAX_BLOB_LENGTH + 1]));
}

#[test]
fn hashes_come_with_the_word_for_just_these_and_a_run_lies_in_one_block() {
    let hashes = |count| vec![PieceHash([3; 32]); count];
    let proof = |count| Some(Proof { count, signature: [[0; 32]; 2] });
    let end = block_of(PieceIndex(0)).end;
    let run = |from, proof| Message::Run { blob: BLOB, from, hashes: hashes(2), proof };
    for word in [proof(2), None] {
        assert!(ends_between(|from| run(from, word), [end - 2, end - 1]));
        assert!(ends_between(|from| run(from, word), [MAX_PIECES - 2, MAX_PIECES - 1]));
    }
    assert!(ends_between(|count| run(0, proof(count)), [2, 3]) && refused(&run(0, proof(1))));
    let grew =
        |from, proof| Message::Grew { blob: BLOB, from, hashes: hashes(2), length: None, members_ask: false, proof };
    assert!(ends_between(|from| grew(from, None), [MAX_PIECES - 2, MAX_PIECES - 1]));
    assert!(ends_between(|count| grew(10, proof(count)), [12, 13]) && refused(&grew(10, proof(2))));
}

#[test]
fn stretches_of_pieces_end_behind_their_beginning_and_within_the_largest_blob() {
    let run = |first, end| Stretch { first, end };
    let profile = |first, end| Message::Profile { blob: BLOB, pieces: vec![run(0, 1), run(first, end)], wants: true };
    let touched = |first, end| Message::Touched { blob: BLOB, pieces: vec![run(0, 1), run(first, end)] };
    let wish = |first, end| Wish { first, end, within_ms: 0 };
    let want = |first, end| Message::Want { blob: BLOB, everything: false, wishes: vec![wish(0, 1), wish(first, end)] };
    for message in [&profile as &dyn Fn(u32, u32) -> Message, &touched, &want] {
        assert!(ends_between(|end| message(5, end), [MAX_PIECES, MAX_PIECES + 1]));
        assert!(ends_between(|first| message(first, 9), [9, 10]));
    }
}

#[test]
fn questions_to_registries_and_answers_are_bounded_whoever_is_asked() {
    let question = |path: usize, headers: usize| RegistryQuestion {
        registry: "https://registry.example/".into(),
        configured: true,
        head: false,
        path: "/".repeat(path),
        headers: vec![(String::new(), String::new()); headers],
        credentials: Credentials::none(),
    };
    let digest = Digest::Sha256([0; 32]);
    let kinds: [&dyn Fn(RegistryQuestion) -> Message; 3] = [
        &|question| Message::AskRegistry { request: 1, question },
        &|question| Message::AskRegistryAlike { request: 1, question, proof: digest },
        &|question| Message::AskRegistryKnown { request: 1, question, proof: None },
    ];
    let (paths, headers) = (crate::MAX_REGISTRY_PATH, MAX_REGISTRY_HEADERS);
    for kind in kinds {
        assert!(ends_between(|path| kind(question(path, headers)), [paths, paths + 1]));
        assert!(ends_between(|headers| kind(question(paths, headers)), [headers, headers + 1]));
    }
    let is = |status, headers| {
        let headers = vec![(String::new(), Vec::new()); headers];
        let answer = RegistryAnswer { status, headers, body: Vec::new(), age_ms: 0, stale: None };
        Message::RegistryIs { request: 1, answer: Ok(answer) }
    };
    assert!(ends_between(|status| is(status, headers), [999, 1000]) && ends_between(|status| is(status, 0), [100, 99]));
    assert!(ends_between(|headers| is(200, headers), [headers, headers + 1]));
}

#[test]
fn the_nodes_of_a_message_are_bounded_wherever_they_are_told() {
    let peer = PeerInfo { node: NodeId([1; 16]), addr: String::new(), place: Place::default() };
    let peers = |count| vec![peer.clone(); count];
    let counts = [MAX_PEERS_TOLD, MAX_PEERS_TOLD + 1];
    assert!(ends_between(|count| Message::Seeds { seeds: peers(count) }, counts));
    let lead_is = |seeds: usize, nearest: usize| {
        let (seeds, nearest) = (peers(seeds), peers(nearest));
        Message::LeadIs { request: 1, part: SwarmPart::Nothing, lead: None, seeds, nearest }
    };
    assert!(ends_between(|count| lead_is(count, 0), counts) && ends_between(|count| lead_is(0, count), counts));
    assert!(!refused(&lead_is(MAX_PEERS_TOLD / 2, MAX_PEERS_TOLD / 2)));
}

#[test]
fn the_longest_message_is_written_and_read_and_a_longer_one_is_refused_before_it_comes() {
    // The kind, the blob, and the length of the text in four bytes.
    let longest = Message::Dissolved { blob: BLOB, reason: "x".repeat(MAX_MESSAGE - 37) };
    let frame = Frame::encode(&longest).unwrap();
    assert_eq!(frame.bytes().len(), MAX_MESSAGE + 4);
    let mut buffer = BytesMut::from(&frame.bytes()[..MAX_MESSAGE]);
    assert_eq!(take(&mut buffer).unwrap(), None, "four bytes are to come");
    buffer.extend_from_slice(&frame.bytes()[MAX_MESSAGE..]);
    assert_eq!(take(&mut buffer).unwrap(), Some(Ok(longest)));
    let over = u32::try_from(MAX_MESSAGE + 1).unwrap().to_le_bytes();
    let refused = take(&mut BytesMut::from(&over[..])).unwrap_err();
    assert_eq!(refused.to_string(), "message of 8388609 bytes is over the limit of 8388608");
}
