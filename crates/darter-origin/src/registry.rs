//! OCI registries: the pull side of the distribution specification, whose words `darter-oci` knows.
//!
//! | file | what lives there |
//! |---|---|
//! | `upstreams` | [`Upstreams`]: from a registry's name to its base address |
//! | `client` | [`RegistryClient`]: requests, with the token dance when no caller does it |
//! | `answer` | [`Answer`]: what a registry answered |
//! | `beyond` | challenges of another registry, to which a redirect led |
//! | `token` | tokens: getting them, keeping them until they expire |
//! | `encoding` | answers with a `Content-Encoding` that nobody asked for |
//! | `config` | what is told of registries: [`RegistryConfig`], [`Login`] |
//! | `login` | which login a registry is asked with: configured, or of Docker's `config.json` and its helpers |
//! | `probe` | HEAD where it works, GET where it does not |
//! | `proof` | showing another agent that one has the same login |
//! | `origin` | [`RegistryOrigin`]: blobs as an [`Origin`](crate::Origin) |
//!
//! Credentials: a caller's own `Authorization` is passed on as it is, and a rejection goes back to the caller,
//! whose engine knows the token dance; for a caller's user and password the client dances on their behalf. Only a
//! request without any may use the configured login, or an anonymous token. Tokens of one login never serve another,
//! and a token that a caller brings never enters the cache.

mod answer;
mod beyond;
mod client;
mod config;
mod encoding;
mod login;
mod origin;
mod probe;
mod proof;
mod token;
mod upstreams;

pub use answer::{Answer, is_page};
pub use client::RegistryClient;
pub use config::{Login, RegistryConfig};
pub use origin::RegistryOrigin;
pub use upstreams::{Upstream, Upstreams};
