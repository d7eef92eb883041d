//! The list of mounts and their status. `DATA_DIR/mounts` has two files for each keeper: `PID.json`, its [`MountStatus`] when it mounted, and the socket `PID.sock`, on which
//! it answers each connection with its current [`MountStatus`] as JSON.
//!
//! A keeper holds a lock on the first file until its process ends, since its process id may later be another process's.
//! A killed keeper leaves both files, and a mount point whose files can't be read: the mount is listed as lost until it is unmounted.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use darter_api::{MountState, MountStatus};
use darter_mount::mountinfo::{self, Mounted};
use darter_store::threads;
use rustix::fs::{FlockOperation, flock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::cli::{MountArgs, PlaceArgs};
use crate::get::rooms;
use crate::table::{Align, Table};
use crate::{output, units};

/// How long a keeper may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The directory with the files.
pub(super) fn directory(place: &PlaceArgs) -> anyhow::Result<PathBuf> {
    Ok(rooms::parent(place.data_dir()?, false).join("mounts"))
}

/// A keeper's files in the register; dropping it removes them.
pub(super) struct Registration {
    json: PathBuf,
    socket: PathBuf,
    listener: UnixListener,
    /// `PID.json`, locked.
    lock: Option<File>,
}

impl Registration {
    /// Registers a mount.
    fn make(dir: &Path, status: &MountStatus) -> anyhow::Result<Self> {
        let shown = || format!("can't note the mount in {}; give another --data-dir", dir.display());
        rooms::make(dir).with_context(shown)?;
        let json = note_of(dir, status.pid);
        let socket = json.with_extension("sock");
        forget_dead(dir, &status.dir);
        // Files of a former process with the same id.
        for left in [&json, &socket] {
            match std::fs::remove_file(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(shown),
                _ => {}
            }
        }
        let listener = UnixListener::bind(&socket).with_context(shown)?;
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&json).with_context(shown)?;
        // Before the status is in it: a file without one is not listed, so whoever reads a status finds it locked.
        flock(&file, FlockOperation::LockExclusive).map_err(io::Error::from).with_context(shown)?;
        file.write_all(&serde_json::to_vec(status)?).with_context(shown)?;
        Ok(Self { json, socket, listener, lock: Some(file) })
    }

    /// Registers a mount, and then tells the command that asked for it that it exists.
    pub(super) fn announce(
        place: &PlaceArgs,
        status: &MountStatus,
        told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let entry = Self::make(&directory(place)?, status)?;
        told(status)?;
        Ok(entry)
    }

    /// Answers connections with the status, until dropped.
    pub(super) async fn serve(&self, status: impl AsyncFn() -> MountStatus) -> Infallible {
        loop {
            match self.listener.accept().await {
                Ok((mut stream, _)) => {
                    let told = serde_json::to_vec(&status().await).unwrap_or_default();
                    // A client that has disconnected needs no answer.
                    let _ = tokio::time::timeout(ANSWER_TIMEOUT, stream.write_all(&told)).await;
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        for file in [&self.json, &self.socket] {
            let _ = std::fs::remove_file(file);
        }
        // `darter unmount` waits for this process, which still has to clean up: the lock is kept until the process ends.
        let _ = self.lock.take().map(IntoRawFd::into_raw_fd);
    }
}

/// The path of `PID.json` of a keeper.
pub(super) fn note_of(dir: &Path, keeper: u32) -> PathBuf {
    dir.join(format!("{keeper}.json"))
}

/// True if the keeper that registered a mount in this file still runs.
pub(super) fn is_kept(note: &File) -> bool {
    let locked = flock(note, FlockOperation::NonBlockingLockShared);
    let _ = flock(note, FlockOperation::Unlock);
    locked == Err(rustix::io::Errno::WOULDBLOCK)
}

/// All registered mounts.
pub(super) async fn all(dir: &Path) -> Vec<MountStatus> {
    let (dir, mut mounts) = (dir.to_owned(), Vec::new());
    for (json, noted) in threads::run(move || noted(&dir)).await {
        match asked(&json.with_extension("sock")).await {
            Some(status) => mounts.push(status),
            None => {
                let lost = threads::run(move || lost(&json, noted)).await;
                mounts.extend(lost);
            }
        }
    }
    mounts.sort_by(|one, other| one.dir.cmp(&other.dir));
    mounts
}

fn noted(dir: &Path) -> Vec<(PathBuf, MountStatus)> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let json = files.filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    json.filter_map(|path| Some((serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?, path)))
        .map(|(status, path)| (path, status))
        .collect()
}

/// Removes the files of killed keepers that had a mount where there is a new one: it would be listed as lost.
fn forget_dead(register: &Path, mounted_at: &Path) {
    for (json, _) in noted(register).into_iter().filter(|(_, noted)| noted.dir == mounted_at) {
        if File::open(&json).is_ok_and(|note| !is_kept(&note)) {
            forget(&json);
        }
    }
}

fn forget(json: &Path) {
    for left in [json, &json.with_extension("sock")] {
        let _ = std::fs::remove_file(left);
    }
}

async fn asked(socket: &Path) -> Option<MountStatus> {
    let answer = async {
        let mut stream = UnixStream::connect(socket).await.ok()?;
        let mut told = Vec::new();
        stream.read_to_end(&mut told).await.ok()?;
        serde_json::from_slice(&told).ok()
    };
    tokio::time::timeout(ANSWER_TIMEOUT, answer).await.ok()?
}

/// The status of a mount whose keeper does not answer. If nothing is mounted there, removes the keeper's files and returns `None`.
fn lost(json: &Path, noted: MountStatus) -> Option<MountStatus> {
    let lives = File::open(json).is_ok_and(|note| is_kept(&note));
    if is_mount_point(&noted.dir) {
        let (state, reason) = if lives {
            (MountState::Waiting, format!("process {} keeps it and does not answer", noted.pid))
        } else {
            (
                MountState::Lost,
                format!("the process that kept it has ended: run darter unmount {}", noted.dir.display()),
            )
        };
        return Some(MountStatus { state, reason: Some(reason), ..noted });
    }
    if !lives {
        forget(json);
    }
    None
}

/// True if something is mounted at `dir`.
pub(crate) fn is_mount_point(dir: &Path) -> bool {
    mounts().iter().any(|mount| mount.dir == dir)
}

/// True if a mount of Darter's is at `dir`.
pub(crate) fn is_ours(dir: &Path) -> bool {
    // Of several mounts at the same directory, the last one is visible.
    mounts().iter().rev().find(|mount| mount.dir == dir).is_some_and(|mount| mount.source == "darter")
}

fn mounts() -> Vec<Mounted> {
    mountinfo::parsed(&std::fs::read_to_string(mountinfo::PATH).unwrap_or_default())
}

/// `darter mount --list`.
pub(super) async fn list(args: &MountArgs) -> anyhow::Result<()> {
    let mounts = all(&directory(&args.place)?).await;
    if args.json { output::json(&mounts) } else { output::text(&table(&mounts)) }
}

/// The path of the single mounted file, or of the directory.
pub(super) fn path_of(mount: &MountStatus) -> PathBuf {
    if mount.file.is_empty() { mount.dir.clone() } else { mount.dir.join(&mount.file) }
}

fn table(mounts: &[MountStatus]) -> String {
    let mut table = Table::new([
        ("FILE", Align::Left),
        ("KIND", Align::Left),
        ("SIZE", Align::Right),
        ("HERE", Align::Right),
        ("STATE", Align::Left),
        ("SINCE", Align::Left),
        ("URL", Align::Left),
    ]);
    let mut reasons = String::new();
    for mount in mounts {
        let here = if mount.whole {
            "all".to_owned()
        } else {
            format!("{} %", units::percent(mount.held_bytes, mount.length_bytes))
        };
        let file = path_of(mount).display().to_string();
        if let Some(reason) = &mount.reason {
            reasons.push_str(&format!("{file}: {reason}\n"));
        }
        table.row([
            file,
            mount.kind.name().to_owned(),
            units::size(mount.length_bytes),
            here,
            mount.state.name().to_owned(),
            units::moment(mount.since_unix_seconds),
            mount.url.clone(),
        ]);
    }
    table.render() + &reasons
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use darter_api::MountKind;
    use darter_core::BlobId;

    use super::*;

    #[tokio::test]
    async fn a_keeper_is_known_by_its_lock_and_not_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        // The process with this id is running.
        let status = MountStatus {
            dir: dir.path().join("m"),
            file: "x".to_owned(),
            url: "http://127.0.0.1:1/x".to_owned(),
            image: None,
            kind: MountKind::File,
            files: Some(1),
            blob: BlobId([1; 32]),
            length_bytes: 5,
            held_bytes: 0,
            whole: false,
            alone: false,
            state: MountState::Open,
            reason: None,
            waiting_reads: 0,
            fill: "never".to_owned(),
            timeout_seconds: Duration::from_secs(60).as_secs_f64(),
            since_unix_seconds: 0,
            pid: std::process::id(),
            daemon: None,
        };
        let note = note_of(dir.path(), status.pid);
        std::fs::write(&note, serde_json::to_vec(&status).unwrap()).unwrap();
        assert!(!is_kept(&File::open(&note).unwrap()));
        assert!(all(dir.path()).await.is_empty() && !note.exists(), "what nobody keeps is cleared away");

        // Left by a keeper that was killed; its mount was taken away, and here is the next one.
        let former = note_of(dir.path(), u32::MAX);
        std::fs::write(&former, serde_json::to_vec(&status).unwrap()).unwrap();
        let elsewhere = note_of(dir.path(), u32::MAX - 1);
        let other = MountStatus { dir: dir.path().join("other"), ..status.clone() };
        std::fs::write(&elsewhere, serde_json::to_vec(&other).unwrap()).unwrap();
        let entry = Registration::make(dir.path(), &status).unwrap();
        assert!(!former.exists() && elsewhere.exists(), "it would tell of the new mount as of a lost one");
        let opened = File::open(&note).unwrap();
        assert!(is_kept(&opened) && lost(&note, status).is_none() && note.exists());
        drop(entry);
        assert!(!note.exists() && is_kept(&opened), "it has to tidy up yet");
    }
}
