//! Messages as they stand one behind the other on a control channel.
//!
//! ```text
//! offset  size  field
//!      0     4  length of what follows, little-endian, at most 8 MiB; 0 is a sign of life and carries nothing
//!      4     n  one message: the number of its kind as a varint, then its fields ([`message`](crate::message))
//! ```
//!
//! The length says where the next message begins, whatever this one is: one that is not known here is [`Unknown`], and skipped.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::decode::{self, Unread};
use crate::error::EncodingError;
use crate::{Capabilities, Failure, FailureKind, MAX_MESSAGE, Message, ProtocolError, Result};

/// A sign of life: a frame without a message.
pub const SIGN_OF_LIFE: [u8; 4] = [0; 4];

/// An encoded message, and the version of the protocol that brought it: encode once, send to many.
#[derive(Clone, Debug)]
pub struct Frame {
    bytes: Bytes,
    since: u8,
    /// The message for agents without [`Capabilities::FAILURE_KINDS`], where it has other bytes.
    plain: Option<Bytes>,
}

impl Frame {
    /// Encodes a message.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] when it takes more than [`MAX_MESSAGE`] bytes.
    pub fn encode(message: &Message) -> Result<Self> {
        let plain = message.plain().map(|plain| bytes_of(&plain)).transpose()?;
        Ok(Self { bytes: bytes_of(message)?, since: message.since(), plain })
    }

    /// The frame as an agent with these capabilities reads it.
    #[must_use]
    pub fn for_agent(self, capabilities: Capabilities) -> Self {
        match self.plain {
            Some(bytes) if !capabilities.contains(Capabilities::FAILURE_KINDS) => Self { bytes, plain: None, ..self },
            _ => self,
        }
    }

    /// [`Message::since`] of the message.
    pub const fn since(&self) -> u8 {
        self.since
    }

    /// The frame's bytes, length included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn bytes_of(message: &Message) -> Result<Bytes> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).expect("a message is plain data");
    let length = frame.len() - 4;
    if length > MAX_MESSAGE {
        return Err(too_long(length));
    }
    let prefix = u32::try_from(length).expect("at most 8 MiB").to_le_bytes();
    frame[..4].copy_from_slice(&prefix);
    Ok(frame.into())
}

const fn too_long(length: usize) -> ProtocolError {
    ProtocolError::TooLong { what: "message", length: length as u64, limit: MAX_MESSAGE as u64 }
}

/// A message of another release: of a kind that is not known here, or with a value that has no meaning here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The number of its kind.
    pub kind: u32,
    /// The first field, where the kind is known and begins with the number of a question.
    pub request: Option<u32>,
}

/// Kinds by number, as [`message`](crate::message) lists them, that can hold a value without meaning and whose sender waits for an answer,
/// or is waited for.
mod kinds {
    pub(super) const JOIN: u32 = 0;
    pub(super) const JOINED: u32 = 4;
    pub(super) const ASK_REGISTRY: u32 = 24;
    pub(super) const REGISTRY_IS: u32 = 25;
    pub(super) const REFUTED: u32 = 26;
    pub(super) const ASK_REGISTRY_ALIKE: u32 = 28;
    pub(super) const ASK_REGISTRY_KNOWN: u32 = 29;
}

impl Unknown {
    /// Takes note of a message that was not read.
    fn of(bytes: &[u8]) -> Result<Self, EncodingError> {
        let (kind, rest) = postcard::take_from_bytes(bytes)?;
        let request = match kind {
            kinds::JOIN | kinds::JOINED => Some(postcard::take_from_bytes::<u32>(rest)?.0),
            kinds::ASK_REGISTRY..=kinds::REGISTRY_IS => Some(postcard::take_from_bytes::<u32>(rest)?.0),
            kinds::ASK_REGISTRY_ALIKE..=kinds::ASK_REGISTRY_KNOWN => Some(postcard::take_from_bytes::<u32>(rest)?.0),
            kinds::REFUTED => postcard::take_from_bytes::<Option<u32>>(rest)?.0,
            _ => None,
        };
        Ok(Self { kind, request })
    }

    /// The answer to its sender, if it is a question that can be answered without being understood: the asker of something new need not
    /// wait in vain, and asks another agent.
    pub fn refusal(&self) -> Option<Message> {
        let request = self.request?;
        match self.kind {
            kinds::JOIN => Some(Message::Rejected { request, failure: self.failure() }),
            kinds::ASK_REGISTRY | kinds::ASK_REGISTRY_ALIKE | kinds::ASK_REGISTRY_KNOWN => {
                Some(Message::RegistryIs { request, answer: Err(self.failure()) })
            }
            _ => None,
        }
    }

    /// The message as it would be if its sender could not do what it was asked, if it is an answer: what it says is of no use here, and
    /// nobody need wait for another one.
    pub fn as_failure(&self) -> Option<Message> {
        let request = self.request?;
        match self.kind {
            kinds::JOINED | kinds::REFUTED => Some(Message::Rejected { request, failure: self.failure() }),
            kinds::REGISTRY_IS => Some(Message::RegistryIs { request, answer: Err(self.failure()) }),
            _ => None,
        }
    }

    fn failure(&self) -> Failure {
        let text = match self.kind {
            kinds::JOINED | kinds::REFUTED | kinds::REGISTRY_IS => {
                "an answer with something that is new to this release"
            }
            kinds::JOIN => "a sort of source, or of digest, that is new to the release that runs there",
            _ => "a question with something that is new to the release that runs there",
        };
        Failure { kind: FailureKind::Other, status: None, text: text.to_owned(), challenge: None }
    }
}

/// Takes the next whole message out of what has come; `None` if it has not come to its end yet.
///
/// # Errors
/// [`ProtocolError::TooLong`], [`ProtocolError::Malformed`], [`ProtocolError::Violation`]. The rest of `buffer` makes no sense then.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Result<Message, Unknown>>> {
    loop {
        let Some((prefix, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_MESSAGE {
            return Err(too_long(length));
        }
        if rest.len() < length {
            return Ok(None);
        }
        if length == 0 {
            buffer.advance(4);
            continue;
        }
        let message = decode(&rest[..length])?;
        buffer.advance(4 + length);
        return Ok(Some(message));
    }
}

fn decode(bytes: &[u8]) -> Result<Result<Message, Unknown>> {
    let malformed = |source| ProtocolError::Malformed { what: "message", source };
    match decode::message::<Message>(bytes) {
        Ok(message) => message.check().map(|()| Ok(message)),
        Err(fault) => match fault.unread {
            Unread::Unknown => Unknown::of(bytes).map(Err).map_err(malformed),
            Unread::Malformed => Err(malformed(fault.source)),
            Unread::Swollen => Err(ProtocolError::Violation { what: "lists that take far more memory than bytes" }),
        },
    }
}

#[cfg(test)]
mod tests;
