//! Data channels in use: pieces from one holder to one requester, many requests in flight. Their bytes are those of
//! [`darter_protocol::data`].

mod answer;
mod client;
mod piece;
mod queue;
mod rate;
mod serve;
mod slots;

pub use answer::Answer;
pub use client::{Answers, DataClient, Receiving};
pub use piece::{PackedData, PieceData};
pub use serve::{Bind, Later, Payload, Sending, Sent, Uploads, serve_data};
pub use slots::Slots;
