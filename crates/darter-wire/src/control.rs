//! A control channel in use: [frames](darter_protocol::frame) of messages in both directions, and signs of life (keepalives) between them.
//!
//! Each side sends a sign of life when it has written nothing for a while, and gives up the connection when it has read nothing for longer. Nobody answers a sign of life: each
//! side notices silence by itself, also if the network fails in one direction only. A process that did not run for a while (in a paused machine, say) waits for the same time once more
//! before it gives up, since the other side may have been on that machine, too.
//!
//! After every [`ControlSender`] was dropped, queued messages are sent, and then the other side reads the end. After the [`ControlReceiver`] was dropped, no more messages can be
//! queued; those in the queue are still sent.

use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use darter_protocol::frame::{self, SIGN_OF_LIFE};
use darter_protocol::{Frame, Message, Unknown};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::{PeerReader, PeerStream, PeerWriter, Result, WireError};

/// Bytes of queued frames that are put into one write.
const COALESCE: usize = 64 * 1024;

/// A task that wakes this much too late did not run meanwhile, and can't tell whether the other side was silent.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// The settings of a control channel. Both sides should have the same times.
#[derive(Clone)]
pub struct ControlConfig {
    /// A sign of life is sent after this long without a write.
    pub idle: Duration,
    /// The connection is given up if no byte was read, or none of a write was taken, for this long.
    pub silence: Duration,
    /// Most messages that wait to be written. Two agents that begin hundreds of blobs at once send several messages about each.
    pub queue: usize,
    /// Called for each message of another release that was skipped.
    pub skipped: Option<Arc<dyn Fn(Unknown) + Send + Sync>>,
}

impl fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { idle, silence, queue, skipped: _ } = self;
        let mut shown = f.debug_struct("ControlConfig");
        shown.field("idle", idle).field("silence", silence).field("queue", queue).finish_non_exhaustive()
    }
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self { idle: Duration::from_millis(1500), silence: Duration::from_secs(5), queue: 4096, skipped: None }
    }
}

/// Starts using a connection as a control channel, after its preface. Spawns the task that writes.
pub fn start(stream: PeerStream, config: &ControlConfig) -> (ControlSender, ControlReceiver) {
    let (sender, queue) = mpsc::channel(config.queue);
    let (report, ended) = oneshot::channel();
    let stop = CancellationToken::new();
    let writer = Writer { socket: stream.writer, queue, stop: stop.clone(), config: config.clone() };
    tokio::spawn(async move {
        // The receiver may be gone, and then nobody wants to know.
        let _ = report.send(writer.run().await);
    });
    let receiver = ControlReceiver {
        socket: stream.reader,
        buffer: BytesMut::new(),
        silence: config.silence,
        heard: Instant::now(),
        alarm: Alarm::at(Instant::now() + config.silence),
        ended: Some(ended),
        stop,
        skipped: config.skipped.clone(),
        has_skipped: false,
    };
    (ControlSender { queue: sender }, receiver)
}

/// Sends messages; cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlSender {
    queue: mpsc::Sender<Frame>,
}

impl ControlSender {
    /// Queues a message, after waiting until the queue has room. A queued message need not arrive: the connection may be lost first.
    ///
    /// # Errors
    /// [`WireError::Closed`]; [`WireError::Protocol`] if the message is too long.
    pub async fn send(&self, message: &Message) -> Result<()> {
        self.send_frame(Frame::encode(message)?).await
    }

    /// Queues a message if the queue has room.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`WireError::Full`].
    pub fn try_send(&self, message: &Message) -> Result<()> {
        self.try_send_frame(Frame::encode(message)?)
    }

    /// Queues an encoded message, after waiting until the queue has room.
    ///
    /// # Errors
    /// [`WireError::Closed`].
    pub async fn send_frame(&self, frame: Frame) -> Result<()> {
        self.queue.send(frame).await.map_err(|_| WireError::closed())
    }

    /// Queues an encoded message if the queue has room.
    ///
    /// # Errors
    /// [`WireError::Closed`], [`WireError::Full`].
    pub fn try_send_frame(&self, frame: Frame) -> Result<()> {
        self.queue.try_send(frame).map_err(|refusal| match refusal {
            mpsc::error::TrySendError::Full(_) => WireError::Full,
            mpsc::error::TrySendError::Closed(_) => WireError::closed(),
        })
    }

    /// True if the channel is closed.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Waits until the channel is closed.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

/// Receives messages. It notices silence only while [`recv`](Self::recv) is awaited, so await that all the time.
pub struct ControlReceiver {
    socket: Box<dyn PeerReader>,
    buffer: BytesMut,
    silence: Duration,
    heard: Instant,
    alarm: Alarm,
    /// The result of the task that writes; `None` once it was taken.
    ended: Option<oneshot::Receiver<Result<()>>>,
    stop: CancellationToken,
    skipped: Option<Arc<dyn Fn(Unknown) + Send + Sync>>,
    has_skipped: bool,
}

impl ControlReceiver {
    /// The next message; `None` if the other side has closed the channel. Messages that this release does not know are skipped. Cancel
    /// safe: a dropped future loses nothing.
    ///
    /// # Errors
    /// [`WireError::Silent`], [`WireError::Closed`] if the connection ends within a message,
    /// [`WireError::Protocol`], [`WireError::Io`]. After an error, drop the channel.
    pub async fn recv(&mut self) -> Result<Option<Message>> {
        loop {
            while let Some(message) = frame::take(&mut self.buffer)? {
                match message {
                    Ok(message) => return Ok(Some(message)),
                    Err(unknown) => self.skip(unknown),
                }
            }
            if self.read().await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(WireError::closed()) };
            }
            self.heard = Instant::now();
        }
    }

    fn skip(&mut self, unknown: Unknown) {
        if !std::mem::replace(&mut self.has_skipped, true) {
            tracing::debug!(
                kind = unknown.kind,
                "a newer agent says something that is not known here; skipped, as all of the kind"
            );
        }
        if let Some(skipped) = &self.skipped {
            skipped(unknown);
        }
    }

    /// Reads the bytes that have come, and returns their number; zero at the end.
    async fn read(&mut self) -> Result<usize> {
        // Room grows with what has really come, never with what a length promises.
        self.buffer.reserve(8 * 1024);
        loop {
            let until = self.heard + self.silence;
            let failure = {
                let Self { socket, buffer, alarm, ended, .. } = self;
                tokio::select! {
                    // First what the other side said last; a write to it may have failed since.
                    biased;
                    read = socket.read_buf(buffer) => return read.map_err(WireError::io("read from the control channel")),
                    failure = failure_of(ended) => Some(failure),
                    () = alarm.passed(until) => None,
                }
            };
            if let Some(failure) = failure {
                return Err(failure);
            }
            if Instant::now() <= until + STOOD_STILL {
                return Err(WireError::Silent { after: self.silence });
            }
            self.heard = Instant::now();
        }
    }
}

impl Drop for ControlReceiver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl fmt::Debug for ControlReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlReceiver").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

/// Waits until the task that writes has failed, and returns why; for ever if it ends without a failure.
async fn failure_of(ended: &mut Option<oneshot::Receiver<Result<()>>>) -> WireError {
    if let Some(end) = ended {
        let end = end.await;
        *ended = None;
        match end {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return failure,
            Err(_) => return WireError::closed(),
        }
    }
    std::future::pending().await
}

/// A timer for a deadline that is postponed again and again: it is set again only when it fires too early, so that postponing the deadline
/// costs nothing.
struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    fn at(deadline: Instant) -> Self {
        Self(Box::pin(sleep_until(deadline)))
    }

    /// Waits until `deadline`, which is never earlier than in the call before.
    async fn passed(&mut self, deadline: Instant) {
        std::future::poll_fn(|cx| {
            loop {
                std::task::ready!(self.0.as_mut().poll(cx));
                if deadline <= self.0.deadline() {
                    return std::task::Poll::Ready(());
                }
                self.0.as_mut().reset(deadline);
            }
        })
        .await;
    }
}

struct Writer {
    socket: Box<dyn PeerWriter>,
    queue: mpsc::Receiver<Frame>,
    stop: CancellationToken,
    config: ControlConfig,
}

impl Writer {
    async fn run(mut self) -> Result<()> {
        let mut batch = Vec::new();
        let mut due = Instant::now() + self.config.idle;
        let mut alarm = Alarm::at(due);
        let stop = self.stop.clone();
        let mut stopped = std::pin::pin!(stop.cancelled());
        loop {
            tokio::select! {
                frame = self.queue.recv() => match frame {
                    Some(frame) => batch.extend_from_slice(frame.bytes()),
                    None => break,
                },
                () = alarm.passed(due) => batch.extend_from_slice(&SIGN_OF_LIFE),
                () = &mut stopped, if !self.queue.is_closed() => {
                    self.queue.close();
                    continue;
                }
            }
            while batch.len() < COALESCE
                && let Ok(frame) = self.queue.try_recv()
            {
                batch.extend_from_slice(frame.bytes());
            }
            self.write(&batch).await?;
            due = Instant::now() + self.config.idle;
            batch.clear();
            batch.shrink_to(COALESCE);
        }
        self.socket.shutdown().await.map_err(WireError::io("close the control channel"))
    }

    /// Writes all of `bytes`; fails if the other side takes nothing for too long.
    async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let write = timeout(self.config.silence, self.socket.write(bytes)).await;
            let written = write
                .map_err(|_| WireError::Silent { after: self.config.silence })?
                .map_err(WireError::io("write to the control channel"))?;
            if written == 0 {
                return Err(WireError::io("write to the control channel")(io::ErrorKind::BrokenPipe.into()));
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }
}
