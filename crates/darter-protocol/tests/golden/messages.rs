//! One message of each kind, with something in every field.

use darter_core::source::Credentials;
use darter_core::{
    BlobId, Digest, LeadKey, Manifest, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Proof, Source,
    Version,
};
use darter_protocol::{
    Failure, FailureKind, Held, Message, PeerInfo, RegistryAnswer, RegistryQuestion, StaleAnswer, Stretch, SwarmPart,
    Verdict, Wish,
};

/// Every kind of failure, in the order of their numbers.
pub(crate) fn failure_kinds() -> Vec<FailureKind> {
    use FailureKind::*;
    vec![
        NotFound,
        Unauthorized,
        Forbidden,
        Unreachable,
        RateLimited,
        Changed,
        NoSpace,
        Other,
        Timeout,
        Tls,
        Contradicted,
        Truncated,
        RangeNotSatisfiable,
        Protocol,
        File,
        OutOfReach,
        Encoded,
        UnknownName,
        Proxy,
        Page,
        Unmountable,
    ]
}

/// Every kind, in the order of their numbers, with its name.
pub(crate) fn messages() -> Vec<(&'static str, Message)> {
    let blob = BlobId([0xb0; 32]);
    let node = NodeId([0x0e; 16]);
    let digest = Digest::Sha256([0xd0; 32]);
    let url = |text: &str| text.parse::<url::Url>().unwrap();
    let place = Place { region: "eu".into(), zone: "a".into(), rack: "7".into(), host: "h1".into() };
    let peer = PeerInfo { node, addr: "10.0.0.1:7400".into(), place };
    let failure = Failure {
        kind: FailureKind::RateLimited,
        status: Some(429),
        text: "slow down".into(),
        challenge: Some("30".into()),
    };
    let credentials = Credentials { headers: vec![("authorization".into(), "Basic x".into())] };
    let pieces: PieceSet = [PieceIndex(0), PieceIndex(65)].into_iter().collect();
    let proof = Proof { count: 2, signature: [[0x51; 32], [0x52; 32]] };
    let verdict = Verdict { root: PieceHash([0xf0; 32]), digest: Some(digest) };
    let hashes = vec![PieceHash([0xc0; 32]), PieceHash([0xc1; 32])];
    let run = hashes.clone();
    let piece_length = PieceLength::from_log2(18).unwrap();
    let mut manifest = Manifest::new(piece_length, Some(300_000));
    manifest.extend(0, &hashes).unwrap();
    let version = Version {
        etag: Some("\"1\"".into()),
        last_modified: Some("Sat, 21 Nov 2026 09:00:00 GMT".into()),
        length: Some(300_000),
        nonce: Some(7),
    };
    let question = RegistryQuestion {
        registry: "https://r.example/".into(),
        configured: true,
        head: false,
        path: "/v2/app/tags/list".into(),
        headers: vec![("accept".into(), "*/*".into())],
        credentials: credentials.clone(),
    };
    let answer = RegistryAnswer {
        status: 200,
        headers: vec![("content-type".into(), b"text/plain".to_vec())],
        body: b"hello".to_vec(),
        age_ms: 1500,
        stale: Some(StaleAnswer { age_s: 60, reason: "away".into() }),
    };
    vec![
        (
            "Join",
            Message::Join {
                request: 7,
                source: Source::Url { url: url("http://a.example/b"), variant: vec![], digest: Some(digest) },
                credentials,
                held: Some(Held { blob, pieces: pieces.clone() }),
                wants: true,
                size: None,
            },
        ),
        ("Leave", Message::Leave { blob }),
        ("Report", Message::Report { blob, peer: node, piece: PieceIndex(300) }),
        ("Inventory", Message::Inventory { blobs: vec![blob, BlobId([0xb1; 32])] }),
        (
            "Joined",
            Message::Joined {
                request: 7,
                blob,
                version,
                piece_length,
                length: Some(300_000),
                hashes: hashes.clone(),
                key: LeadKey([0xe0; 32]),
                members_ask: true,
                proof: Some(proof),
                neighbours: vec![peer.clone()],
                verdict: Some(verdict.clone()),
                whole: Some(b"whole".to_vec()),
            },
        ),
        ("Rejected", Message::Rejected { request: 7, failure: failure.clone() }),
        ("Grew", Message::Grew { blob, from: 0, hashes, length: Some(300_000), members_ask: true, proof: Some(proof) }),
        ("Neighbours", Message::Neighbours { blob, add: vec![peer.clone()], gone: vec![node] }),
        ("Whole", Message::Whole { blob, verdict }),
        ("Dissolved", Message::Dissolved { blob, reason: "wrong".into() }),
        ("Failed", Message::Failed { blob, failure }),
        ("Meet", Message::Meet { blob, held: pieces, known: 2, wants: true }),
        ("Have", Message::Have { blob, pieces: vec![PieceIndex(1), PieceIndex(300)], known: 2 }),
        ("Lost", Message::Lost { blob, pieces: vec![PieceIndex(1)] }),
        ("Part", Message::Part { blob }),
        ("AskManifest", Message::AskManifest { request: 7, blob }),
        ("ManifestIs", Message::ManifestIs { request: 7, blob, manifest: Some(manifest) }),
        ("AskHashes", Message::AskHashes { blob, from: 1 }),
        ("AskPeers", Message::AskPeers),
        ("Peers", Message::Peers { peers: vec![peer.clone()] }),
        ("AskLead", Message::AskLead { request: 7, key: BlobId([0xa0; 32]), blob: Some(blob) }),
        (
            "LeadIs",
            Message::LeadIs {
                request: 7,
                part: SwarmPart::Holder,
                lead: Some(peer.clone()),
                seeds: vec![peer.clone()],
                nearest: vec![peer.clone()],
            },
        ),
        ("SameId", Message::SameId { addr: "10.0.0.1:7400".into() }),
        ("Waiting", Message::Waiting { request: 7 }),
        ("AskRegistry", Message::AskRegistry { request: 7, question: question.clone() }),
        ("RegistryIs", Message::RegistryIs { request: 7, answer: Ok(answer) }),
        (
            "Refuted",
            Message::Refuted {
                request: Some(7),
                blob,
                expected: digest,
                got: Digest::Sha512([0xd1; 64]),
                reader: None,
            },
        ),
        ("Seeds", Message::Seeds { seeds: vec![peer] }),
        ("AskRegistryAlike", Message::AskRegistryAlike { request: 7, question: question.clone(), proof: digest }),
        ("AskRegistryKnown", Message::AskRegistryKnown { request: 7, question, proof: Some(digest) }),
        ("Run", Message::Run { blob, from: 300, hashes: run, proof: Some(proof) }),
        (
            "Want",
            Message::Want { blob, everything: false, wishes: vec![Wish { first: 300, end: 364, within_ms: 10_000 }] },
        ),
        ("Unreached", Message::Unreached { blob, peer: node }),
        (
            "Touched",
            Message::Touched { blob, pieces: vec![Stretch { first: 300, end: 301 }, Stretch { first: 0, end: 4 }] },
        ),
        ("Profile", Message::Profile { blob, pieces: vec![Stretch { first: 300, end: 301 }], wants: true }),
        ("Naming", Message::Naming { blob, names_all: true }),
        ("InOrder", Message::InOrder { blob, reason: "it serves no ranges".into() }),
    ]
}
