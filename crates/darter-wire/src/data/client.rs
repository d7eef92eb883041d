//! The requester's side of a data channel.

use std::sync::Arc;

use crate::{Answer, Budget, BufferPool, PeerStream, Request, Result};

/// What the requesting side needs.
#[derive(Clone)]
pub struct Receiving {
    /// Meters the bytes read.
    pub budget: Arc<dyn Budget>,
    /// Where pieces are received.
    pub buffers: BufferPool,
}

/// Asks a holder for pieces; cheap to clone.
#[derive(Clone, Debug)]
pub struct DataClient {}

impl DataClient {
    /// Starts asking on a connection, after its preface. Spawns the task that writes requests.
    pub fn start(stream: PeerStream, receiving: Receiving) -> (Self, Answers) {
        todo!("{stream:?} {}", receiving.budget.grain())
    }

    /// Asks for a piece of at most `longest` bytes. Does not wait; the answer comes through [`Answers`].
    ///
    /// # Errors
    /// [`WireError::Full`](crate::WireError::Full) with too many unanswered requests, [`WireError::Closed`](crate::WireError::Closed).
    ///
    /// # Panics
    /// When a request with this id is unanswered.
    pub fn request(&self, request: Request, longest: u32) -> Result<()> {
        todo!("{request:?} {longest}")
    }

    /// Calls a request back. Its answer still comes: cancelled, or the piece if that was on its way.
    pub fn cancel(&self, id: u32) {
        todo!("{id}")
    }

    /// How many bytes of the answer to this request have come; none if it is not unanswered.
    pub fn arrived(&self, id: u32) -> Option<u32> {
        todo!("{id}")
    }

    /// Payload bytes received over this connection.
    pub fn received(&self) -> u64 {
        todo!()
    }

    /// The requests that have no answer yet, in no order.
    pub fn unanswered(&self) -> Vec<Request> {
        todo!()
    }

    /// Closes the connection: [`Answers::recv`] ends.
    pub fn close(&self) {
        todo!()
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        todo!()
    }
}

/// The answers, in the order in which they come. Reading happens within [`recv`](Answers::recv): not calling it
/// holds the holder back. Dropping it closes the connection.
#[derive(Debug)]
pub struct Answers {}

impl Answers {
    /// The next answer; none when the connection ended with no request unanswered, or was closed here. Cancel safe.
    ///
    /// # Errors
    /// [`WireError::Closed`](crate::WireError::Closed) when the holder went away owing answers,
    /// [`WireError::TooLong`](crate::WireError::TooLong), [`WireError::Violation`](crate::WireError::Violation), [`WireError::Io`](crate::WireError::Io). Drop it then.
    pub async fn recv(&mut self) -> Result<Option<Answer>> {
        todo!()
    }
}
