//! Flags of `darter image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use darter_core::Digest;
use darter_oci::platform::Platform;

use crate::cli::{CredentialArgs, PlaceArgs};
use crate::mount::reference::ImageRef;

pub(crate) const IMAGE_EXAMPLES: &str = "\
Examples:
  Make a layer of an image in an OCI layout mountable:
    $ darter image expand image/blobs/sha256/DIGEST layer.erofs
  Show the parts that are read first when an image starts, and are fetched first for the next start:
    $ darter image profile python:3.13

`darter image expand --help` and `darter image profile --help` have more.";

pub(crate) const PROFILE_EXAMPLES: &str = "\
Examples:
  Show what is known:
    $ darter image profile python:3.13
  Export it, and use it for the same image on other hosts, instead of what they learn:
    $ darter image profile python:3.13 --export python.json
    $ darter image profile python:3.13 --pin python.json
  Use what is learnt again:
    $ darter image profile python:3.13 --unpin

FIRST is how much of a layer was read in the first minute after it was opened, PARTS the number of \
parts, FROM the number of starts from which this was learnt. The seed that leads a layer's \
swarm learns the parts from the hosts that start the image, and tells other hosts. So pin \
a list at the seeds: hosts that start the image later get the pinned list. At a node, a pinned list \
applies only to starts on this host.
Layers are found by their diff ids: an exported file applies to any image with these layers.";

pub(crate) const EXPAND_EXAMPLES: &str = "\
Examples:
  Make a layer mountable, and look into it (mounting needs root):
    $ darter image expand layer.tar.gz layer.erofs
    # mount -t erofs -o ro layer.erofs /mnt
  From standard input, and only if it is the layer that the image's configuration names:
    $ darter image expand - layer.erofs --diff-id sha256:DIGEST
  Where containerd 2.4 looks for it (layer_content_caches of its erofs snapshotter):
    $ darter image expand layer.tar.zst /var/cache/layers/sha256/ab/DIGEST.erofs

OUT is [4 KiB with the superblock][the layer's tar as it is][metadata]: EROFS with blocks of \
512 bytes and no further device. Linux mounts it as a file from 6.12 on, and over a loop device \
(mount -o loop) from 6.4 on. The same layer gives the same bytes on every host.

OUT has the files that containerd would unpack for overlayfs: whiteouts are character devices 0:0, \
opaque directories have trusted.overlay.opaque, times before 1970 are 1970. Directories that no \
member names are root's, with mode 0755. A layer that containerd refuses, such as one with a hard link to a missing \
file, is refused with the member's name and exit code 1.";

/// Work with image layers on this host: make mountable files, manage start profiles
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make a mountable file (EROFS) of a layer
    ///
    /// The layer is a tar, plain or compressed by gzip or zstd; it is read once, from its beginning, and little of it is held in memory. OUT appears,
    /// or changes, only once it is complete.
    #[command(after_help = EXPAND_EXAMPLES)]
    Expand(ExpandArgs),

    /// Show, export or pin which parts of an image are read first when it starts lazily
    ///
    /// A host that starts an image from --lazy-dir, or mounts it (`darter mount`), fetches these parts in this order before they are read: the
    /// first start waits for each of them, the next one does not.
    #[command(after_help = PROFILE_EXAMPLES)]
    Profile(ProfileArgs),
}

/// Show, export or pin which parts of an image are read first
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub(crate) image: ImageRef,

    /// The platform, for an image that has several [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(crate) platform: Option<Platform>,

    /// Write the list into FILE, as JSON (`-`: standard output)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pin", "unpin"])]
    pub(crate) export: Option<PathBuf>,

    /// Use the list in FILE, written by --export, in place of the learnt one, until --unpin
    #[arg(long, value_name = "FILE", conflicts_with = "unpin")]
    pub(crate) pin: Option<PathBuf>,

    /// Use the learnt list again
    #[arg(long)]
    pub(crate) unpin: bool,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) credentials: CredentialArgs,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Make a mountable file of a layer
#[derive(Clone, Debug, Args)]
pub(crate) struct ExpandArgs {
    /// The layer, a tar, tar.gz or tar.zst; its first bytes say which. `-` for standard input
    #[arg(value_name = "LAYER")]
    pub(crate) layer: PathBuf,

    /// The file to make; an existing file of this name is replaced
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,

    /// Refuse a layer whose uncompressed tar has another digest; the image's configuration lists it as the layer's diff id
    #[arg(long, value_name = "DIGEST")]
    pub(crate) diff_id: Option<Digest>,

    /// Refuse a layer whose file has another digest; the image's manifest lists it
    #[arg(long, value_name = "DIGEST")]
    pub(crate) digest: Option<Digest>,

    /// Print one JSON object at the end, also after a failure
    #[arg(long)]
    pub(crate) json: bool,

    /// No progress bar and no closing line
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
