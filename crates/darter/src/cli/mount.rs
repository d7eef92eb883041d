//! Flags of `darter mount`, `darter unmount` and the process that keeps a mount.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use darter_core::{Digest, Rate};
use darter_mount::Fill;
use darter_oci::platform::Platform;
use url::Url;

use super::agent::{LogArgs, OriginArgs, PlaceArgs, StoreArgs, UpstreamArgs};
use super::client::CredentialArgs;
use super::values;
use crate::mount::reference::ImageRef;

pub(crate) const MOUNT_EXAMPLES: &str = "\
Examples:
  Open a model before it is downloaded; parts are fetched when they are read:
    $ darter mount https://example.org/model.safetensors /mnt/model
  Also fetch the rest while no program waits:
    $ darter mount https://example.org/model.safetensors /mnt/model --fill idle
  A blob of a registry; its digest is checked once all of it is on this host:
    $ darter mount https://registry.local/v2/team/model/blobs/sha256:DIGEST /mnt/model --name model.bin
  The files in an archive, without downloading it:
    $ darter mount https://example.org/dataset.zip /mnt/data --as archive
  The files of a model that was pushed to a registry (oras push), or that a list names:
    $ darter mount registry.local/models/llama:8b /mnt/llama
    $ darter mount https://example.org/llama/files.txt /mnt/llama --as list
  A repository of a model hub:
    $ darter mount https://huggingface.co/org/model /mnt/model --as hub
  An image's root, read-only (needs root and a daemon):
    $ darter mount docker.io/library/debian:12 /mnt/debian
  The same for another platform:
    $ darter mount --platform linux/arm64 docker.io/library/debian:12 /mnt/debian-arm
  List what is mounted, and how much of it is on this host:
    $ darter mount --list
  End the mount:
    $ darter unmount /mnt/model

The file DIR/NAME can be read, and mapped into memory, at once. A read waits until its bytes are on this host and verified. \
After --timeout it fails with an input/output error (SIGBUS if the file is mapped); the next read tries again. A read never \
returns wrong bytes.

Of a tar's members and a zip's stored (uncompressed) members, only the parts that are read are fetched. Deflated members are inflated as they \
are read, which needs everything in the member before that part. Owners are not shown: everything belongs to the user who mounts it. A damaged \
or hostile archive (a path with .., members that overlap) is refused. An encrypted member is listed, but can't be opened.

A process of its own keeps the mount, so that the mount outlives a daemon that is stopped, upgraded or killed: reads of parts that were \
read before go on, others wait. Ordinary users need fusermount3 (package fuse3) to mount files; root does not.

Layers of an image are read and expanded once for all hosts, by one agent; every host fetches the parts that its programs read. The \
kernel mounts the image (EROFS, and overlayfs over several layers; read-only, nosuid, nodev), which only root may do. For private images, use -H 'Authorization: …' or \
--netrc, as for a URL. If a layer can't be expressed as EROFS, the error says why.";

pub(crate) const UNMOUNT_EXAMPLES: &str = "\
Examples:
    $ darter unmount /mnt/model
  Unmount even if programs use it; they may go on until they close their files:
    $ darter unmount --lazy /mnt/model";

pub(crate) const LAZY_DIR_EXAMPLES: &str = "\
Examples:
  In its own unit file, for an agent with --lazy-dir that does not run as root:
    $ darter lazy-dir /run/darter/layers --socket /run/darter/darter.sock
  In containerd's configuration (version 4):
    [plugins.'io.containerd.snapshotter.v1.erofs']
      layer_content_caches = [\"/run/darter/layers\"]

The directory has a file sha256/XX/DIFFID.erofs for each layer of the images that were pulled through the agent, as soon as all \
layers of an image can be mounted. A read waits for the agent, also while it restarts. After --timeout it fails with an \
input/output error; the next read tries again. Looking up a layer does not wait for an agent that has been silent for two seconds.";

/// The form in which a URL is mounted: `--as`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MountShape {
    /// One file, DIR/NAME
    File,
    /// The URL is a tar or a zip: its members
    Archive,
    /// The URL is a list of URLs: the files that it names
    List,
    /// The URL is a repository of a model hub (https://HUB/ORG/MODEL): its files
    Hub,
}

/// The argument IMAGE|URL|PATH of `darter mount`.
#[derive(Clone, Debug)]
pub(crate) enum Mountable {
    Url(Url),
    Image {
        image: ImageRef,
        /// As it was written.
        given: String,
    },
}

/// A URL is recognised by its `://`, a local path by its first character or two: no image's name begins so.
fn mountable(text: &str) -> Result<Mountable, String> {
    if text.contains("://") {
        return values::source_url(text).map(Mountable::Url);
    }
    if text.starts_with(['/', '.']) {
        let wrong = || format!("not a path: {text:?}");
        let path = std::path::absolute(text).map_err(|_| wrong())?;
        return Url::from_file_path(path).map(Mountable::Url).map_err(|()| wrong());
    }
    let is_here = std::path::Path::new(text).exists();
    let image = text.parse().map_err(|why: String| if is_here { path_hint(&why, text) } else { why })?;
    Ok(Mountable::Image { image, given: text.to_owned() })
}

/// `said`, followed by how to write `name` so that it means the local file or directory.
pub(crate) fn path_hint(said: &str, name: &str) -> String {
    format!("{said}; for the local path write ./{name}")
}

/// Mount an image's root, a file, an archive or a set of files, which can be read before it is downloaded
#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// An image or an artifact of a registry, a URL (http, https or file), or a local path (/… or ./…)
    ///
    /// An image appears as its root directory, an artifact or a local directory as the files in it. Anything else is one file, unless --as is given.
    #[arg(value_name = "IMAGE|URL|PATH", value_parser = mountable, required_unless_present = "list")]
    pub(crate) what: Option<Mountable>,

    /// Mount point: a directory. A single file appears in it; the contents of anything else hide what is in it
    #[arg(value_name = "DIR", required_unless_present = "list")]
    pub(crate) dir: Option<PathBuf>,

    /// List all mounts
    #[arg(long, conflicts_with_all = ["what", "dir"])]
    pub(crate) list: bool,

    /// Mount a URL or a local file as something other than one file [default: file]
    ///
    /// Before an archive is mounted, only the list of its members is read: the directory at the end of a zip, the headers of a tar. A tar that is compressed as a
    /// whole (tar.gz, tar.zst) is refused. A list has a URL on each line, optionally followed by the content's digest and the file's path in the mount.
    /// From Hugging Face's hub, or a server with the same API, the files of the branch main are mounted, or those of the revision in …/tree/REVISION; for a private repository use
    /// -H 'Authorization: Bearer TOKEN'.
    #[arg(long = "as", value_name = "KIND", value_enum)]
    pub(crate) shape: Option<MountShape>,

    /// Call the file NAME [default: the last part of the URL]
    #[arg(long, value_name = "NAME", value_parser = values::plain_name)]
    pub(crate) name: Option<String>,

    /// The platform, for an image that has several [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,

    /// The digest that the content must have (sha256:… or sha512:…) [default: the digest in the URL, for a registry's blob]
    ///
    /// The digest of the whole is checked once all of it is on this host (--fill). Each piece is verified in any case, against hashes
    /// from the agent that reads the origin. If the whole turns out to be wrong, all reads fail from then on.
    #[arg(long, value_name = "DIGEST")]
    pub(crate) digest: Option<Digest>,

    /// When to fetch what no program has read: always (from now on), idle (while no program waits) or never
    ///
    /// Parts that a program waits for come first in any case, then the parts after them if the program reads in order. With never,
    /// only parts that are read are fetched; for an image also the parts that earlier starts of it read first,
    /// which are fetched when it is opened (`darter image profile`). With always or idle, the file becomes complete: its digest is
    /// checked, and it no longer needs its origin.
    #[arg(long, value_name = "WHEN", default_value_t = Fill::Never,
        value_parser = values::fill())]
    pub(crate) fill: Fill,

    /// Limit --fill to this rate, such as 20MB/s or 200mbit [default: no limit]
    #[arg(long, value_name = "RATE")]
    pub(crate) fill_rate: Option<Rate>,

    /// How long a read waits for its bytes before it fails
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::some_time)]
    pub(crate) timeout: Duration,

    /// Let other users read the file, too
    ///
    /// By default only the user who mounts it can read it, also if that user is root. Ordinary users need `user_allow_other` in /etc/fuse.conf for this.
    #[arg(long)]
    pub(crate) allow_other: bool,

    #[command(flatten)]
    pub(crate) credentials: CredentialArgs,

    /// Keep the mount in this process, until it is unmounted or a signal ends the process
    #[arg(long)]
    pub(crate) foreground: bool,

    /// Print one JSON object; with --list, an array
    #[arg(long)]
    pub(crate) json: bool,

    /// Read through an agent that only this mount uses, even if a daemon runs
    ///
    /// That agent shares with no other host, and deletes what it has fetched when the file is unmounted. Local files are always read this way.
    #[arg(long)]
    pub(crate) no_daemon: bool,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
    #[command(flatten)]
    pub(crate) upstream: UpstreamArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Unmount what `darter mount` has mounted
#[derive(Debug, Args)]
pub(crate) struct UnmountArgs {
    /// Mount point
    #[arg(value_name = "DIR", required = true)]
    pub(crate) dirs: Vec<PathBuf>,

    /// Unmount even if programs use it: they may go on, no other program finds it, and it ends with the last of them
    #[arg(short, long)]
    pub(crate) lazy: bool,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Keep a mount
#[derive(Debug, Args)]
pub(crate) struct KeepArgs {
    /// Mount point, shown in lists of processes
    #[arg(value_name = "DIR")]
    pub(crate) _dir: PathBuf,
}

/// Open files
#[derive(Debug, Args)]
pub(crate) struct OpenArgs {
    /// The files
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Keep a directory of layers
#[derive(Debug, Args)]
pub(crate) struct LazyDirArgs {
    /// Mount point: a directory, which is created if it does not exist
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,

    /// How long a read waits for its bytes before it fails
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = values::some_time)]
    pub(crate) timeout: Duration,

    /// When to fetch what no container has read: always (from now on), idle (while no container waits) or never
    ///
    /// This applies to open layers. A layer that is complete on this host becomes a link to its file in the store, and no longer needs this process.
    #[arg(long, value_name = "WHEN", default_value_t = Fill::Idle,
        value_parser = values::fill())]
    pub(crate) fill: Fill,

    /// Limit --fill to this rate, such as 20MB/s or 200mbit [default: no limit]
    #[arg(long, value_name = "RATE")]
    pub(crate) fill_rate: Option<Rate>,

    /// Socket of a containerd whose snapshots say which layers have to stay on this host (may be repeated)
    ///
    /// containerd 2.4 can't start a container if the file of a layer is gone that one of its snapshots names. This process asks it every ten minutes, in
    /// all namespaces, and tells the agent. If it can't be asked, layers stay for --lazy-keep after the last request for them.
    #[arg(long, value_name = "SOCKET", default_value = values::CONTAINERD)]
    pub(crate) containerd: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}
