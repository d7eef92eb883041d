//! Data channels in use: a requester gets pieces from a holder, with many requests unanswered at a time. [`darter_protocol::data`] documents the bytes.

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
