//! The peer protocol as bytes: what Darter's agents say to each other, without the connections on which they say it.
//!
//! The agent (through `darter-wire`), the simulator and the tests read and write the same bytes by this crate. It does no
//! I/O, and knows no clock and no runtime.
//!
//! | file | what lives there |
//! |---|---|
//! | [`versions`] | [`Versions`] and [`Capabilities`]: which protocol an agent speaks |
//! | [`preface`] | the first bytes of every connection: [`Hello`], [`Kind`], [`Role`] |
//! | [`message`] | [`Message`]: everything that is said on a control channel |
//! | [`frame`] | [`Frame`]: messages as they stand one behind the other on a control channel |
//! | [`data`] | requests for pieces, and what precedes a piece: [`Request`], [`Refusal`] |
//! | [`limits`] | what is bounded |
//! | [`error`] | [`ProtocolError`] |
//!
//! The bytes of each are written down where it is defined, and pinned by `tests/golden.rs`.
//!
//! Non-goals: connections, queues, timeouts (`darter-wire`), and what to say when (`darter-swarm`).

pub mod data;
pub mod error;
pub mod frame;
pub mod limits;
pub mod message;
pub mod preface;
pub mod versions;

pub use data::{Refusal, Request, Wanted};
pub use error::{ProtocolError, Result};
pub use frame::Frame;
pub use limits::{
    MAX_BLOB_LENGTH, MAX_HELLO, MAX_MESSAGE, MAX_PEERS_TOLD, MAX_PIECE_LENGTH, MAX_PIECES, MAX_REGISTRY_HEADERS,
    MAX_REGISTRY_PATH, MAX_UNANSWERED, MAX_WISHES,
};
pub use message::{
    Failure, FailureKind, Held, Message, PeerInfo, RegistryAnswer, RegistryQuestion, StaleAnswer, SwarmPart, Verdict,
    WANT_SINCE, Wish,
};
pub use preface::{Hello, Kind, Role};
pub use versions::{Capabilities, Versions};
