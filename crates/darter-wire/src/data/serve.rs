//! The holder's side of a data channel.
//!
//! The piece to send is chosen as late as possible: a request waits in its connection's [queue](super::queue), the connection waits for a slot, and only then [`Uploads::bind`] chooses. So a
//! request for any piece gets the one that is best at that moment, and a request that is cancelled while it waits costs nothing. A piece that has to be read from the disk first is waited for
//! without a slot, so that a slow disk delays only requests for what is on it. A peer that takes nothing of what is sent to it loses its slot ([`slots`](super::slots)), and the rest of the piece
//! is sent without one.
//!
//! For the same reason few bytes wait in the socket: as many as the connection's rate requires ([`Ahead`]).
//!
//! Invariants: a connection has at most one slot, and only while it decides and sends; [`Uploads::sent`] is called exactly once for every piece that was bound, also if the connection breaks
//! or the task is dropped.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use darter_core::{Ahead, BlobId, Clock, NodeId, PieceIndex};
use darter_protocol::data::{ASK_LENGTH, Ask, Header, UnknownAsk};
use darter_protocol::{MAX_PIECE_LENGTH, PackedPiece, ProtocolError, Refusal, Request, Wanted};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, watch};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::queue::{Next, Queue};
use super::rate::HandedRate;
use super::slots::{Slot, Slots};
use crate::{Budget, PeerReader, PeerStream, PeerWriter, Result, WireError};

/// What the holder answers to a request when it has a slot for it.
#[derive(Debug)]
pub enum Bind {
    /// Send this piece. [`Uploads::sent`] is called for it exactly once.
    Send {
        /// The piece.
        piece: PieceIndex,
        /// The piece's bytes.
        payload: Payload,
    },
    /// A piece is chosen, but is not ready: it has to be read from the disk, for example.
    Later(Later),
    /// There is nothing to give yet: the request stays open, and is decided again after the next change.
    Wait,
    /// The holder does not have the piece.
    NotHeld,
    /// The holder has too much to do.
    Busy,
    /// This peer does not get the blob.
    Refused,
    /// The holder does not know the blob.
    UnknownBlob,
}

/// The answer to a request, once its piece is ready; never another `Later`. If this is dropped, nothing is sent, and the holder withdraws its
/// decision.
pub struct Later(Pin<Box<dyn Future<Output = Bind> + Send>>);

impl Later {
    /// Waits for `ready`, and answers with its result.
    pub fn new(ready: impl Future<Output = Bind> + Send + 'static) -> Self {
        Self(Box::pin(ready))
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Later")
    }
}

/// A piece's bytes.
#[derive(Clone, Debug)]
pub enum Payload {
    /// A part of a file.
    File {
        /// The file.
        file: Arc<File>,
        /// The offset of the piece in the file, in bytes.
        offset: u64,
        /// The piece's length in bytes.
        length: u32,
    },
    /// Bytes in memory.
    Bytes(Bytes),
    /// The packed piece, for a request that accepts packed pieces.
    Packed(PackedPiece),
}

impl Payload {
    /// How many bytes follow the header.
    fn length(&self) -> u64 {
        match self {
            Self::File { length, .. } => u64::from(*length),
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Packed(piece) => u64::from(piece.length()),
        }
    }

    /// The length of the piece in bytes, unpacked.
    fn plain_length(&self) -> u64 {
        match self {
            Self::Packed(piece) => u64::from(piece.plain_length()),
            Self::File { .. } | Self::Bytes(_) => self.length(),
        }
    }
}

/// The lengths of a piece that the connection took completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The length of the piece in bytes, unpacked.
    pub plain: u64,
    /// How many bytes crossed the wire.
    pub wire: u64,
}

/// The holder's decisions. They are made on threads of the runtime, so they must not block.
pub trait Uploads: Send + Sync + 'static {
    /// Chooses what to send to `peer`, when there is a slot for it. `rate` returns how many bytes per second the connection takes, if that is
    /// known; it costs a system call.
    fn bind(&self, peer: NodeId, request: &Request, rate: &dyn Fn() -> Option<u64>) -> Bind;

    /// True if `peer`'s request for this piece waits behind the requests of all others: see [`Slots`].
    fn goes_last(&self, _peer: NodeId, _blob: BlobId, _piece: PieceIndex) -> bool {
        false
    }

    /// Sending a bound piece has ended; `sent` is `None` if the connection did not take all of it.
    fn sent(&self, peer: NodeId, blob: BlobId, piece: PieceIndex, sent: Option<Sent>);

    /// Marked as changed whenever a request that got [`Bind::Wait`] may get another answer now.
    fn changes(&self) -> watch::Receiver<()>;
}

/// The settings of the holder's side, which all connections of a process share.
#[derive(Clone)]
pub struct Sending {
    /// The slots for sending.
    pub slots: Slots,
    /// Limits the rate at which bytes are sent.
    pub budget: Arc<dyn Budget>,
    /// A connection whose other side takes nothing for this long is closed.
    pub stall: Duration,
    /// The clock by which the rates of connections are measured.
    pub clock: Arc<dyn Clock>,
}

/// Answers the requests of one connection, after its preface, until the peer closes it (`Ok`). Dropping the future
/// closes the connection, too, and reports the piece that was being sent as not sent.
///
/// # Errors
/// [`WireError::Silent`] if the peer takes nothing, [`WireError::Protocol`], [`WireError::Io`] (also if the
/// piece can't be read), [`WireError::Closed`] if the connection breaks.
pub async fn serve_data(stream: PeerStream, peer: NodeId, uploads: Arc<dyn Uploads>, sending: &Sending) -> Result<()> {
    let queue = Mutex::new(Queue::default());
    let asked = Notify::new();
    let changes = uploads.changes();
    let (slot, mut socket, ahead) = (None, stream.writer, Ahead::default());
    socket.hold_ahead(ahead.limit());
    let rate = HandedRate::default();
    let server = Server { socket, slot, ahead, rate, peer, uploads, sending, queue: &queue, asked: &asked, changes };
    tokio::select! {
        end = read_requests(stream.reader, &queue, &asked) => end,
        end = server.run() => end,
    }
}

async fn read_requests(mut socket: Box<dyn PeerReader>, queue: &Mutex<Queue>, asked: &Notify) -> Result<()> {
    let mut buffer = BytesMut::with_capacity(64 * ASK_LENGTH);
    loop {
        while let Some((frame, _)) = buffer.split_first_chunk::<ASK_LENGTH>() {
            match Ask::decode(frame)? {
                Ok(ask) => queue.lock().take_in(ask)?,
                Err(UnknownAsk { refuse }) => {
                    tracing::debug!(request = refuse, "something that is not known here was asked on a data channel");
                    refuse.map_or(Ok(()), |id| queue.lock().take_in_unknown(id))?;
                }
            }
            buffer.advance(ASK_LENGTH);
        }
        asked.notify_one();
        buffer.reserve(ASK_LENGTH);
        let read = socket.read_buf(&mut buffer).await.map_err(WireError::io("read from a data channel"))?;
        if read == 0 {
            return if buffer.is_empty() { Ok(()) } else { Err(WireError::closed()) };
        }
    }
}

struct Server<'a> {
    socket: Box<dyn PeerWriter>,
    /// The connection's slot, if it has one.
    slot: Option<Slot<'a>>,
    /// Decides how many unsent bytes may wait in the socket.
    ahead: Ahead,
    rate: HandedRate,
    peer: NodeId,
    uploads: Arc<dyn Uploads>,
    sending: &'a Sending,
    queue: &'a Mutex<Queue>,
    asked: &'a Notify,
    changes: watch::Receiver<()>,
}

impl Server<'_> {
    async fn run(mut self) -> Result<()> {
        loop {
            self.refuse().await?;
            let (next, parked) = {
                let queue = self.queue.lock();
                (queue.next(), queue.has_parked())
            };
            let Some(Next { request, is_last }) = next else {
                tokio::select! {
                    () = self.asked.notified() => {}
                    // Changes are frequent, and most connections have nothing that waits for one.
                    () = change(&mut self.changes), if parked => self.queue.lock().unpark_all(),
                }
                continue;
            };
            if is_last {
                let (sending, peer) = (self.sending, self.peer);
                tokio::select! {
                    slot = sending.slots.take_last(peer) => self.slot = Some(slot),
                    // Something else may be to be answered first.
                    () = self.asked.notified() => continue,
                    () = change(&mut self.changes), if parked => {
                        self.queue.lock().unpark_all();
                        continue;
                    }
                }
            } else if self.goes_last(&request) {
                self.queue.lock().put_last(&request);
                continue;
            } else {
                self.slot = Some(self.sending.slots.take(self.peer).await);
            }
            let unready = self.answer_next().await?;
            self.slot = None;
            if let Some((request, Later(ready))) = unready {
                let bound = ready.await;
                self.answer_late(&request, bound).await?;
            }
        }
    }

    fn goes_last(&self, request: &Request) -> bool {
        let Wanted::Piece(piece) = request.wanted else { return false };
        self.uploads.goes_last(self.peer, request.blob, piece)
    }

    async fn refuse(&mut self) -> Result<()> {
        loop {
            let Some((id, reason)) = self.queue.lock().take_refused() else { return Ok(()) };
            self.write(&Header::None { id, reason, skip: 0 }.encode()).await?;
        }
    }

    /// Answers the request whose turn it is, while the connection has a slot. Returns the request if its piece is not ready.
    async fn answer_next(&mut self) -> Result<Option<(Request, Later)>> {
        // Changes are marked as seen before the holder is asked: one that comes while it decides is not missed.
        if self.changes.has_changed().unwrap_or(false) {
            self.changes.mark_unchanged();
            self.queue.lock().unpark_all();
        }
        // The request may have been called back while the slot was awaited.
        let Some(Next { request, .. }) = self.queue.lock().next() else { return Ok(None) };
        let bound = match self.bind(&request) {
            Bind::Later(later) => return Ok(Some((request, later))),
            bound => self.take_over(&request, bound),
        };
        self.answer(&request, bound).await.map(|()| None)
    }

    fn bind(&self, request: &Request) -> Bind {
        let rate = || self.rate.limits(self.socket.rate());
        self.uploads.bind(self.peer, request, &rate)
    }

    /// Answers a request whose piece was not ready before.
    async fn answer_late(&mut self, request: &Request, bound: Bind) -> Result<()> {
        let bound = self.take_over(request, bound);
        self.slot = Some(self.sending.slots.take(self.peer).await);
        // Else it was called back meanwhile.
        let is_open = self.queue.lock().has(request);
        if is_open {
            self.answer(request, bound).await?;
        }
        self.slot = None;
        Ok(())
    }

    /// The piece that was bound, if one was. From now on its end is reported, whatever happens.
    fn take_over(&self, request: &Request, bound: Bind) -> std::result::Result<Outcome, Bind> {
        let Bind::Send { piece, payload } = bound else { return Err(bound) };
        let (uploads, peer, blob) = (Arc::clone(&self.uploads), self.peer, request.blob);
        Ok(Outcome { uploads, peer, blob, piece, payload, sent: None })
    }

    /// Answers a request with the holder's decision.
    async fn answer(&mut self, request: &Request, bound: std::result::Result<Outcome, Bind>) -> Result<()> {
        let reason = match bound {
            Err(Bind::Wait) => {
                self.queue.lock().park(request);
                return Ok(());
            }
            Ok(outcome) => {
                self.queue.lock().settle(request);
                return self.send(request, outcome).await;
            }
            Err(Bind::NotHeld) => Refusal::NotHeld,
            Err(Bind::Refused) => Refusal::Refused,
            Err(Bind::UnknownBlob) => Refusal::UnknownBlob,
            // A piece is made ready once.
            Err(Bind::Busy | Bind::Send { .. } | Bind::Later(_)) => Refusal::Busy,
        };
        self.queue.lock().settle(request);
        self.write(&Header::None { id: request.id, reason, skip: 0 }.encode()).await
    }

    async fn send(&mut self, request: &Request, mut outcome: Outcome) -> Result<()> {
        let length = outcome.payload.length();
        if length > u64::from(MAX_PIECE_LENGTH) {
            return Err(ProtocolError::TooLong { what: "piece", length, limit: MAX_PIECE_LENGTH.into() }.into());
        }
        let length = u32::try_from(length).expect("at most 16 MiB");
        let (id, piece) = (request.id, outcome.piece);
        let header = match outcome.payload {
            Payload::Packed(_) => Header::Packed { id, piece, length },
            Payload::File { .. } | Payload::Bytes(_) => Header::Data { id, piece, length },
        };
        let header = header.encode();
        if length == 0 {
            self.write(&header).await?;
        }
        let began = self.sending.clock.now();
        let mut sent = 0;
        while sent < length {
            let chunk = (length - sent).min(self.sending.budget.grain());
            self.sending.budget.take(chunk).await;
            if sent == 0 {
                unless_stalled(self.sending.stall, &mut self.slot, self.socket.write_head(&header)).await?;
            }
            self.send_part(&outcome.payload, sent, chunk).await?;
            sent += chunk;
        }
        outcome.sent = Some(Sent { plain: outcome.payload.plain_length(), wire: length.into() });
        let now = self.sending.clock.now();
        self.rate.handed(length, now.since(began));
        if self.ahead.handed_over(length, began, now) {
            self.socket.hold_ahead(self.ahead.limit());
        }
        if let Some(slot) = &self.slot {
            slot.was_used_well();
        }
        Ok(())
    }

    async fn send_part(&mut self, payload: &Payload, from: u32, length: u32) -> Result<()> {
        match payload {
            Payload::Bytes(bytes) => self.write(&bytes[from as usize..(from + length) as usize]).await,
            Payload::Packed(piece) => self.write(&piece.body()[from as usize..(from + length) as usize]).await,
            Payload::File { file, offset, .. } => {
                let from = offset + u64::from(from);
                let Self { socket, slot, .. } = self;
                let send = send_file(&mut **socket, slot, file, from..from + u64::from(length));
                let sent = timeout(self.sending.stall, send).await;
                done(sent, self.sending.stall)
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        unless_stalled(self.sending.stall, &mut self.slot, self.socket.write_all(bytes)).await
    }
}

/// Sends a part of a file. Gives the slot back if the other side takes nothing for longer than a slot may be held idle.
async fn send_file(
    socket: &mut dyn PeerWriter,
    slot: &mut Option<Slot<'_>>,
    file: &Arc<File>,
    part: Range<u64>,
) -> io::Result<()> {
    let mut at = part.start;
    while at < part.end {
        let Some(patience) = slot.as_ref().map(Slot::patience) else {
            return socket.send_file(file, &mut at, part.end).await;
        };
        let before = at;
        match timeout(patience, socket.send_file(file, &mut at, part.end)).await {
            Ok(sent) => return sent,
            Err(_) if at == before => give_back(slot),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Waits for a write. Gives the slot back if that takes longer than a slot may be held idle.
async fn unless_stalled(
    stall: Duration,
    slot: &mut Option<Slot<'_>>,
    write: impl Future<Output = io::Result<()>>,
) -> Result<()> {
    let write = async {
        let mut write = pin!(write);
        if let Some(patience) = slot.as_ref().map(Slot::patience) {
            if let Ok(written) = timeout(patience, &mut write).await {
                return written;
            }
            give_back(slot);
        }
        write.await
    };
    done(timeout(stall, write).await, stall)
}

fn give_back(slot: &mut Option<Slot<'_>>) {
    if let Some(slot) = slot.take() {
        slot.give_back();
    }
}

fn done(written: std::result::Result<io::Result<()>, Elapsed>, stall: Duration) -> Result<()> {
    written.map_err(|_| WireError::Silent { after: stall })?.map_err(WireError::io("send a piece"))
}

/// Waits for a change; for ever if there can be none any more.
async fn change(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A piece that is being sent. When dropped, it reports whether the connection took all of it.
struct Outcome {
    uploads: Arc<dyn Uploads>,
    peer: NodeId,
    blob: BlobId,
    piece: PieceIndex,
    payload: Payload,
    sent: Option<Sent>,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.uploads.sent(self.peer, self.blob, self.piece, self.sent);
    }
}
