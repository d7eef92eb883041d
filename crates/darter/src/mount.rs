//! `darter mount` and `darter unmount`.
//!
//! | file | what lives there |
//! |---|---|
//! | `mount/keeper.rs` | the process that keeps a mount |
//! | `mount/daemon.rs` | gets bytes from a daemon, over its socket |
//! | `mount/own.rs` | gets bytes from an agent in the keeper's process |
//! | `mount/reference.rs` | names of images |
//! | `mount/image.rs` | finds the layers of an image, through the daemon's mirror |
//! | `mount/layers.rs` | the process that keeps an image |
//! | `mount/trees.rs` | the process that keeps an archive's members, or several files |
//! | `mount/listed.rs` | the files that a list or a directory names |
//! | `mount/sources.rs` | chooses between a daemon and an own agent |
//! | `mount/stack.rs` | the kernel mounts of an image |
//! | `mount/register.rs` | the list of mounts, and the status of each |
//! | `mount/unmount.rs` | ends a mount, or names the programs that use it |
//!
//! Each mount has a process of its own, the *keeper*, with the descriptor of `/dev/fuse`. A mount fails when its keeper ends, so the keeper is separate from the
//! agent, and does little. `darter mount` starts it, tells it through a pipe what to mount (a command line would show signed
//! URLs for as long as the mount exists), and ends when the file is mounted, or with the keeper's error.

pub(crate) mod daemon;
mod ends;
mod hub;
pub(crate) mod image;
mod keeper;
mod layers;
mod listed;
mod own;
pub(crate) mod reference;
pub(crate) mod register;
mod sources;
mod stack;
mod told;
mod trees;
pub(crate) mod unmount;

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use anyhow::{Context as _, bail};
use darter_api::{MountKind, MountStatus, Problem};
use darter_core::Digest;
use darter_store::threads;
use serde::{Deserialize, Serialize};
use url::Url;

use self::image::ImageMount;
use self::trees::{Shape, TreeMount};
use crate::cli::{Command, MountArgs, MountShape, Mountable, UnmountArgs, path_hint};
use crate::config::Configured;
use crate::failure::{self, Failure};
use crate::get::credentials::Senders;
use crate::get::{self, file_name};
use crate::{logging, output, units};

/// What a keeper reads from its standard input.
#[derive(Serialize, Deserialize)]
struct Orders {
    /// The arguments of `darter mount`, as bytes.
    arguments: Vec<Vec<u8>>,
    /// Headers and logins to send.
    senders: Senders,
}

/// The single message that a keeper writes to its standard output.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Mounted(Box<MountStatus>),
    Failed(Problem),
    /// The request is invalid.
    Usage(String),
}

/// The URL to be mounted, and its mount point.
struct Mount {
    url: Url,
    /// The directory, with all links resolved.
    dir: PathBuf,
    /// The file's name in the directory.
    name: String,
    digest: Option<Digest>,
    headers: Vec<(String, String)>,
}

/// What the command line asks to mount.
enum MountRequest {
    File(Mount),
    Tree(TreeMount),
    Image(ImageMount),
}

impl MountRequest {
    /// Reads the command line, and refuses whatever can be refused before any server is asked.
    fn of(args: &MountArgs, senders: &Senders) -> anyhow::Result<Self> {
        let (Some(what), Some(dir)) = (&args.what, &args.dir) else {
            return Err(Failure::Usage(
                "name the source and the mount point: darter mount IMAGE|URL|PATH DIR".to_owned(),
            )
            .into());
        };
        match what {
            Mountable::Image { image, given } => {
                if Path::new(given).exists() {
                    output::complain(&path_hint(&format!("{given} is taken for the image {image}"), given));
                }
                let flags = [
                    ("--name", args.name.is_some()),
                    ("--digest", args.digest.is_some()),
                    ("--as", args.shape.is_some()),
                ];
                refuse(
                    &flags,
                    "is only for a URL: an image is mounted as a directory, and checked by its own digests",
                )?;
                // A netrc file names the registry's host.
                let headers = senders.of(&format!("https://{}/", image.registry).parse()?);
                Ok(Self::Image(ImageMount { image: image.clone(), dir: free_directory(dir)?, headers }))
            }
            Mountable::Url(url) => {
                refuse(&[("--platform", args.platform.is_some())], "is only for an image: a URL has no platforms")?;
                let Some(shape) = shape_of(args, url) else {
                    return Ok(Self::File(Mount::of(args, (url, dir), senders)?));
                };
                refuse(
                    &[("--name", args.name.is_some())],
                    "is only for a single file: these are several, which have names",
                )?;
                if shape != Shape::Archive {
                    let why = "is only for a single file: a list has a digest after each URL, and a local directory needs none";
                    refuse(&[("--digest", args.digest.is_some())], why)?;
                }
                if shape == Shape::Hub {
                    hub::Repository::at(url)?;
                }
                let dir = free_directory(dir)?;
                let digest = args.digest.or_else(|| blob_digest(url));
                Ok(Self::Tree(TreeMount { shape, url: url.clone(), dir, digest, senders: senders.clone() }))
            }
        }
    }

    /// The name to print.
    fn name(&self) -> String {
        match self {
            Self::File(mount) => mount.name.clone(),
            Self::Tree(mount) => file_name(&mount.url).unwrap_or_else(|| "a directory".to_owned()),
            Self::Image(mount) => mount.image.to_string(),
        }
    }

    fn dir(&self) -> &Path {
        match self {
            Self::File(mount) => &mount.dir,
            Self::Tree(mount) => &mount.dir,
            Self::Image(mount) => &mount.dir,
        }
    }

    /// Mounts it and keeps the mount.
    async fn run(
        self,
        args: &MountArgs,
        foreground: bool,
        told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match self {
            Self::File(mount) => keeper::run(args, mount, foreground, told).await,
            Self::Tree(mount) => trees::run(args, mount, foreground, told).await,
            Self::Image(mount) => layers::run(args, mount, foreground, told).await,
        }
    }
}

/// Fails with `why` if any of these flags is given.
fn refuse(flags: &[(&str, bool)], why: &str) -> anyhow::Result<()> {
    match flags.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(Failure::Usage(format!("{flag} {why}")).into()),
        None => Ok(()),
    }
}

/// The kind of tree that a URL is mounted as; `None` for a single file.
fn shape_of(args: &MountArgs, url: &Url) -> Option<Shape> {
    match args.shape {
        Some(MountShape::File) => None,
        Some(MountShape::Archive) => Some(Shape::Archive),
        Some(MountShape::List) => Some(Shape::List),
        Some(MountShape::Hub) => Some(Shape::Hub),
        None => {
            let path = url.to_file_path().ok().filter(|_| url.scheme() == "file");
            path.is_some_and(|path| path.is_dir()).then_some(Shape::Directory)
        }
    }
}

impl Mount {
    fn of(args: &MountArgs, (url, dir): (&Url, &Path), senders: &Senders) -> anyhow::Result<Self> {
        let name = args
            .name
            .clone()
            .or_else(|| file_name(url))
            .ok_or_else(|| Failure::Usage(format!("{url} names no file; say what to call it with --name NAME")))?;
        let dir = free_directory(dir)?;
        let digest = args.digest.or_else(|| blob_digest(url));
        Ok(Self { url: url.clone(), dir, name, digest, headers: senders.of(url) })
    }
}

/// The directory with all links resolved. Fails if something is mounted there.
fn free_directory(dir: &Path) -> anyhow::Result<PathBuf> {
    let named = unmount::resolve(dir)?;
    if register::is_mount_point(&named) {
        bail!(
            "something is mounted at {} already: unmount that first (with `darter unmount` if it is a mount of darter's), or choose another directory",
            dir.display()
        );
    }
    match std::fs::metadata(&named) {
        Ok(found) if found.is_dir() => Ok(named),
        Ok(_) => Err(Failure::Usage(format!("{} is not a directory: name one to mount at", dir.display())).into()),
        Err(error) => {
            let text = format!("can't mount at {}: {error}; make the directory first", dir.display());
            Err(Failure::Usage(text).into())
        }
    }
}

/// The digest in the URL of a registry's blob: `/v2/NAME/blobs/DIGEST`.
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
    let senders = Senders::gather(&args.credentials)?;
    let wanted = MountRequest::of(args, &senders)?;
    if args.foreground {
        return wanted.run(args, true, told).await;
    }
    let (what, dir) = (wanted.name(), wanted.dir().to_owned());
    let arguments = configured.arguments.iter().map(|word| word.as_bytes().to_owned()).collect();
    let status = tokio::task::spawn_blocking(move || start(&what, &dir, &Orders { arguments, senders })).await??;
    tell(args, &status)
}

fn tell(args: &MountArgs, status: &MountStatus) -> anyhow::Result<()> {
    if args.json {
        return output::json(status);
    }
    let path = register::path_of(status);
    let here = if status.whole { "all of it".to_owned() } else { units::size(status.held_bytes) };
    let files = match (status.kind, status.files) {
        (MountKind::File | MountKind::Image, _) | (_, None) => String::new(),
        (_, Some(1)) => "1 file, ".to_owned(),
        (_, Some(files)) => format!("{files} files, "),
    };
    let size = units::size(status.length_bytes);
    output::text(&format!("mounted {} ({files}{size}, {here} here)\n", path.display()))
}

/// Starts a keeper, and waits for its message, which it sends once `what` is mounted.
fn start(what: &str, dir: &Path, orders: &Orders) -> anyhow::Result<MountStatus> {
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
        bail!("can't write to the process that keeps the mount");
    };
    // If the keeper has ended, the code below finds out.
    let _ = stdin.write_all(&orders);
    drop(stdin);
    let mut line = String::new();
    let waiting = get::waiting_line(&format!("opening {what}"));
    let heard = BufReader::new(stdout).read_line(&mut line);
    waiting.finish_and_clear();
    heard?;
    match serde_json::from_str(&line) {
        Ok(Word::Mounted(status)) => Ok(*status),
        Ok(Word::Failed(problem)) => {
            // The keeper has ended already.
            let _ = keeper.wait();
            let blame = problem.blame();
            Err(Failure::Judged { text: problem.error, blame }.into())
        }
        Ok(Word::Usage(text)) => {
            let _ = keeper.wait();
            Err(Failure::Usage(text).into())
        }
        Err(_) => {
            let ended = keeper.wait()?;
            bail!("the process that keeps the mount ended before it had mounted anything: {ended}")
        }
    }
}

/// The main function of a keeper's process.
pub(crate) async fn keep() -> anyhow::Result<()> {
    let mut orders = Vec::new();
    std::io::stdin().read_to_end(&mut orders)?;
    let Orders { arguments, senders } =
        serde_json::from_slice(&orders).context("only `darter mount` can start this command")?;
    let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from_vec).collect();
    // The process that started this one has parsed the same arguments with the same environment.
    let Ok(configured) = Configured::from_arguments(&arguments) else {
        bail!("these are not the arguments of `darter mount`")
    };
    let Command::Mount(args) = &configured.cli.command else { bail!("these are not the arguments of `darter mount`") };
    // Until the mount exists, standard error is that of the command that waits for it.
    logging::start(&configured.cli.command);
    let kept = async {
        let told = |status: &MountStatus| {
            say(&Word::Mounted(Box::new(status.clone())))?;
            detach()
        };
        MountRequest::of(args, &senders)?.run(args, false, told).await
    };
    kept.await.or_else(|error| {
        // Once the mount exists, nobody reads this any more.
        say(&match error.downcast_ref::<Failure>() {
            Some(Failure::Usage(text)) => Word::Usage(text.clone()),
            _ => Word::Failed(failure::problem(&error)),
        })
    })
}

/// Opens and closes files in a process of its own: see [`darter_mount::Opener`]. Blocking.
pub(crate) fn opened(files: &[PathBuf]) -> io::Result<()> {
    let mut opener = Process::new("/proc/self/exe");
    // The process needs no settings.
    opener.arg0("darter").arg("open-files").arg("--").args(files).env("DARTER_CONFIG", "");
    opener.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().map(drop)
}

/// The same for layers over which the kernel has mounted file systems: these have pages of their own of what was read. No call lets one of them forget, so all
/// file systems of the host forget what is not on its way to a disk. Blocking.
pub(crate) fn opened_below(files: &[PathBuf]) -> io::Result<()> {
    const FORGETS: &str = "/proc/sys/vm/drop_caches";
    opened(files)?;
    if let Err(error) = std::fs::write(FORGETS, "1") {
        tracing::error!(%error, "what was read of a layer that is wrong stays in memory: write 1 to {FORGETS}, and end its containers");
    }
    Ok(())
}

/// The main function of that process.
pub(crate) async fn open(files: &[PathBuf]) -> anyhow::Result<()> {
    let files = files.to_owned();
    let opening = move || {
        for file in files {
            // A mount that has gone needs nothing.
            let _ = std::fs::File::open(file);
        }
    };
    threads::run(opening).await;
    Ok(())
}

fn say(word: &Word) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(word)?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(line.as_bytes()).and_then(|()| out.flush())?)
}

/// Leaves the terminal: session, working directory and standard streams.
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
