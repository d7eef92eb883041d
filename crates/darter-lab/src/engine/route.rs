//! How an engine reaches the laboratory's registry, and what podman's family shares.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cluster::LOCAL;
use crate::netns::Host;
use crate::registry;

/// How long anything that an engine does, besides pulling, may take.
pub(super) const ENGINE_TIMEOUT: Duration = Duration::from_secs(60);

/// How an engine reaches the laboratory's registry.
#[derive(Clone, Debug)]
pub struct Route {
    /// `ADDRESS:PORT` of the mirror on its own host that it asks first, if any.
    pub mirror: Option<&'static str>,
    /// The registry's name in image references.
    pub name: &'static str,
    /// `ADDRESS:PORT` of the registry itself, where it turns when the mirror fails.
    pub registry: String,
    /// `USER:PASSWORD`, where the registry asks for them.
    pub login: Option<String>,
}

impl Route {
    /// Through the host's agent, the registry as a last resort.
    pub fn mirrored(registry: &str) -> Self {
        Self::by_way_of(LOCAL, registry)
    }

    /// Through this mirror, the registry as a last resort.
    pub fn by_way_of(mirror: &'static str, registry: &str) -> Self {
        Self { mirror: Some(mirror), ..Self::direct(registry) }
    }

    /// Straight to the registry.
    pub fn direct(registry: &str) -> Self {
        Self { mirror: None, name: registry::NAME, registry: registry.to_owned(), login: None }
    }

    /// For images of a registry of this name.
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// With these credentials.
    pub fn with_login(mut self, user: &str, password: &str) -> Self {
        self.login = Some(format!("{user}:{password}"));
        self
    }

    /// `registries.conf` for podman and skopeo. Their mirrors have no `?ns=`: the registry's name is the first component of
    /// the path, and may have no port there.
    fn registries_conf(&self) -> String {
        let mut text = format!(
            "unqualified-search-registries = []\n\
             [[registry]]\n\
             prefix = \"{}\"\n\
             location = \"{}\"\n\
             insecure = true\n",
            self.name, self.registry
        );
        if let Some(mirror) = self.mirror {
            text.push_str(&format!("[[registry.mirror]]\nlocation = \"{mirror}/{}\"\ninsecure = true\n", self.name));
        }
        text
    }
}

/// Writes a host's `registries.conf`.
pub(super) fn write_registries_conf(host: &Host, route: &Route) -> Result<PathBuf> {
    let path = host.make_directory("containers")?.join("registries.conf");
    fs::write(&path, route.registries_conf()).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Logs in, as a user does, to what a route leads to first; gives the file that holds the login afterwards. Credentials
/// on the command line of a pull would not do: podman's family never shows those to a mirror. skopeo's file is podman's too.
pub(super) fn log_in(host: &Host, route: &Route) -> Result<Option<PathBuf>> {
    let Some(login) = &route.login else { return Ok(None) };
    let (user, password) = login.split_once(':').context("a login is USER:PASSWORD")?;
    let file = host.make_directory("containers")?.join("auth.json");
    let mut command = containers_command(host, "skopeo")?;
    command.args(["login", "--tls-verify=false", "--username", user, "--password", password, "--authfile"]);
    command.arg(&file).arg(match route.mirror {
        Some(mirror) => format!("{mirror}/{}", route.name),
        None => route.registry.clone(),
    });
    host.run("skopeo-login", &mut command, ENGINE_TIMEOUT)?;
    Ok(Some(file))
}

/// A command of podman's family. They share a cache below `/var/lib/containers` that no option moves, so each host mounts
/// a directory of its own there.
pub(super) fn containers_command(host: &Host, program: &str) -> Result<Command> {
    const OWN_DIRECTORY: &str = r#"mkdir -p /var/lib/containers; mount --bind "$0" /var/lib/containers; exec "$@""#;
    let directory = host.make_directory("containers/lib")?;
    let mut command = host.command("sh");
    command.args(["-euc", OWN_DIRECTORY]).arg(directory).arg(program);
    Ok(command)
}
