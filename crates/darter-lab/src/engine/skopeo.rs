//! skopeo, which copies an image's blobs as they are into a directory.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use darter_core::Digest;

use super::route::{Route, containers_command, log_in, write_registries_conf};
use crate::netns::Host;
use crate::oci::digest_of;
use crate::process::Process;

/// skopeo on a host.
#[derive(Debug)]
pub struct Skopeo<'host> {
    host: &'host Host,
    registries: PathBuf,
    login: Option<PathBuf>,
}

impl<'host> Skopeo<'host> {
    /// Writes skopeo's configuration for a host, and logs in if the route says so.
    pub fn configure(host: &'host Host, route: &Route) -> Result<Self> {
        Ok(Self { host, registries: write_registries_conf(host, route)?, login: log_in(host, route)? })
    }

    /// Starts copying an image into the directory `name` of the host.
    pub fn copy(&self, reference: &str, name: &str) -> Result<Process> {
        let mut command = containers_command(self.host, "skopeo")?;
        // The environment variable that podman reads for this means nothing to skopeo.
        command.arg("--registries-conf").arg(&self.registries).arg("copy");
        if let Some(login) = &self.login {
            command.arg("--src-authfile").arg(login);
        }
        command.arg(format!("docker://{reference}")).arg(format!("dir:{}", self.directory(name)?.display()));
        self.host.spawn("skopeo-copy", &mut command)
    }

    /// The directory that a copy of this name went to.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        self.host.make_directory(name)
    }
}

/// An error unless a copy holds exactly these bytes: the manifest, and each blob under the hexadecimal digits of its digest.
pub fn ensure_copied(directory: &Path, manifest: &Digest, blobs: &[Digest]) -> Result<()> {
    let mut expected = vec![("manifest.json".to_owned(), *manifest)];
    expected.extend(blobs.iter().map(|digest| (hex_digits(digest), *digest)));
    for (name, digest) in expected {
        let found = digest_of(&directory.join(&name))?;
        ensure!(found == digest, "{name} in {} has the digest {found}, not {digest}", directory.display());
    }
    Ok(())
}

fn hex_digits(digest: &Digest) -> String {
    let text = digest.to_string();
    text.split_once(':').map_or(text.clone(), |(_, digits)| digits.to_owned())
}
