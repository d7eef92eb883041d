//! Flags of the commands that end by themselves.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, Args, ValueEnum};
use clap_complete::Shell;
use darter_api::Span;
use darter_core::{Digest, Rate};
use url::Url;

use super::agent::{AgentArgs, JoinArgs, LogArgs, OriginArgs, PlaceArgs, StoreArgs, UpstreamArgs};
use super::values::{self, HeaderArg};

pub(crate) const GET_EXAMPLES: &str = "\
Examples:
  Into a file with the name from the URL, or with the name that the origin gives:
    $ darter get https://example.org/debian.iso
    $ darter get -J https://example.org/download?id=7
  Enforce a digest; an existing file that has it is left as it is:
    $ darter get https://example.org/model.bin --digest sha256:DIGEST
  Several, four at a time, into a directory:
    $ darter get https://example.org/a.bin https://example.org/b.bin -o models/
    $ darter get -i list.txt -o models/
  Credentials that no other user of the host can read:
    $ darter get https://example.org/model.bin -H @secret-headers
    $ darter get https://example.org/model.bin --netrc
  Into a pipe:
    $ darter get https://example.org/root.tar -o -
  The second megabyte, and the last kilobyte; only the pieces with these bytes are fetched:
    $ darter get https://example.org/model.bin --range 1000000-1999999 -o part
    $ darter get https://example.org/model.zip --range -1000 -o -

A list has a URL on each line, optionally followed by its digest and by a file name; # begins a \
comment, on a line of its own or at the end of a line.

An interrupted download resumes: run the same command again. Pieces of a killed download are kept for three days. FILE appears, or changes, only once the content is complete and \
verified. It keeps the mode, owner and links of the file that it replaces. Where the file system can share blocks (XFS, \
btrfs), FILE takes no space of its own.";

/// Download URLs, through the daemon if one runs
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// URLs to download: http, https or file; several are downloaded at the same time
    #[arg(value_name = "URL", value_parser = values::source_url, required_unless_present = "input")]
    pub(crate) urls: Vec<Url>,

    /// Download the URLs in this list; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,

    /// Write to FILE, or into the directory DIR/; `-` for standard output [default: the last part of the URL]
    #[arg(short, long, value_name = "FILE|DIR/")]
    pub(crate) output: Option<PathBuf>,

    /// Use the file name that the origin gives (Content-Disposition), if it gives one
    #[arg(short = 'J', long)]
    pub(crate) remote_name: bool,

    /// Refuse content that has another digest (sha256:…, sha384:… or sha512:…); not with --range
    #[arg(long, value_name = "DIGEST")]
    pub(crate) digest: Option<Digest>,

    /// Download only these bytes, as in HTTP: FIRST-LAST (both included, from 0), FIRST- (to the end) or -COUNT
    /// (the last ones)
    ///
    /// FILE gets just these bytes. Only the pieces with these bytes are fetched, verified and shared with other
    /// nodes. An origin that serves no ranges is read from its first byte; `darter explain` says so. A digest is
    /// that of the whole content and can't be checked on a part of it: --digest is refused here, and --verify-whole
    /// hashes nothing.
    #[arg(long, value_name = "FIRST-LAST", allow_hyphen_values = true, conflicts_with_all = ["link", "input"])]
    pub(crate) range: Option<Span>,

    /// Also hash the whole file on this host
    ///
    /// Each piece is verified anyway, and the agent that reads the origin computes the digest of the whole once for the
    /// fleet. With this flag, get trusts no other agent and hashes the file that it has written.
    #[arg(long, env = "DARTER_VERIFY_WHOLE", value_name = "BOOL", default_value = "false", default_missing_value = "true",
        action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) verify_whole: bool,

    #[command(flatten)]
    pub(crate) credentials: CredentialArgs,

    /// Set the file's modification time to the origin's Last-Modified
    #[arg(long)]
    pub(crate) mtime: bool,

    /// Make the file a hard link to the store's file if the file system can't share blocks
    ///
    /// This takes no space and no time. But the store and FILE then share one file: its owner and mode stay as they are, and it must not
    /// be changed. FILE must be on the same file system, and the user must be root or the one that the daemon runs as.
    #[arg(long, conflicts_with = "mtime")]
    pub(crate) link: bool,

    /// Wait until the file is on the disk, so that it survives a power failure
    #[arg(long)]
    pub(crate) sync: bool,

    /// How many downloads run at the same time
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) parallel: u16,

    /// Print one JSON object at the end, also after a failure; for several downloads, an array
    #[arg(long)]
    pub(crate) json: bool,

    /// Download in this process even if a daemon runs
    #[arg(long)]
    pub(crate) no_daemon: bool,

    /// Keep the content in the store as well (a daemon always does)
    #[arg(long)]
    pub(crate) keep: bool,

    /// No progress bar and no closing lines
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

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

/// The credentials for the source.
#[derive(Debug, Args)]
pub(crate) struct CredentialArgs {
    /// Send a request header, such as 'Accept: text/plain', or the headers in a file, one per line (@FILE, @- for standard
    /// input); repeat for several
    ///
    /// Every user of the host can read command lines: write credentials into a file or into the environment variable
    /// DARTER_HEADER, which takes headers one per line, too.
    #[arg(short = 'H', long, value_name = "NAME: VALUE|@FILE", value_parser = values::header)]
    pub(crate) header: Vec<HeaderArg>,

    /// Take logins from ~/.netrc, or from the file that $NETRC names
    #[arg(long)]
    pub(crate) netrc: bool,

    /// Take logins from this file in netrc's format
    #[arg(long, value_name = "FILE")]
    pub(crate) netrc_file: Option<PathBuf>,
}

/// List the blobs that this host's store holds
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Which blobs to remove, pin or unpin.
#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// Digests or blob ids as `darter ls` shows them (the first eight digits are enough), URLs, or image references
    #[arg(value_name = "DIGEST|URL|ID|IMAGE", required = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) names: Vec<String>,
    /// Print a JSON object with the names
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

/// Show the daemon at a glance
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

pub(crate) const TOP_EXAMPLES: &str = "\
Examples:
  Live, every second (Enter opens a swarm, ? explains the columns):
    $ darter top
  The same for one swarm, twice a second:
    $ darter top https://example.org/model.bin --interval 500ms
  One snapshot, for a ticket or a pipe:
    $ darter top --once
  Which peer sends to which at this moment, for a program:
    $ darter top 3f2a1b4c --json
  A line of JSON every ten seconds, for a log:
    $ darter top --json --interval 10s

Keys: arrows or j k choose, Enter opens, Esc goes back, s sorts, p pauses, ? helps, q quits.

The screen shows: the agent (CPU, memory, disk, peers); bytes per second in and out, by the distance of the other end \
(origin, same host, rack, zone, region, far); for each swarm a map of the pieces held, rates, peers, pieces that are \
late, and the time left. An open swarm shows for each peer what it holds, sends to this agent and receives from it. An \
agent knows its own part of a swarm; run this on a seed to see all members that it leads. The terminal needs 60×12 characters or more.";

/// Watch swarms live: which peer sends to which, how fast, and which pieces are late
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Begin with one swarm: the digest or id of its blob (the first eight digits are enough), the URL it was requested by,
    /// or the image whose layer is being transferred
    #[arg(value_name = "DIGEST|URL|ID|IMAGE", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,

    /// How often to refresh, 100ms or more [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = values::interval)]
    pub(crate) interval: Option<Duration>,

    /// Print one snapshot as text and exit (the default if standard output is no terminal)
    #[arg(long, conflicts_with_all = ["json", "interval"])]
    pub(crate) once: bool,

    /// Print one snapshot as a line of JSON; with --interval, one line each time until stopped
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

pub(crate) const EXPLAIN_EXAMPLES: &str = "\
Examples:
    $ darter explain https://example.org/model.bin
    $ darter explain 3f2a1b4c --json
  Each manifest and layer of an image:
    $ darter explain library/app:v1";

/// Show where the bytes of a blob, or of each part of an image, came from
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A digest or a blob's id (its first eight digits are enough), the URL it was requested by, or an image reference
    #[arg(value_name = "DIGEST|URL|ID|IMAGE", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
}

pub(crate) const CONFIG_EXAMPLES: &str = "\
Examples:
  Check a file, and print the values that follow from it:
    $ darter config --config /etc/darter.toml
  Start a file from the defaults:
    $ darter config --role node --join seed-1:7400
  Move passwords from a configuration file into files of their own:
    $ darter config --config old.toml --write-secrets /etc/darter/secrets > new.toml";

/// The kind of agent that a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfigRole {
    /// For `darter seed` and `darter up`
    Seed,
    /// For `darter node`
    Node,
}

/// Print the effective configuration
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Check it as for this kind of agent
    #[arg(long, value_enum, default_value = "seed")]
    pub(crate) role: ConfigRole,
    /// Print a JSON object instead of TOML
    #[arg(long)]
    pub(crate) json: bool,
    /// Write passwords and other secrets from flags, variables or the configuration file into files in DIR, which only this
    /// user can read, and print a configuration that names these files
    ///
    /// Secrets are never printed. Without this flag, the printed configuration names files for them, and standard error
    /// says which of these files are missing. Existing files are never changed.
    #[arg(long, value_name = "DIR")]
    pub(crate) write_secrets: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) join: JoinArgs,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
}

pub(crate) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
    $ darter completions bash > /etc/bash_completion.d/darter
    $ darter completions zsh > ~/.zfunc/_darter";

/// Print a completion script
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

pub(crate) const MAN_EXAMPLES: &str = "\
Examples:
    $ darter man | man -l -
    $ darter man /usr/local/share/man/man1";

/// Print the manual page, or write a page for each command
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write a page for each command into this directory
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

pub(crate) const DEMO_EXAMPLES: &str = "\
Examples:
    $ darter demo
  A file of your own, four nodes, faster links:
    $ darter demo ./image.tar --nodes 4 --rate 80MB/s
  Only the swarm, drawn as a picture:
    $ darter demo --quick --plot demo.svg
  Start a container before its image of 1 GB is downloaded; without root, open a file of that length:
    # darter demo --lazy
  The same, drawn as a picture, until the image is complete:
    # darter demo --lazy --plot lazy.svg

The demo: an origin inside this process serves a file at a limited rate. One seed and eight nodes, each a \
process of its own with the same limit for sending and for receiving, fetch it together; then eight plain downloads \
take it from the same origin. The theoretical best is the time that no method can beat with these links: the largest of F/(seed's \
rate), F/(slowest node's rate) and N·F/(all sending rates together), for N nodes and a file of F bytes.";

/// Watch one seed and eight nodes share a file on this machine, compared with plain downloads
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// A file or URL to share [default: generated content of --size]
    #[arg(value_name = "FILE|URL")]
    pub(crate) content: Option<String>,

    /// Show lazy start instead: a node runs a container before its large image is downloaded; without root, it opens a large file
    ///
    /// The container needs root, a kernel with EROFS and overlayfs, and runc or crun. Without them, and for a FILE or URL, the node opens the
    /// file and reads it here and there: as root, or with fusermount3.
    #[arg(long, conflicts_with_all = ["nodes", "plain"])]
    pub(crate) lazy: bool,

    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,

    /// How much content to generate [default: five seconds' worth of --rate; with --lazy 1GB]
    #[arg(long, value_name = "SIZE", value_parser = values::size, conflicts_with = "content")]
    pub(crate) size: Option<u64>,

    /// Limit of each link, for sending and for receiving: origin, seed and nodes [default: 50MB/s, or 40MB/s on
    /// machines with fewer than four cores; with --lazy 25MB/s]
    #[arg(long, value_name = "RATE")]
    pub(crate) rate: Option<Rate>,

    /// Skip the plain downloads, which take most of the time
    #[arg(long = "quick", alias = "no-plain", action = ArgAction::SetFalse)]
    pub(crate) plain: bool,

    /// Draw what each node held over time
    ///
    /// With --lazy, the node then fetches all of the image or file while its container runs: at 200 Mbit/s this takes 40 seconds longer.
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,

    /// Keep the data directories and logs
    #[arg(long)]
    pub(crate) keep: bool,

    /// Print the result as one JSON object, without a picture
    #[arg(long)]
    pub(crate) json: bool,
}
