//! A scripted holder, a budget that a test opens and closes, and connections between requesters and the holder.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use darter_core::{BlobId, Clock, Moment, NodeId, PieceIndex};
use darter_wire::{
    Answer, Answers, Bind, Budget, BufferPool, DataClient, Later, MemNetwork, Packer, Payload, PeerStream, PeerWriter,
    PieceData, PooledBuffer, Receiving, Refusal, Request, Result, Sending, Sent, Slots, TcpTransport, Transport,
    Unlimited, Unpacker, Uploads, Wanted, serve_data,
};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) const BLOB: BlobId = BlobId([5; 32]);
pub(crate) const PIECE: usize = 100_000;

/// The node that a holder serves, and another one.
pub(crate) const PEER: NodeId = NodeId([1; 16]);
pub(crate) const OTHER: NodeId = NodeId([2; 16]);

/// The bytes of a piece: every piece's differ.
pub(crate) fn piece(index: u32) -> Vec<u8> {
    (0..PIECE as u32 / 4).flat_map(|at| (at * 64 + index).to_le_bytes()).collect()
}

/// Lets bytes pass as a test allows it.
pub(crate) struct Gate(Semaphore);

impl Gate {
    pub(crate) fn shut() -> Arc<Self> {
        Arc::new(Self(Semaphore::new(0)))
    }

    pub(crate) fn let_pass(&self, bytes: usize) {
        self.0.add_permits(bytes);
    }

    pub(crate) fn open(&self) {
        self.let_pass(1 << 40);
    }
}

#[async_trait]
impl Budget for Gate {
    async fn take(&self, bytes: u32) {
        self.0.acquire_many(bytes).await.unwrap().forget();
    }
}

/// Holds the pieces it is told to, in a file and in memory by turns, and gives the newest one for any.
pub(crate) struct Holder {
    file: Arc<File>,
    held: Mutex<Vec<u32>>,
    changes: watch::Sender<()>,
    pub(crate) log: Mutex<Vec<(u32, bool)>>,
    /// Bytes that were sent.
    pub(crate) wire: AtomicU64,
    /// Pieces that are ready once their gate lets a byte pass.
    pub(crate) unready: Mutex<HashMap<u32, Arc<Gate>>>,
}

impl Holder {
    pub(crate) fn of(held: impl IntoIterator<Item = u32>) -> Arc<Self> {
        let mut file = tempfile::tempfile().unwrap();
        for index in 0..64 {
            file.write_all(&piece(index)).unwrap();
        }
        let held = Mutex::new(held.into_iter().collect());
        Arc::new(Self {
            file: Arc::new(file),
            held,
            changes: watch::Sender::new(()),
            log: Mutex::default(),
            wire: AtomicU64::new(0),
            unready: Mutex::default(),
        })
    }

    pub(crate) fn gain(&self, index: u32) {
        self.held.lock().push(index);
        self.changes.send_replace(());
    }
}

impl Uploads for Holder {
    fn bind(&self, peer: NodeId, request: &Request, _rate: &dyn Fn() -> Option<u64>) -> Bind {
        let Request { blob, wanted, takes_packed, .. } = *request;
        match blob.0[0] {
            0 => return Bind::UnknownBlob,
            1 => return Bind::Refused,
            2 => return Bind::Busy,
            _ => {}
        }
        assert!([PEER, OTHER].contains(&peer));
        let held = self.held.lock();
        let index = match wanted {
            Wanted::Piece(index) if held.contains(&index.0) => index.0,
            Wanted::Piece(_) => return Bind::NotHeld,
            Wanted::Any => match held.last() {
                Some(index) => *index,
                None => return Bind::Wait,
            },
        };
        let payload = match index % 2 {
            _ if takes_packed => Payload::Packed(Packer::default().pack(&piece(index)).unwrap()),
            0 => Payload::Bytes(Bytes::from(piece(index))),
            _ => Payload::File {
                file: Arc::clone(&self.file),
                offset: u64::from(index) * PIECE as u64,
                length: PIECE as u32,
            },
        };
        let bound = Bind::Send { piece: PieceIndex(index), payload };
        match self.unready.lock().remove(&index) {
            Some(gate) => Bind::Later(Later::new(async move {
                gate.take(1).await;
                bound
            })),
            None => bound,
        }
    }

    fn sent(&self, _peer: NodeId, blob: BlobId, piece: PieceIndex, sent: Option<Sent>) {
        assert_eq!(blob, BLOB);
        self.log.lock().push((piece.0, sent.is_some()));
        self.wire.fetch_add(sent.map_or(0, |sent| sent.wire), Ordering::Relaxed);
        assert!(sent.is_none_or(|sent| sent.plain == PIECE as u64));
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// The runtime's time, which may be paused.
struct Paused(Instant);

impl Clock for Paused {
    fn now(&self) -> Moment {
        Moment::ZERO + self.0.elapsed()
    }

    fn unix(&self) -> u64 {
        1
    }
}

pub(crate) fn sending(slots: usize, budget: Arc<dyn Budget>) -> Sending {
    let clock = Arc::new(Paused(Instant::now()));
    Sending { slots: Slots::new(slots), budget, stall: Duration::from_secs(10), clock }
}

pub(crate) fn receiving() -> Receiving {
    Receiving { budget: Arc::new(Unlimited), buffers: BufferPool::default() }
}

/// A connection in memory.
pub(crate) async fn pair() -> (PeerStream, PeerStream) {
    pair_over(&MemNetwork::new().host([10, 0, 0, 1]), "10.0.0.1:0").await
}

pub(crate) async fn tcp_pair() -> (PeerStream, PeerStream) {
    pair_over(&TcpTransport::default(), "127.0.0.1:0").await
}

async fn pair_over(transport: &dyn Transport, addr: &str) -> (PeerStream, PeerStream) {
    let listener = transport.listen(addr).await.unwrap();
    let target = listener.local_addr().to_string();
    let (here, there) = tokio::join!(transport.connect(&target), listener.accept());
    (here.unwrap(), there.unwrap())
}

/// The bytes and messages that a writer was given.
#[derive(Default)]
pub(crate) struct Notes {
    /// How long each head was.
    pub(crate) heads: Mutex<Vec<usize>>,
    /// How many bytes might wait in it, from the beginning on.
    pub(crate) ahead: Mutex<Vec<u32>>,
}

/// A writer that takes notes.
struct Noting {
    writer: Box<dyn PeerWriter>,
    notes: Arc<Notes>,
    /// The time that a byte of a file takes.
    byte: Duration,
}

#[async_trait]
impl PeerWriter for Noting {
    async fn write_head(&mut self, head: &[u8]) -> io::Result<()> {
        self.notes.heads.lock().push(head.len());
        self.writer.write_head(head).await
    }

    fn hold_ahead(&mut self, bytes: u32) {
        self.notes.ahead.lock().push(bytes);
    }

    async fn send_file(&mut self, file: &Arc<File>, offset: &mut u64, end: u64) -> io::Result<()> {
        tokio::time::sleep(self.byte * (end - *offset) as u32).await;
        self.writer.send_file(file, offset, end).await
    }
}

impl AsyncWrite for Noting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

/// Makes a connection note what it is given to write, and take this long for each byte of a file.
pub(crate) fn noting(stream: PeerStream, byte: Duration) -> (PeerStream, Arc<Notes>) {
    let (notes, peer_addr) = (Arc::<Notes>::default(), stream.peer_addr());
    let writer = Box::new(Noting { writer: stream.writer, notes: Arc::clone(&notes), byte });
    (PeerStream::new(stream.reader, writer, peer_addr), notes)
}

/// Has the holder serve this connection.
pub(crate) fn serve(stream: PeerStream, holder: &Arc<Holder>, sending: &Sending) -> JoinHandle<Result<()>> {
    serve_to(PEER, stream, holder, sending)
}

/// Has the holder serve this peer's connection.
pub(crate) fn serve_to(
    peer: NodeId,
    stream: PeerStream,
    holder: &Arc<Holder>,
    sending: &Sending,
) -> JoinHandle<Result<()>> {
    let (holder, sending) = (Arc::clone(holder), sending.clone());
    tokio::spawn(async move { serve_data(stream, peer, holder, &sending).await })
}

/// A requester connected to the holder.
pub(crate) async fn requester(holder: &Arc<Holder>, sending: &Sending) -> (DataClient, Answers) {
    let (here, there) = pair().await;
    serve(there, holder, sending);
    DataClient::start(here, receiving())
}

/// The bytes of a piece that came, unpacked if they were packed.
pub(crate) fn plain(data: PieceData) -> PooledBuffer {
    data.unpack(&mut Unpacker::default()).unwrap()
}

pub(crate) fn the_piece(id: u32, index: u32) -> Request {
    Request { id, blob: BLOB, wanted: Wanted::Piece(PieceIndex(index)), urgent: false, takes_packed: false }
}

pub(crate) fn any_piece(id: u32) -> Request {
    Request { id, blob: BLOB, wanted: Wanted::Any, urgent: false, takes_packed: false }
}

/// Asks for pieces by number, each with its number as id.
pub(crate) fn ask_for(client: &DataClient, pieces: impl IntoIterator<Item = u32>) {
    for index in pieces {
        client.request(the_piece(index, index), PIECE as u32).unwrap();
    }
}

/// The next answer: its id, and the piece it brought with the right bytes, or why there is none.
pub(crate) async fn next(answers: &mut Answers) -> (u32, std::result::Result<u32, Refusal>) {
    match answers.recv().await.unwrap().expect("an answer") {
        Answer::Begun { id, piece, .. } => {
            // The answer comes next, and is the one that was said to begin.
            let whole = Box::pin(next(answers)).await;
            assert_eq!(whole, (id, Ok(piece.0)));
            whole
        }
        Answer::Data { id, blob, piece: index, data } => {
            assert_eq!(blob, BLOB);
            assert_eq!(data.plain_length() as usize, PIECE);
            assert!(*plain(data) == piece(index.0), "the bytes of piece {index}");
            (id, Ok(index.0))
        }
        Answer::None { id, reason, .. } => (id, Err(reason)),
    }
}

/// The ids of the next answers, all of which bring the piece with that number.
pub(crate) async fn next_pieces(answers: &mut Answers, count: usize) -> Vec<u32> {
    let mut pieces = Vec::new();
    for _ in 0..count {
        let (id, brought) = next(answers).await;
        assert_eq!(brought, Ok(id));
        pieces.push(id);
    }
    assert_eq!(pieces.iter().collect::<HashSet<_>>().len(), count);
    pieces
}

/// Lets every task run until it waits for something. For paused time only: any sleep ends once nothing else runs.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
