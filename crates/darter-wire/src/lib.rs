//! The peer protocol: what Darter's agents say to each other, on one TCP port.
//!
//! Between two nodes there are two kinds of connection, told apart by the [`preface`] that opens each:
//! a *control channel* that carries small [messages](message::Message) both ways, never behind data; and *data
//! channels*, each from one requester to one holder, that carry pieces and nothing else. Pieces cross as raw bytes
//! from the holder's page cache (`sendfile`) into the requester's buffer: no serialisation, no copy in between.
//!
//! | file | what lives there |
//! |---|---|
//! | [`transport`] | [`Transport`], [`Listener`], [`PeerStream`]: where connections are made; TCP, and memory for tests |
//! | [`preface`] | who is there: the first bytes of every connection, [`Hello`], [`open`](preface::open) and [`greet`](preface::greet) |
//! | [`message`] | [`Message`]: everything that is said on a control channel |
//! | [`control`] | [`ControlSender`], [`ControlReceiver`]: a control channel in use, with its keepalive |
//! | [`data`] | byte layout of the data channel, [`DataClient`] that asks for pieces, [`serve_data`] that sends them |
//! | [`budget`] | [`Budget`]: the hook through which bytes are metered, both ways |
//! | [`buffer`] | [`BufferPool`]: where received pieces live until they are on disk |
//! | [`error`] | [`WireError`] |
//!
//! Non-goals: what to ask of whom (that is decided above), what a piece must hash to (checked above), and access
//! control. Encryption belongs in a [`Transport`] and needs no change here.

pub mod budget;
pub mod buffer;
pub mod control;
pub mod data;
pub mod error;
pub mod message;
pub mod preface;
pub mod transport;

pub use budget::{Budget, Unlimited};
pub use buffer::{BufferPool, PooledBuffer};
pub use control::{ControlConfig, ControlReceiver, ControlSender, Frame};
pub use data::{
    Answer, Answers, Bind, DataClient, MAX_UNANSWERED, Payload, Receiving, Refusal, Request, Sending, Slots, Uploads,
    Wanted, serve_data,
};
pub use error::{Result, WireError};
pub use message::{
    Failure, FailureKind, Held, MAX_PEERS_TOLD, MAX_REGISTRY_HEADERS, MAX_REGISTRY_PATH, Message, PeerInfo,
    RegistryAnswer, RegistryQuestion, StaleAnswer, SwarmPart, Verdict,
};
pub use preface::{Greeted, Hello, Kind, Role};
pub use transport::{
    Listener, MemNetwork, MemTransport, PeerReader, PeerStream, PeerWriter, TcpConfig, TcpTransport, Transport,
};

/// The most pieces a blob may have on the wire: bounds what a set of pieces can cost its receiver (512 KiB).
pub const MAX_PIECES: u32 = 1 << 22;

/// The longest blob on the wire, in bytes: with the shortest pieces, its pieces still count in 32 bits.
pub const MAX_BLOB_LENGTH: u64 = 1 << 45;

/// The longest piece on the wire, in bytes.
pub const MAX_PIECE_LENGTH: u32 = 1 << 24;
