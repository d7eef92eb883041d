//! Events of a fleet, and their times: the one language in which scenarios tell them.
//!
//! ```toml
//! events = [
//!     { at = "20%", cut = [3, 0] },                     # node 3 and the seed, at a fifth of T*
//!     { at = "60%", heal = [3, 0] },
//!     { at = "2.5s", lie = { node = 2, how = "silent" } },
//!     { at = "1s", jump = { node = 4, clock = "wall", by = -3600 } },
//! ]
//! ```
//!
//! The same from Rust: `scenario.at(percent(20), Event::Cut(3, SEED))`.
//!
//! Nodes are numbered from 1; 0 is the seed. A player plays every event of a scenario, or refuses it by name: an event that is left
//! out silently would make a result of nothing.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The seed's number.
pub const SEED: u32 = 0;

/// When something happens, counted from the first start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// A share of T*: 0.5 is half of it.
    Share(f64),
    /// So long after the start.
    After(Duration),
}

/// A share of T*.
pub const fn percent(percent: u32) -> When {
    When::Share(percent as f64 / 100.0)
}

impl From<Duration> for When {
    fn from(after: Duration) -> Self {
        Self::After(after)
    }
}

impl When {
    /// The time after the start, if T* is `bound` seconds.
    pub fn after(self, bound: f64) -> Duration {
        match self {
            Self::Share(share) => Duration::from_secs_f64(share * bound),
            Self::After(after) => after,
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{}%", share * 100.0),
            Self::After(after) => write!(f, "{}s", after.as_secs_f64()),
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |suffix: &str| {
            let number: f64 = text.strip_suffix(suffix)?.trim().parse().ok()?;
            Some(number).filter(|number| (0.0..=1e9).contains(number))
        };
        let share = || number("%").map(|percent| Self::Share(percent / 100.0));
        let millis = || number("ms").map(|millis| Self::After(Duration::from_secs_f64(millis / 1e3)));
        let seconds = || number("s").map(|seconds| Self::After(Duration::from_secs_f64(seconds)));
        share().or_else(millis).or_else(seconds).ok_or_else(|| {
            format!(
                "{text:?} is no time: write a share of T* such as 50%, or a time after the start such as 2.5s or 300ms"
            )
        })
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Something that happens to a fleet. Nodes are named by their numbers; 0 is the seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A node starts, with what lies on its disk if it was there before, and wants the content. A node that joins so comes no
    /// sooner. The seed leads again.
    Join(u32),
    /// A node goes in good order: others know at once.
    Leave(u32),
    /// A node dies: others find out by themselves.
    Kill(u32),
    /// The lead dies.
    KillLead {},
    /// Nothing passes between two hosts any more, and nobody tells them.
    Cut(u32, u32),
    /// Everything passes between two hosts again.
    Heal(u32, u32),
    /// A node's cable becomes slower by this factor.
    Slow {
        /// The node.
        node: u32,
        /// The divisor of its rates.
        by: u32,
    },
    /// A node lies from now on about what it gives. Nothing is owed to it.
    Lie {
        /// The node; not the seed.
        node: u32,
        /// In which way.
        how: Lie,
    },
    /// A bit flips in every piece that a node holds. Nobody knows before one of them is hashed.
    Corrupt(u32),
    /// A bit flips on the way in the next piece that the first node gives the second.
    Flip(u32, u32),
    /// A node's disk takes nothing more.
    FullDisk(u32),
    /// A node's clock jumps.
    Jump {
        /// The node.
        node: u32,
        /// Which of its clocks.
        clock: Clock,
        /// By how many seconds; back if negative.
        by: f64,
    },
    /// A reader in order starts at a node.
    Read {
        /// The node.
        node: u32,
        /// The first piece that it reads.
        from: u32,
    },
}

/// A clock of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The clock of dates: it is set, forwards and backwards.
    Wall,
    /// The clock of pauses: it goes forwards alone, and jumps where a host was suspended.
    Monotonic,
}

/// How a node lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// Takes requests and never answers one.
    Silent,
    /// Answers a byte at a time.
    Drip,
    /// Refuses every request.
    Refuse,
    /// Says that it holds everything, and has nothing when asked.
    Claim,
    /// Says that it holds everything, takes back what it is asked for, and says again that it holds it.
    Withdraw,
    /// Answers each request only after ten seconds.
    Late,
    /// Sends wrong pieces.
    Wrong,
    /// Gives what it holds, and is gone when half of T* has passed: see [`Scenario::lie`](crate::Scenario::lie).
    Vanish,
}

impl Lie {
    /// Every kind, with its word.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::Silent, "silent"),
        (Self::Drip, "drip"),
        (Self::Refuse, "refuse"),
        (Self::Claim, "claim"),
        (Self::Withdraw, "withdraw"),
        (Self::Late, "late"),
        (Self::Wrong, "wrong"),
        (Self::Vanish, "vanish"),
    ];

    /// True if a node that lies so says that it holds everything.
    pub const fn claims_all(self) -> bool {
        matches!(self, Self::Claim | Self::Withdraw)
    }
}

impl FromStr for Lie {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, word)| *word == text);
        let words = Self::ALL.map(|(_, word)| word).join(", ");
        found.map(|(lie, _)| *lie).ok_or_else(|| format!("{text:?} is none of {words}"))
    }
}

/// An event and its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    /// When it happens.
    pub when: When,
    /// The event.
    pub event: Event,
}

/// The key of a time in a file; the only other one names the event.
const WHEN: &str = "at";

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            at: &'a When,
            #[serde(flatten)]
            event: &'a Event,
        }
        Line { at: &self.when, event: &self.event }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut line = toml::Table::deserialize(deserializer)?;
        let example = "such as { at = \"50%\", kill = 3 }";
        let when = line.remove(WHEN).ok_or_else(|| D::Error::custom(format!("an event needs `at`, {example}")))?;
        if line.len() != 1 {
            let found: Vec<&str> = line.keys().map(String::as_str).collect();
            let text = format!("an event is `at` and one thing that happens, {example}; found {found:?}");
            return Err(D::Error::custom(text));
        }
        let wrong = |error: toml::de::Error| D::Error::custom(error.message());
        let event = toml::Value::Table(line).try_into().map_err(wrong)?;
        Ok(Self { when: when.try_into().map_err(wrong)?, event })
    }
}

impl Event {
    /// The word of the event in a file.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Join(_) => "join",
            Self::Leave(_) => "leave",
            Self::Kill(_) => "kill",
            Self::KillLead {} => "kill_lead",
            Self::Cut(..) => "cut",
            Self::Heal(..) => "heal",
            Self::Slow { .. } => "slow",
            Self::Lie { .. } => "lie",
            Self::Corrupt(_) => "corrupt",
            Self::Flip(..) => "flip",
            Self::FullDisk(_) => "full_disk",
            Self::Jump { .. } => "jump",
            Self::Read { .. } => "read",
        }
    }

    /// The nodes that it names.
    pub fn nodes(&self) -> impl Iterator<Item = u32> {
        let (one, other) = match *self {
            Self::Join(node) | Self::Leave(node) | Self::Kill(node) | Self::Corrupt(node) | Self::FullDisk(node) => {
                (Some(node), None)
            }
            Self::Slow { node, .. } | Self::Lie { node, .. } | Self::Jump { node, .. } | Self::Read { node, .. } => {
                (Some(node), None)
            }
            Self::Cut(one, other) | Self::Heal(one, other) | Self::Flip(one, other) => (Some(one), Some(other)),
            Self::KillLead {} => (None, None),
        };
        one.into_iter().chain(other)
    }

    /// Why it can't happen in a fleet of `nodes` nodes, if it can't.
    pub(crate) fn mistake(&self, nodes: u32) -> Option<String> {
        let word = self.word();
        if let Some(node) = self.nodes().find(|node| *node > nodes) {
            return Some(format!("{word} names node {node}, which is not there"));
        }
        match *self {
            Self::Cut(one, other) | Self::Heal(one, other) | Self::Flip(one, other) if one == other => {
                Some(format!("{word} names node {one} twice"))
            }
            Self::Slow { by: 0, .. } => Some("slow.by is not a divisor".to_owned()),
            Self::Lie { node: SEED, .. } => Some("lie names the seed, whose word is the swarm's".to_owned()),
            Self::Read { node: SEED, .. } => Some("read names the seed, which wants nothing".to_owned()),
            Self::Jump { by, .. } if !by.is_finite() || by.abs() > 1e9 => Some("jump.by is not a time".to_owned()),
            Self::Jump { clock: Clock::Monotonic, by, .. } if by < 0.0 => {
                Some(format!("jump.by is {by}, and a monotonic clock never goes back"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Story {
        events: Vec<At>,
    }

    fn told(line: &str) -> Result<Story, String> {
        toml::from_str(&format!("events = [{line}]")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_told_in_rust_is_what_is_told_in_a_file() {
        let line = r#"
            { at = "20%", cut = [3, 0] },
            { at = "1.5s", heal = [3, 0] },
            { at = "300ms", lie = { node = 2, how = "silent" } },
            { at = "0s", kill_lead = {} },
            { at = "1s", jump = { node = 4, clock = "wall", by = -3600.0 } },
            { at = "2s", full_disk = 4 },
        "#;
        let seconds = |seconds| When::After(Duration::from_secs_f64(seconds));
        let events = [
            (percent(20), Event::Cut(3, SEED)),
            (seconds(1.5), Event::Heal(3, SEED)),
            (seconds(0.3), Event::Lie { node: 2, how: Lie::Silent }),
            (seconds(0.0), Event::KillLead {}),
            (seconds(1.0), Event::Jump { node: 4, clock: Clock::Wall, by: -3600.0 }),
            (seconds(2.0), Event::FullDisk(4)),
        ];
        let story = Story { events: events.map(|(when, event)| At { when, event }).into() };
        assert_eq!(told(line).unwrap(), story);
        let written = toml::to_string(&story).unwrap();
        assert_eq!(toml::from_str::<Story>(&written).unwrap(), story, "{written}");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (line, says) in [
            (r#"{ at = "20%", cutt = [3, 0] }"#, "unknown variant `cutt`"),
            (r#"{ at = "20%", slow = { node = 3, factor = 2 } }"#, "unknown field `factor`"),
            (r#"{ at = "soon", kill = 3 }"#, "such as 50%"),
            (r#"{ at = "-1s", kill = 3 }"#, "such as 50%"),
            ("{ kill = 3 }", "needs `at`"),
            (r#"{ at = "1s" }"#, "one thing that happens"),
            (r#"{ at = "1s", kill = 3, join = 4 }"#, r#"found ["join", "kill"]"#),
            (r#"{ at = "1s", lie = { node = 3, how = "loud" } }"#, "unknown variant `loud`"),
        ] {
            let refused = told(line).unwrap_err();
            assert!(refused.contains(says), "{line}: {refused}");
        }
    }

    #[test]
    fn what_cannot_happen_is_a_mistake() {
        let back = Event::Jump { node: 1, clock: Clock::Monotonic, by: -1.0 };
        for (event, says) in [
            (Event::Kill(9), "node 9"),
            (Event::Cut(2, 2), "twice"),
            (Event::Slow { node: 1, by: 0 }, "divisor"),
            (Event::Lie { node: SEED, how: Lie::Wrong }, "the seed"),
            (back, "never goes back"),
        ] {
            let mistake = event.mistake(8).unwrap();
            assert!(mistake.starts_with(event.word()) && mistake.contains(says), "{mistake}");
        }
        assert_eq!(Event::Jump { node: 1, clock: Clock::Wall, by: -1.0 }.mistake(8), None);
    }

    #[test]
    fn every_lie_has_its_word() {
        for (lie, word) in Lie::ALL {
            assert_eq!(word.parse(), Ok(lie));
            let line = format!(r#"{{ at = "1s", lie = {{ node = 1, how = "{word}" }} }}"#);
            let at = told(&line).unwrap().events[0];
            assert_eq!(at.event, Event::Lie { node: 1, how: lie });
        }
        assert!("loud".parse::<Lie>().is_err());
    }
}
