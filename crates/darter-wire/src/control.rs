//! A control channel in use: [frames](darter_protocol::frame) of messages both ways, and signs of life in between.
//!
//! Each side sends a sign of life when it has written nothing for a while, and gives the link up when it has read
//! nothing for longer. Nobody answers one: silence is noticed on both sides by themselves, also where a link fails in
//! one direction only. A side that stood still itself, in a machine that was paused say, listens anew before it judges: on
//! such a machine both sides may have.
//!
//! Ends: when every [`ControlSender`] is dropped, what is queued still goes out and the other side reads the end.
//! When the [`ControlReceiver`] is dropped, senders fail from then on, and what is queued gets a last chance.

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

/// A task that wakes this much later than meant stood still, and can't tell who was silent meanwhile.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// Numbers of a control channel, of which both sides should use the same, and the counter of messages that were skipped.
#[derive(Clone)]
pub struct ControlConfig {
    /// A sign of life goes out after this long without a write.
    pub idle: Duration,
    /// The link is given up after this long without a byte read, or without a write getting anywhere.
    pub silence: Duration,
    /// Messages that wait to be written, at most: each of hundreds of blobs that two agents begin at once takes several.
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
    /// Queues a message, waiting for room. A queued message need not arrive: the connection may be lost first.
    ///
    /// # Errors
    /// [`WireError::Closed`] once the channel is, [`WireError::Protocol`].
    pub async fn send(&self, message: &Message) -> Result<()> {
        self.send_frame(Frame::encode(message)?).await
    }

    /// Queues a message if there is room.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`WireError::Full`].
    pub fn try_send(&self, message: &Message) -> Result<()> {
        self.try_send_frame(Frame::encode(message)?)
    }

    /// Queues an encoded message, waiting for room.
    ///
    /// # Errors
    /// [`WireError::Closed`].
    pub async fn send_frame(&self, frame: Frame) -> Result<()> {
        self.queue.send(frame).await.map_err(|_| WireError::Closed)
    }

    /// Queues an encoded message if there is room.
    ///
    /// # Errors
    /// [`WireError::Closed`], [`WireError::Full`].
    pub fn try_send_frame(&self, frame: Frame) -> Result<()> {
        self.queue.try_send(frame).map_err(|refusal| match refusal {
            mpsc::error::TrySendError::Full(_) => WireError::Full,
            mpsc::error::TrySendError::Closed(_) => WireError::Closed,
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

/// Receives messages. Silence is only noticed while [`recv`](Self::recv) is awaited, so keep awaiting it.
pub struct ControlReceiver {
    socket: Box<dyn PeerReader>,
    buffer: BytesMut,
    silence: Duration,
    heard: Instant,
    alarm: Alarm,
    /// How the writing task ended; taken once it has.
    ended: Option<oneshot::Receiver<Result<()>>>,
    stop: CancellationToken,
    skipped: Option<Arc<dyn Fn(Unknown) + Send + Sync>>,
    has_skipped: bool,
}

impl ControlReceiver {
    /// The next message; none when the other side is done. Messages that this release does not know are skipped. Cancel
    /// safe: a dropped future loses nothing.
    ///
    /// # Errors
    /// [`WireError::Silent`], [`WireError::Closed`] when the end comes within a message,
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
                return if self.buffer.is_empty() { Ok(None) } else { Err(WireError::Closed) };
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

    /// Reads what has come; zero at the end.
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

/// Why the writing task failed; pending while it has not, and for ever once it ended well.
async fn failure_of(ended: &mut Option<oneshot::Receiver<Result<()>>>) -> WireError {
    if let Some(end) = ended {
        let end = end.await;
        *ended = None;
        match end {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return failure,
            Err(_) => return WireError::Closed,
        }
    }
    std::future::pending().await
}

/// A timer for a deadline that is put off again and again: it is set anew only when it goes off too early, so that putting the deadline off
/// costs nothing.
struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    fn at(deadline: Instant) -> Self {
        Self(Box::pin(sleep_until(deadline)))
    }

    /// Waits until `deadline`, which is never earlier than the last one was.
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

    /// Writes everything, and gives up when the other side takes nothing for too long.
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
