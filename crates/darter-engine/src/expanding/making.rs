//! Decompresses and checks the bytes of a layer as they arrive, and passes on the bytes of its expanded form. This runs on a disk thread, which
//! works only while it has a turn, and gives the turn back while it waits for more bytes, or for the taker of the expanded bytes.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use darter_core::{Digest, ExpandedLayer};
use darter_image::{LayerDigests, LayerError, TAR_START, expand_layer};
use darter_origin::{ErrorKind, OriginError};
use tokio::sync::mpsc;

use super::work::WorkTurn;
use super::{Expansions, HEAD, Head};

/// The bytes of a piece.
const PIECE: usize = HEAD as usize;

/// Passes on an expanded layer in the order of the file. The beginning of the file is kept here, since its first bytes are written last; the rest is passed on in
/// whole pieces, so that the taker need not assemble them.
pub(super) struct Sink {
    head: Vec<u8>,
    /// The offset of the next byte in the file.
    at: u64,
    /// The current piece.
    piece: Vec<u8>,
    /// `None` if only the beginning is wanted.
    give: Option<mpsc::Sender<Result<Bytes, OriginError>>>,
}

/// The taker of the expanded bytes has gone.
struct Gone;

impl Sink {
    pub(super) fn new(give: Option<mpsc::Sender<Result<Bytes, OriginError>>>) -> Self {
        Self { head: vec![0; TAR_START as usize], at: TAR_START, piece: Vec::new(), give }
    }

    /// Writes bytes at `at`: after the bytes so far, or into the beginning.
    fn write(&mut self, at: u64, bytes: &[u8], turn: &WorkTurn<'_>) -> Result<(), Gone> {
        if let Some(begun) = usize::try_from(at).ok().filter(|_| at < TAR_START) {
            self.head[begun..begun + bytes.len()].copy_from_slice(bytes);
            return Ok(());
        }
        let gap = usize::try_from(at - self.at).expect("what fills a block");
        self.push(&vec![0; gap], turn)?;
        self.push(bytes, turn)
    }

    fn push(&mut self, bytes: &[u8], turn: &WorkTurn<'_>) -> Result<(), Gone> {
        self.at += bytes.len() as u64;
        let room = PIECE - self.head.len();
        let (head, mut rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        while !rest.is_empty() && self.give.is_some() {
            self.piece.reserve_exact(PIECE - self.piece.len());
            let (part, others) = rest.split_at(rest.len().min(PIECE - self.piece.len()));
            self.piece.extend_from_slice(part);
            if self.piece.len() == PIECE {
                self.give_piece(turn)?;
            }
            rest = others;
        }
        Ok(())
    }

    /// Passes on the current piece, unless it is empty.
    fn give_piece(&mut self, turn: &WorkTurn<'_>) -> Result<(), Gone> {
        let piece = std::mem::take(&mut self.piece);
        let Some(give) = self.give.as_ref().filter(|_| !piece.is_empty()) else { return Ok(()) };
        match give.try_send(Ok(piece.into())) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
            Err(mpsc::error::TrySendError::Full(piece)) => {
                turn.while_others_work(|| give.blocking_send(piece)).map_err(|_| Gone)
            }
        }
    }
}

impl Expansions {
    /// Turns the arriving bytes of a layer into the file, and passes that on. If the layer's digest is `known`, the bytes are not hashed here: their sender checks it before the
    /// end.
    pub(super) async fn expand(
        self: &Arc<Self>,
        layer: &ExpandedLayer,
        known: Option<Digest>,
        take: mpsc::Receiver<Bytes>,
        sink: Sink,
    ) -> Result<(LayerDigests, Head), OriginError> {
        let made = {
            let (this, layer) = (Arc::clone(self), layer.clone());
            self.disk.run(move || this.expand_here(&layer, known, take, sink))
        };
        made.await.map_err(|error| error.told_of(layer))
    }

    fn expand_here(
        &self,
        layer: &ExpandedLayer,
        known: Option<Digest>,
        take: mpsc::Receiver<Bytes>,
        mut sink: Sink,
    ) -> Result<(LayerDigests, Head), NotMade> {
        let turn = self.work.turn();
        let write = |at: u64, bytes: &[u8]| sink.write(at, bytes, &turn).map_err(|Gone| NotMade::Gone);
        let feed = Feed { take, turn: &turn, chunk: Bytes::new(), ended: false };
        let (digests, expanded) = expand_layer(feed, known, write, |stored, tar| check(layer, stored, tar), |_| ())?;
        sink.give_piece(&turn).map_err(|Gone| NotMade::Gone)?;
        Ok((digests, Head { bytes: sink.head.into(), length: expanded.length() }))
    }
}

/// Checks that the layer has the requested digest, and that its tar has the expected diff id.
fn check(layer: &ExpandedLayer, stored: &Digest, tar: Option<&Digest>) -> Result<(), NotMade> {
    let source = layer.stored();
    if *stored != layer.digest {
        let text = format!("{source}: the received bytes have the digest {stored}");
        return Err(NotMade::Refused(OriginError::new(ErrorKind::Contradicted, text)));
    }
    if let Some(tar) = tar.filter(|tar| **tar != layer.diff_id) {
        let text = format!(
            "{source} unpacks into a tar with the digest {tar}, not {} as the image's configuration says (diff id)",
            layer.diff_id
        );
        return Err(NotMade::Refused(OriginError::new(ErrorKind::Unmountable, text)));
    }
    Ok(())
}

/// Why a layer was not expanded.
enum NotMade {
    /// It is not the requested one.
    Refused(OriginError),
    /// The taker has gone.
    Gone,
    /// It is the requested one, but can't be decompressed, or can't be expressed as EROFS.
    Layer(LayerError),
}

impl From<LayerError> for NotMade {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

impl NotMade {
    fn told_of(self, layer: &ExpandedLayer) -> OriginError {
        let layer = layer.stored();
        match self {
            Self::Refused(error) => error,
            Self::Gone => {
                let text = format!("{layer}: its expanded form is no longer wanted");
                OriginError::new(ErrorKind::Unreachable, text)
            }
            Self::Layer(LayerError::Read(error)) => {
                let text = format!("{layer}: reading it was interrupted; request it again");
                OriginError::new(ErrorKind::Unreachable, text).caused_by(error)
            }
            Self::Layer(error) => {
                let text = format!("{layer} can't be mounted as it is: pull it the ordinary way");
                OriginError::new(ErrorKind::Unmountable, text).caused_by(error)
            }
        }
    }
}

/// The bytes of a layer that another task reads.
struct Feed<'a> {
    take: mpsc::Receiver<Bytes>,
    turn: &'a WorkTurn<'a>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            let next = match self.take.try_recv() {
                Ok(chunk) => Some(chunk),
                Err(mpsc::error::TryRecvError::Empty) => self.turn.while_others_work(|| self.take.blocking_recv()),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
            };
            // The end is marked by an empty chunk; without it, bytes are missing.
            self.chunk = next.ok_or(io::ErrorKind::BrokenPipe)?;
            self.ended = self.chunk.is_empty();
        }
        let length = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
