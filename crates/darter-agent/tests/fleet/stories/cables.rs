//! Cables of hosts, over any transport: how fast they are, what befalls bytes on them, and whether a process still stands at their end.
//! A node that lies is an agent like any other whose cable says something else than it does.
//!
//! A host's connections share its cable each way, and wait for it in virtual time. An answer to a request for a piece is known by its header, a
//! message by its frame.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes, BytesMut};
use darter_core::{BlobId, PieceIndex, PieceSet};
use darter_origin::{Body, MemOrigin, Origin, OriginError};
use darter_protocol::data::{HEADER_LENGTH, Header};
use darter_protocol::frame::{self, Frame};
use darter_scenario::Lie;
use darter_wire::WireError;
use darter_wire::{ConnectionKind, Held, Listener, Message, PeerReader, PeerStream, PeerWriter, Refusal, Transport};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::in_memory::Altered;

/// For how long a cable is a connection's in its turn, in seconds; bytes are no less than a packet's.
const TURN: f64 = 0.002;
const PACKET: f64 = 1448.0;
/// The most bytes of a turn.
const MAX_TURN: f64 = 65536.0;
/// How far ahead of the cable a connection may be, so that timers of whole milliseconds leave no gap: what a socket's buffer is.
const AHEAD: Duration = Duration::from_millis(4);
/// How often a byte comes from a node that sends byte by byte.
const DRIP: Duration = Duration::from_millis(200);
/// How long a node that answers late takes.
const LATE: Duration = Duration::from_secs(10);

/// All cables of a network. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Cables(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    hosts: HashMap<IpAddr, Host>,
    /// Between whom a bit of the next piece flips.
    flips: HashSet<(IpAddr, IpAddr)>,
    /// Pieces that a host took back from another, and is to say again that it holds.
    taken_back: HashMap<(IpAddr, IpAddr), Vec<PieceIndex>>,
    /// The content that liars say they hold.
    content: Option<(BlobId, u32)>,
}

struct Host {
    /// Bytes in a second, each way.
    rates: [f64; 2],
    /// When the cable will have taken up what was written.
    free: [Option<Instant>; 2],
    lie: Option<Lie>,
    /// Counts its processes: connections of an earlier one are dead.
    life: u64,
}

impl Default for Host {
    fn default() -> Self {
        Self { rates: [f64::INFINITY; 2], free: [None; 2], lie: None, life: 0 }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Cables {
    /// Makes the transport of the host at `ip` from `inner`.
    pub(crate) fn on<T: Transport>(&self, ip: impl Into<IpAddr>, inner: T) -> CableTransport<T> {
        let ip = ip.into();
        let life = self.host(ip, |host| host.life);
        CableTransport { cables: self.clone(), ip, life, inner }
    }

    fn host<R>(&self, ip: IpAddr, what: impl FnOnce(&mut Host) -> R) -> R {
        what(self.0.lock().hosts.entry(ip).or_default())
    }

    /// Bytes in a second, up and down.
    pub(crate) fn rate(&self, ip: IpAddr, rates: [f64; 2]) {
        self.host(ip, |host| host.rates = rates);
    }

    pub(crate) fn slow_down(&self, ip: IpAddr, by: u32) {
        self.host(ip, |host| host.rates = host.rates.map(|rate| rate / f64::from(by)));
    }

    /// Has a bit flip in the next piece that one host gives another.
    pub(crate) fn flip(&self, from: IpAddr, to: IpAddr) {
        self.0.lock().flips.insert((from, to));
    }

    /// The host `ip` lies from now on about `blob`, which has `pieces` pieces.
    pub(crate) fn lie(&self, ip: IpAddr, how: Lie, blob: BlobId, pieces: u32) {
        self.0.lock().content = Some((blob, pieces));
        self.host(ip, |host| host.lie = Some(how));
    }

    /// Makes an origin behind a cable of its own, as the host at `ip` sees it.
    pub(crate) fn to_origin(&self, ip: IpAddr, origin: MemOrigin) -> impl Origin + use<> {
        let cables = self.clone();
        let carried = move |body: Body| {
            let cables = cables.clone();
            let carry = move |chunk: Result<Bytes, OriginError>| {
                let cables = cables.clone();
                async move {
                    let bytes = chunk.as_ref().map_or(0, Bytes::len);
                    cables.carry(ORIGIN, Direction::Up, bytes).await;
                    cables.carry(ip, Direction::Down, bytes).await;
                    chunk
                }
            };
            body.then(carry).boxed()
        };
        Altered { origin, body: carried }
    }

    /// Waits until bytes are through a host's cable.
    async fn carry(&self, ip: IpAddr, direction: Direction, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let turn = self.turn(ip, direction).min(left);
            sleep_until(self.put(ip, direction, turn)).await;
            left -= turn;
        }
    }

    /// How many bytes a connection may put on a cable in its turn.
    fn turn(&self, ip: IpAddr, direction: Direction) -> usize {
        let rate = self.host(ip, |host| host.rates[direction as usize]);
        (rate * TURN).clamp(PACKET, MAX_TURN) as usize
    }

    /// Puts bytes on a cable, behind what is there. When who did may go on.
    fn put(&self, ip: IpAddr, direction: Direction, bytes: usize) -> Instant {
        self.host(ip, |host| {
            let (now, at) = (Instant::now(), direction as usize);
            let took = Duration::from_secs_f64(bytes as f64 / host.rates[at]);
            let through = host.free[at].map_or(now, |free| free.max(now)) + took;
            host.free[at] = Some(through);
            now.max(through - AHEAD)
        })
    }

    /// A host's process is gone: nothing that it still says is heard.
    pub(crate) fn die(&self, ip: IpAddr) {
        self.host(ip, |host| host.life += 1);
    }
}

/// A host's transport over its cable.
pub(crate) struct CableTransport<T> {
    cables: Cables,
    ip: IpAddr,
    life: u64,
    inner: T,
}

impl<T> CableTransport<T> {
    fn over(&self) -> Over {
        Over { cables: self.cables.clone(), ip: self.ip, life: self.life }
    }
}

#[async_trait]
impl<T: Transport> Transport for CableTransport<T> {
    async fn connect(&self, addr: &str) -> darter_wire::Result<PeerStream> {
        if self.over().is_dead() {
            return Err(WireError::Connect { addr: addr.to_owned(), source: io::ErrorKind::NetworkDown.into() });
        }
        Ok(self.over().wrap(self.inner.connect(addr).await?, false))
    }

    async fn listen(&self, addr: &str) -> darter_wire::Result<Box<dyn Listener>> {
        Ok(Box::new(CableListener { over: self.over(), inner: self.inner.listen(addr).await? }))
    }
}

struct CableListener {
    over: Over,
    inner: Box<dyn Listener>,
}

#[async_trait]
impl Listener for CableListener {
    async fn accept(&self) -> darter_wire::Result<PeerStream> {
        Ok(self.over.wrap(self.inner.accept().await?, true))
    }

    fn local_addr(&self) -> std::net::SocketAddr {
        self.inner.local_addr()
    }
}

/// One process's end of a cable.
#[derive(Clone)]
struct Over {
    cables: Cables,
    ip: IpAddr,
    life: u64,
}

impl Over {
    fn is_dead(&self) -> bool {
        self.cables.host(self.ip, |host| host.life != self.life)
    }

    fn lie(&self) -> Option<Lie> {
        self.cables.host(self.ip, |host| host.lie)
    }

    fn wrap(&self, mut stream: PeerStream, accepted: bool) -> PeerStream {
        let kind = Arc::new(AtomicU8::new(0));
        let peer = stream.peer_addr().ip();
        stream.reader = Box::new(CableReader {
            half: stream.reader,
            over: self.clone(),
            kind: Arc::clone(&kind),
            accepted,
            turn: Turn::default(),
            coming: None,
            pause: Turn::default(),
            late: VecDeque::new(),
            ended: false,
        });
        stream.writer = Box::new(CableWriter {
            half: stream.writer,
            over: self.clone(),
            peer,
            kind,
            turn: Turn::default(),
            drip: Turn::default(),
            saying: BytesMut::new(),
            unsaid: BytesMut::new(),
            taken: None,
            piece: None,
        });
        stream
    }

    fn turn(&self, direction: Direction) -> usize {
        self.cables.turn(self.ip, direction)
    }

    fn put(&self, direction: Direction, bytes: usize) -> Instant {
        self.cables.put(self.ip, direction, bytes)
    }
}

/// The origin's address.
pub(crate) const ORIGIN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));

/// A pause of one half of a connection.
#[derive(Default)]
struct Turn(Option<Pin<Box<Sleep>>>);

impl Turn {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = &mut self.0 {
            ready!(pause.as_mut().poll(cx));
            self.0 = None;
        }
        Poll::Ready(())
    }

    fn wait(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if until <= Instant::now() {
            return Poll::Ready(());
        }
        self.0 = Some(Box::pin(sleep_until(until)));
        self.poll(cx)
    }
}

struct CableReader {
    half: Box<dyn PeerReader>,
    over: Over,
    kind: Arc<AtomicU8>,
    accepted: bool,
    turn: Turn,
    /// The bytes on the cable.
    coming: Option<Vec<u8>>,
    pause: Turn,
    /// Bytes that have come and were not read yet, and when they may be: those asked of a node that answers late,
    /// later.
    late: VecDeque<(Instant, Vec<u8>)>,
    ended: bool,
}

impl CableReader {
    fn is_late(&self) -> bool {
        self.accepted
            && self.kind.load(Ordering::Relaxed) == ConnectionKind::Data as u8
            && self.over.lie() == Some(Lie::Late)
    }

    /// Reads what has come over the cable.
    fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        if self.over.is_dead() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.coming.is_none() {
            let mut bytes = vec![0; self.over.turn(Direction::Down)];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.half).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            bytes.truncate(read);
            let through = self.over.put(Direction::Down, read);
            self.coming = Some(bytes);
            ready!(self.turn.wait(through, cx));
        }
        ready!(self.turn.poll(cx));
        Poll::Ready(Ok(self.coming.take().expect("it was read")))
    }
}

impl AsyncRead for CableReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let delay = if this.is_late() { LATE } else { Duration::ZERO };
        while !this.ended
            && (this.late.is_empty() || delay > Duration::ZERO)
            && let Poll::Ready(come) = this.poll_come(cx)
        {
            let bytes = come?;
            this.ended = bytes.is_empty();
            this.late.push_back((Instant::now() + delay, bytes));
        }
        let Some((due, bytes)) = this.late.front_mut() else { return Poll::Pending };
        if *due > Instant::now() {
            let due = *due;
            ready!(this.pause.wait(due, cx));
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let part = bytes.len().min(buffer.remaining());
        buffer.put_slice(&bytes[..part]);
        bytes.drain(..part);
        if bytes.is_empty() {
            this.late.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl PeerReader for CableReader {}

/// A piece that is being given.
struct Piece {
    left: usize,
    what: Given,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    AsItIs,
    /// With one bit flipped.
    Flipped,
    /// A byte now and then.
    Drop,
    Nothing,
}

struct CableWriter {
    half: Box<dyn PeerWriter>,
    over: Over,
    peer: IpAddr,
    /// The connection's purpose, once its preface has been written.
    kind: Arc<AtomicU8>,
    turn: Turn,
    drip: Turn,
    /// Messages as the agent says them, the last one perhaps in part.
    saying: BytesMut,
    /// Messages as they go out.
    unsaid: BytesMut,
    /// Bytes that were taken over and are to be on the cable before the agent hears so.
    taken: Option<usize>,
    piece: Option<Piece>,
}

impl CableWriter {
    /// Puts bytes on the cable.
    fn poll_put(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.turn.poll(cx));
        let turn = self.over.turn(Direction::Up).min(data.len());
        let put = ready!(Pin::new(&mut self.half).poll_write(cx, &data[..turn]))?;
        let through = self.over.put(Direction::Up, put);
        // The next bytes wait for that.
        let _ = self.turn.wait(through, cx);
        Poll::Ready(Ok(put))
    }

    /// Puts on the cable what is to be said.
    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsaid.is_empty() {
            let unsaid = std::mem::take(&mut self.unsaid);
            let put = self.poll_put(cx, &unsaid);
            self.unsaid = unsaid;
            self.unsaid.advance(ready!(put)?);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes whole messages over, as a liar says them.
    fn listen(&mut self) {
        while let Some((length, rest)) = self.saying.split_first_chunk::<4>()
            && let length = u32::from_le_bytes(*length) as usize
            && rest.len() >= length
        {
            let mut message = self.saying.split_to(4 + length);
            let (lie, content) = (self.over.lie(), self.over.cables.0.lock().content);
            let claims = lie.is_some_and(Lie::claims_all) && length > 0;
            match content.filter(|_| claims) {
                None => self.unsaid.extend_from_slice(&message),
                Some((blob, pieces)) => {
                    let said = frame::take(&mut message).unwrap().unwrap().unwrap();
                    let said = Frame::encode(&claim_all(said, blob, pieces)).unwrap();
                    self.unsaid.extend_from_slice(said.bytes());
                }
            }
            let ends = (self.over.ip, self.peer);
            if let Some((blob, known)) = content
                && let Some(pieces) = self.over.cables.0.lock().taken_back.remove(&ends)
            {
                self.unsaid.extend_from_slice(Frame::encode(&Message::Have { blob, pieces, known }).unwrap().bytes());
            }
        }
    }

    /// The answer instead of a piece.
    fn instead(&self, piece: PieceIndex) -> (Given, Option<Refusal>) {
        let ends = (self.over.ip, self.peer);
        match self.over.lie() {
            Some(Lie::Silent) => (Given::Nothing, None),
            Some(Lie::Refuse) => (Given::Nothing, Some(Refusal::Refused)),
            Some(Lie::Claim) => (Given::Nothing, Some(Refusal::NotHeld)),
            Some(Lie::Withdraw) => {
                self.over.cables.0.lock().taken_back.entry(ends).or_default().push(piece);
                (Given::Nothing, Some(Refusal::NotHeld))
            }
            Some(Lie::Drip) => (Given::Drop, None),
            Some(Lie::Wrong) => (Given::Flipped, None),
            Some(Lie::Late | Lie::Vanish) | None => match self.over.cables.0.lock().flips.remove(&ends) {
                true => (Given::Flipped, None),
                false => (Given::AsItIs, None),
            },
        }
    }
}

/// The message of a node that claims to hold everything, in the place of `message`.
fn claim_all(message: Message, of: BlobId, pieces: u32) -> Message {
    let all = PieceSet::full(pieces);
    match message {
        Message::Meet { blob, known, wants, .. } if blob == of => Message::Meet { blob, held: all, known, wants },
        Message::Join { request, source, credentials, wants, size, .. } => {
            Message::Join { request, source, credentials, held: Some(Held { blob: of, pieces: all }), wants, size }
        }
        other => other,
    }
}

impl AsyncWrite for CableWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.over.is_dead() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if this.kind.load(Ordering::Relaxed) == 0 {
            // A preface, all of it.
            let head = data.first_chunk().and_then(preface_head);
            this.kind.store(head.expect("a connection begins with a preface"), Ordering::Relaxed);
            this.unsaid.extend_from_slice(data);
            this.taken = Some(data.len());
        } else if this.taken.is_none() && this.kind.load(Ordering::Relaxed) == ConnectionKind::Control as u8 {
            this.saying.extend_from_slice(data);
            this.listen();
            this.taken = Some(data.len());
        }
        ready!(this.poll_say(cx))?;
        if let Some(taken) = this.taken.take() {
            return Poll::Ready(Ok(taken));
        }
        let Some(piece) = &mut this.piece else { return this.poll_put(cx, data) };
        let (left, what) = (piece.left.min(data.len()), piece.what);
        let put = match what {
            Given::Nothing => left,
            Given::AsItIs => ready!(this.poll_put(cx, &data[..left]))?,
            Given::Flipped => {
                let flipped = [&[data[0] ^ 1], &data[1..left]].concat();
                ready!(this.poll_put(cx, &flipped))?
            }
            Given::Drop => {
                ready!(this.drip.poll(cx));
                let put = ready!(this.poll_put(cx, &data[..1]))?;
                // The next byte waits.
                let _ = this.drip.wait(Instant::now() + DRIP, cx);
                put
            }
        };
        let piece = this.piece.as_mut().expect("it is being given");
        piece.left -= put;
        if what == Given::Flipped {
            piece.what = Given::AsItIs;
        }
        if piece.left == 0 {
            this.piece = None;
        }
        Poll::Ready(Ok(put))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_say(cx))?;
        Pin::new(&mut self.half).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.over.is_dead() {
            ready!(self.poll_say(cx))?;
        }
        Pin::new(&mut self.half).poll_shutdown(cx)
    }
}

/// The kind of connection that a preface is for.
fn preface_head(bytes: &[u8; darter_protocol::preface::HEAD_LENGTH]) -> Option<u8> {
    darter_protocol::preface::Head::decode(bytes).map(|head| head.kind)
}

#[async_trait]
impl PeerWriter for CableWriter {
    async fn write_head(&mut self, head: &[u8]) -> io::Result<()> {
        let header = head.first_chunk::<HEADER_LENGTH>().and_then(|head| Header::decode(head).ok());
        let Some(Header::Data { id, piece, length }) = header else { return self.write_all(head).await };
        let (what, refusal) = self.instead(piece);
        if let Some(reason) = refusal {
            self.write_all(&Header::None { id, reason, skip: 0 }.encode()).await?;
        } else if what != Given::Nothing {
            self.write_all(head).await?;
        }
        self.piece = Some(Piece { left: length as usize, what });
        Ok(())
    }
}
