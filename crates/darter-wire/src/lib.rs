//! Connections between Darter's agents, on one TCP port. The messages on them are [`darter_protocol`]'s.
//!
//! Between two nodes there are two kinds of connection, told apart by the [`preface`] that opens each:
//! a *control channel* that carries small [messages](Message) both ways, never behind data; and *data
//! channels*, each from one requester to one holder, that carry pieces and nothing else. Pieces cross as raw bytes
//! from the holder's page cache (`sendfile`) into the requester's buffer: no serialisation, no copy in between. A holder may send a piece packed to a requester that takes
//! such pieces ([`darter_protocol::packed`]).
//!
//! | file | what lives there |
//! |---|---|
//! | [`transport`] | [`Transport`], [`Listener`], [`PeerStream`]: where connections are made; TCP, and memory for tests |
//! | [`preface`] | [`open`](preface::open) and [`greet`](preface::greet): the exchange that opens every connection |
//! | [`control`] | [`ControlSender`], [`ControlReceiver`]: a control channel in use, with its keepalive |
//! | [`data`] | [`DataClient`] that asks for pieces, [`serve_data`] that sends them |
//! | [`budget`] | [`Budget`]: the hook through which bytes are metered, both ways |
//! | [`buffer`] | [`BufferPool`]: where received pieces live until they are on disk |
//! | [`descriptors`] | file descriptors: as many as the system grants, and what is said when they run out |
//! | [`error`] | [`WireError`] |
//!
//! Non-goals: what to ask of whom (that is decided above), what a piece must hash to (checked above), and access
//! control. Encryption belongs in a [`Transport`] and needs no change here.

pub mod budget;
pub mod buffer;
pub mod control;
pub mod data;
pub mod descriptors;
pub mod error;
pub mod preface;
pub mod transport;

pub use budget::{Budget, Unlimited};
pub use buffer::{BufferPool, PooledBuffer};
pub use control::{ControlConfig, ControlReceiver, ControlSender};
pub use darter_protocol::{
    Capabilities, ConnectionKind, Failure, FailureKind, Frame, Held, Hello, MAX_BLOB_LENGTH, MAX_MESSAGE,
    MAX_PEERS_TOLD, MAX_PIECE_LENGTH, MAX_PIECES, MAX_REGISTRY_HEADERS, MAX_REGISTRY_PATH, MAX_STRETCHES,
    MAX_UNANSWERED, MAX_WISHES, Message, PackedPiece, Packer, PeerInfo, Refusal, RegistryAnswer, RegistryQuestion,
    Request, Role, StaleAnswer, Stretch, SwarmPart, Unknown, Unpacker, Verdict, Versions, WANT_SINCE, Wanted, Wish,
};
pub use data::{
    Answer, Answers, Bind, DataClient, Later, PackedData, Payload, PieceData, Receiving, Sending, Sent, Slots, Uploads,
    serve_data,
};
pub use error::{Result, WireError};
pub use preface::Greeted;
pub use transport::cuts::{CutTransport, Cuts};
pub use transport::mem::{MemNetwork, MemTransport};
pub use transport::tcp::{TcpConfig, TcpTransport};
pub use transport::{Listener, PeerReader, PeerStream, PeerWriter, Transport};
