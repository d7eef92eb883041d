//! Settings of registries: where they are, which are trusted, and with which login they are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use url::Url;

/// Options of registries.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// Base addresses (`http://` or `https://`) of registries by their names. Of several, the first that answers is used.
    pub addresses: BTreeMap<String, Vec<Url>>,
    /// The prefix of their repositories' names there, by names of registries: several may be at one address (projects of one Harbor), and
    /// are told apart by that.
    pub prefixes: BTreeMap<String, String>,
    /// Names of registries that are spoken to over plain HTTP.
    pub plain_http: BTreeSet<String>,
    /// Credentials of registries by their names, used for requests that bring none.
    pub logins: BTreeMap<String, Login>,
    /// Docker's `config.json`, where it is to be used for registries without a login above.
    pub docker_config: Option<PathBuf>,
    /// Directories in which the credential helpers that `config.json` names are looked for, before `PATH`.
    pub helper_directories: Vec<PathBuf>,
    /// Names of registries, besides those with an address above, whose word counts: when such a registry says that a
    /// repository of its has some content, the caller may have a copy that another registry delivered.
    pub trusted: BTreeSet<String>,
    /// Speaks to registries that nothing above names at public addresses only.
    pub guarded: bool,
}

/// The proof to a registry of who is asking. Printed without the secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Login {
    /// A user and a password (or an access token that stands for one).
    Password {
        /// User name.
        user: String,
        /// The secret.
        password: String,
    },
    /// A refresh token that the registry's token service trades for access tokens.
    IdentityToken(String),
    /// An access token, sent as it is.
    RegistryToken(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(…)",
            Self::IdentityToken(_) => "IdentityToken(…)",
            Self::RegistryToken(_) => "RegistryToken(…)",
        })
    }
}
