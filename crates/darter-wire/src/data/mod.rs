//! Data channels in use: pieces from one holder to one requester, many requests in flight. Their bytes are those of
//! [`darter_protocol::data`].

mod answer;
mod client;
mod queue;
mod serve;
mod slots;

pub use answer::Answer;
pub use client::{Answers, DataClient, Receiving};
pub use serve::{Bind, Later, Payload, Sending, Uploads, serve_data};
pub use slots::Slots;
