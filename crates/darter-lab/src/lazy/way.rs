//! How an image comes to a container. All with the same containerd.

use std::fmt;
use std::str::FromStr;

use anyhow::anyhow;
use serde::Deserialize;

use crate::engine::peers::Peer;

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the registry, unpacked for overlayfs.
    Direct,
    /// Through the host's agent, unpacked for overlayfs.
    Mirror,
    /// The same, converted as that containerd does where layers are mounted and one is not there: what a pull takes that can't be lazy.
    Converted,
    /// Mounted out of the agent's directory of layers, while a seed that has nothing yet reads and expands them: the first ever pull of a fleet.
    First,
    /// Mounted likewise, where the pull does not wait until they are expanded: it downloads the image, and unpacks it as that containerd
    /// does where layers are mounted.
    Late,
    /// Mounted out of the agent's directory of layers, which the seed has: the first start in the fleet.
    Lazy,
    /// The next start on that host, with what is there by then.
    Again,
    /// On another host, once the fleet knows what the first one touched.
    Second,
    /// The next start on that other host, whose layers are whole by then: what a start takes by itself.
    Local,
    /// On eight further hosts at the same moment.
    Eight,
    /// By another lazy snapshotter, from the registry, with the image converted for it before.
    Peer(Peer),
}

impl Way {
    /// The ways that are played where nothing else is asked for.
    pub const USUAL: [Self; 4] = [Self::Direct, Self::Mirror, Self::Lazy, Self::Second];

    /// The ways that can be asked for, in their turns: what is known of first touches grows from one to the next. [`Way::Again`] comes
    /// with [`Way::Lazy`], and [`Way::Local`] with [`Way::Second`].
    pub const ASKED: [Self; 10] = [
        Self::Direct,
        Self::Mirror,
        Self::Converted,
        Self::First,
        Self::Late,
        Self::Lazy,
        Self::Second,
        Self::Eight,
        Self::Peer(Peer::Stargz),
        Self::Peer(Peer::Soci),
    ];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct-pull",
            Self::Mirror => "darter-pull",
            Self::Converted => "darter-converted",
            Self::First => "darter-first",
            Self::Late => "darter-late",
            Self::Lazy => "darter-lazy",
            Self::Again => "lazy, again",
            Self::Second => "darter-second",
            Self::Local => "all here",
            Self::Eight => "darter-eight",
            Self::Peer(peer) => peer.name(),
        }
    }

    /// The things that this machine lacks for it, in words for people.
    pub fn lacking(self) -> Option<String> {
        match self {
            Self::Peer(peer) => peer.lacking(),
            _ => None,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || Self::ASKED.map(Self::name).join(", ");
        let found = Self::ASKED.into_iter().find(|way| way.name() == text);
        found.ok_or_else(|| anyhow!("there is no way {text:?}; there are {}", names()))
    }
}

impl<'de> Deserialize<'de> for Way {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_asked_for_by_the_names_that_tables_have() {
        for way in Way::ASKED {
            assert_eq!(way.to_string().parse::<Way>().unwrap(), way);
        }
        assert!("all here".parse::<Way>().unwrap_err().to_string().contains("darter-eight, stargz, soci"));
    }
}
