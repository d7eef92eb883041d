//! Which `hosts.toml` files are written, and how. No I/O, except [`RegistryFiles::read`].
//!
//! In each directory of `config_path`, one after the other, containerd looks for `HOST_PORT_`, `HOST:PORT` and `_default`. The first that it finds is the
//! registry's directory, and it looks at no other. So `_default` does not apply to a registry that has a directory, and `_default` in the first directory hides a
//! registry's directory in the second one.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::containerd::Refusal;
use super::hosts::{self, Server, Standing, fresh, in_front};
use super::tree::Tree;
use super::{Change, document::Document};

const HOSTS: &str = "hosts.toml";
pub(crate) const DEFAULT: &str = "_default";

/// The registries' directories, as they are now.
#[derive(Debug, Default)]
pub(crate) struct RegistryFiles {
    pub(crate) roots: Vec<Root>,
}

/// One of the directories that `config_path` names.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) directories: Vec<Directory>,
}

/// A registry's directory.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub(crate) name: String,
    /// The text of `hosts.toml`, if it exists.
    pub(crate) hosts: Option<String>,
    /// The names of all files in it.
    pub(crate) files: Vec<String>,
}

impl RegistryFiles {
    /// Reads the directories that `config_path` names.
    pub(crate) fn read(tree: &Tree, roots: &[PathBuf]) -> anyhow::Result<Self> {
        let mut registry_files = Self::default();
        for path in roots {
            let cant_read = |path: &Path| format!("can't read {}", path.display());
            let names = tree.list(path).with_context(|| cant_read(path))?;
            let mut directories = Vec::new();
            for (name, _) in names.into_iter().filter(|(name, is_directory)| *is_directory && !name.starts_with('.')) {
                let directory = path.join(&name);
                let files = tree.list(&directory).with_context(|| cant_read(&directory))?;
                let files = files.into_iter().filter(|(_, is_directory)| !is_directory).map(|(name, _)| name).collect();
                let file = directory.join(HOSTS);
                let hosts = tree.read(&file).with_context(|| cant_read(&file))?;
                directories.push(Directory { name, hosts, files });
            }
            registry_files.roots.push(Root { path: path.clone(), directories });
        }
        Ok(registry_files)
    }

    /// The directory that containerd uses for `registry`, and the index of its root.
    pub(crate) fn find(&self, registry: &str) -> Option<(usize, &Directory)> {
        let with_port = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
        self.roots.iter().enumerate().find_map(|(place, root)| {
            let named = |name: &str| root.directories.iter().find(|directory| directory.name == name);
            let found = with_port.as_deref().and_then(named).or_else(|| named(registry));
            found.map(|directory| (place, directory))
        })
    }

    /// The registries that have a directory, by containerd's names.
    fn registries(&self) -> Vec<String> {
        let all = self.roots.iter().flat_map(|root| &root.directories);
        let mut names: Vec<_> = all.map(|directory| registry_of(&directory.name)).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The registry of a directory: `HOST_PORT_` means `HOST:PORT`.
fn registry_of(directory: &str) -> String {
    let parts = directory.strip_suffix('_').and_then(|rest| rest.rsplit_once('_'));
    match parts.filter(|(host, port)| !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())) {
        Some((host, port)) if !port.is_empty() => format!("{host}:{port}"),
        _ => directory.to_owned(),
    }
}

impl Directory {
    /// The certificates that containerd takes from files in a directory without `hosts.toml`.
    fn certificates(&self, at: Option<&Path>) -> Server {
        // Within the same directory, names are enough.
        let name = |file: &String| at.map_or_else(|| file.clone(), |at| at.join(file).to_string_lossy().into_owned());
        let with = |suffix: &'static str| self.files.iter().filter(move |file| file.ends_with(suffix));
        let client = |file: &String| {
            let key = format!("{}.key", file.trim_end_matches(".cert"));
            (name(file), self.files.contains(&key).then(|| name(&key)))
        };
        Server {
            ca: with(".crt").map(name).collect(),
            client: with(".cert").map(client).collect(),
            ..Server::default()
        }
    }

    fn says_nothing(&self) -> bool {
        self.hosts.as_ref().is_none_or(String::is_empty)
    }
}

/// The mirror and the registries to be written.
#[derive(Debug, Default)]
pub(crate) struct MirrorSetup {
    /// The mirror's address.
    pub(crate) mirror: String,
    /// Only these registries; if empty, all.
    pub(crate) registries: Vec<String>,
    /// Registries that `--upstream` describes.
    pub(crate) named: Vec<(String, Server)>,
}

/// The files to be written, including those that stay unchanged.
pub(crate) fn plan(
    registry_files: &RegistryFiles,
    wanted: &MirrorSetup,
) -> Result<(Vec<Change>, Vec<String>), Refusal> {
    let all = wanted.registries.is_empty();
    let mut registries = wanted.registries.clone();
    if all {
        registries.push(DEFAULT.to_owned());
        registries.extend(wanted.named.iter().map(|(name, _)| name.clone()));
        registries.extend(registry_files.registries());
    }
    registries.sort();
    registries.dedup();
    let own = wanted.mirror.split_once("://").map_or(wanted.mirror.as_str(), |(_, host)| host);
    let (mut changes, mut notes) = (Vec::new(), Vec::new());
    for registry in registries.iter().filter(|registry| *registry != own) {
        let server = wanted.named.iter().find(|(name, _)| name == registry).map(|(_, server)| server.clone());
        let server = server.unwrap_or_default();
        changes.extend(one(registry_files, registry, server, &wanted.mirror, &mut notes)?);
    }
    let covers_all = wanted.registries.iter().any(|name| name == DEFAULT);
    let without: Vec<_> =
        registry_files.registries().into_iter().filter(|name| covers_all && !registries.contains(name)).collect();
    if !without.is_empty() {
        notes.push(format!(
            "_default does not apply to these registries, which have directories of their own; name them, too, or leave out --registry: {}",
            without.join(", ")
        ));
    }
    Ok((changes, notes))
}

fn one(
    registry_files: &RegistryFiles,
    registry: &str,
    named: Server,
    mirror: &str,
    notes: &mut Vec<String>,
) -> Result<Option<Change>, Refusal> {
    let Some(first) = registry_files.roots.first() else { return Ok(None) };
    // `_default` in a later directory would be looked at last.
    let found = registry_files.find(registry).filter(|(place, _)| registry != DEFAULT || *place == 0);
    let Some((place, directory)) = found else {
        let path = first.path.join(registry).join(HOSTS);
        return Ok(Some(Change::new(path, None, fresh(mirror, &named))));
    };
    let home = registry_files.roots[place].path.join(&directory.name);
    let path = home.join(HOSTS);
    if directory.says_nothing() {
        // In a later directory, it would be hidden by `_default` in the first one.
        let (path, certificates) = match place {
            0 => (path, directory.certificates(None)),
            _ => (first.path.join(registry).join(HOSTS), directory.certificates(Some(&home))),
        };
        let server = Server {
            url: named.url,
            skip_verify: named.skip_verify,
            ca: if certificates.ca.is_empty() { named.ca } else { certificates.ca },
            client: if certificates.client.is_empty() { named.client } else { certificates.client },
        };
        let before = if place == 0 { directory.hosts.clone() } else { None };
        return Ok(Some(Change::new(path, before, fresh(mirror, &server))));
    }
    let before = directory.hosts.clone().unwrap_or_default();
    if place > 0 {
        return Err(Refusal::of(
            &path,
            super::document::Wrong {
                line: 1,
                message: format!(
                    "this file is in a later directory of config_path, which containerd 2.1 and later do not read, and {} in the first one would hide it; move its directory to {}, then run this again",
                    DEFAULT,
                    first.path.display()
                ),
            },
        ));
    }
    let after = in_front(&before, mirror).map_err(|wrong| Refusal::of(&path, wrong))?;
    let narrowed = Document::parse(&after).is_ok_and(|new| hosts::standing(&new, mirror) == Standing::Narrowed);
    if narrowed {
        notes.push(format!(
            "{}: the mirror is listed, but without all of its capabilities: set capabilities = [\"pull\", \"resolve\"]",
            path.display()
        ));
    }
    Ok(Some(Change::new(path, Some(before), after)))
}
