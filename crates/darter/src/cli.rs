//! The command line, defined once: parsing, help, completions, manual pages, the keys of the configuration file and
//! `darter config` all come from the types in this module.
//!
//! | file | what lives there |
//! |---|---|
//! | `cli/agent.rs` | the flags of `up`, `seed` and `node`, in the groups that other commands share |
//! | `cli/mount.rs` | the flags of mounts |
//! | `cli/client.rs` | the flags of everything else |
//! | `cli/image.rs` | the flags of `image` |
//! | `cli/snapshotter.rs` | the flags of `snapshotter` |
//! | `cli/setup.rs` | the flags of `setup` and `doctor` |
//! | `cli/upstream.rs` | how a registry and its settings are written |
//! | `cli/values.rs` | how sizes, labels, headers and addresses are written |
//! | `cli/hidden.rs` | hides passwords in messages about wrong values |
//! | `cli/options.rs` | from flags to [`darter_agent::Options`] |
//!
//! A flag that is a setting has an environment variable, `DARTER_` and its name; a flag that only shapes one command's
//! output has none.

mod agent;
mod client;
pub(crate) mod hidden;
mod image;
mod mount;
mod options;
mod setup;
mod snapshotter;
pub(crate) mod upstream;
pub(crate) mod values;

#[cfg(test)]
mod tests;

use std::ffi::OsString;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{CommandFactory as _, Parser, Subcommand};

pub(crate) use self::agent::{AgentArgs, LazyArgs, LogArgs, LogFormat, NodeArgs, PlaceArgs};
pub(crate) use self::client::{
    CompletionsArgs, ConfigArgs, ConfigRole, CredentialArgs, DemoArgs, ExplainArgs, GetArgs, ListArgs, ManArgs,
    NamesArgs, StatusArgs, TopArgs,
};
pub(crate) use self::image::{ExpandArgs, ImageArgs, ImageCommand, ProfileArgs};
pub(crate) use self::mount::{
    KeepArgs, LazyDirArgs, MountArgs, MountShape, Mountable, OpenArgs, UnmountArgs, path_hint,
};
pub(crate) use self::setup::{DoctorArgs, SetupArgs};
pub(crate) use self::snapshotter::SnapshotterArgs;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  Fetch one file, no daemon and no configuration needed:
    $ darter get https://example.org/model.bin -o model.bin

  Share among many hosts: a seed on one, a node on each of the others:
    $ darter seed --insecure
    $ darter node --join seed-1:7400 --insecure

  Open a model before it is downloaded:
    $ darter mount https://example.org/model.safetensors /mnt/model

  Let containerd pull through the agent of this host, and check that it does:
    $ darter setup containerd
    $ darter doctor

  See what is going on:
    $ darter status
    $ darter top
    $ darter explain https://example.org/model.bin

  Watch a swarm of eight on this machine:
    $ darter demo

Exit codes: 0 done; 1 failed, and will fail again until the cause is mended (no such host, refused, wrong content, a full disk); 2 wrong usage or configuration; 75 failed for now, the same command may succeed later (no connection, time-outs, HTTP 429 and 5xx, the daemon stopping). A get that is stopped by a signal ends by that signal; as the first process of a container it exits with 128 plus the signal's number (130 for Ctrl-C).";

/// Brings container images, files and models from where they are stored to every host that needs them.
///
/// The first request makes a seed read the origin once. From then on the hosts pass the pieces that they have on to
/// each other; each piece is checked before it is kept or passed on.
#[derive(Debug, Parser)]
#[command(name = "darter", version, styles = STYLES, max_term_width = 100, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an all-in-one agent on this host (start here)
    #[command(after_help = UP_EXAMPLES)]
    Up(AgentArgs),
    /// Run a seed: reads each origin once for the fleet, and connects the nodes with each other
    #[command(after_help = SEED_EXAMPLES)]
    Seed(AgentArgs),
    /// Run a node: serves the programs of this host, and gets pieces from seeds and other nodes
    #[command(after_help = NODE_EXAMPLES)]
    Node(NodeArgs),
    /// Download a URL, through the daemon if one runs
    #[command(after_help = client::GET_EXAMPLES)]
    Get(GetArgs),
    /// Mount an image, a file, an archive or a set of files, before it is downloaded
    #[command(after_help = mount::MOUNT_EXAMPLES)]
    Mount(Box<MountArgs>),
    /// Unmount what `darter mount` has mounted
    #[command(after_help = mount::UNMOUNT_EXAMPLES)]
    Unmount(UnmountArgs),
    /// Keep a mount; `darter mount` starts this and says on standard input what to mount
    #[command(hide = true)]
    KeepMount(KeepArgs),
    /// Open files and close them, for a process that keeps a mount
    #[command(hide = true)]
    OpenFiles(OpenArgs),
    /// Keep a directory of image layers, which containerd mounts before they are downloaded
    ///
    /// An agent with --lazy-dir that runs as root starts this by itself.
    #[command(after_help = mount::LAZY_DIR_EXAMPLES)]
    LazyDir(Box<LazyDirArgs>),
    /// Serve snapshots to containerd before 2.4: images that start before they are downloaded
    ///
    /// A proxy snapshotter, which runs as root beside the agent.
    #[command(after_help = snapshotter::SNAPSHOTTER_EXAMPLES)]
    Snapshotter(Box<SnapshotterArgs>),
    /// List the blobs that this host's store holds
    Ls(ListArgs),
    /// Remove blobs from this host's store
    ///
    /// Removing an image removes all of its blobs that no other known image needs.
    Rm(NamesArgs),
    /// Pin blobs: they are not evicted when the store is full, and not removed
    ///
    /// Pinning an image pins all of its stored blobs.
    Pin(NamesArgs),
    /// Unpin blobs: they may be evicted and removed again
    ///
    /// Unpinning an image unpins all of its stored blobs.
    Unpin(NamesArgs),
    /// Show the daemon at a glance: traffic, seeds, peers, transfers
    Status(StatusArgs),
    /// Watch swarms live: which peer sends to which, how fast, and which pieces are late
    #[command(after_help = client::TOP_EXAMPLES)]
    Top(TopArgs),
    /// Show where a blob's bytes came from, and what happened on the way
    #[command(after_help = client::EXPLAIN_EXAMPLES)]
    Explain(ExplainArgs),
    /// Work with image layers on this host: make mountable files, manage start profiles
    #[command(after_help = image::IMAGE_EXAMPLES)]
    Image(ImageArgs),
    /// Configure a container engine of this host to pull through Darter
    #[command(after_help = setup::SETUP_EXAMPLES)]
    Setup(Box<SetupArgs>),
    /// Check this host: what works, what does not, and what to do about it
    #[command(after_help = setup::DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Print the effective configuration, and where each value came from
    #[command(after_help = client::CONFIG_EXAMPLES)]
    Config(ConfigArgs),
    /// Print a completion script for a shell
    #[command(after_help = client::COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Print the manual page, or write a page for each command
    #[command(after_help = client::MAN_EXAMPLES)]
    Man(ManArgs),
    /// Watch one seed and eight nodes share a file on this machine, compared with plain downloads
    #[command(after_help = client::DEMO_EXAMPLES)]
    Demo(DemoArgs),
}

const UP_EXAMPLES: &str = "\
Examples:
  All defaults:
    $ darter up
  Keep at most 200 GB, leave half of a gigabit link to others:
    $ darter up --quota 200GB --upload-limit 500mbit
  From a file, with one value overridden:
    $ darter up --config /etc/darter.toml --local 127.0.0.1:9000";

const SEED_EXAMPLES: &str = "\
Examples:
    $ darter seed --insecure
  Read origins at no more than 200 Mbit/s, with the logins that Docker has:
    $ darter seed --insecure --origin-limit 200mbit --docker-config /root/.docker/config.json
  A registry of your own, without TLS:
    $ darter seed --upstream registry.local=http://10.0.0.1:5000";

const NODE_EXAMPLES: &str = "\
Examples:
    $ darter node --join seed-1:7400 --insecure
  Label this host's location, so that nearby peers are preferred:
    $ darter node --join seed-1:7400 --insecure --label zone=a --label rack=17";

impl Command {
    /// True if the caller asked for JSON, which failures are then written in, too.
    pub(crate) const fn wants_json(&self) -> bool {
        match self {
            Self::Get(args) => args.json,
            Self::Mount(args) => args.json,
            Self::Unmount(args) => args.json,
            Self::Ls(args) => args.json,
            Self::Rm(args) => args.json,
            Self::Pin(args) | Self::Unpin(args) => args.json,
            Self::Status(args) => args.json,
            Self::Top(args) => args.json,
            Self::Explain(args) => args.json,
            Self::Setup(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Config(args) => args.json,
            Self::Demo(args) => args.json,
            Self::Image(ImageArgs { command: ImageCommand::Expand(args) }) => args.json,
            Self::Image(ImageArgs { command: ImageCommand::Profile(args) }) => args.json,
            Self::Up(_)
            | Self::Seed(_)
            | Self::Node(_)
            | Self::KeepMount(_)
            | Self::OpenFiles(_)
            | Self::LazyDir(_)
            | Self::Snapshotter(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
        }
    }

    /// The log's flags; `None` for commands that start no agent.
    pub(crate) const fn log(&self) -> Option<&LogArgs> {
        match self {
            Self::Up(args) | Self::Seed(args) => Some(&args.log),
            Self::Node(args) => Some(&args.agent.log),
            Self::Get(args) => Some(&args.log),
            Self::Mount(args) => Some(&args.log),
            Self::LazyDir(args) => Some(&args.log),
            Self::Snapshotter(args) => Some(&args.log),
            _ => None,
        }
    }
}

/// The definition of the command line: parsing, help, completions, manual pages and configuration all use it. Help shows the names
/// of environment variables, not their values, so that the text is the same for everybody.
pub(crate) fn definition() -> clap::Command {
    Cli::command().mut_subcommands(|command| command.mut_args(|arg| arg.hide_env_values(true)))
}

/// clap's message about a wrong command line, in one line and without its hint at `--help`.
pub(crate) fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let said = text.split("\n\n").next().unwrap_or_default();
    let lines: Vec<_> = said.lines().map(str::trim).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

/// The arguments to parse. In `cargo demo -- --help`, cargo puts its alias's arguments before the user's and keeps the `--`; that one is
/// removed.
pub(crate) fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<OsString> = given.into_iter().collect();
    if given.get(1).is_some_and(|word| word == "demo") && given.get(2).is_some_and(|word| word == "--") {
        given.remove(2);
    }
    given
}
