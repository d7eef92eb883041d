mod bounds;

use darter_core::source::Credentials;
use darter_core::{
    BlobId, Digest, HashChain, LeadKey, Manifest, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Proof,
    Signer, Source, Version,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::{
    Failure, FailureKind, Held, MAX_PEERS_TOLD, PeerInfo, RegistryAnswer, RegistryQuestion, StaleAnswer, SwarmPart,
    Verdict,
};

fn blob() -> impl Strategy<Value = BlobId> {
    any::<[u8; 32]>().prop_map(BlobId)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<[u8; 16]>().prop_map(NodeId)
}

fn pieces() -> impl Strategy<Value = Vec<PieceIndex>> {
    vec((0..crate::MAX_PIECES).prop_map(PieceIndex), 0..20)
}

fn set() -> impl Strategy<Value = PieceSet> {
    vec((0..5_000u32).prop_map(PieceIndex), 0..50).prop_map(|pieces| pieces.into_iter().collect())
}

fn hashes() -> impl Strategy<Value = Vec<PieceHash>> {
    vec(any::<[u8; 32]>().prop_map(PieceHash), 0..20)
}

fn piece_length() -> impl Strategy<Value = PieceLength> {
    (18u8..=24).prop_map(|log2| PieceLength::from_log2(log2).unwrap())
}

fn length() -> impl Strategy<Value = Option<u64>> {
    option::of(0..1u64 << 39)
}

fn digest() -> impl Strategy<Value = Digest> {
    prop_oneof![any::<[u8; 32]>().prop_map(Digest::Sha256), any::<[u8; 64]>().prop_map(Digest::Sha512)]
}

fn version() -> impl Strategy<Value = Version> {
    (option::of(".*"), option::of(".*"), length(), any::<Option<u64>>())
        .prop_map(|(etag, last_modified, length, nonce)| Version { etag, last_modified, length, nonce })
}

fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    vec(("[a-z-]{1,12}", ".*"), 0..4)
}

fn source() -> impl Strategy<Value = Source> {
    let url = "https://[a-z]{1,9}\\.example/[a-z0-9]{0,9}".prop_map(|text| text.parse::<url::Url>().unwrap());
    let from_url = (url.clone(), headers(), option::of(digest())).prop_map(|(url, variant, digest)| Source::Url {
        url,
        variant,
        digest,
    });
    let from_registry = (url, "[a-z/]{1,20}", digest()).prop_map(|(registry, repository, digest)| Source::Registry {
        registry,
        repository,
        digest,
    });
    prop_oneof![from_url, from_registry]
}

fn peers() -> impl Strategy<Value = Vec<PeerInfo>> {
    let peer = (node(), ".*", ".*").prop_map(|(node, addr, rack)| PeerInfo {
        node,
        addr,
        place: Place { rack, ..Place::default() },
    });
    vec(peer, 0..5)
}

fn verdict() -> impl Strategy<Value = Verdict> {
    (any::<[u8; 32]>(), option::of(digest())).prop_map(|(root, digest)| Verdict { root: PieceHash(root), digest })
}

fn failure() -> impl Strategy<Value = Failure> {
    let kind = prop_oneof![Just(FailureKind::NotFound), Just(FailureKind::RateLimited), Just(FailureKind::Other)];
    (kind, any::<Option<u16>>(), ".*", option::of(".*")).prop_map(|(kind, status, text, challenge)| Failure {
        kind,
        status,
        text,
        challenge,
    })
}

fn manifest() -> impl Strategy<Value = Manifest> {
    (piece_length(), hashes()).prop_map(|(piece_length, hashes)| {
        let mut manifest = Manifest::new(piece_length, None);
        manifest.extend(0, &hashes).unwrap();
        manifest.set_length(piece_length.bytes() * hashes.len() as u64).unwrap();
        manifest
    })
}

fn proof() -> impl Strategy<Value = Proof> {
    (0..crate::MAX_PIECES).prop_map(|count| {
        let chain = HashChain::new(BlobId([0; 32]), PieceLength::UNKNOWN_BLOB);
        Proof { count, ..Signer::draw().prove(&chain) }
    })
}

fn message() -> impl Strategy<Value = Message> {
    let held = option::of((blob(), set()).prop_map(|(blob, pieces)| Held { blob, pieces }));
    let joined = (
        (any::<u32>(), blob(), version(), piece_length(), length()),
        (
            hashes(),
            any::<[u8; 32]>(),
            option::of(proof()),
            peers(),
            option::of(verdict()),
            option::of(vec(any::<u8>(), 0..99)),
        ),
    );
    prop_oneof![
        (any::<u32>(), source(), headers(), held, any::<bool>(), option::of(any::<u64>())).prop_map(
            |(request, source, headers, held, wants, size)| Message::Join {
                request,
                source,
                credentials: Credentials { headers },
                held,
                wants,
                size
            }
        ),
        blob().prop_map(|blob| Message::Leave { blob }),
        (blob(), node(), 0..crate::MAX_PIECES).prop_map(|(blob, peer, piece)| Message::Report {
            blob,
            peer,
            piece: PieceIndex(piece)
        }),
        vec(blob(), 0..5).prop_map(|blobs| Message::Inventory { blobs }),
        joined.prop_map(|(first, (hashes, key, proof, neighbours, verdict, whole))| {
            let (request, blob, version, piece_length, length) = first;
            let key = LeadKey(key);
            Message::Joined {
                request,
                blob,
                version,
                piece_length,
                length,
                hashes,
                key,
                members_ask: proof.is_some(),
                proof,
                neighbours,
                verdict,
                whole,
            }
        }),
        (any::<u32>(), failure()).prop_map(|(request, failure)| Message::Rejected { request, failure }),
        (blob(), hashes(), length(), proof()).prop_map(|(blob, hashes, length, proof)| {
            let count = proof.count.max(hashes.len() as u32);
            let proof = Some(Proof { count, ..proof });
            Message::Grew {
                blob,
                from: count - hashes.len() as u32,
                hashes,
                length,
                members_ask: count % 2 == 0,
                proof,
            }
        }),
        (blob(), peers(), vec(node(), 0..5)).prop_map(|(blob, add, gone)| Message::Neighbours { blob, add, gone }),
        (blob(), verdict()).prop_map(|(blob, verdict)| Message::Whole { blob, verdict }),
        (blob(), ".*").prop_map(|(blob, reason)| Message::Dissolved { blob, reason }),
        (option::of(any::<u32>()), blob(), digest(), digest(), option::of(node())).prop_map(
            |(request, blob, expected, got, reader)| Message::Refuted { request, blob, expected, got, reader },
        ),
        (blob(), failure()).prop_map(|(blob, failure)| Message::Failed { blob, failure }),
        (blob(), set(), 0..crate::MAX_PIECES, any::<bool>()).prop_map(|(blob, held, known, wants)| Message::Meet {
            blob,
            held,
            known,
            wants
        }),
        (blob(), pieces(), 0..crate::MAX_PIECES).prop_map(|(blob, pieces, known)| Message::Have {
            blob,
            pieces,
            known
        }),
        (blob(), pieces()).prop_map(|(blob, pieces)| Message::Lost { blob, pieces }),
        blob().prop_map(|blob| Message::Part { blob }),
        (blob(), 0..crate::MAX_PIECES).prop_map(|(blob, from)| Message::AskHashes { blob, from }),
        (any::<u32>(), blob()).prop_map(|(request, blob)| Message::AskManifest { request, blob }),
        (any::<u32>(), blob(), option::of(manifest())).prop_map(|(request, blob, manifest)| Message::ManifestIs {
            request,
            blob,
            manifest
        }),
        Just(Message::AskPeers),
        peers().prop_map(|peers| Message::Peers { peers }),
        (any::<u32>(), blob(), option::of(blob())).prop_map(|(request, key, blob)| Message::AskLead {
            request,
            key,
            blob
        }),
        (any::<u32>(), peers(), peers()).prop_map(|(request, seeds, nearest)| Message::LeadIs {
            request,
            part: SwarmPart::Holder,
            lead: seeds.first().cloned(),
            seeds,
            nearest
        }),
        ".*".prop_map(|addr| Message::SameId { addr }),
        peers().prop_map(|seeds| Message::Seeds { seeds }),
        (any::<u32>(), registry_question()).prop_map(|(request, question)| Message::AskRegistry { request, question }),
        (any::<u32>(), registry_question()).prop_map(|(request, question)| Message::AskRegistryKnown {
            request,
            question,
            proof: None
        }),
        (any::<u32>(), registry_question(), any::<[u8; 32]>()).prop_map(|(request, question, proof)| {
            Message::AskRegistryAlike { request, question, proof: Digest::Sha256(proof) }
        }),
        (any::<u32>(), registry_answer())
            .prop_map(|(request, answer)| Message::RegistryIs { request, answer: Ok(answer) }),
        (any::<u32>(), failure()).prop_map(|(request, failure)| Message::RegistryIs { request, answer: Err(failure) }),
    ]
}

fn registry_question() -> impl Strategy<Value = RegistryQuestion> {
    (any::<bool>(), "/v2/[a-z/]{1,20}", headers(), headers()).prop_map(|(head, path, headers, authorising)| {
        let credentials = Credentials { headers: authorising };
        let registry = "https://registry.example/".to_owned();
        RegistryQuestion { registry, configured: !head, head, path, headers, credentials }
    })
}

fn registry_answer() -> impl Strategy<Value = RegistryAnswer> {
    let stale = (any::<u64>(), ".*").prop_map(|(age_s, reason)| StaleAnswer { age_s, reason });
    let headers = vec(("[a-z-]{1,12}", vec(any::<u8>(), 0..20)), 0..4);
    (100u16..1000, headers, vec(any::<u8>(), 0..99), any::<u32>(), option::of(stale))
        .prop_map(|(status, headers, body, age_ms, stale)| RegistryAnswer { status, headers, body, age_ms, stale })
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(message in message()) {
        let frame = Frame::encode(&message).unwrap();
        let (prefix, body) = frame.bytes().split_at(4);
        prop_assert_eq!(prefix, (body.len() as u32).to_le_bytes());
        prop_assert_eq!(decode(body).unwrap(), Ok(message));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn a_damaged_message_never_panics(message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = Frame::encode(&message).unwrap().bytes()[4..].to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let _ = decode(&body);
        let _ = decode(&body[..at]);
    }
}

fn refused(message: &Message) -> bool {
    let frame = Frame::encode(message).unwrap();
    matches!(decode(&frame.bytes()[4..]), Err(ProtocolError::Violation { .. }))
}

#[test]
fn numbers_that_no_blob_has_are_refused() {
    let blob = BlobId([0; 32]);
    let far = PieceIndex(crate::MAX_PIECES);
    let near = PieceIndex(crate::MAX_PIECES - 1);
    assert!(!refused(&Message::Have { blob, pieces: vec![near], known: crate::MAX_PIECES }));
    assert!(refused(&Message::Have { blob, pieces: vec![], known: crate::MAX_PIECES + 1 }));
    assert!(refused(&Message::Have { blob, pieces: vec![near, far], known: 0 }));
    assert!(refused(&Message::Lost { blob, pieces: vec![far] }));
    let meet = |piece, known| Message::Meet { blob, held: [piece].into_iter().collect(), known, wants: true };
    assert!(refused(&meet(far, 0)) && refused(&meet(near, crate::MAX_PIECES + 1)));
    assert!(!refused(&meet(near, crate::MAX_PIECES)));
    assert!(refused(&Message::Grew {
        blob,
        from: 0,
        hashes: vec![],
        length: Some(u64::MAX),
        members_ask: false,
        proof: None
    }));
    let hashes = vec![PieceHash([0; 32]); 2];
    let grew =
        |from, proof| Message::Grew { blob, from, hashes: hashes.clone(), length: None, members_ask: true, proof };
    assert!(!refused(&grew(crate::MAX_PIECES - 2, None)) && refused(&grew(crate::MAX_PIECES - 1, None)));
    let chain = HashChain::new(blob, PieceLength::UNKNOWN_BLOB);
    let proof = |count| Some(Proof { count, ..Signer::draw().prove(&chain) });
    assert!(!refused(&grew(1, proof(3))) && refused(&grew(1, proof(2))), "a proof is for what it comes with");
    let piece_length = PieceLength::from_log2(14).unwrap();
    let manifest = Manifest::new(piece_length, Some(crate::MAX_BLOB_LENGTH));
    assert!(refused(&Message::ManifestIs { request: 1, blob, manifest: Some(manifest) }));
}

#[test]
fn one_message_tells_of_a_bounded_number_of_nodes() {
    let peer = PeerInfo { node: NodeId([1; 16]), addr: "10.0.0.1:7400".into(), place: Place::default() };
    let peers = |count| vec![peer.clone(); count];
    assert!(!refused(&Message::Peers { peers: peers(MAX_PEERS_TOLD) }));
    assert!(refused(&Message::Peers { peers: peers(MAX_PEERS_TOLD + 1) }));
    let lead_is = |seeds, nearest| Message::LeadIs {
        request: 1,
        part: SwarmPart::Nothing,
        lead: None,
        seeds: peers(seeds),
        nearest: peers(nearest),
    };
    assert!(!refused(&lead_is(1, MAX_PEERS_TOLD - 1)) && refused(&lead_is(MAX_PEERS_TOLD, 1)));
}

#[test]
fn a_registrys_path_headers_and_status_have_bounds() {
    let ask = |length: usize| {
        let (registry, headers) = ("https://registry.example/".to_owned(), Vec::new());
        let question = RegistryQuestion {
            registry,
            configured: true,
            head: true,
            path: "/".repeat(length),
            headers,
            credentials: Credentials::none(),
        };
        Message::AskRegistry { request: 1, question }
    };
    assert!(!refused(&ask(crate::MAX_REGISTRY_PATH)) && refused(&ask(crate::MAX_REGISTRY_PATH + 1)));
    let is = |status, headers| {
        let headers = vec![(String::new(), Vec::new()); headers];
        let answer = RegistryAnswer { status, headers, body: Vec::new(), age_ms: 0, stale: None };
        Message::RegistryIs { request: 1, answer: Ok(answer) }
    };
    assert!(!refused(&is(200, 0)) && refused(&is(99, 0)) && refused(&is(200, crate::MAX_REGISTRY_HEADERS + 1)));
}

#[test]
fn what_another_release_says_besides_is_skipped_and_what_is_cut_off_is_malformed() {
    let part = Message::Part { blob: BlobId([1; 32]) };
    let mut body = Frame::encode(&part).unwrap().bytes()[4..].to_vec();
    body.extend_from_slice(b"a field of the future");
    assert_eq!(decode(&body).unwrap(), Ok(part));
    body.truncate(5);
    assert!(matches!(decode(&body), Err(ProtocolError::Malformed { .. })));
}

#[test]
fn a_message_of_a_kind_or_with_a_value_of_the_future_is_skipped_by_its_length() {
    let known = Message::AskHashes { blob: BlobId([1; 32]), from: 7 };
    let refuted = |digest: &str| {
        let digests = (None::<u32>, BlobId([1; 32]), digest, "sha256:".to_owned() + &"0".repeat(64));
        [&[26][..], &postcard::to_stdvec(&digests).unwrap()].concat()
    };
    let of_the_future = [vec![200, 1], [&[200, 1][..], &[0xff; 70_000]].concat(), refuted("blake4:1234")];
    let mut said = BytesMut::new();
    for body in &of_the_future {
        said.extend_from_slice(&(body.len() as u32).to_le_bytes());
        said.extend_from_slice(body);
        said.extend_from_slice(&SIGN_OF_LIFE);
        said.extend_from_slice(Frame::encode(&known).unwrap().bytes());
    }
    for kind in [200, 200, 26] {
        assert_eq!(take(&mut said).unwrap(), Some(Err(Unknown { kind, request: None })));
        assert_eq!(take(&mut said).unwrap(), Some(Ok(known.clone())));
    }
    assert_eq!((take(&mut said).unwrap(), said.is_empty()), (None, true));
}

/// A message of a known kind, behind whose first field something stands that has no meaning here.
fn unread(kind: u8, body: &[u8]) -> Unknown {
    decode(&[&[kind][..], body].concat()).unwrap().unwrap_err()
}

#[test]
fn a_question_with_a_value_of_the_future_is_refused_to_its_asker_in_words_that_all_know() {
    let digest = |text: &str| postcard::to_stdvec(&text).unwrap();
    let is_refusal = |failure: &Failure| failure.kind == FailureKind::Other && !failure.text.is_empty();
    // A sort of source, and an algorithm of digests.
    let url = [&[0][..], &postcard::to_stdvec("http://a.example/").unwrap(), &[0, 1], &digest("blake4:12")].concat();
    let registry = [&[1][..], &postcard::to_stdvec("http://r/").unwrap(), &digest("app"), &digest("x:1")].concat();
    for source in [vec![9], b"\x03magnet".to_vec(), url, registry] {
        // The number of the question takes two bytes.
        let join = unread(0, &[&[0xac, 2][..], &source, &[0; 4]].concat());
        assert_eq!(join, Unknown { kind: 0, request: Some(300) });
        let Some(Message::Rejected { request: 300, failure }) = join.refusal() else { panic!("{join:?}") };
        assert!(is_refusal(&failure) && join.as_failure().is_none());
    }
    let question = RegistryQuestion {
        registry: "https://registry.example/".to_owned(),
        configured: true,
        head: true,
        path: "/v2/".to_owned(),
        headers: Vec::new(),
        credentials: Credentials::none(),
    };
    let question = postcard::to_stdvec(&question).unwrap();
    for (kind, proof) in [(28, digest("blake4:12")), (29, [&[1][..], &digest("blake4:12")].concat())] {
        let ask = unread(kind, &[&[7][..], &question, &proof].concat());
        let Some(Message::RegistryIs { request: 7, answer: Err(failure) }) = ask.refusal() else { panic!("{ask:?}") };
        assert!(is_refusal(&failure) && ask.as_failure().is_none());
    }
}

#[test]
fn an_answer_with_a_value_of_the_future_is_a_failure_to_whoever_waits_for_it() {
    let digests = |request| postcard::to_stdvec(&(request, BlobId([1; 32]), "blake4:1", "blake4:2")).unwrap();
    let refuted = unread(26, &digests(Some(300_u32)));
    assert!(
        matches!(refuted.as_failure(), Some(Message::Rejected { request: 300, .. })) && refuted.refusal().is_none()
    );
    let untold = unread(26, &digests(None));
    assert_eq!((untold.as_failure(), untold.refusal()), (None, None), "nobody asked for it");
    let joined = (300_u32, BlobId([1; 32]), Version::default(), 18_u8, None::<u64>, Vec::<u8>::new(), LeadKey([0; 32]));
    let verdict = (false, None::<Proof>, Vec::<PeerInfo>::new(), Some((PieceHash([0; 32]), Some("blake4:1"))), 0_u8);
    let body = [postcard::to_stdvec(&joined).unwrap(), postcard::to_stdvec(&verdict).unwrap()].concat();
    assert!(matches!(unread(4, &body).as_failure(), Some(Message::Rejected { request: 300, .. })));
    let whole = [&[1; 64][..], &[1], &postcard::to_stdvec("blake4:1").unwrap()].concat();
    assert_eq!(unread(8, &whole), Unknown { kind: 8, request: None });
}

/// The body of a message of eight megabytes that is a list behind `head`: zeros, which are elements of `element` bytes each.
fn long_list(head: &[u8], element: usize) -> Vec<u8> {
    let room = MAX_MESSAGE - head.len() - 5;
    let count = u32::try_from(room / element).unwrap();
    let mut body = [head, &postcard::to_stdvec(&count).unwrap()].concat();
    body.resize(body.len() + count as usize * element, 0);
    body
}

#[test]
fn a_message_whose_lists_would_take_far_more_memory_than_bytes_is_refused() {
    let url = [&[0, 1, 0][..], &postcard::to_stdvec("http://a/").unwrap()].concat();
    let blob = |kind: u8| [&[kind][..], &[0; 32]].concat();
    let (header, peer) = (2, 21);
    let lists = [
        ("headers that choose a variant", url.clone(), header),
        ("credentials", [&url[..], &[0, 0]].concat(), header),
        ("a question's headers", vec![24, 1, 0, 0, 0, 0], header),
        ("a question's credentials", vec![24, 1, 0, 0, 0, 0, 0], header),
        ("an answer's headers", vec![25, 1, 0, 0xc8, 1], header),
        ("nodes", vec![19], peer),
        ("seeds", vec![27], peer),
        ("nodes that rank first", vec![21, 1, 0, 0, 0], peer),
        ("neighbours", blob(7), peer),
        ("pieces", blob(12), 1),
        ("lost pieces", blob(13), 1),
        ("a set", blob(11), 1),
        ("what a member holds", [&url[..], &[0, 0, 0, 1], &[0; 32]].concat(), 1),
        ("wishes", [&blob(31)[..], &[0]].concat(), 3),
    ];
    for (list, head, element) in lists {
        let read = decode(&long_list(&head, element));
        let is_swollen = matches!(&read, Err(ProtocolError::Violation { what }) if what.contains("memory"));
        assert!(is_swollen, "{list}: {:?}", read.map(|_| "read"));
    }
}

#[test]
fn the_largest_messages_that_honest_agents_send_are_read() {
    let blob = BlobId([1; 32]);
    let pieces = (0..2_000_000).map(PieceIndex).collect();
    let hashes = vec![PieceHash([1; 32]); 250_000];
    let sparse = [PieceIndex(crate::MAX_PIECES - 1)].into_iter().collect();
    let answer = RegistryAnswer {
        status: 200,
        headers: vec![(String::new(), Vec::new()); crate::MAX_REGISTRY_HEADERS],
        body: vec![1; 8_000_000],
        age_ms: 0,
        stale: None,
    };
    let messages = [
        Message::Have { blob, pieces, known: 0 },
        Message::Grew { blob, from: 0, hashes, length: None, members_ask: false, proof: None },
        Message::Meet { blob, held: sparse, known: 0, wants: true },
        Message::Meet { blob, held: PieceSet::full(crate::MAX_PIECES), known: 0, wants: true },
        Message::RegistryIs { request: 1, answer: Ok(answer) },
        Message::Inventory { blobs: vec![blob; 250_000] },
    ];
    for message in messages {
        let frame = Frame::encode(&message).unwrap();
        assert!(decode(&frame.bytes()[4..]).unwrap() == Ok(message));
    }
}

#[test]
fn numbers_of_the_future_read_as_the_most_harmless_ones() {
    let failure = Failure { kind: FailureKind::NotFound, status: None, text: String::new(), challenge: None };
    let mut body = Frame::encode(&Message::Rejected { request: 7, failure }).unwrap().bytes()[4..].to_vec();
    assert_eq!(body[..3], [5, 7, 0]);
    body[2] = 99;
    let Message::Rejected { failure, .. } = decode(&body).unwrap().unwrap() else { panic!("another message") };
    assert_eq!(failure.kind, FailureKind::Other);
    let lead_is =
        Message::LeadIs { request: 7, part: SwarmPart::Lead, lead: None, seeds: Vec::new(), nearest: Vec::new() };
    let mut body = Frame::encode(&lead_is).unwrap().bytes()[4..].to_vec();
    assert_eq!(body[..3], [21, 7, 3]);
    body[2] = 99;
    let Message::LeadIs { part, .. } = decode(&body).unwrap().unwrap() else { panic!("another message") };
    assert_eq!(part, SwarmPart::Nothing);
}

#[test]
fn a_message_over_the_limit_is_not_encoded() {
    let message = Message::Dissolved { blob: BlobId([1; 32]), reason: "x".repeat(MAX_MESSAGE) };
    assert!(matches!(Frame::encode(&message), Err(ProtocolError::TooLong { what: "message", .. })));
}
