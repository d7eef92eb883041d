//! Messages of the version before are still understood, and those to it have the form that it knows.

use darter_core::source::Credentials;
use darter_core::{BlobId, LeadKey, NodeId, PieceHash, PieceIndex, PieceLength, Place, Source, Version};

use super::*;
use crate::{MAX_PIECES, MAX_WISHES};

/// The digests are of what version 2 wrote. If this test fails, agents of the release before can't read what this one
/// says: bring a new variant instead of changing one, or give up speaking that version
/// ([`Versions::SPOKEN`](crate::Versions::SPOKEN)).
#[test]
fn messages_of_version_2_look_as_they_did() {
    let blob = BlobId([0xb0; 32]);
    let version = Version { etag: Some("\"1\"".into()), length: Some(300_000), ..Version::default() };
    let url = |digest| Source::Url { url: "http://a.example/b".parse().unwrap(), variant: vec![], digest };
    let digest = Digest::Sha256([0xd0; 32]);
    let registry =
        Source::Registry { registry: "https://r.example/".parse().unwrap(), repository: "app".into(), digest };
    let join = |source| Message::Join {
        request: 7,
        source,
        credentials: Credentials { headers: vec![("authorization".into(), "Basic x".into())] },
        held: Some(Held { blob, pieces: [PieceIndex(1)].into_iter().collect() }),
        wants: true,
        size: None,
    };
    let joined = Message::Joined {
        request: 7,
        blob,
        version,
        piece_length: PieceLength::from_log2(18).unwrap(),
        length: Some(300_000),
        hashes: vec![PieceHash([0xc0; 32])],
        key: LeadKey([0xe0; 32]),
        members_ask: false,
        proof: None,
        neighbours: vec![PeerInfo { node: NodeId([1; 16]), addr: "10.0.0.1:7400".into(), place: Place::default() }],
        verdict: Some(Verdict { root: PieceHash([0xf0; 32]), digest: Some(digest) }),
        whole: None,
    };
    let failure = Failure { kind: FailureKind::Other, status: Some(503), text: "no".into(), challenge: None };
    let messages = [
        join(url(None)),
        join(url(Some(digest))),
        join(registry),
        joined,
        Message::Rejected { request: 7, failure },
        Message::Meet { blob, held: [PieceIndex(0)].into_iter().collect(), known: 2, wants: true },
        Message::Have { blob, pieces: vec![PieceIndex(1)], known: 2 },
        Message::AskHashes { blob, from: 1 },
    ];
    assert!(messages.iter().all(|message| message.since() == 2));
    let written = messages.map(|message| {
        let digest = Digest::sha256(&postcard::to_stdvec(&message).unwrap()).to_string();
        digest["sha256:".len()..][..16].to_owned()
    });
    assert_eq!(written, VERSION_2);
}

/// The beginnings of the digests of the messages above.
const VERSION_2: [&str; 8] = [
    "ec70ce0802acf763",
    "cd3adabe775025fe",
    "f1e85350951b916c",
    "2299a9918791e1c5",
    "9909dcff76e38ccf",
    "3e5d611fa008fb01",
    "844b45fed7822326",
    "3666ba1cd507b218",
];

#[test]
fn newer_messages_are_told_from_older_ones() {
    let blob = BlobId([1; 32]);
    assert_eq!(Message::AskHashes { blob, from: 0 }.since(), 2);
    let newer =
        [Message::AskPeers, Message::Peers { peers: vec![] }, Message::AskLead { request: 1, key: blob, blob: None }];
    let [expected, got] = [Digest::Sha256([1; 32]), Digest::Sha256([2; 32])];
    assert_eq!(Message::Refuted { request: None, blob, expected, got, reader: None }.since(), 3);
    assert_eq!(Message::Seeds { seeds: vec![] }.since(), 3);
    assert!(newer.iter().all(|message| message.since() == 3));
}

#[test]
fn runs_of_hashes_and_wishes_have_these_bytes_and_bounds() {
    let blob = BlobId([0xb0; 32]);
    let hashes = vec![PieceHash([0xc0; 32]), PieceHash([0xc1; 32])];
    let proof = |count| Some(Proof { count, signature: [[1; 32], [2; 32]] });
    let run = |from, proof| Message::Run { blob, from, hashes: hashes.clone(), proof };
    let wish = Wish { first: 300, end: 364, within_ms: 10_000 };
    let want = |wishes| Message::Want { blob, everything: false, wishes };
    let written = |message: &Message| postcard::to_stdvec(message).unwrap();
    let head = |kind: u8| [&[kind][..], &[0xb0; 32]].concat();
    let hashes_and_proof = [vec![2], vec![0xc0; 32], vec![0xc1; 32], vec![1, 2], vec![1; 32], vec![2; 32]].concat();
    assert_eq!(written(&run(300, proof(2))), [head(30), vec![0xac, 2], hashes_and_proof].concat());
    assert_eq!(written(&want(vec![wish])), [head(31), vec![0, 1, 0xac, 2, 0xec, 2, 0x90, 0x4e]].concat());
    for message in [run(300, None), want(vec![])] {
        assert_eq!(message.since(), 4);
    }
    assert!(run(62, proof(2)).check().is_ok() && run(62, proof(3)).check().is_err(), "for what it comes with");
    assert!(run(63, None).check().is_err(), "in two blocks");
    assert!(run(MAX_PIECES, None).check().is_err() && run(u32::MAX, None).check().is_err());
    assert!(want(vec![wish; MAX_WISHES]).check().is_ok() && want(vec![wish; MAX_WISHES + 1]).check().is_err());
    let wrong = [Wish { end: 299, ..wish }, Wish { end: MAX_PIECES + 1, ..wish }];
    assert!(wrong.into_iter().all(|wish| want(vec![wish]).check().is_err()));
}
