//! The methods that a race can be of.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, anyhow};
use darter_scenario::Scenario;

use crate::needs;
use crate::race::chain::Chain;
use crate::race::course::Testbed;
use crate::race::darter::Darter;
use crate::race::method::Method;
use crate::race::plain::Plain;
use crate::race::pull::{Pull, Way};
use crate::race::torrent::{Client, Torrent};
use crate::race::user::{Target, User};

/// The methods there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// Darter's agents.
    Darter,
    /// Darter's agents, every node of which computes the SHA-256 of the whole by itself.
    DarterVerifyWhole,
    /// Darter's agents, and `darter get` on each node: from the command to the whole file.
    DarterGet,
    /// Darter's agents, and `darter get --link` on each node: the file is the agent's own.
    DarterLink,
    /// Darter's agents, and `darter get` to standard output, in order, on each node.
    DarterStdout,
    /// containerds that pull and unpack an image by way of Darter's agents.
    DarterPull,
    /// containerds that pull and unpack an image straight from the registry.
    DirectPull,
    /// containerds that pull and unpack an image by way of Spegel.
    SpegelPull,
    /// libtorrent with its defaults.
    Libtorrent,
    /// libtorrent with settings for a fast local network.
    LibtorrentTuned,
    /// aria2 as a BitTorrent client.
    Aria2,
    /// As many plain downloads from nginx as there are nodes.
    Nginx,
    /// A chain that chooses nothing and says nothing: what the bytes alone take.
    Chain,
}

impl MethodKind {
    /// All methods, in the order in which they are compared.
    pub const ALL: [Self; 13] = [
        Self::Darter,
        Self::DarterVerifyWhole,
        Self::DarterGet,
        Self::DarterLink,
        Self::DarterStdout,
        Self::DirectPull,
        Self::DarterPull,
        Self::SpegelPull,
        Self::Libtorrent,
        Self::LibtorrentTuned,
        Self::Aria2,
        Self::Nginx,
        Self::Chain,
    ];

    /// True if it is one of Darter's, which have goals.
    pub const fn is_darter(self) -> bool {
        match self {
            Self::Darter
            | Self::DarterVerifyWhole
            | Self::DarterGet
            | Self::DarterLink
            | Self::DarterStdout
            | Self::DarterPull => true,
            Self::DirectPull
            | Self::SpegelPull
            | Self::Libtorrent
            | Self::LibtorrentTuned
            | Self::Aria2
            | Self::Nginx
            | Self::Chain => false,
        }
    }

    /// True if engines pull.
    pub const fn is_pull(self) -> bool {
        matches!(self, Self::DarterPull | Self::DirectPull | Self::SpegelPull)
    }

    /// How often a node writes the content: what users of agents are given is a second copy, and what engines unpack has twice to thrice its
    /// size.
    pub const fn writes(self) -> u32 {
        match self {
            Self::DarterGet | Self::DarterStdout => 2,
            Self::DirectPull | Self::SpegelPull => 4,
            Self::DarterPull => 5,
            _ => 1,
        }
    }

    /// Why it does not get to the end of this scenario, if it does not.
    pub fn unfit(self, scenario: &Scenario) -> Option<&'static str> {
        match self {
            Self::Chain if !scenario.events.is_empty() => Some("it kills somebody, and a chain breaks there"),
            kind if kind.is_pull() && !scenario.layers => {
                Some("its content is no image, and engines pull nothing else")
            }
            _ => None,
        }
    }

    /// Programs that it needs besides those of every race, and their packages in Debian.
    const fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Darter
            | Self::DarterVerifyWhole
            | Self::DarterGet
            | Self::DarterLink
            | Self::DarterStdout
            | Self::Chain => &[],
            Self::DarterPull | Self::DirectPull | Self::SpegelPull => {
                &[("containerd", "containerd"), ("docker-registry", "docker-registry")]
            }
            Self::Libtorrent | Self::LibtorrentTuned => &[("python3", "python3-libtorrent")],
            Self::Aria2 => &[("aria2c", "aria2"), ("python3", "python3")],
            Self::Nginx => &[("curl", "curl")],
        }
    }

    /// The programs that it lacks on this machine, with the command that installs them; `None` when nothing.
    pub fn lacking(self) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("cargo lab makes network namespaces: run it as root".to_owned());
        }
        let common = [("ip", "iproute2"), ("tc", "iproute2"), ("nsenter", "util-linux"), ("nginx", "nginx-light")];
        let mut packages: Vec<&str> = Vec::new();
        for (program, package) in common.iter().chain(self.programs()) {
            if needs::find(program).is_none() && !packages.contains(package) {
                packages.push(package);
            }
        }
        if matches!(self, Self::Libtorrent | Self::LibtorrentTuned) && !has_libtorrent() {
            packages.push("python3-libtorrent");
        }
        if packages.is_empty() {
            let lacks_spegel = matches!(self, Self::SpegelPull) && needs::find("spegel").is_none();
            return lacks_spegel.then(|| format!("{self} needs the program spegel in the PATH, which Debian has not"));
        }
        Some(format!("{self} needs more programs; on Debian: apt-get install {}", packages.join(" ")))
    }

    /// Starts what runs before a download is asked for.
    pub fn start<'c>(self, course: &'c Testbed<'c>) -> Result<Box<dyn Method + 'c>> {
        Ok(match self {
            Self::Darter => Box::new(Darter::start(course, &[])?),
            Self::DarterVerifyWhole => Box::new(Darter::start(course, &["--verify-whole"])?),
            Self::DarterGet => Box::new(User::start(course, Target::File)?),
            Self::DarterLink => Box::new(User::start(course, Target::Link)?),
            Self::DarterStdout => Box::new(User::start(course, Target::Output)?),
            Self::DarterPull => Box::new(Pull::start(course, Way::Darter)?),
            Self::DirectPull => Box::new(Pull::start(course, Way::Direct)?),
            Self::SpegelPull => Box::new(Pull::start(course, Way::Spegel)?),
            Self::Libtorrent => Box::new(Torrent::start(course, Client::Libtorrent { tuned: false })?),
            Self::LibtorrentTuned => Box::new(Torrent::start(course, Client::Libtorrent { tuned: true })?),
            Self::Aria2 => Box::new(Torrent::start(course, Client::Aria2)?),
            Self::Nginx => Box::new(Plain::start(course)?),
            Self::Chain => Box::new(Chain::start(course)?),
        })
    }
}

impl fmt::Display for MethodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Darter => "darter",
            Self::DarterVerifyWhole => "darter-verify-whole",
            Self::DarterGet => "darter-get",
            Self::DarterLink => "darter-link",
            Self::DarterStdout => "darter-stdout",
            Self::DarterPull => "darter-pull",
            Self::DirectPull => "direct-pull",
            Self::SpegelPull => "spegel-pull",
            Self::Libtorrent => "libtorrent",
            Self::LibtorrentTuned => "libtorrent-tuned",
            Self::Aria2 => "aria2",
            Self::Nginx => "nginx",
            Self::Chain => "chain",
        })
    }
}

impl FromStr for MethodKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = || Self::ALL.map(|kind| kind.to_string()).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.to_string() == text)
            .ok_or_else(|| anyhow!("there is no method {text:?}; there are {}", names()))
    }
}

fn has_libtorrent() -> bool {
    let import = std::process::Command::new("/usr/bin/python3").args(["-c", "import libtorrent"]).output();
    import.is_ok_and(|output| output.status.success())
}
