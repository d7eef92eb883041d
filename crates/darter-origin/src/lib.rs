//! The origins of blobs: HTTP servers, OCI registries, local files.
//!
//! | file | what lives there |
//! |---|---|
//! | [`origin`] | [`Origin`], the trait of all of them, with [`Stat`] and [`Reading`] |
//! | [`origins`] | [`Origins`], which chooses the origin of a [`Source`](darter_core::Source) and retries |
//! | [`web`] | [`HttpOrigin`]: `http` and `https` addresses |
//! | [`client`] | [`HttpClient`]: requests with time limits, TLS trust for each server, redirects without leaking credentials |
//! | [`file`](mod@file) | [`FileOrigin`]: `file` addresses |
//! | [`registry`] | [`RegistryClient`] for the pull side of the OCI distribution API, [`RegistryOrigin`] on top of it |
//! | [`mem`] | [`MemOrigin`]: bytes in memory, for tests |
//! | [`error`] | [`OriginError`]: what went wrong, what to do next, and whose fault it is |
//! | [`retry`](mod@retry) | [`RetryPolicy`]: for how long and how often to retry, and `Retry-After` |
//! | [`settings`] | reads the files that a configuration names |
//! | `declared`, `checksum` | hashes that an origin declares of its content |
//! | `shown` | for whom an answer is meant, and where redirects led |
//! | `validators` | whether two answers are of one version of a resource |
//! | `body` | bodies of responses, whose length is checked |
//!
//! Everything is streamed: no more than one chunk of a blob is in memory.

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
