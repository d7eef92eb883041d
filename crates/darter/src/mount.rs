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
//! | `mount/trees.rs` | the process that keeps an archive's members, or several files |
//! | `mount/listed.rs` | the files that a list or a directory names |
//! | `mount/sources.rs` | which of both reads |
//! | `mount/stack.rs` | the kernel's mounts of an image |
//! | `mount/register.rs` | which mounts there are, and how each is |
//! | `mount/unmount.rs` | away with one; who uses it |
//!
//! Each mount has a process of its own, the *keeper*, that has the descriptor of `/dev/fuse`: a mount dies with it, so it lives apart from the
//! agent, and does little. `darter mount` starts it, hands it what to mount through a pipe (a command line would show signatures
//! of URLs for as long as the mount lives), and ends when the mount is there, or with the keeper's error.

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

/// A keeper's orders, from its standard input.
#[derive(Serialize, Deserialize)]
struct Orders {
    /// The command line of `darter mount`, as bytes.
    arguments: Vec<Vec<u8>>,
    /// Headers and logins to send.
    senders: Senders,
}

/// A keeper's word on its standard output, once.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Mounted(Box<MountStatus>),
    Failed(Problem),
    /// It can't be done as it was asked for.
    Usage(String),
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

/// The mount that the command line names.
enum MountRequest {
    File(Mount),
    Tree(TreeMount),
    Image(ImageMount),
}

impl MountRequest {
    /// Reads the command line, and refuses everything that can be refused before anybody is asked.
    fn of(args: &MountArgs, senders: &Senders) -> anyhow::Result<Self> {
        let (Some(what), Some(dir)) = (&args.what, &args.dir) else {
            return Err(
                Failure::Usage("say what to mount, and where: darter mount IMAGE|URL|PATH DIR".to_owned()).into()
            );
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
                refuse(&flags, "is for a URL: an image is mounted as a directory, and checked by its own digests")?;
                // As a netrc file names the registry.
                let headers = senders.of(&format!("https://{}/", image.registry).parse()?);
                Ok(Self::Image(ImageMount { image: image.clone(), dir: free_directory(dir)?, headers }))
            }
            Mountable::Url(url) => {
                refuse(&[("--platform", args.platform.is_some())], "is for an image: a URL is the same for all")?;
                let Some(shape) = shape_of(args, url) else {
                    return Ok(Self::File(Mount::of(args, (url, dir), senders)?));
                };
                refuse(&[("--name", args.name.is_some())], "is for one file: here are several, which have names")?;
                if shape != Shape::Archive {
                    let why = "is of one file: a list has them behind its URLs, and a local directory needs none";
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

    /// The name for people.
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

    /// Mounts it and keeps it.
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

/// Refuses flags that make no sense here.
fn refuse(flags: &[(&str, bool)], why: &str) -> anyhow::Result<()> {
    match flags.iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => Err(Failure::Usage(format!("{flag} {why}")).into()),
        None => Ok(()),
    }
}

/// The tree that a URL is mounted as; `None` for a file.
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
        Ok(_) => Err(Failure::Usage(format!("{} is no directory: give one to mount at", dir.display())).into()),
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

/// Starts a keeper, and waits for its word: until `what` is open.
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
        bail!("the keeper of the mount can't be spoken to");
    };
    // A keeper that has died says so below.
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
            // It has ended.
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
            bail!("the process that keeps the mount ended before it was there: {ended}")
        }
    }
}

/// The keeper's process.
pub(crate) async fn keep() -> anyhow::Result<()> {
    let mut orders = Vec::new();
    std::io::stdin().read_to_end(&mut orders)?;
    let Orders { arguments, senders } =
        serde_json::from_slice(&orders).context("this is started by `darter mount` alone")?;
    let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from_vec).collect();
    // It was understood by the process that started this one, with the same environment.
    let Ok(configured) = Configured::from_arguments(&arguments) else {
        bail!("this is no command line of `darter mount`")
    };
    let Command::Mount(args) = &configured.cli.command else { bail!("this is no command line of `darter mount`") };
    // Until it is there, standard error is that of the command that waits for it.
    logging::start(&configured.cli.command);
    let kept = async {
        let told = |status: &MountStatus| {
            say(&Word::Mounted(Box::new(status.clone())))?;
            detach()
        };
        MountRequest::of(args, &senders)?.run(args, false, told).await
    };
    kept.await.or_else(|error| {
        // After it was there nobody listens any more.
        say(&match error.downcast_ref::<Failure>() {
            Some(Failure::Usage(text)) => Word::Usage(text.clone()),
            _ => Word::Failed(failure::problem(&error)),
        })
    })
}

/// Has files opened and closed by a process of their own: see [`darter_mount::Opener`]. Blocking.
pub(crate) fn opened(files: &[PathBuf]) -> io::Result<()> {
    let mut opener = Process::new("/proc/self/exe");
    // Nobody's settings are of use to it.
    opener.arg0("darter").arg("open-files").arg("--").args(files).env("DARTER_CONFIG", "");
    opener.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().map(drop)
}

/// That process.
pub(crate) async fn open(files: &[PathBuf]) -> anyhow::Result<()> {
    let files = files.to_owned();
    let opening = move || {
        for file in files {
            // A keeper that is gone needs no more.
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
