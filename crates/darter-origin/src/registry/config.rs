//! The settings of registries: where they are, which are trusted, and which logins are used for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use url::Url;

/// The settings of registries.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    /// The base addresses (`http://` or `https://`) of registries by their names. The first one that answers is used.
    pub addresses: BTreeMap<String, Vec<Url>>,
    /// By names of registries, the prefix that their repositories have at their address: several registries may have one address (projects of one Harbor), and
    /// are distinguished by the prefix.
    pub prefixes: BTreeMap<String, String>,
    /// The names of registries that are used over plain HTTP.
    pub plain_http: BTreeSet<String>,
    /// The logins for registries by their names, for requests without credentials.
    pub logins: BTreeMap<String, Login>,
    /// The path of Docker's `config.json`, if logins of registries that `logins` lacks are to be taken from it.
    pub docker_config: Option<PathBuf>,
    /// The directories in which credential helpers of `config.json` are searched before `PATH`.
    pub helper_directories: Vec<PathBuf>,
    /// The names of trusted registries, in addition to those in `addresses`: if such a registry says that one of its
    /// repositories has some content, the caller may get a copy that came from another registry.
    pub trusted: BTreeSet<String>,
    /// True if registries that are not configured are reached only at public addresses.
    pub guarded: bool,
}

/// A login for a registry. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Login {
    /// A user and a password (or an access token instead of one).
    Password {
        /// The user's name.
        user: String,
        /// The secret.
        password: String,
    },
    /// A refresh token, which the registry's token service exchanges for access tokens.
    IdentityToken(String),
    /// An access token, which is sent unchanged.
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
