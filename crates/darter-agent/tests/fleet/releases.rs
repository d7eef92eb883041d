//! An agent among peers of other releases: one that says more than the agent knows, one of the last release, one with which no version of
//! the protocol is common. Their messages are written as bytes.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use darter_agent::Agent;
use darter_agent::options::Role as AgentRole;
use darter_core::source::Credentials;
use darter_core::{NodeId, PieceIndex, PieceSet, Source};
use darter_protocol::data::{ASK_LENGTH, Ask, HEADER_LENGTH, Header};
use darter_protocol::{frame, preface};
use darter_wire::{
    Capabilities, ConnectionKind, FailureKind, Frame, Hello, Message, PeerInfo, PeerReader, PeerStream, PeerWriter,
    Refusal, Request, Role, TcpTransport, Transport, Versions, Wanted, WireError,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use crate::seed::{self, Content};
use crate::web::{Reply, Web};

/// Longer than any of this takes, also on a machine that is busy.
const MEETING_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes that were recorded from the last release.
const RECORDED: &str = include_str!("../../../darter-protocol/tests/golden/version-3.txt");

fn recorded(name: &str) -> Vec<u8> {
    let row = RECORDED.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    hex::decode(row).unwrap()
}

/// Which release a peer is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// It speaks versions 3 to 9, and uses what came with them.
    Newer,
    /// It speaks version 3, and takes nothing that this does not have.
    Last,
}

use Release::{Last, Newer};

impl Release {
    fn hello(self, node: NodeId, role: Role) -> Hello {
        let (versions, capabilities) = match self {
            Newer => (Versions { lowest: 3, highest: 9 }, Capabilities::from_bits(u64::MAX)),
            Last => (Versions::exactly(3), Capabilities::NONE),
        };
        Hello { versions, capabilities, ..seed::hello(node, role, "127.0.0.1:1") }
    }

    /// Its first bytes on a connection. A seed of the last release says it as it was recorded.
    fn preface(self, kind: ConnectionKind, node: NodeId, role: Role) -> Vec<u8> {
        match (self, role, kind) {
            (Last, Role::Seed, ConnectionKind::Control) => recorded("preface/control"),
            (Last, Role::Seed, ConnectionKind::Data) => recorded("preface/data"),
            (Last, ..) => {
                let mut bytes = preface::encode(3, kind, &self.hello(node, role)).unwrap();
                // Its run is the last that it tells: neither range nor capabilities.
                bytes.truncate(bytes.len() - 3);
                with_length(bytes)
            }
            (Newer, ..) => {
                let mut bytes = preface::encode(3, kind, &self.hello(node, role)).unwrap();
                bytes.extend_from_slice(b"fields of the future");
                with_length(bytes)
            }
        }
    }

    /// Reads the other side's preface, as this release would.
    async fn read_preface(self, reader: &mut dyn PeerReader) -> ConnectionKind {
        let mut head = [0; 8];
        reader.read_exact(&mut head).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_le_bytes([head[6], head[7]]))];
        reader.read_exact(&mut hello).await.unwrap();
        assert_eq!(&head[..5], b"DRTR\x03", "a form that both know");
        let told = preface::decode_hello(3, &hello).unwrap().versions;
        assert_eq!(told, Versions::SPOKEN);
        ConnectionKind::from_number(head[5]).unwrap()
    }

    /// A message as this release writes it.
    fn says(self, message: &Message) -> Vec<u8> {
        let frame = Frame::encode(message).unwrap();
        match self {
            Last => frame.bytes().to_vec(),
            Newer => framed(&[&frame.bytes()[4..], b"fields of the future"].concat()),
        }
    }

    /// A message of this release that others don't know.
    fn says_more(self) -> Vec<u8> {
        match self {
            Last => Vec::new(),
            Newer => [framed(&[200, 1]), framed(&[&[127][..], &[0xff; 300_000]].concat())].concat(),
        }
    }

    /// Answers that this release sends besides, on a data channel: one that nobody asked for.
    fn answers_more(self) -> Vec<u8> {
        match self {
            Last => Vec::new(),
            Newer => answer(99, 0x00de_adbe, 100_000),
        }
    }
}

fn with_length(mut preface: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(preface.len() - 8).unwrap();
    preface[6..8].copy_from_slice(&length.to_le_bytes());
    preface
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], body].concat()
}

/// An answer without a piece, and bytes behind it.
fn answer(status: u8, id: u32, bytes: usize) -> Vec<u8> {
    let mut answer = Header::None { id, reason: Refusal::Busy, skip: u32::try_from(bytes).unwrap() }.encode().to_vec();
    answer[4] = status;
    answer.resize(HEADER_LENGTH + bytes, 0xff);
    answer
}

/// A control channel as a test reads it: a message by a message, with signs of life in between.
struct Control {
    release: Release,
    reader: Box<dyn PeerReader>,
    writer: Box<dyn PeerWriter>,
    buffer: BytesMut,
}

impl Control {
    fn new(release: Release, stream: PeerStream) -> Self {
        Self { release, reader: stream.reader, writer: stream.writer, buffer: BytesMut::new() }
    }

    async fn say(&mut self, message: &Message) {
        self.writer.write_all(&self.release.says(message)).await.unwrap();
    }

    /// The next message; none at the end. The last release would hang up on one that it does not know.
    async fn hear(&mut self) -> Option<Message> {
        loop {
            let before = self.buffer.clone();
            if let Some(message) = frame::take(&mut self.buffer).unwrap() {
                let message = message.expect("something that both know");
                if self.release == Last {
                    let read = before.len() - self.buffer.len();
                    assert!(before[..read].ends_with(Frame::encode(&message).unwrap().bytes()), "{message:?}");
                    assert!(message.since() <= 3, "{message:?}");
                }
                return Some(message);
            }
            let read = self.reader.read_buf(&mut self.buffer);
            match tokio::time::timeout(Duration::from_secs(1), read).await {
                Ok(Ok(0) | Err(_)) => return None,
                Ok(Ok(_)) => {}
                Err(_) if self.writer.write_all(&frame::SIGN_OF_LIFE).await.is_err() => return None,
                Err(_) => {}
            }
        }
    }
}

/// A seed of another release that has the content, and its account.
struct Seed {
    release: Release,
    content: Content,
    controls: AtomicU32,
    /// The node that it names as a neighbour, once.
    stranger: Option<PeerInfo>,
    /// The first piece is sent.
    begun: Notify,
    /// Everything was said that is to be said in the middle of a transfer.
    said: Notify,
}

impl Seed {
    fn new(release: Release) -> Self {
        let (content, controls) = (Content::new(), AtomicU32::new(0));
        Self { release, content, controls, stranger: None, begun: Notify::new(), said: Notify::new() }
    }

    async fn start(self) -> (Arc<Self>, String) {
        let seed = Arc::new(self);
        let listener = TcpTransport::default().listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().to_string();
        let accepting = Arc::clone(&seed);
        tokio::spawn(async move {
            while let Ok(mut stream) = listener.accept().await {
                let seed = Arc::clone(&accepting);
                tokio::spawn(async move {
                    let kind = seed.release.read_preface(&mut *stream.reader).await;
                    let answer = seed.release.preface(kind, NodeId([1; 16]), Role::Seed);
                    stream.writer.write_all(&answer).await.unwrap();
                    match kind {
                        ConnectionKind::Control => seed.converse(Control::new(seed.release, stream)).await,
                        ConnectionKind::Data => seed.serve(stream).await,
                    }
                });
            }
        });
        (seed, address)
    }

    async fn converse(&self, mut control: Control) {
        self.controls.fetch_add(1, Ordering::Relaxed);
        control.writer.write_all(&self.release.says_more()).await.unwrap();
        while let Some(message) = control.hear().await {
            let Message::Join { request, .. } = message else { continue };
            control.say(&self.content.joined(request)).await;
            self.begun.notified().await;
            for _ in 0..10 {
                control.writer.write_all(&self.release.says_more()).await.unwrap();
                let (blob, add) = (self.content.blob(), self.stranger.iter().cloned().collect());
                control.say(&Message::Neighbours { blob, add, gone: Vec::new() }).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.said.notify_one();
        }
    }

    /// Sends the pieces in order, each once, and the first only after a refusal.
    async fn serve(&self, mut stream: PeerStream) {
        let mut asked: VecDeque<Request> = VecDeque::new();
        let (mut sent, mut has_refused) = (PieceSet::new(), self.release == Last);
        let mut frame = [0; ASK_LENGTH];
        while stream.reader.read_exact(&mut frame).await.is_ok() {
            match Ask::decode(&frame).unwrap().expect("both know it") {
                Ask::Cancel { id } => asked.retain(|request| request.id != id),
                Ask::Request(request) => asked.push_back(request),
            }
            while let Some(Request { id, wanted, takes_packed, .. }) = asked.pop_front() {
                assert_eq!(takes_packed, self.release == Newer, "said only to who knows packed pieces");
                if !std::mem::replace(&mut has_refused, true) {
                    stream.writer.write_all(&answer(77, id, 10_000)).await.unwrap();
                    continue;
                }
                let piece = match wanted {
                    Wanted::Piece(piece) => piece,
                    Wanted::Any => sent.first_missing_from(PieceIndex(0)),
                };
                if piece.0 >= 3 {
                    continue;
                }
                if sent.len() == 1 {
                    self.begun.notify_one();
                    self.said.notified().await;
                }
                sent.insert(piece);
                let bytes = self.content.piece(piece.0);
                let header = Header::Data { id, piece, length: u32::try_from(bytes.len()).unwrap() }.encode();
                let answer = [&self.release.answers_more()[..], &header, bytes].concat();
                stream.writer.write_all(&answer).await.unwrap();
            }
        }
    }
}

async fn unknown_messages(agent: &Agent) -> u32 {
    let url = format!("http://{}/metrics", agent.status().local.unwrap());
    let metrics = reqwest::get(url).await.unwrap().text().await.unwrap();
    let count = metrics.lines().find_map(|line| line.strip_prefix("darter_unknown_messages_total ")).unwrap();
    count.parse().unwrap()
}

/// An agent on the host that the recorded seed is on.
async fn node(dir: &Path, join: Vec<String>) -> Agent {
    let (local, labels) = (Some(([127, 0, 0, 1], 0).into()), [("host".to_owned(), "h1".to_owned())].into());
    darter_gateway::start(darter_agent::Options { local, labels, ..seed::node(dir, join) }).await.unwrap()
}

#[tokio::test]
async fn a_seed_of_a_neighbouring_release_gives_the_blob_whatever_else_it_says() {
    for release in [Newer, Last] {
        let (seed, address) = Seed::new(release).start().await;
        let dir = tempfile::tempdir().unwrap();
        let agent = node(dir.path(), vec![address]).await;
        tokio::time::timeout(MEETING_TIMEOUT, seed::fetch(&agent, &seed.content)).await.expect("the blob");
        assert_eq!(seed.controls.load(Ordering::Relaxed), 1, "{release:?}: nobody hung up");
        assert_eq!(unknown_messages(&agent).await > 0, release == Newer, "{release:?}");
        let traffic = agent.explain(&seed.content.blob().to_string()).await.unwrap().traffic;
        assert!(traffic.from_seed >= seed.content.length() && traffic.from_origin == 0, "{release:?}: {traffic:?}");
        agent.drain().await;
    }
}

#[tokio::test]
async fn a_node_of_a_neighbouring_release_is_served_whatever_else_it_says() {
    static CONTENT: [u8; 600_000] = [7; 600_000];
    let web = Web::start(|_| Reply::ok(&CONTENT)).await;
    for release in [Newer, Last] {
        let dir = tempfile::tempdir().unwrap();
        let options = darter_agent::Options { role: AgentRole::Seed, ..seed::node(dir.path(), Vec::new()) };
        let agent = darter_gateway::start(options).await.unwrap();
        let address = agent.status().listen.unwrap();
        let connect = async |kind| {
            let mut stream = TcpTransport::default().connect(&address).await.unwrap();
            stream.writer.write_all(&release.preface(kind, NodeId([9; 16]), Role::Node)).await.unwrap();
            assert_eq!(release.read_preface(&mut *stream.reader).await, kind);
            stream
        };
        let mut control = Control::new(release, connect(ConnectionKind::Control).await);
        control.writer.write_all(&release.says_more()).await.unwrap();
        let (source, _) = Source::from_url(web.url("/x").parse().unwrap(), &[], None);
        let (credentials, held) = (Credentials::none(), None);
        // A release that writes fields behind this one writes this one, too.
        let size = (release == Newer).then_some(9);
        control.say(&Message::Join { request: 7, source, credentials, held, wants: true, size }).await;
        let (blob, piece_length) = loop {
            match control.hear().await.expect("the agent hung up") {
                Message::Joined { request: 7, blob, piece_length, .. } => break (blob, piece_length),
                Message::Rejected { failure, .. } => panic!("{}", failure.text),
                _ => {}
            }
        };
        let mut data = connect(ConnectionKind::Data).await;
        let ask =
            |id| Ask::Request(Request { id, blob, wanted: Wanted::Any, urgent: false, takes_packed: false }).encode();
        let mut header = [0; HEADER_LENGTH];
        if release == Newer {
            let (mut note, mut request) = (ask(1), ask(2));
            (note[4], request[4]) = (200, 9);
            data.writer.write_all(&[note, request].concat()).await.unwrap();
            data.reader.read_exact(&mut header).await.unwrap();
            let refused = Header::None { id: 2, reason: Refusal::NotUnderstood, skip: 0 };
            assert_eq!(Header::decode(&header).unwrap(), refused);
        }
        let conversing = tokio::spawn(async move { while control.hear().await.is_some() {} });
        let pieces = piece_length.count(CONTENT.len() as u64);
        let mut came = PieceSet::new();
        for id in 10..10 + pieces {
            data.writer.write_all(&ask(id)).await.unwrap();
            let reading = data.reader.read_exact(&mut header);
            tokio::time::timeout(MEETING_TIMEOUT, reading).await.expect("a piece").unwrap();
            let Header::Data { piece, length, .. } = Header::decode(&header).unwrap() else { panic!("{header:?}") };
            let mut bytes = vec![0; length as usize];
            data.reader.read_exact(&mut bytes).await.unwrap();
            assert!(bytes.iter().all(|byte| *byte == 7) && came.insert(piece), "{release:?}: {piece:?}");
        }
        assert!(!conversing.is_finished(), "{release:?}: the agent hung up");
        agent.drain().await;
        conversing.await.unwrap();
    }
}

/// Connects to an agent as a peer of this release does.
async fn call(release: Release, address: &str) -> Control {
    let mut stream = TcpTransport::default().connect(address).await.unwrap();
    stream.writer.write_all(&release.preface(ConnectionKind::Control, NodeId([9; 16]), Role::Node)).await.unwrap();
    release.read_preface(&mut *stream.reader).await;
    Control::new(release, stream)
}

#[tokio::test]
async fn who_asks_for_a_sort_of_source_that_is_not_known_here_is_told_so_and_need_not_wait() {
    for role in [AgentRole::Seed, AgentRole::Node] {
        let dir = tempfile::tempdir().unwrap();
        let options = darter_agent::Options { role, ..seed::node(dir.path(), Vec::new()) };
        let agent = Agent::start(options).await.unwrap();
        let mut control = call(Newer, &agent.status().listen.unwrap()).await;
        // A swarm of content of a sort of source that comes later, and of an address with a digest that does.
        let torrent = framed(&[&[0, 7, 2][..], b"\x06magnet", &[0; 3]].concat());
        let digest = framed(&[&[0, 8, 0][..], b"\x09http://a/", &[0, 1], b"\x08blake4:1", &[0; 3]].concat());
        for (request, join) in [(7, torrent), (8, digest)] {
            control.writer.write_all(&join).await.unwrap();
            let refused = async {
                loop {
                    match control.hear().await.expect("the agent hung up") {
                        Message::Rejected { request, failure } => break (request, failure),
                        Message::Joined { .. } => panic!("it was let in"),
                        _ => {}
                    }
                }
            };
            let (answered, failure) = tokio::time::timeout(MEETING_TIMEOUT, refused).await.expect("an answer");
            assert_eq!((answered, failure.kind), (request, FailureKind::Other), "{}", failure.text);
            assert!(failure.text.contains("new to the release"), "{}", failure.text);
        }
        agent.drain().await;
    }
}

/// An agent of the last release takes a kind of failure that it does not know for trouble of the seed's own.
#[tokio::test]
async fn why_an_origin_can_not_be_read_is_said_to_each_release_as_it_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = darter_agent::Options { role: AgentRole::Seed, ..seed::node(dir.path(), Vec::new()) };
    let agent = Agent::start(options).await.unwrap();
    for (release, expected) in [(Newer, FailureKind::UnknownName), (Last, FailureKind::Unreachable)] {
        let mut control = call(release, &agent.status().listen.unwrap()).await;
        // No name server has to be asked for a label that is too long.
        let url = format!("http://{}/x", "x".repeat(64)).parse().unwrap();
        let (source, _) = Source::from_url(url, &[], None);
        let (credentials, held) = (Credentials::none(), None);
        // A release that writes fields behind this one writes this one, too.
        let size = (release == Newer).then_some(9);
        control.say(&Message::Join { request: 7, source, credentials, held, wants: true, size }).await;
        let refused = async {
            loop {
                match control.hear().await.expect("the agent hung up") {
                    Message::Rejected { request: 7, failure } => break failure,
                    Message::Joined { .. } => panic!("it was let in"),
                    _ => {}
                }
            }
        };
        let failure = tokio::time::timeout(MEETING_TIMEOUT, refused).await.expect("an answer");
        assert_eq!(failure.kind, expected, "{release:?}: {}", failure.text);
    }
    agent.drain().await;
}

/// A node that speaks versions which this release does not; how often it was called.
async fn stranger() -> (String, Arc<AtomicU32>) {
    let listener = TcpTransport::default().listen("127.0.0.1:0").await.unwrap();
    let (address, calls) = (listener.local_addr().to_string(), Arc::new(AtomicU32::new(0)));
    let versions = Versions { lowest: 7, highest: 9 };
    let me = Hello { versions, ..seed::hello(NodeId([5; 16]), Role::Node, &address) };
    let counted = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            let error = darter_wire::preface::greet(stream, &me).await.unwrap_err();
            let WireError::Version { ours, theirs, .. } = error else { panic!("{error}") };
            assert_eq!((ours, theirs), (versions, Versions::SPOKEN));
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, calls)
}

#[tokio::test]
async fn a_node_without_a_common_version_is_gone_around_and_not_called_again_and_again() {
    let (address, calls) = stranger().await;
    let info = PeerInfo { node: NodeId([5; 16]), addr: address.clone(), place: Default::default() };
    let (seed, seed_address) = Seed { stranger: Some(info), ..Seed::new(Last) }.start().await;
    let dir = tempfile::tempdir().unwrap();
    let agent = node(dir.path(), vec![seed_address]).await;
    tokio::time::timeout(MEETING_TIMEOUT, seed::fetch(&agent, &seed.content)).await.expect("the blob");
    assert_eq!(calls.load(Ordering::Relaxed), 1, "it was named ten times");
    agent.drain().await;
    // As a seed it keeps nobody from starting, and may be upgraded.
    let dir = tempfile::tempdir().unwrap();
    let agent = node(dir.path(), vec![address]).await;
    assert!(agent.status().seeds.iter().all(|seed| !seed.up));
    agent.drain().await;
}
