//! Logins for registries, from the configuration or from Docker's `config.json`.
//!
//! An answer of `config.json` is kept for a minute, so that a `docker login` takes effect. If the file or a helper fails, that is logged as a warning, and there is no login: public images can still be
//! pulled.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{Clock, Moment};
use darter_oci::name::canonical;
use parking_lot::{Mutex, RwLock};

use crate::registry::config::{Login, RegistryConfig};

mod docker;

/// How long an answer of `config.json` or of a helper is kept.
const KEPT: Duration = Duration::from_secs(60);

/// Where logins come from.
struct Sources {
    configured: BTreeMap<String, Login>,
    docker: Option<docker::Config>,
}

/// The logins of registries.
pub(super) struct Logins {
    sources: RwLock<Arc<Sources>>,
    clock: Arc<dyn Clock>,
    kept: Mutex<HashMap<String, (Option<Login>, Moment)>>,
}

impl Sources {
    fn new(config: &RegistryConfig) -> Self {
        let configured = config.logins.iter();
        let docker = |path: &PathBuf| docker::Config::new(path.clone(), config.helper_directories.clone());
        Self {
            configured: configured.map(|(name, login)| (canonical(name), login.clone())).collect(),
            docker: config.docker_config.as_ref().map(docker),
        }
    }
}

impl Logins {
    pub(super) fn new(config: &RegistryConfig, clock: Arc<dyn Clock>) -> Self {
        Self { sources: RwLock::new(Arc::new(Sources::new(config))), clock, kept: Mutex::default() }
    }

    /// Sets other logins.
    pub(super) fn reload(&self, config: &RegistryConfig) {
        *self.sources.write() = Arc::new(Sources::new(config));
        self.kept.lock().clear();
    }

    /// The login for the registry with this canonical name.
    pub(super) async fn of(&self, registry: &str) -> Option<Login> {
        let sources = Arc::clone(&self.sources.read());
        if let Some(login) = sources.configured.get(registry) {
            return Some(login.clone());
        }
        let docker = sources.docker.as_ref()?;
        let now = self.clock.now();
        if let Some((login, until)) = self.kept.lock().get(registry)
            && now < *until
        {
            return login.clone();
        }
        let login = docker.login(registry).await.unwrap_or_else(|error| {
            let cause = error.source_text();
            tracing::warn!(registry, %error, cause, "going on without a login");
            None
        });
        let mut kept = self.kept.lock();
        // Names come from callers: drop what has expired rather than grow.
        kept.retain(|_, (_, until)| now < *until);
        kept.insert(registry.to_owned(), (login.clone(), now + KEPT));
        login
    }
}

#[cfg(test)]
mod tests;
