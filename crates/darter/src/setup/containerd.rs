//! containerd's own configuration: config.toml and the files that it imports, in the forms of versions 1 to 4. Pure, except [`Config::load`].
//!
//! | version | where registries are configured | read by |
//! |---|---|---|
//! | 1, or none | `plugins.cri.registry` | all |
//! | 2 | `plugins."io.containerd.grpc.v1.cri".registry` | from 1.3 on |
//! | 3 | `plugins.'io.containerd.cri.v1.images'.registry` | from 2.0 on |
//! | 4 | the same; keys of older versions are silently ignored | from 2.3 on |
//!
//! containerd 2 converts each file to the newest form by itself and then merges them, key by key. In containerd 1, a plugin's section in a later file
//! replaces the whole section of an earlier one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::document::{Document, Node, Value, Wrong, checked, header, set};
use super::tree::Tree;
use crate::cli::values::version;

/// The newest version of the configuration that this module knows.
const NEWEST_VERSION: i64 = 4;

/// The first two numbers of a release of containerd.
pub(crate) type Release = (u32, u32);

/// The containerd that is installed on this host.
pub(crate) fn installed() -> Option<Release> {
    let said = Command::new("containerd").arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    // "containerd github.com/containerd/containerd/v2 v2.4.2 REVISION"; distributions leave out the v.
    said.split_whitespace().skip(1).find_map(version)
}

/// The default directory that has a directory for each registry.
pub(crate) const CERTS: &str = "/etc/containerd/certs.d";
const DOCKER_CERTS: &str = "/etc/docker/certs.d";

const CRI: &str = "io.containerd.grpc.v1.cri";
pub(crate) const IMAGES: &str = "io.containerd.cri.v1.images";
const RUNTIME: &str = "io.containerd.cri.v1.runtime";
pub(crate) const EROFS: &str = "io.containerd.snapshotter.v1.erofs";
pub(crate) const TRANSFER: &str = "io.containerd.transfer.v1.local";

/// The maximum number of imported files.
const MAX_FILES: usize = 64;

/// A part of the configuration, whatever its name is in a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// `config_path`, `mirrors`, `configs`.
    Registry,
    /// `snapshotter` of images.
    Images,
    /// The runtime handlers by name.
    Runtimes,
    /// The erofs snapshotter.
    Erofs,
    /// The transfer service.
    Transfer,
    /// Proxy plugins, which are other processes, by name.
    Proxies,
}

/// The configuration: the main file and its imports, in the order in which containerd reads them.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) files: Vec<File>,
    engine: Option<Release>,
}

/// One of containerd's files.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// Its text before; `None` if the file does not exist.
    pub(crate) before: Option<String>,
    pub(crate) document: Document,
}

/// A place that can't be changed safely, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{}:{lines}: {message}", path.display())]
pub(crate) struct Refusal {
    path: PathBuf,
    lines: String,
    message: String,
}

impl Refusal {
    pub(crate) fn of(path: &Path, wrong: Wrong) -> Self {
        Self { path: path.to_owned(), lines: wrong.line.to_string(), message: wrong.message }
    }
}

/// The setting that is in force, and where it stands.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) file: &'a File,
    pub(crate) node: &'a Node,
}

impl Found<'_> {
    /// `FILE:LINE`.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.file.path.display(), self.file.document.line(self.node.at.start))
    }
}

impl Config {
    /// Reads the main file and its imports.
    pub(crate) fn load(tree: &Tree, main: &Path, engine: Option<Release>) -> anyhow::Result<Self> {
        let mut pending = vec![main.to_owned()];
        let (mut read, mut seen) = (Vec::new(), BTreeSet::new());
        while !pending.is_empty() {
            let path = pending.remove(0);
            if !seen.insert(path.clone()) {
                continue;
            }
            let text = tree.read(&path).with_context(|| format!("can't read {}", path.display()))?;
            let document =
                Document::parse(text.as_deref().unwrap_or_default()).map_err(|wrong| Refusal::of(&path, wrong))?;
            for import in document.get(&["imports"]).map(Node::items).unwrap_or_default() {
                let Some(text) = import.text() else { continue };
                // A file that is not read may have settings that are in force.
                let refused = |message: String| Refusal {
                    path: path.clone(),
                    lines: document.line(import.at.start).to_string(),
                    message,
                };
                if !is_plain(text) {
                    let message = format!(
                        "imports: {text}: `*` and `?` are supported only in the last component of a path, `[` and `\\` nowhere: \
                         name each directory by itself"
                    );
                    return Err(refused(message).into());
                }
                // A relative path begins at the directory of the file that contains it.
                pending.extend(glob(tree, &path.parent().unwrap_or(Path::new("/")).join(text))?);
                if seen.iter().chain(&pending).collect::<BTreeSet<_>>().len() > MAX_FILES {
                    return Err(refused(format!("imports: more than {MAX_FILES} files")).into());
                }
            }
            read.push((path, text));
        }
        Self::new(read, engine)
    }

    /// The configuration of these files.
    pub(crate) fn new(files: Vec<(PathBuf, Option<String>)>, engine: Option<Release>) -> anyhow::Result<Self> {
        let file = |(path, before): (PathBuf, Option<String>)| -> Result<File, Refusal> {
            let text = match &before {
                Some(text) if !is_blank(Some(text)) => text.clone(),
                _ => format!("version = {}\n", newest_version(engine)),
            };
            let document = Document::parse(&text).map_err(|wrong| Refusal::of(&path, wrong))?;
            if let Some(node) = document.get(&["version"])
                && let Value::Number(version) = node.value
                && let Some(why) = unknown(version, engine)
            {
                let lines = document.line(node.at.start).to_string();
                return Err(Refusal { path, lines, message: format!("version = {version}: {why}") });
            }
            Ok(File { path, before, document })
        };
        let files = files.into_iter().map(file).collect::<Result<Vec<_>, _>>()?;
        anyhow::ensure!(!files.is_empty(), "a configuration has a file");
        Ok(Self { files, engine })
    }

    pub(crate) fn engine(&self) -> Option<Release> {
        self.engine
    }

    /// The configuration version of a file.
    pub(crate) fn version(&self, file: usize) -> i64 {
        let own = |file: &File| match file.document.get(&["version"]).map(|node| &node.value) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        };
        // containerd 1 has one version for all files; containerd 2 assumes version 1 for a file without one.
        let shared = self.engine.is_none_or(|(major, _)| major < 2).then(|| own(&self.files[0])).flatten();
        own(&self.files[file]).or(shared).unwrap_or(1)
    }

    /// The quotation mark that containerd itself uses in this version.
    pub(crate) fn quote(&self, file: usize) -> char {
        if self.version(file) >= 3 { '\'' } else { '"' }
    }

    /// The names of a part's table in a file; the first has precedence.
    fn names(&self, part: Part, file: usize) -> Vec<Vec<&'static str>> {
        let version = self.version(file);
        let mut plugins = match part {
            Part::Proxies => return vec![vec!["proxy_plugins"]],
            Part::Erofs => return vec![vec!["plugins", EROFS]],
            Part::Transfer => return vec![vec!["plugins", TRANSFER]],
            _ if version < 2 => vec!["cri", CRI],
            _ if version == 2 => vec![CRI],
            // A newer containerd converts a version 3 file, and takes this table along.
            _ if version == 3 && self.engine.is_some_and(|engine| engine >= (2, 3)) => vec![CRI],
            _ => Vec::new(),
        };
        let newer = if part == Part::Runtimes { RUNTIME } else { IMAGES };
        if version >= 3 || self.engine.is_none_or(|(major, _)| major >= 2) {
            plugins.push(newer);
        }
        let below = |plugin: &&'static str| match part {
            Part::Registry => vec!["plugins", *plugin, "registry"],
            Part::Images if *plugin == IMAGES => vec!["plugins", *plugin],
            Part::Images => vec!["plugins", *plugin, "containerd"],
            _ => vec!["plugins", *plugin, "containerd", "runtimes"],
        };
        plugins.iter().map(below).collect()
    }

    /// The files whose settings of a part are in force.
    fn files_of(&self, part: Part) -> Vec<usize> {
        let has = |file: &usize| {
            let document = &self.files[*file].document;
            self.names(part, *file).iter().any(|name| document.get(name.get(..2).unwrap_or(name)).is_some())
        };
        let files: Vec<_> = (0..self.files.len()).filter(has).collect();
        let only_last = self.engine.is_some_and(|(major, _)| major < 2);
        if only_last { files.last().copied().into_iter().collect() } else { files }
    }

    /// All tables of a part; the last has precedence.
    pub(crate) fn tables(&self, part: Part) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        for file in self.files_of(part) {
            let document = &self.files[file].document;
            let nodes = self.names(part, file).into_iter().rev().filter_map(|name| document.get(&name));
            found.extend(nodes.map(|node| Found { file: &self.files[file], node }));
        }
        found
    }

    /// The setting of a part that is in force.
    pub(crate) fn setting(&self, part: Part, key: &str) -> Option<Found<'_>> {
        self.tables(part)
            .into_iter()
            .rev()
            .find_map(|table| Some(Found { node: table.node.get(key)?, file: table.file }))
    }

    /// A part's table in the parsed form of a file.
    pub(crate) fn meaning<'a>(&self, part: Part, file: usize, table: &'a toml::Table) -> Option<&'a toml::Table> {
        self.names(part, file)
            .iter()
            .find_map(|name| name.iter().try_fold(table, |table, key| table.get(*key).and_then(toml::Value::as_table)))
    }

    /// Where to write a part's settings: the file's index, and the name of the table.
    pub(crate) fn target(&self, part: Part) -> (usize, Vec<&'static str>) {
        let file = self.files_of(part).last().copied().unwrap_or(0);
        let names = self.names(part, file);
        let document = &self.files[file].document;
        let there = names.iter().find(|name| document.get(name).is_some()).cloned();
        let own = match self.version(file) {
            ..3 => names.first(),
            _ => names.last(),
        };
        (file, there.or_else(|| own.cloned()).unwrap_or_default())
    }

    /// Replaces a file's text, if the new text has the meaning of the old one after `change`.
    pub(crate) fn replace(
        &mut self,
        file: usize,
        text: &str,
        change: impl FnOnce(&mut toml::Table),
    ) -> Result<(), Refusal> {
        let file = &mut self.files[file];
        file.document = checked(&file.document, text, change).map_err(|wrong| Refusal::of(&file.path, wrong))?;
        Ok(())
    }

    /// Sets a key of a part to a string.
    pub(crate) fn set(&mut self, part: Part, below: &[&str], key: &str, value: &str) -> Result<(), Refusal> {
        self.set_value(part, below, key, value.into())
    }

    /// Sets a key of a part.
    pub(crate) fn set_value(
        &mut self,
        part: Part,
        below: &[&str],
        key: &str,
        value: toml::Value,
    ) -> Result<(), Refusal> {
        let (file, mut table) = self.target(part);
        table.retain(|name| !name.is_empty());
        let table: Vec<_> = table.into_iter().chain(below.iter().copied()).collect();
        self.check_tables(file, &table)?;
        let text = self.files[file].document.with_key(&table, key, &value.to_string(), self.quote(file));
        let path: Vec<_> = table.iter().copied().chain([key]).collect();
        self.replace(file, &text, |wanted| set(wanted, &path, value))
    }

    /// Refuses a file in which something on the path to a table is not a table.
    pub(crate) fn check_tables(&self, file: usize, table: &[&str]) -> Result<(), Refusal> {
        let file = &self.files[file];
        for length in 1..=table.len() {
            let Some(node) = file.document.get(&table[..length]) else { return Ok(()) };
            if !matches!(node.value, Value::Table(_)) {
                let message = format!("{} has to be a table, but is not one here", header(&table[..length], '\''));
                return Err(Refusal::at(&Found { file, node }, message));
            }
        }
        Ok(())
    }

    /// The first plugin among `names` that a file disables.
    pub(crate) fn disabled(&self, names: &[&str]) -> Option<Found<'_>> {
        self.files.iter().find_map(|file| {
            let listed = file.document.get(&["disabled_plugins"])?.items();
            let node = listed.iter().find(|item| item.text().is_some_and(|name| names.contains(&name)))?;
            Some(Found { file, node })
        })
    }

    /// The directories in which CRI looks for registries' directories, in order; empty if it does not look.
    pub(crate) fn certs(&self) -> Vec<PathBuf> {
        let given = self.setting(Part::Registry, "config_path");
        match given.and_then(|found| found.node.text()).filter(|path| !path.is_empty()) {
            Some(paths) => paths.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect(),
            None if self.has_default_certs() => vec![CERTS.into(), DOCKER_CERTS.into()],
            None => Vec::new(),
        }
    }

    fn has_default_certs(&self) -> bool {
        self.engine.is_some_and(|engine| engine >= (2, 3)) || self.version(0) >= 4
    }

    /// Refuses old-style settings: while they exist, CRI refuses `config_path`.
    pub(crate) fn old_style(&self) -> Option<Refusal> {
        for table in self.tables(Part::Registry) {
            let entries = |key: &str| table.node.get(key).map(Node::entries).unwrap_or_default();
            let is_tls = |node: &Node| node.get("tls").is_some_and(|tls| !tls.entries().is_empty());
            let mirrors = entries("mirrors");
            let tls: Vec<_> = entries("configs").into_iter().filter(|(_, node)| is_tls(node)).collect();
            let (what, found) = match (mirrors.is_empty(), self.engine) {
                (false, _) => ("registry.mirrors", mirrors),
                // containerd 2 ignores them.
                (true, Some((2.., _))) => continue,
                (true, _) if tls.is_empty() => continue,
                (true, _) => ("registry.configs with tls", tls),
            };
            let lines: BTreeSet<_> = found.iter().map(|(_, node)| table.file.document.line(node.at.start)).collect();
            let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
            let names: Vec<_> = found.iter().map(|(name, _)| *name).collect();
            return Some(Refusal {
                path: table.file.path.clone(),
                lines: lines.join(","),
                message: format!(
                    "old-style {what} ({}): containerd's CRI does not start if config_path is set, too. Write these settings as {CERTS}/NAME/hosts.toml and take \
                     these lines out, then run this again",
                    names.join(", ")
                ),
            });
        }
        None
    }

    /// True if CRI supports a `config_path` of several directories. From 2.1 on it passes the value to the transfer service, which takes it for
    /// the name of one directory (observed with 2.4.2, whose default has two): then hosts.toml is silently ignored.
    pub(crate) fn reads_several(&self) -> bool {
        let by_itself = self.setting(Part::Images, "use_local_image_pull").is_some_and(|found| found.node.is_true());
        let before = self.engine.map_or_else(|| self.version(0) < 3, |engine| engine < (2, 1));
        by_itself || before
    }

    /// Makes CRI look for registries' directories, if it does not. Returns these directories, including those that CRI no longer looks at.
    pub(crate) fn ensure_certs(&mut self) -> Result<Vec<PathBuf>, Refusal> {
        if let Some(refusal) = self.old_style() {
            return Err(refusal);
        }
        let certs = self.certs();
        let given = self.setting(Part::Registry, "config_path").and_then(|found| found.node.text());
        let is_given = given.is_some_and(|path| !path.is_empty());
        if is_given && (certs.len() == 1 || self.reads_several()) {
            return Ok(certs);
        }
        let first = certs.first().map_or(CERTS.into(), |first| first.to_string_lossy().into_owned());
        self.set(Part::Registry, &[], "config_path", &first)?;
        Ok(if certs.is_empty() { self.certs() } else { certs })
    }
}

impl Refusal {
    /// A refusal because of a setting.
    pub(crate) fn at(found: &Found<'_>, message: String) -> Self {
        let line = found.file.document.line(found.node.at.start);
        Self { path: found.file.path.clone(), lines: line.to_string(), message }
    }
}

/// True if a file is empty or does not exist.
pub(crate) fn is_blank(text: Option<&str>) -> bool {
    text.is_none_or(|text| text.trim().is_empty())
}

/// The newest version that a release reads. All releases read version 2.
fn newest_version(engine: Option<Release>) -> u32 {
    match engine {
        Some((2, 3..) | (3.., _)) => 4,
        Some((2, _)) => 3,
        _ => 2,
    }
}

/// Why this module can't write into a file of this version.
fn unknown(version: i64, engine: Option<Release>) -> Option<String> {
    if version > NEWEST_VERSION {
        return Some(format!(
            "this release of Darter knows configurations up to version {NEWEST_VERSION}, and does not know where other versions have their settings"
        ));
    }
    // Releases before 2 accept such a file, and silently ignore what they do not know in it.
    let (major, minor) = engine?;
    let newest = newest_version(engine);
    (version > i64::from(newest)).then(|| {
        format!(
            "containerd {major}.{minor} reads configurations up to version {newest}, and ignores the settings of later ones: write this file as version {newest}"
        )
    })
}

/// True if [`glob`] finds everything that containerd finds.
fn is_plain(import: &str) -> bool {
    let directory = import.trim_end_matches('/').rsplit_once('/').map_or("", |(directory, _)| directory);
    !directory.contains(['*', '?']) && !import.contains(['[', '\\'])
}

/// The files that an import names; only its last component may contain `*` and `?`.
fn glob(tree: &Tree, import: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = import.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !name.contains(['*', '?']) {
        return Ok(vec![import.to_owned()]);
    }
    let directory = import.parent().unwrap_or(Path::new("/"));
    let listed = tree.list(directory).with_context(|| format!("can't read the directory {}", directory.display()))?;
    let fits = listed.into_iter().filter(|(file, is_directory)| !is_directory && matches(&name, file));
    Ok(fits.map(|(file, _)| directory.join(file)).collect())
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match (rest.next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let after = rest.as_str();
            name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| matches(after, &name[at..]))
        }
        (Some('?'), Some(letter)) => matches(rest.as_str(), &name[letter.len_utf8()..]),
        (Some(wanted), Some(letter)) if wanted == letter => matches(rest.as_str(), &name[letter.len_utf8()..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_matched_as_shells_do() {
        for (pattern, name, fits) in [
            ("*.toml", "a.toml", true),
            ("*.toml", "a.toml.bak", false),
            ("?-x*", "1-xy", true),
            ("a*c*", "abd", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
