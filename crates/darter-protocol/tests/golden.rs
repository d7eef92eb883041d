//! The protocol's bytes, pinned: what agents of the last release write is read, and what they are told has the form that
//! they know.
//!
//! `golden/version-3.txt` was recorded from agents of protocol version 3. If a test fails, agents of that release can't read what this one says, or
//! the other way round: add a message or a field at the end instead of changing one.

#[path = "golden/messages.rs"]
mod messages;

use bytes::{Bytes, BytesMut};
use darter_core::source::Credentials;
use darter_core::{BlobId, Digest, ExpandedLayer, NodeId, PieceIndex, Place, Source};
use darter_protocol::data::{Ask, Header};
use darter_protocol::frame::take;
use darter_protocol::preface::{self, Head};
use darter_protocol::{
    Capabilities, ConnectionKind, Failure, Frame, Hello, Message, PackedPiece, Refusal, Request, Role, Unknown,
    Unpacker, Versions, Wanted,
};

use self::messages::{failure_kinds, messages};

const VERSION_3: &str = include_str!("golden/version-3.txt");
const VERSION_4: &str = include_str!("golden/version-4.txt");

/// The recorded bytes under names that begin with `kind`, by the rest of the name.
fn recorded(file: &'static str, kind: &str) -> Vec<(&'static str, Vec<u8>)> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    let rows = lines.filter_map(|line| line.split_once(' '));
    rows.filter_map(|(name, bytes)| Some((name.strip_prefix(kind)?, hex::decode(bytes).unwrap()))).collect()
}

#[test]
fn every_message_has_the_bytes_that_were_written_down() {
    let of_version_3 = recorded(VERSION_3, "message/");
    let newer = of_version_3.len();
    let recorded = [of_version_3, recorded(VERSION_4, "message/")].concat();
    let messages = messages();
    for ((name, bytes), (known_as, message)) in recorded.iter().zip(&messages) {
        assert_eq!(name, known_as);
        assert_eq!(hex::encode(Frame::encode(message).unwrap().bytes()), hex::encode(bytes), "{name} is written");
        let mut buffer = BytesMut::from(&bytes[..]);
        assert_eq!(take(&mut buffer).unwrap(), Some(Ok(message.clone())), "{name} is read");
        assert!(buffer.is_empty(), "{name}");
    }
    let since: Vec<_> = messages.iter().map(|(_, message)| message.since()).collect();
    assert!(since[..newer].iter().all(|since| *since <= 3) && since[newer..].iter().all(|since| *since == 4));
    assert_eq!(recorded.len(), messages.len(), "one of each kind");
}

#[test]
fn the_last_releases_preface_is_read() {
    let place = Place { region: "eu".into(), zone: "a".into(), rack: "7".into(), host: "h1".into() };
    for (name, bytes) in recorded(VERSION_3, "preface/") {
        let kind = if name == "data" { ConnectionKind::Data } else { ConnectionKind::Control };
        let (head, rest) = bytes.split_first_chunk().unwrap();
        let head = Head::decode(head).unwrap();
        assert_eq!((head.form, ConnectionKind::from_number(head.kind)), (3, Some(kind)));
        let (length, hello) = rest.split_first_chunk().unwrap();
        assert_eq!(preface::hello_length(*length).unwrap(), hello.len());
        let hello = preface::decode_hello(head.form, hello).unwrap();
        let expected = Hello {
            node: NodeId([0x0e; 16]),
            listen: "10.0.0.1:7400".into(),
            place: place.clone(),
            role: Role::Seed,
            program: "0.1.0".into(),
            run: 300,
            versions: Versions::exactly(3),
            capabilities: Capabilities::NONE,
        };
        assert_eq!(hello, expected);
        let mut written = preface::encode(3, kind, &Hello { versions: Versions::SPOKEN, ..expected }).unwrap();
        assert_eq!(usize::from(written[6]), written.len() - 8);
        // Those agents skip what stands behind the run.
        written.truncate(bytes.len());
        written[6] = bytes[6];
        assert_eq!(written, bytes);
    }
}

#[test]
fn requests_and_answers_have_the_bytes_that_they_had() {
    let blob = BlobId([0xb0; 32]);
    let by_name = |name: &str| recorded(VERSION_3, "data/").into_iter().find(|(it, _)| *it == name).unwrap().1;
    let asks = [
        (
            "request-piece",
            Ask::Request(Request {
                id: 7,
                blob,
                wanted: Wanted::Piece(PieceIndex(300)),
                urgent: true,
                takes_packed: false,
            }),
        ),
        ("request-any", Ask::Request(Request { id: 8, blob, wanted: Wanted::Any, urgent: false, takes_packed: false })),
        ("cancel", Ask::Cancel { id: 8 }),
    ];
    for (name, ask) in asks {
        assert_eq!(ask.encode().as_slice(), by_name(name), "{name}");
        assert_eq!(Ask::decode(&by_name(name).try_into().unwrap()).unwrap(), Ok(ask));
    }
    let none = |reason| Header::None { id: 7, reason, skip: 0 };
    let headers = [
        ("piece", Header::Data { id: 7, piece: PieceIndex(300), length: 5 }),
        ("not-held", none(Refusal::NotHeld)),
        ("busy", none(Refusal::Busy)),
        ("refused", none(Refusal::Refused)),
        ("unknown-blob", none(Refusal::UnknownBlob)),
        ("cancelled", none(Refusal::Cancelled)),
    ];
    for (name, header) in headers {
        let bytes = by_name(name);
        assert_eq!(header.encode(), bytes[..16], "{name}");
        assert_eq!(Header::decode(bytes[..16].try_into().unwrap()).unwrap(), header);
    }
}

/// Sent to agents with [`Capabilities::PACKED_PIECES`], and by them.
#[test]
fn packed_pieces_have_the_bytes_that_were_written_down() {
    let by_name = |name: &str| recorded(VERSION_4, "packed/").into_iter().find(|(it, _)| *it == name).unwrap().1;
    let request = Request {
        id: 7,
        blob: BlobId([0xb0; 32]),
        wanted: Wanted::Piece(PieceIndex(300)),
        urgent: false,
        takes_packed: true,
    };
    let ask = Ask::Request(request);
    assert_eq!(hex::encode(ask.encode()), hex::encode(by_name("request")));
    assert_eq!(Ask::decode(&by_name("request").try_into().unwrap()).unwrap(), Ok(ask));
    let answer = by_name("piece");
    let (header, body) = answer.split_at(16);
    let told = Header::Packed { id: 7, piece: PieceIndex(300), length: body.len() as u32 };
    assert_eq!(hex::encode(told.encode()), hex::encode(header));
    assert_eq!(Header::decode(header.try_into().unwrap()).unwrap(), told);
    // Another release of zstd may make other bytes of it, and has to read these.
    let mut plain = Vec::new();
    let packed = PackedPiece::read(Bytes::copy_from_slice(body), 400).unwrap();
    Unpacker::default().unpack(&packed, &mut plain).unwrap();
    assert_eq!(plain, b"darter ".repeat(57));
}

/// Agents without the capability take a kind of failure that they do not know for trouble of the sender's own.
#[test]
fn a_kind_of_failure_is_said_as_one_that_the_other_agent_knows() {
    let (known, plain) = (recorded(VERSION_4, "failure/"), recorded(VERSION_4, "plain-failure/"));
    let kinds = failure_kinds();
    assert_eq!((known.len(), plain.len()), (kinds.len(), kinds.len()));
    for ((kind, (name, known)), (_, plain)) in kinds.into_iter().zip(known).zip(plain) {
        assert_eq!(name, format!("{kind:?}"));
        let failure = Failure { kind, status: None, text: String::new(), challenge: None };
        let message = Message::Rejected { request: 7, failure };
        let frame = Frame::encode(&message).unwrap();
        assert_eq!(frame.clone().for_agent(Capabilities::OWN).bytes(), known, "{name}");
        assert_eq!(frame.for_agent(Capabilities::NONE).bytes(), plain, "{name}");
        assert_eq!(take(&mut BytesMut::from(&known[..])).unwrap(), Some(Ok(message)), "{name} is read");
    }
}

/// A sort of source that agents with [`Capabilities::EXPANDED_LAYERS`] know.
#[test]
fn an_expanded_layer_has_the_bytes_that_were_written_down() {
    let layer = ExpandedLayer {
        registry: "https://r.example/".parse().unwrap(),
        repository: "app".into(),
        digest: Digest::Sha256([0xd0; 32]),
        diff_id: Digest::Sha256([0xd1; 32]),
        format: 300,
    };
    let join = |size| Message::Join {
        request: 7,
        source: Source::Expanded(layer.clone()),
        credentials: Credentials::none(),
        held: None,
        wants: true,
        size,
    };
    let digests = ["d0", "d1"].map(|byte| format!("\x47sha256:{}", byte.repeat(32)));
    let source = ["\x02\x12https://r.example/\x03app", &digests[0], &digests[1]].concat();
    let body = [&[0, 7], source.as_bytes(), &[0xac, 2], &[0, 0, 1]].concat();
    for (size, written) in [(None, &[][..]), (Some(300), &[1, 0xac, 2])] {
        let body = [&body, written].concat();
        assert_eq!(hex::encode(&Frame::encode(&join(size)).unwrap().bytes()[4..]), hex::encode(&body));
        let frame = [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], &body].concat();
        assert_eq!(take(&mut BytesMut::from(&frame[..])).unwrap(), Some(Ok(join(size))));
    }
}

/// A number that is not in the table has not been given out.
#[test]
fn the_documentation_has_every_kind_with_its_number() {
    let documentation = include_str!("../src/message.rs");
    let kinds = messages();
    for (number, (name, message)) in kinds.iter().enumerate() {
        assert_eq!(usize::from(Frame::encode(message).unwrap().bytes()[4]), number, "{name}");
        let row = format!("//! | {number} | [`{name}`](Message::{name}) |");
        assert!(documentation.contains(&row), "{row}");
    }
    let next = [1, 0, 0, 0, u8::try_from(kinds.len()).unwrap()];
    let unknown = take(&mut BytesMut::from(&next[..])).unwrap();
    assert_eq!(unknown, Some(Err(Unknown { kind: kinds.len() as u32, request: None })), "a kind that has no row");
}

/// Room is made for what has come, not for what a length says: else such a message would take gigabytes, or end the process.
#[test]
fn a_length_that_promises_more_than_there_is_takes_no_memory() {
    const ENDLESS: [&[u8]; 2] =
        [&[0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]];
    for (name, message) in messages() {
        let body = &Frame::encode(&message).unwrap().bytes()[4..].to_vec();
        for (at, endless) in (0..body.len()).flat_map(|at| ENDLESS.map(|endless| (at, endless))) {
            let body = [&body[..at], endless, &body[at + 1..]].concat();
            let frame = [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], &body].concat();
            let taken = take(&mut BytesMut::from(&frame[..]));
            // Bytes that are no length may be a number, or part of a text or a hash.
            assert!(taken.is_err() || taken.is_ok_and(|message| message.is_some()), "{name} at {at}");
        }
    }
}
