//! `darter setup containerd`: lets the local containerd pull through Darter, and mount layers before they are downloaded.
//!
//! All files are read first, then all changes are decided together, without I/O; then the changes are shown (`--dry-run`) or
//! written, one file after the other, each in one step. If anything can't be changed safely, nothing is changed.
//!
//! | file | what lives there |
//! |---|---|
//! | `setup/document.rs` | edits TOML and keeps its form |
//! | `setup/hosts.rs` | one hosts.toml |
//! | `setup/registries.rs` | which hosts.toml files are written |
//! | `setup/containerd.rs` | config.toml and its versions |
//! | `setup/lazy.rs` | the settings for lazy start, for containerd 2.4 and later |
//! | `setup/proxy.rs` | the same for earlier versions: the proxy snapshotter |
//! | `setup/tree.rs` | files below a root directory, replaced in one step |
//! | `setup/ledger.rs` | the files as they were before, for `--undo` |
//! | `setup/lock.rs` | lets one run change files at a time |
//! | `setup/difference.rs` | unified diffs |
//!
//! Non-goals: it restarts nothing, and supports no other engine yet.

pub(crate) mod containerd;
mod difference;
pub(crate) mod document;
pub(crate) mod hosts;
pub(crate) mod lazy;
mod ledger;
mod lock;
pub(crate) mod proxy;
pub(crate) mod registries;
pub(crate) mod tree;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use self::containerd::{Config, Release, installed};
use self::hosts::{Server, mirror_address};
use self::ledger::{Ledger, Undo};
use self::lock::Lock;
use self::registries::{MirrorSetup, RegistryFiles};
use self::tree::{Access, Tree};
use crate::cli::SetupArgs;
use crate::cli::upstream::Upstream;
use crate::cli::values;
use crate::output;

/// A file, and the change to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    /// Its current text; `None` if it does not exist.
    pub(crate) before: Option<String>,
    /// Its new text; `None` if it is to be removed.
    pub(crate) after: Option<String>,
}

impl Change {
    fn new(path: PathBuf, before: Option<String>, after: String) -> Self {
        Self { path, before, after: Some(after) }
    }

    fn is_none(&self) -> bool {
        self.before == self.after
    }

    fn what(&self) -> &'static str {
        match (&self.before, &self.after) {
            _ if self.is_none() => "unchanged",
            (None, _) => "created",
            (_, None) => "removed",
            _ => "changed",
        }
    }
}

/// All changes to be made.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    /// True if containerd's own configuration changes: containerd reads it only when it starts.
    pub(crate) restart: bool,
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SetupReport {
    files: Vec<ToldFile>,
    dry_run: bool,
    restart: bool,
    run: Option<&'static str>,
    notes: Vec<String>,
    left: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct ToldFile {
    path: PathBuf,
    change: &'static str,
}

/// `darter setup`.
pub(crate) async fn run(args: &SetupArgs) -> anyhow::Result<()> {
    tokio::task::block_in_place(|| if args.undo { undo(args) } else { set_up(args) })
}

fn set_up(args: &SetupArgs) -> anyhow::Result<()> {
    let tree = Tree::new(args.root.clone());
    let book = Path::new(LEDGER);
    let lock = if args.dry_run { None } else { Some(Lock::take(&tree, book)?) };
    let engine = args.containerd_version.or_else(|| tree.is_host().then(installed).flatten());
    let plan = plan(args, &tree, engine)?;
    let changes: Vec<_> = plan.changes.iter().filter(|change| !change.is_none()).collect();
    // All differences are made before the first file is written, and even if none will be written: one that can't be made is an error.
    for change in &changes {
        tree.place(&change.path).with_context(|| cant_write(&tree, &change.path))?;
    }
    if let Some(lock) = &lock {
        write(&tree, book, &changes, lock)?;
    }
    tell(args, &plan, Vec::new())
}

/// Writes the ledger, then the files.
fn write(tree: &Tree, book: &Path, changes: &[&Change], lock: &Lock) -> anyhow::Result<()> {
    let earlier = Ledger::read(tree, book)?;
    if changes.is_empty() {
        return Ok(());
    }
    let mut ledger = earlier.clone();
    for change in changes {
        let (path, before) = (&change.path, change.before.as_deref());
        tree.check(path, before).with_context(|| cant_write(tree, path))?;
        let new = change.after.as_deref().unwrap_or_default();
        ledger.note(path, before, (tree.modified(path), tree.access(path)), new);
        ledger.note_directories(tree.lacking(path));
    }
    ledger.note_directories(lock.made().iter().cloned());
    ledger.write(tree, book).with_context(|| cant_write(tree, book))?;
    for (place, change) in changes.iter().enumerate() {
        let (path, new) = (&change.path, change.after.as_deref().unwrap_or_default());
        let written = tree.write(path, change.before.as_deref(), new, Access::PUBLIC, None);
        if written.is_err() {
            // If another program edited the file meanwhile, the ledger must not take that edit for ours.
            let is_lacking = |change: &&&Change| !matches!(tree.read(&change.path), Ok(now) if now == change.after);
            changes[place..].iter().filter(is_lacking).for_each(|change| ledger.forget(&change.path, &earlier));
            let noted = ledger.write(tree, book).with_context(|| cant_write(tree, book));
            return written.with_context(|| cant_write(tree, path)).and(noted);
        }
    }
    Ok(())
}

/// Decides what to write.
fn plan(args: &SetupArgs, tree: &Tree, engine: Option<Release>) -> anyhow::Result<Plan> {
    let mut config = Config::load(tree, &args.containerd_config, engine)?;
    let mut notes = Vec::new();
    let roots = config.ensure_certs()?;
    if args.lazy {
        let handler = args.runtime_handler.as_deref();
        let by_directory = has_directory(engine)?;
        notes.extend(if by_directory {
            lazy::write(&mut config, &args.layers, handler)?
        } else {
            let place = proxy::SnapshotterPaths { address: &args.snapshotter_address, root: &args.snapshotter_root };
            proxy::write(&mut config, place, handler)?
        });
        if tree.is_host() {
            notes.extend(crate::doctor::lacking_for_lazy(by_directory));
        }
    }
    if let Some(found) = config.disabled(&["cri", "io.containerd.grpc.v1.cri", containerd::IMAGES]) {
        notes.push(format!(
            "{}: containerd's CRI is disabled here. nerdctl reads hosts.toml all the same, ctr with --hosts-dir {}; \
             Docker has mirrors of its own (README)",
            found.place(),
            roots.first().map_or(containerd::CERTS.into(), |root| root.display().to_string())
        ));
    }
    let wanted = MirrorSetup {
        mirror: mirror_address(args.local),
        registries: args.registry.clone(),
        named: args.upstream.upstream.iter().flat_map(|list| &list.0).filter_map(server_of).collect(),
    };
    let registry_files = RegistryFiles::read(tree, &roots)?;
    let (mut changes, more) = registries::plan(&registry_files, &wanted)?;
    notes.extend(more);
    let files = config.files.into_iter().map(|file| {
        let text = file.document.text();
        // A file that does not exist, and would contain only a version, is not created.
        let after = if containerd::is_blank(file.before.as_deref()) && is_bare(text) {
            file.before.clone()
        } else {
            Some(text.to_owned())
        };
        Change { path: file.path, before: file.before, after }
    });
    let files: Vec<_> = files.filter(|change| !(change.before.is_none() && change.after.is_none())).collect();
    let restart = files.iter().any(|change| !change.is_none());
    // hosts.toml files first: config_path then finds them.
    changes.extend(files);
    Ok(Plan { changes, restart, notes })
}

/// True if a text contains only a version.
fn is_bare(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|table| table.keys().all(|key| key == "version"))
}

/// True if this containerd itself can mount layers from a directory; earlier ones need a proxy snapshotter.
fn has_directory(engine: Option<Release>) -> anyhow::Result<bool> {
    engine.map(|engine| engine >= lazy::FIRST).context(
        "lazy start needs other settings from containerd 2.4 on, and `containerd --version` gives no version here: name it with --containerd-version",
    )
}

/// The settings in hosts.toml for an upstream of Darter: those that containerd can use itself when the mirror does not answer.
fn server_of(upstream: &Upstream) -> Option<(String, Server)> {
    let option = &upstream.option;
    // The name becomes the name of a directory.
    let name = values::setup_registry(&option.name).ok()?;
    let is_plain = option.proxy.is_none()
        && option.headers.is_empty()
        && upstream.header_files.is_empty()
        && option.prefix.is_none()
        && option.rewrite.is_empty()
        && upstream.login.is_none()
        && upstream.login_file.is_none();
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let own = format!("https://{}", option.name);
    let url = option.urls.first().map(|url| url.as_str().trim_end_matches('/').to_owned());
    let server = Server {
        url: url.filter(|url| is_plain && *url != own),
        ca: option.ca.iter().map(text).collect(),
        client: option.client_cert.iter().map(|cert| (text(cert), option.client_key.as_ref().map(text))).collect(),
        skip_verify: option.skip_verify,
    };
    Some((name, server))
}

fn undo(args: &SetupArgs) -> anyhow::Result<()> {
    let tree = Tree::new(args.root.clone());
    let book = Path::new(LEDGER);
    // If the ledger's directory does not exist, there is nothing to undo.
    let is_written = !args.dry_run && tree.lacking(book).is_empty();
    let _lock = if is_written { Some(Lock::take(&tree, book)?) } else { None };
    let mut ledger = Ledger::read(&tree, book)?;
    let (mut changes, mut left) = (Vec::new(), Vec::new());
    for entry in &ledger.files {
        let now = tree.read(&entry.path).with_context(|| format!("can't read {}", entry.path.display()))?;
        match entry.undo(now.as_deref()) {
            Undo::Edited if !args.force => left.push(entry.path.clone()),
            _ => changes.push((
                Change { path: entry.path.clone(), before: now, after: entry.before.clone() },
                (entry.access(), entry.modified()),
            )),
        }
    }
    if !args.dry_run {
        for (change, (access, modified)) in &changes {
            let before = change.before.as_deref();
            let done = match &change.after {
                _ if change.is_none() => Ok(()),
                Some(text) => tree.write(&change.path, before, text, *access, *modified),
                None => tree.check(&change.path, before).and_then(|()| tree.remove(&change.path)),
            };
            done.with_context(|| cant_write(&tree, &change.path))?;
        }
        if left.is_empty() {
            tree.remove(book).with_context(|| cant_write(&tree, book))?;
            ledger.directories.iter().rev().for_each(|directory| tree.remove_if_empty(directory));
        } else {
            ledger.files.retain(|entry| left.contains(&entry.path));
            ledger.write(&tree, book).with_context(|| cant_write(&tree, book))?;
        }
    }
    let restart = changes.iter().any(|(change, _)| !change.is_none() && !change.path.ends_with("hosts.toml"));
    let mut notes = Vec::new();
    if changes.is_empty() && left.is_empty() {
        notes.push(format!("there is nothing to undo: {} does not exist", book.display()));
    }
    let changes = changes.into_iter().map(|(change, _)| change).collect();
    let told = tell(args, &Plan { changes, restart, notes }, left.clone());
    if !left.is_empty() {
        let files = left.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        anyhow::bail!(
            "changed since then, and left alone: {files}; remove the mirror by hand, or use --undo --force to restore what was \
             there before the first run"
        );
    }
    told
}

/// The ledger: the text of each file before this command changed it. It is not in the data directory, since that belongs to the daemon's user, who has few
/// rights, and root writes the ledger's contents into system files on `--undo`.
const LEDGER: &str = "/var/lib/darter-setup/containerd.json";

fn cant_write(tree: &Tree, path: &Path) -> String {
    let place = tree.resolve(path).unwrap_or_else(|_| path.to_owned());
    let link =
        if tree.is_host() && place != path { format!(" (a link to {})", place.display()) } else { String::new() };
    let hint = if tree.is_others(path) { ", run this as root" } else { "" };
    format!("can't write {}{link}{hint}", path.display())
}

/// Reports what was done, or, with `--dry-run`, what would be.
fn tell(args: &SetupArgs, plan: &Plan, left: Vec<PathBuf>) -> anyhow::Result<()> {
    let run = plan.restart.then_some("systemctl restart containerd");
    if args.json {
        let files = plan.changes.iter().map(|change| ToldFile { path: change.path.clone(), change: change.what() });
        let told = SetupReport {
            files: files.collect(),
            dry_run: args.dry_run,
            restart: plan.restart,
            run,
            notes: plan.notes.clone(),
            left,
        };
        return output::json(&told);
    }
    let changes: Vec<_> = plan.changes.iter().filter(|change| !change.is_none()).collect();
    for change in &changes {
        if args.dry_run {
            let path = change.path.to_string_lossy();
            output::text(&difference::unified(&path, change.before.as_deref(), change.after.as_deref()))?;
        } else {
            output::complain(&format!("{} {}", change.what(), change.path.display()));
        }
    }
    for note in &plan.notes {
        output::complain(&format!("note: {note}"));
    }
    let would = if args.dry_run { "would be" } else { "is" };
    output::complain(&match (changes.is_empty(), plan.restart) {
        (true, _) => "nothing is to be changed".to_owned(),
        (false, true) => format!(
            "a restart of containerd {would} needed, which reads its configuration only then: systemctl restart containerd \
             (running containers stay)"
        ),
        (false, false) => "no restart is needed: containerd reads hosts.toml at each pull".to_owned(),
    });
    Ok(())
}
