//! Credentials for registries, from the configuration or from Docker's `config.json`.

use std::fmt;

/// What proves to a registry who is asking. Printed without the secret.
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
