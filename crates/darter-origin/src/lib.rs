//! The origins of blobs: HTTP servers, OCI registries, local files.
//!
//! | file | what lives there |
//! |---|---|
//! | [`origin`] | [`Origin`], the trait all of them share, with [`Stat`] and [`Reading`] |
//! | [`origins`] | [`Origins`], the router that picks an origin by its [`Source`](darter_core::Source) and retries |
//! | [`web`] | [`HttpOrigin`]: `http` and `https` addresses |
//! | [`client`] | [`HttpClient`]: requests with time limits, TLS trust for each server, redirects that leak no credentials |
//! | [`file`](mod@file) | [`FileOrigin`]: `file` addresses |
//! | [`registry`] | [`RegistryClient`] for the pull side of the OCI distribution API, [`RegistryOrigin`] on top of it |
//! | [`mem`] | [`MemOrigin`]: bytes at hand, for tests |
//! | [`error`] | [`OriginError`]: what went wrong, what to do next, and whose fault it is |
//! | [`retry`](mod@retry) | [`RetryPolicy`]: backoff within a patience, and `Retry-After` |
//! | [`settings`] | the files that a configuration names |
//! | `declared`, `checksum` | hashes that an origin declares of what it sends |
//! | `shown` | for whom an answer is meant, and where it was found |
//! | `validators` | how two states of a resource are told apart |
//! | `body` | response bodies whose length is checked |
//!
//! Everything streams; nothing here holds more of a blob than the chunk in hand.

pub mod body;
mod checksum;
pub mod client;
mod declared;
pub mod error;
pub mod file;

pub mod mem;
pub mod origin;
pub mod origins;
pub mod pauses;
pub mod registry;
pub mod retry;
pub mod settings;
mod shown;
mod validators;
pub mod web;

pub use client::{HttpClient, HttpConfig, Requester, ServerConfig, is_own_header, is_this_host, of_status};
pub use declared::Witness;
pub use error::{ConfigError, ErrorKind, OriginError, OriginFailure, status_text};
pub use file::FileOrigin;

pub use body::Body;
pub use mem::MemOrigin;
pub use origin::{Origin, Reading, Stat};
pub use origins::Origins;
pub use pauses::{Pause, Pauses, Pausing};
pub use registry::{Answer, Login, RegistryClient, RegistryConfig, RegistryOrigin, Upstream, Upstreams, is_page};
pub use retry::{RetryPolicy, retry};
pub use web::HttpOrigin;
