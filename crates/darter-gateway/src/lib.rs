//! The sockets for programs of a host: the local port with its registry mirror, and the administration socket.
//!
//! | file | what lives there |
//! |---|---|
//! | [`start`](mod@start) | [`start()`], an agent with its ports and sockets as its options say; each of them by itself |
//! | [`server`] | the port for programs of this host: mirror, metrics, health |
//! | [`mirror`] | the registry mirror |
//! | `outlet` | files go out past this process |
//! | `admin` | the administration socket; its types and its client are in `darter-api` |
//! | [`local_socket`] | unix sockets that their owner alone may open |
//! | `body` | bodies of answers |
//!
//! Everything here attaches to the handle of a running [`Agent`](darter_agent::Agent), asks it for blobs, and ends when its
//! [phases](darter_agent::Phase) say so. The agent knows nothing of it. Non-goals: what moves bytes (`darter-engine`).

mod admin;
pub mod body;
pub mod local_socket;
pub mod mirror;
mod outlet;
pub mod server;
pub mod start;

pub use start::{serve_admin, serve_local, serve_metrics, start};
