//! The sockets for programs of this host: the local port with its registry mirror, and the administration socket.
//!
//! | file | what lives there |
//! |---|---|
//! | [`start`](mod@start) | [`start()`]: an agent with the ports and sockets of its options; each of them separately |
//! | [`server`] | the port for local programs: mirror, metrics, health |
//! | [`mirror`] | the registry mirror |
//! | `outlet` | sends files without copying them through this process |
//! | `admin` | the administration socket; its types and its client are in `darter-api` |
//! | [`local_socket`] | unix sockets that only their owner may open |
//! | `body` | bodies of answers |
//!
//! Everything here attaches to the handle of a running [`Agent`](darter_agent::Agent), asks it for blobs, and ends in the
//! [phase](darter_agent::Phase) in which it should. The agent does not depend on it. Non-goals: what moves bytes (`darter-engine`).

mod admin;
pub mod body;
pub mod local_socket;
pub mod mirror;
mod outlet;
pub mod server;
pub mod start;

pub use start::{serve_admin, serve_local, serve_metrics, start};
