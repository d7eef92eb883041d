//! Connections between Darter's agents, on one TCP port. The messages on them are [`darter_protocol`]'s.
//!
//! Between two agents there are two kinds of connection, distinguished by the [`preface`] with which each begins:
//! a *control channel* with small [messages](Message) in both directions, which never wait behind data; and *data
//! channels*, each from one requester to one holder, with pieces and nothing else. Pieces are sent as raw bytes
//! from the holder's page cache (`sendfile`) into the requester's buffer, without serialisation or another copy. A holder may send a packed piece to a requester that accepts
//! packed pieces ([`darter_protocol::packed`]).
//!
//! | file | what lives there |
//! |---|---|
//! | [`transport`] | [`Transport`], [`Listener`], [`PeerStream`]: opens and accepts connections: over TCP, or in memory for tests |
//! | [`preface`] | [`open`](preface::open) and [`greet`](preface::greet): the exchange that opens every connection |
//! | [`control`] | [`ControlSender`], [`ControlReceiver`]: a control channel in use, with its signs of life |
//! | [`data`] | [`DataClient`], which requests pieces; [`serve_data`], which sends them |
//! | [`budget`] | [`Budget`]: limits the rate of channels, in both directions |
//! | [`buffer`] | [`BufferPool`]: memory for received pieces until they are on disk |
//! | [`descriptors`] | file descriptors: their limit, and failures to accept connections |
//! | [`error`] | [`WireError`] |
//!
//! Non-goals: which piece to request from which holder, the verification of pieces, and access control: the crates above do that. Encryption belongs in a [`Transport`] and needs no
//! change here.

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
