//! The peer protocol as bytes: what Darter's agents say to each other, without the connections on which they say it.
//!
//! The agent (through `darter-wire`), the simulator and the tests read and write the same bytes by this crate. It does no
//! I/O, and knows no clock and no runtime.
//!
//! | file | what lives there |
//! |---|---|
//! | [`versions`] | [`Versions`] and [`Capabilities`]: which protocol an agent speaks |
//! | [`preface`] | the first bytes of every connection: [`Hello`], [`ConnectionKind`], [`Role`] |
//! | [`message`] | [`Message`]: everything that is said on a control channel |
//! | [`frame`] | [`Frame`]: messages as they stand one behind the other on a control channel |
//! | [`data`] | requests for pieces, and what precedes a piece: [`Request`], [`Refusal`] |
//! | [`packed`] | pieces that are compressed for the wire: [`PackedPiece`] |
//! | [`limits`] | what is bounded |
//! | [`error`] | [`ProtocolError`] |
//!
//! The bytes of each are written down where it is defined, and pinned by `tests/golden.rs`.
//!
//! # How it grows
//!
//! A release speaks with the one before it and the one after. So what is on the wire is only ever added to, and whoever reads
//! it skips what it does not know:
//!
//! - a message gets a new kind, behind all others, or a new field at its end, with a default for those who do not say it;
//! - a number that stands for one of several things (a role, a sort of failure) may get new values: where it is not known it
//!   reads as the most harmless one;
//! - a requester may send frames of a new sort on a data channel, and a holder may refuse for a new reason;
//! - a hello gets a new field at its end, a connection a new [`ConnectionKind`], a set of capabilities a new bit.
//!
//! An agent that needs an *answer* to something new says it only to a peer whose [`Versions`] or [`Capabilities`] tell that it knows it
//! ([`Message::since`]). Agents of version 3 hang up on kinds and fields that they do not know: as long as 3 is spoken, a new field is
//! left out where it has its default (`skip_serializing_if`), and has nothing else in what is said to them. A message that has fields behind such a
//! one has that, too: the next field of [`Message::Join`] is written where its size is.
//!
//! Bytes that make no sense in any release (a field cut off, a length over its limit, a text that is none) end the connection.
//!
//! Non-goals: connections, queues, timeouts (`darter-wire`), and what to say when (`darter-swarm`).

pub mod data;
mod decode;
pub mod error;
pub mod frame;
pub mod limits;
pub mod message;
mod open_enum;
pub mod packed;
pub mod preface;
pub mod versions;

pub use data::{Refusal, Request, Wanted};
pub use error::{ProtocolError, Result};
pub use frame::{Frame, Unknown};
pub use limits::{
    MAX_BLOB_LENGTH, MAX_HELLO, MAX_MESSAGE, MAX_PEERS_TOLD, MAX_PIECE_LENGTH, MAX_PIECES, MAX_REGISTRY_HEADERS,
    MAX_REGISTRY_PATH, MAX_STRETCHES, MAX_UNANSWERED, MAX_WISHES,
};
pub use message::{
    Failure, FailureKind, Held, Message, PeerInfo, RegistryAnswer, RegistryQuestion, StaleAnswer, Stretch, SwarmPart,
    Verdict, WANT_SINCE, Wish,
};
pub use packed::{PackedPiece, Packer, Unpacker};
pub use preface::{ConnectionKind, Hello, Role};
pub use versions::{Capabilities, Versions};
