//! OCI registries: the client's side of pulls by the distribution specification, whose terms `darter-oci` has.
//!
//! | file | what lives there |
//! |---|---|
//! | `upstreams` | [`Upstreams`]: the base address of a registry's name |
//! | `client` | [`RegistryClient`]: requests, and tokens for callers that do not get them themselves |
//! | `answer` | [`Answer`]: a registry's answer |
//! | `beyond` | challenges of another registry to which a redirect led |
//! | `token` | gets tokens, and keeps them until they expire |
//! | `encoding` | answers with a `Content-Encoding` that was not requested |
//! | `config` | settings of registries: [`RegistryConfig`], [`Login`] |
//! | `login` | the login for a registry: configured, or from Docker's `config.json` and its helpers |
//! | `probe` | HEAD if it works, otherwise GET |
//! | `proof` | proves to another agent that this one has the same login |
//! | `origin` | [`RegistryOrigin`]: blobs as an [`Origin`](crate::Origin) |
//!
//! Credentials: a caller's own `Authorization` is passed on unchanged, and a rejection is passed back to the caller, whose engine then gets a token; for a caller's user and password the client gets the token.
//! Only a request without credentials may use the configured login, or an anonymous token. Tokens of one login are never used for another, and a token that a caller brings is not
//! cached.

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
