//! Ends a mount: root by the kernel, users by `fusermount3`. A mount that programs use stays, and the programs are named.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use darter_api::MountState;
use darter_store::threads;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use serde_json::json;

use super::register;
use crate::cli::UnmountArgs;
use crate::output;

/// The interval and number of checks whether a keeper has ended after its mount did.
const KEEPER_LOOKS: (Duration, u32) = (Duration::from_millis(20), 500);

/// How many programs are named.
const MAX_NAMED: usize = 5;

/// `darter unmount`.
pub(super) async fn run(args: &UnmountArgs) -> anyhow::Result<()> {
    let register = register::directory(&args.place)?;
    let mut done = Vec::new();
    for given in &args.dirs {
        let dir = resolve(given)?;
        let mounts = register::all(&register).await;
        // An image of one layer is the kernel's own mount.
        if !register::is_ours(&dir) && !mounts.iter().any(|mount| mount.dir == dir) {
            bail!("{} is not a mount of darter's: `darter mount --list` lists those", given.display());
        }
        let keeper = mounts.into_iter().find(|mount| mount.dir == dir && mount.state != MountState::Lost);
        // Opened first, since the keeper removes the file before it ends.
        let note = keeper.filter(|_| !args.lazy).map(|keeper| File::open(register::note_of(&register, keeper.pid)));
        let (away, lazy) = (dir.clone(), args.lazy);
        threads::run(move || unmount(&away, lazy)).await?;
        if let Some(Ok(note)) = note
            && !ended(&note).await
        {
            output::complain(&format!(
                "the process that kept {} still runs: another mount namespace, such as a service's or a container's, has a copy of the mount. It ends when that copy does",
                dir.display()
            ));
        }
        if !args.json {
            output::text(&format!("unmounted {}\n", dir.display()))?;
        }
        done.push(dir);
    }
    if args.json { output::json(&json!({ "unmounted": done })) } else { Ok(()) }
}

/// A directory with all links resolved, also if it can't be looked at because its mount is dead.
pub(crate) fn resolve(dir: &Path) -> anyhow::Result<PathBuf> {
    if let Ok(found) = std::fs::canonicalize(dir) {
        return Ok(found);
    }
    let cannot = || format!("can't find {}", dir.display());
    let absolute = std::path::absolute(dir).with_context(cannot)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else { bail!(cannot()) };
    Ok(std::fs::canonicalize(parent).with_context(cannot)?.join(name))
}

/// Unmounts `dir`. Blocking.
pub(crate) fn unmount(dir: &Path, lazy: bool) -> anyhow::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(dir, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(busy(dir)),
        Err(Errno::PERM) => by_helper(dir, lazy),
        Err(error) => Err(io::Error::from(error)).with_context(|| format!("can't unmount {}", dir.display())),
    }
}

fn by_helper(dir: &Path, lazy: bool) -> anyhow::Result<()> {
    for helper in ["fusermount3", "fusermount"] {
        let how = if lazy { "-uz" } else { "-u" };
        let ended = match Command::new(helper).arg(how).arg("--").arg(dir).output() {
            Ok(ended) => ended,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("can't run {helper}")),
        };
        if ended.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr);
        if said.contains("busy") {
            return Err(busy(dir));
        }
        bail!("can't unmount {}: {}", dir.display(), said.trim());
    }
    bail!("can't unmount {}: there is no fusermount3; install the package fuse3, or run this as root", dir.display())
}

fn busy(dir: &Path) -> anyhow::Error {
    let users = users(dir);
    let who = match &users[..] {
        [] => "programs use it".to_owned(),
        users if users.len() > MAX_NAMED => {
            format!("{} and {} more use it", users[..MAX_NAMED].join(", "), users.len() - MAX_NAMED)
        }
        users => format!("in use by {}", users.join(", ")),
    };
    anyhow::anyhow!("can't unmount {}: {who}; end these programs first, or let them go on with --lazy", dir.display())
}

/// The programs that have a file there open or mapped, or have their working directory there, as far as this user may see.
fn users(dir: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbered = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut users: Vec<u32> = numbered.filter(|process| uses(*process, dir)).collect();
    users.sort_unstable();
    let named = |process: u32| {
        let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        format!("{} (process {process})", name.trim())
    };
    users.into_iter().map(named).collect()
}

fn uses(process: u32, dir: &Path) -> bool {
    let own = PathBuf::from(format!("/proc/{process}"));
    let inside = |link: &Path| std::fs::read_link(link).is_ok_and(|path| path.starts_with(dir));
    let open = std::fs::read_dir(own.join("fd")).into_iter().flatten().flatten();
    let mapped = || {
        let maps = std::fs::read_to_string(own.join("maps")).unwrap_or_default();
        maps.lines().any(|line| line.find('/').is_some_and(|at| Path::new(&line[at..]).starts_with(dir)))
    };
    inside(&own.join("cwd"))
        || inside(&own.join("root"))
        || open.into_iter().any(|entry| inside(&entry.path()))
        || mapped()
}

/// Waits until a keeper has cleaned up and ended; false if it does not end in time.
async fn ended(note: &File) -> bool {
    for _ in 0..KEEPER_LOOKS.1 {
        if !register::is_kept(note) {
            return true;
        }
        tokio::time::sleep(KEEPER_LOOKS.0).await;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_uses_a_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::fs::canonicalize(dir.path()).unwrap();
        assert_eq!(users(&path), [""; 0]);
        let file = std::fs::File::create(path.join("x")).unwrap();
        let own = format!("(process {})", std::process::id());
        assert!(users(&path)[0].ends_with(&own), "{:?}", users(&path));
        drop(file);
        let told = busy(&path).to_string();
        assert!(told.contains("programs use it") && told.contains("--lazy"), "{told}");
    }

    #[test]
    fn a_directory_is_found_behind_links_and_where_it_can_not_be_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolve(&real.join("link")).unwrap(), real);
        assert_eq!(resolve(&real.join("link/none")).unwrap(), real.join("none"));
        assert!(resolve(&real.join("no/such")).is_err());
    }
}
