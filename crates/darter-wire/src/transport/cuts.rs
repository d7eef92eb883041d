//! A transport over any other one, for tests: cuts hosts off from each other, and heals the cut. Between hosts that are cut off from each other nothing arrives and
//! nothing is refused, as if a cable had been pulled: what was sent arrives when the cut is healed. An attempt to connect times out.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Listener, PeerReader, PeerStream, PeerWriter, Transport};
use crate::{Result, WireError};

/// How long an attempt to connect to a host that is cut off takes until it fails.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Which hosts of a network are cut off from which. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Cuts(Arc<Mutex<CutPairs>>);

#[derive(Debug, Default)]
struct CutPairs {
    /// The lesser address first.
    pairs: HashSet<(IpAddr, IpAddr)>,
    /// Readers and writers that wait for a cut to be healed.
    waiting: Vec<Waker>,
}

fn pair(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    if one < other { (one, other) } else { (other, one) }
}

impl Cuts {
    /// A network without cuts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the transport of the host at `ip` from `transport`.
    pub fn on<T: Transport>(&self, ip: impl Into<IpAddr>, transport: T) -> CutTransport<T> {
        CutTransport { cuts: self.clone(), ip: ip.into(), inner: transport }
    }

    /// Cuts these hosts off from each other.
    pub fn cut(&self, one: impl Into<IpAddr>, other: impl Into<IpAddr>) {
        self.0.lock().pairs.insert(pair(one.into(), other.into()));
    }

    /// Heals the cut between these hosts.
    pub fn heal(&self, one: impl Into<IpAddr>, other: impl Into<IpAddr>) {
        let waiting = {
            let mut state = self.0.lock();
            state.pairs.remove(&pair(one.into(), other.into()));
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    fn are_cut(&self, one: IpAddr, other: IpAddr) -> bool {
        self.0.lock().pairs.contains(&pair(one, other))
    }
}

/// A host's transport in a network with cuts.
#[derive(Debug)]
pub struct CutTransport<T> {
    cuts: Cuts,
    ip: IpAddr,
    inner: T,
}

#[async_trait]
impl<T: Transport> Transport for CutTransport<T> {
    async fn connect(&self, addr: &str) -> Result<PeerStream> {
        let cable = |to: SocketAddr| Cable { cuts: self.cuts.clone(), ends: (self.ip, to.ip()) };
        if addr.parse().is_ok_and(|to| cable(to).is_cut()) {
            tokio::time::sleep(CONNECT_TIMEOUT).await;
            return Err(WireError::Connect { addr: addr.to_owned(), source: io::ErrorKind::TimedOut.into() });
        }
        let mut stream = self.inner.connect(addr).await?;
        // The end that connects is enough: what it does not take does not arrive.
        let cable = cable(stream.peer_addr());
        stream.reader = Box::new(CutHalf { half: stream.reader, cable: cable.clone() });
        stream.writer = Box::new(CutHalf { half: stream.writer, cable });
        Ok(stream)
    }

    async fn listen(&self, addr: &str) -> Result<Box<dyn Listener>> {
        self.inner.listen(addr).await
    }
}

/// The two ends of a connection.
#[derive(Clone)]
struct Cable {
    cuts: Cuts,
    ends: (IpAddr, IpAddr),
}

impl Cable {
    fn is_cut(&self) -> bool {
        self.cuts.are_cut(self.ends.0, self.ends.1)
    }

    /// Ready while there is no cut between the two hosts.
    fn poll_whole(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.cuts.0.lock();
        if !state.pairs.contains(&pair(self.ends.0, self.ends.1)) {
            return Poll::Ready(());
        }
        state.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

/// One half of a connection.
struct CutHalf<H> {
    half: H,
    cable: Cable,
}

impl AsyncRead for CutHalf<Box<dyn PeerReader>> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.cable.poll_whole(cx));
        Pin::new(&mut self.half).poll_read(cx, buffer)
    }
}

impl PeerReader for CutHalf<Box<dyn PeerReader>> {}

impl AsyncWrite for CutHalf<Box<dyn PeerWriter>> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.cable.poll_whole(cx));
        Pin::new(&mut self.half).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_shutdown(cx)
    }
}

impl PeerWriter for CutHalf<Box<dyn PeerWriter>> {}
