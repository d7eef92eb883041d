//! The requester's side of a data channel.
//!
//! One task writes requests, several with one write. The caller of [`Answers::recv`] reads the answers itself: a header, and then the piece's bytes directly into one buffer. There is no
//! queue of received pieces, so a slow caller slows the holder down through TCP, and a connection never has more than one piece in memory. The read that gets the last bytes of a piece also gets
//! the next header, if that has come: this saves a system call.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes};
use darter_core::{PieceIndex, in_full};
use darter_protocol::data::{Ask, HEADER_LENGTH, Header};
use darter_protocol::packed::plain_length;
use darter_protocol::{MAX_PIECE_LENGTH, MAX_UNANSWERED, PackedPiece, ProtocolError, Refusal, Request, Wanted};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::answer::Answer;
use super::piece::{PackedData, PieceData};
use crate::{Budget, BufferPool, PeerReader, PeerStream, PeerWriter, PooledBuffer, Result, WireError};

/// The settings of the requester's side, which all connections of a process share.
#[derive(Clone)]
pub struct Receiving {
    /// Limits the rate at which bytes of pieces are read.
    pub budget: Arc<dyn Budget>,
    /// The memory in which pieces are received.
    pub buffers: BufferPool,
}

/// Asks a holder for pieces; cheap to clone.
#[derive(Clone, Debug)]
pub struct DataClient(Arc<Channel>);

#[derive(Debug, Default)]
struct Channel {
    state: Mutex<ChannelState>,
    /// Notified when there is something to write.
    wake: Notify,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct ChannelState {
    unanswered: HashMap<u32, AskedPiece>,
    /// Frames to be written. Bounded by the requests: each causes at most a request and a cancel.
    outgoing: Vec<u8>,
    received: u64,
}

#[derive(Clone, Copy, Debug)]
struct AskedPiece {
    request: Request,
    longest: u32,
    /// Bytes of the answer that came after its header.
    came: u32,
    /// If the piece is packed, its lengths on the wire and unpacked, in bytes.
    packed: Option<(u32, u32)>,
    cancelled: bool,
}

impl AskedPiece {
    /// Bytes of the piece that have come. Of a packed piece, the same share of its unpacked length as has come on the wire.
    fn arrived(&self) -> u32 {
        let Some((packed, plain)) = self.packed else { return self.came };
        let arrived = u64::from(self.came) * u64::from(plain) / u64::from(packed.max(1));
        u32::try_from(arrived).map_or(plain, |arrived| arrived.min(plain))
    }
}

impl DataClient {
    /// Starts asking on a connection, after its preface. Spawns the task that writes requests.
    pub fn start(stream: PeerStream, receiving: Receiving) -> (Self, Answers) {
        let shared = Arc::new(Channel::default());
        tokio::spawn(write_requests(stream.writer, Arc::clone(&shared)));
        let reading = Reading {
            socket: stream.reader,
            shared: Arc::clone(&shared),
            receiving,
            header: [0; HEADER_LENGTH],
            header_filled: 0,
            skip: 0,
            coming: None,
            paid: 0,
        };
        let closed = Box::pin(shared.closed.clone().cancelled_owned());
        (Self(shared), Answers { reading, closed })
    }

    /// Requests a piece of at most `longest` bytes. Does not wait; [`Answers`] gets the answer.
    ///
    /// # Errors
    /// [`WireError::Full`] if [`MAX_UNANSWERED`] requests are unanswered, [`WireError::InUse`], [`WireError::Closed`].
    pub fn request(&self, request: Request, longest: u32) -> Result<()> {
        if self.is_closed() {
            return Err(WireError::closed());
        }
        let mut state = self.0.state.lock();
        if state.unanswered.len() >= MAX_UNANSWERED {
            return Err(WireError::Full);
        }
        if state.unanswered.contains_key(&request.id) {
            return Err(WireError::InUse { id: request.id });
        }
        let longest = longest.min(MAX_PIECE_LENGTH);
        state.unanswered.insert(request.id, AskedPiece { request, longest, came: 0, packed: None, cancelled: false });
        state.outgoing.extend_from_slice(&Ask::Request(request).encode());
        drop(state);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Cancels a request. It is still answered: as cancelled, or with the piece if that was on its way.
    pub fn cancel(&self, id: u32) {
        let mut state = self.0.state.lock();
        let Some(asked) = state.unanswered.get_mut(&id) else { return };
        if std::mem::replace(&mut asked.cancelled, true) {
            return;
        }
        state.outgoing.extend_from_slice(&Ask::Cancel { id }.encode());
        drop(state);
        self.0.wake.notify_one();
    }

    /// How many bytes of the piece for request `id` have come, as if it were not packed; `None` if no answer to that request is due.
    pub fn arrived(&self, id: u32) -> Option<u32> {
        self.0.state.lock().unanswered.get(&id).map(AskedPiece::arrived)
    }

    /// Bytes of pieces that were received over this connection, as they crossed the wire.
    pub fn received(&self) -> u64 {
        self.0.state.lock().received
    }

    /// The requests that have no answer yet, in no particular order; also after the connection has ended.
    pub fn unanswered(&self) -> Vec<Request> {
        self.0.state.lock().unanswered.values().map(|asked| asked.request).collect()
    }

    /// Closes the connection: [`Answers::recv`] ends.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    /// True if the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.0.closed.is_cancelled()
    }
}

async fn write_requests(mut socket: Box<dyn PeerWriter>, shared: Arc<Channel>) {
    let mut frames = Vec::new();
    let write = async {
        loop {
            std::mem::swap(&mut frames, &mut shared.state.lock().outgoing);
            if frames.is_empty() {
                shared.wake.notified().await;
                continue;
            }
            if let Err(error) = socket.write_all(&frames).await {
                // The reader of the answers learns that the connection is broken, and says so.
                tracing::debug!(error = %in_full(&error), "cannot write requests");
                return;
            }
            frames.clear();
        }
    };
    shared.closed.run_until_cancelled(write).await;
}

/// The answers, in the order in which they come. [`recv`](Answers::recv) does the reading: while nobody calls it, the holder can't send.
/// Dropping this closes the connection.
pub struct Answers {
    reading: Reading,
    /// Ready once the connection was closed on this side. One future serves all answers, since creating and dropping one takes a lock each time.
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The connection, and how much of the present answer was read.
struct Reading {
    socket: Box<dyn PeerReader>,
    shared: Arc<Channel>,
    receiving: Receiving,
    header: [u8; HEADER_LENGTH],
    header_filled: usize,
    /// How many bytes are to be skipped before the next header.
    skip: u32,
    /// The piece that is being read.
    coming: Option<Coming>,
    /// How many bytes the budget has granted that were not read yet.
    paid: u32,
}

struct Coming {
    request: Request,
    piece: PieceIndex,
    /// How many bytes follow the header.
    length: u32,
    /// If the piece is packed, the most bytes that it may have unpacked.
    packed: Option<u32>,
    data: PooledBuffer,
}

impl Answers {
    /// The next answer; `None` if the connection was closed on this side, or has ended while no request was unanswered. Cancel safe:
    /// a dropped future loses nothing.
    ///
    /// # Errors
    /// [`WireError::Closed`] if the connection ended while requests were unanswered,
    /// [`WireError::Protocol`], [`WireError::Io`]. The connection is closed then.
    pub async fn recv(&mut self) -> Result<Option<Answer>> {
        let answer = tokio::select! {
            biased;
            () = &mut self.closed => Ok(None),
            answer = self.reading.read_answer() => answer,
        };
        let closed = &self.reading.shared.closed;
        match answer {
            Ok(Some(answer)) => Ok(Some(answer)),
            // How the holder takes the closing is of no interest to the side that closed.
            _ if closed.is_cancelled() => Ok(None),
            end => {
                closed.cancel();
                end
            }
        }
    }
}

impl Reading {
    async fn read_answer(&mut self) -> Result<Option<Answer>> {
        let failed = || WireError::io("read from a data channel");
        loop {
            if let Some(coming) = self.coming.take_if(|coming| coming.data.len() == coming.length as usize) {
                let Coming { request, piece, packed, data, .. } = coming;
                let data = match packed {
                    None => PieceData::Plain(data),
                    Some(longest) => {
                        let packed = PackedPiece::read(Bytes::from_owner(data), longest)?;
                        PieceData::Packed(PackedData::new(packed, self.receiving.buffers.clone()))
                    }
                };
                self.shared.state.lock().unanswered.remove(&request.id);
                return Ok(Some(Answer::Data { id: request.id, blob: request.blob, piece, data }));
            }
            if self.coming.is_some() {
                self.read_piece().await?;
                continue;
            }
            if self.skip > 0 {
                self.skip_some().await?;
                continue;
            }
            // A header may have come with the piece before.
            if self.header_filled < HEADER_LENGTH {
                self.socket.expect((HEADER_LENGTH - self.header_filled) as u32);
                let read = self.socket.read(&mut self.header[self.header_filled..]).await.map_err(failed())?;
                if read == 0 {
                    let owes = self.header_filled > 0 || !self.shared.state.lock().unanswered.is_empty();
                    return if owes { Err(WireError::closed()) } else { Ok(None) };
                }
                self.header_filled += read;
                continue;
            }
            self.header_filled = 0;
            if let Some(news) = self.begin(Header::decode(&self.header)?)? {
                return Ok(Some(news));
            }
        }
    }

    /// Begins the answer that this header announces; returns it if it has no further bytes.
    fn begin(&mut self, header: Header) -> Result<Option<Answer>> {
        let mut state = self.shared.state.lock();
        let (Header::Data { id, .. } | Header::Packed { id, .. } | Header::None { id, .. }) = header;
        if let Header::None { skip, .. } = header {
            self.skip = skip;
        }
        let Some(AskedPiece { request, longest, .. }) = state.unanswered.get(&id).copied() else {
            if matches!(header, Header::None { reason: Refusal::Other | Refusal::NotUnderstood, .. }) {
                tracing::debug!(id, "an answer that is not known here was skipped");
                return Ok(None);
            }
            return Err(WireError::violation("an answer to nothing that was asked"));
        };
        match header {
            Header::None { reason, .. } => {
                state.unanswered.remove(&id);
                Ok(Some(Answer::None { id, blob: request.blob, wanted: request.wanted, reason }))
            }
            Header::Packed { .. } if !request.takes_packed => {
                Err(WireError::violation("a packed piece for a request that takes none"))
            }
            Header::Data { piece, .. } | Header::Packed { piece, .. }
                if !matches!(request.wanted, Wanted::Any) && request.wanted != Wanted::Piece(piece) =>
            {
                Err(WireError::violation("another piece than was asked for"))
            }
            // Packed, it is the shorter for it.
            Header::Data { length, .. } | Header::Packed { length, .. } if length > longest => {
                Err(ProtocolError::TooLong { what: "piece", length: length.into(), limit: longest.into() }.into())
            }
            Header::Data { piece, length, .. } | Header::Packed { piece, length, .. } => {
                let packed = matches!(header, Header::Packed { .. }).then_some(longest);
                let data = self.receiving.buffers.take(length as usize + HEADER_LENGTH);
                self.coming = Some(Coming { request, piece, length, packed, data });
                let chosen = matches!(request.wanted, Wanted::Any);
                Ok(chosen.then_some(Answer::Begun { id, blob: request.blob, piece }))
            }
        }
    }

    /// Skips bytes, as many as one read gives.
    async fn skip_some(&mut self) -> Result<()> {
        let mut away = [0; 4096];
        let most = away.len().min(self.skip as usize);
        self.socket.expect(1);
        let read = self.socket.read(&mut away[..most]).await.map_err(WireError::io("read from a data channel"))?;
        if read == 0 {
            return Err(WireError::closed());
        }
        self.skip -= u32::try_from(read).expect("at most 4 KiB");
        Ok(())
    }

    /// Reads more of the present piece, and of the header after it, as much as one read gives.
    async fn read_piece(&mut self) -> Result<()> {
        let Some(Coming { request, length, packed, data, .. }) = &mut self.coming else { return Ok(()) };
        let missing = *length - u32::try_from(data.len()).expect("no longer than the piece");
        if self.paid == 0 {
            let grant = missing.min(self.receiving.budget.grain());
            self.receiving.budget.take(grant).await;
            self.paid = grant;
        }
        self.socket.expect(self.paid);
        let behind = if self.paid == missing { HEADER_LENGTH } else { 0 };
        let mut room = data.behind().limit(self.paid as usize + behind);
        let read = self.socket.read_buf(&mut room).await.map_err(WireError::io("read from a data channel"))?;
        if read == 0 {
            return Err(WireError::closed());
        }
        let of_piece = data.len().min(*length as usize);
        for byte in data.take_off(of_piece) {
            self.header[self.header_filled] = byte;
            self.header_filled += 1;
        }
        let read = u32::try_from(read).expect("no longer than a piece and a header").min(self.paid);
        self.paid -= read;
        let mut state = self.shared.state.lock();
        state.received += u64::from(read);
        if let Some(asked) = state.unanswered.get_mut(&request.id) {
            asked.came += read;
            if let Some(plain) = packed.and_then(|longest| Some(plain_length(data)?.min(longest))) {
                asked.packed = Some((*length, plain));
            }
        }
        Ok(())
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.reading.shared.closed.cancel();
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").field("shared", &self.reading.shared).finish_non_exhaustive()
    }
}
