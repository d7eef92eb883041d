//! `darter mount` and `darter unmount`.
//!
//! | file | what lives there |
//! |---|---|
//! | `mount/keeper.rs` | the process that keeps a mount |
//! | `mount/daemon.rs` | bytes by a daemon, over its socket |
//! | `mount/own.rs` | bytes by an agent of the keeper's own |
//! | `mount/reference.rs` | images as people name them |
//! | `mount/image.rs` | the layers of an image, by the daemon's mirror |
//! | `mount/layers.rs` | the process that keeps an image |
//! | `mount/stack.rs` | the kernel's mounts of an image |
//! | `mount/register.rs` | which mounts there are, and how each is |
//! | `mount/unmount.rs` | away with one; who uses it |
//!
//! Each mount has a process of its own, the *keeper*, that has the descriptor of `/dev/fuse`: a mount dies with it, so it lives apart from the
//! agent, and does little. `darter mount` starts it, hands it what to mount through a pipe (a command line would show signatures
//! of URLs for as long as the mount lives), and ends when the mount is there, or with the keeper's error.

pub(crate) mod daemon;
pub(crate) mod image;
mod keeper;
mod layers;
mod own;
pub(crate) mod reference;
pub(crate) mod register;
mod stack;
pub(crate) mod unmount;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use anyhow::{Context as _, bail};
use darter_api::{MountStatus, Problem};
use darter_core::Digest;
use serde::{Deserialize, Serialize};
use url::Url;

use self::layers::ImageMount;
use self::reference::ImageRef;
use crate::cli::{Command, MountArgs, Mountable, UnmountArgs};
use crate::config::Configured;
use crate::failure::{self, Failure};
use crate::get::credentials::Senders;
use crate::get::file_name;
use crate::{output, units};

/// A keeper's orders, from its standard input.
#[derive(Serialize, Deserialize)]
struct Orders {
    /// The command line of `darter mount`, as bytes.
    arguments: Vec<Vec<u8>>,
    /// The headers to send.
    headers: Vec<(String, String)>,
}

/// A keeper's word on its standard output, once.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Mounted(Box<MountStatus>),
    Failed(Problem),
}

/// The URL to be mounted, and where.
struct Mount {
    url: Url,
    /// The directory, behind all links.
    dir: PathBuf,
    /// The file's name in it.
    name: String,
    digest: Option<Digest>,
    headers: Vec<(String, String)>,
}

impl Mount {
    /// The mount that the command line names, after refusing what can be refused before anybody is asked.
    fn of(args: &MountArgs, headers: Option<Vec<(String, String)>>) -> anyhow::Result<Self> {
        let (Some(Mountable::Url(url)), Some(dir)) = (&args.what, &args.dir) else {
            return Err(no_arguments());
        };
        if args.platform.is_some() {
            let text = "--platform is for an image: a URL is the same for all".to_owned();
            return Err(Failure::Usage(text).into());
        }
        let name = args
            .name
            .clone()
            .or_else(|| file_name(url))
            .ok_or_else(|| Failure::Usage(format!("{url} names no file; say what to call it with --name NAME")))?;
        let named = free_directory(dir)?;
        let headers = match headers {
            Some(headers) => headers,
            None => Senders::gather(&args.credentials)?.of(url),
        };
        let digest = args.digest.or_else(|| blob_digest(url));
        Ok(Self { url: url.clone(), dir: named, name, digest, headers })
    }
}

fn no_arguments() -> anyhow::Error {
    Failure::Usage("say what to mount, and where: darter mount IMAGE|URL DIR".to_owned()).into()
}

/// The image that the command line names, after refusing what can be refused before anybody is asked.
fn image_of(args: &MountArgs, image: &ImageRef, headers: Option<Vec<(String, String)>>) -> anyhow::Result<ImageMount> {
    let Some(dir) = &args.dir else { return Err(no_arguments()) };
    for (flag, is_given) in [("--name", args.name.is_some()), ("--digest", args.digest.is_some())] {
        if is_given {
            let text =
                format!("{flag} is for a URL: an image is mounted as a directory, and checked by its own digests");
            return Err(Failure::Usage(text).into());
        }
    }
    let dir = free_directory(dir)?;
    let headers = match headers {
        Some(headers) => headers,
        // As a netrc file names the registry.
        None => Senders::gather(&args.credentials)?.of(&format!("https://{}/", image.registry).parse()?),
    };
    Ok(ImageMount { image: image.clone(), dir, headers })
}

/// A directory behind all links, at which nothing is mounted.
fn free_directory(dir: &Path) -> anyhow::Result<PathBuf> {
    let named = unmount::resolve(dir)?;
    if register::is_mount_point(&named) {
        bail!(
            "something is mounted at {} already: take that away first (`darter unmount` if it is a mount of darter's), or choose another directory",
            dir.display()
        );
    }
    match std::fs::metadata(&named) {
        Ok(found) if found.is_dir() => Ok(named),
        Ok(_) => Err(Failure::Usage(format!("{} is no directory", dir.display())).into()),
        Err(error) => {
            let text = format!("can't mount at {}: {error}; make the directory first", dir.display());
            Err(Failure::Usage(text).into())
        }
    }
}

/// The digest in the address of a registry's blob: `/v2/NAME/blobs/DIGEST`.
fn blob_digest(url: &Url) -> Option<Digest> {
    let mut parts = url.path_segments()?;
    if parts.next() != Some("v2") {
        return None;
    }
    let (digest, kind) = (parts.next_back()?, parts.next_back()?);
    digest.parse().ok().filter(|_| kind == "blobs")
}

/// `darter mount`.
pub(crate) async fn run(args: &MountArgs, configured: &Configured) -> anyhow::Result<()> {
    if args.list {
        return register::list(args).await;
    }
    let told = |status: &MountStatus| tell(args, status);
    let (dir, headers) = match &args.what {
        Some(Mountable::Image(image)) => {
            stack::check()?;
            let mount = image_of(args, image, None)?;
            if args.foreground {
                return layers::run(args, mount, true, told).await;
            }
            (mount.dir, mount.headers)
        }
        _ => {
            let mount = Mount::of(args, None)?;
            if args.foreground {
                return keeper::run(args, mount, true, told).await;
            }
            (mount.dir, mount.headers)
        }
    };
    let arguments = configured.arguments.iter().map(|word| word.as_bytes().to_owned()).collect();
    let status = tokio::task::spawn_blocking(move || start(&dir, &Orders { arguments, headers })).await??;
    tell(args, &status)
}

fn tell(args: &MountArgs, status: &MountStatus) -> anyhow::Result<()> {
    if args.json {
        return output::json(status);
    }
    let path = register::path_of(status);
    let here = if status.whole { "all of it".to_owned() } else { units::size(status.held_bytes) };
    output::text(&format!("mounted {} ({}, {here} here)\n", path.display(), units::size(status.length_bytes)))
}

/// Starts a keeper, and waits for its word.
fn start(dir: &Path, orders: &Orders) -> anyhow::Result<MountStatus> {
    let mut keeper = Process::new("/proc/self/exe")
        .arg0("darter")
        .arg("keep-mount")
        .arg(dir)
        .env_remove("DARTER_HEADER")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("can't start a process that keeps the mount")?;
    let (orders, Some(mut stdin), Some(stdout)) =
        (serde_json::to_vec(orders)?, keeper.stdin.take(), keeper.stdout.take())
    else {
        bail!("the keeper of the mount can't be spoken to");
    };
    // One that has died says so below.
    let _ = stdin.write_all(&orders);
    drop(stdin);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    match serde_json::from_str(&line) {
        Ok(Word::Mounted(status)) => Ok(*status),
        Ok(Word::Failed(problem)) => {
            // It has ended.
            let _ = keeper.wait();
            let blame = problem.blame();
            Err(Failure::Judged { text: problem.error, blame }.into())
        }
        Err(_) => {
            let ended = keeper.wait()?;
            bail!("the process that keeps the mount ended before it was there: {ended}")
        }
    }
}

/// The keeper's process.
pub(crate) async fn keep() -> anyhow::Result<()> {
    let mut orders = Vec::new();
    std::io::stdin().read_to_end(&mut orders)?;
    let Orders { arguments, headers } =
        serde_json::from_slice(&orders).context("this is started by `darter mount` alone")?;
    let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from_vec).collect();
    // It was understood by the process that started this one, with the same environment.
    let Ok(configured) = Configured::from_arguments(&arguments) else {
        bail!("this is no command line of `darter mount`")
    };
    let Command::Mount(args) = &configured.cli.command else { bail!("this is no command line of `darter mount`") };
    let kept = async {
        let told = |status: &MountStatus| {
            say(&Word::Mounted(Box::new(status.clone())))?;
            detach()
        };
        match &args.what {
            Some(Mountable::Image(image)) => {
                layers::run(args, image_of(args, image, Some(headers))?, false, told).await
            }
            _ => keeper::run(args, Mount::of(args, Some(headers))?, false, told).await,
        }
    };
    kept.await.or_else(|error| {
        // After it was there nobody listens any more.
        say(&Word::Failed(failure::problem(&error)))
    })
}

fn say(word: &Word) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(word)?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(line.as_bytes()).and_then(|()| out.flush())?)
}

/// Leaves the terminal, and what it was started by.
fn detach() -> anyhow::Result<()> {
    rustix::process::setsid().context("can't leave the terminal's session")?;
    std::env::set_current_dir("/")?;
    let nowhere = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nowhere)?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    Ok(())
}

/// `darter unmount`.
pub(crate) async fn unmount(args: &UnmountArgs) -> anyhow::Result<()> {
    unmount::run(args).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_blob_is_checked_against_the_digest_in_its_address() {
        let digest = Digest::sha256(b"x");
        let of = |text: &str| blob_digest(&text.parse().unwrap());
        assert_eq!(of(&format!("https://r/v2/a/b/blobs/{digest}")), Some(digest));
        assert_eq!(of(&format!("https://r/v2/a/b/blobs/{digest}?ns=x")), Some(digest));
        for other in [format!("https://r/v2/a/b/manifests/{digest}"), format!("https://r/blobs/{digest}")] {
            assert_eq!(of(&other), None, "{other}");
        }
        assert_eq!(of("https://r/v2/a/b/blobs/latest"), None);
        assert_eq!(of("https://r/"), None);
    }
}
