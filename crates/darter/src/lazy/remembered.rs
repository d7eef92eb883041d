//! The agent's latest answers for layers, for engines that ask dozens of times in a second for the same one: containerd looks at all layers below for
//! each that it takes.
//!
//! An answer is gone by for [`MAX_AGE`], as long as the agent tells of changes and has told of none since it was asked: so a layer that is not to be given any
//! more, since somebody has just pulled another image that names it, is asked for anew. Only what was found is remembered.
//!
//! Invariant: the connection is looked into after the engine has asked, and before it is answered.

use std::time::Duration;

use darter_api::changes::{Change, Changes};
use darter_core::recent::Recent;
use darter_core::{Digest, Moment};
use darter_mount::Layer;

/// For how long: what only time changes is not told, such as that all of a layer is here.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Layers that are remembered.
const MAX_LAYERS: u64 = 10_000;

/// When the agent was asked. Answers to a question before the latest change are not remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AskedAt {
    changes: u64,
    at: Moment,
}

/// See the module's text.
pub(super) struct Remembered {
    /// `None`: nobody tells of changes.
    told_by: Option<Changes>,
    changes: u64,
    found: Recent<Digest, (Layer, Moment)>,
}

impl Remembered {
    /// Nothing, and nobody tells of changes.
    pub(super) fn new() -> Self {
        Self { told_by: None, changes: 0, found: Recent::new(MAX_LAYERS) }
    }

    /// An agent tells of changes from here on.
    pub(super) fn is_told_by(&mut self, changes: Changes) {
        self.told_by = Some(changes);
        self.forget();
    }

    /// True while an agent tells of changes.
    pub(super) fn is_told(&mut self) -> bool {
        self.look();
        self.told_by.is_some()
    }

    /// The agent is about to be asked.
    pub(super) fn asks(&mut self, now: Moment) -> AskedAt {
        self.look();
        AskedAt { changes: self.changes, at: now }
    }

    /// The agent found a layer, when it was asked then.
    pub(super) fn found(&mut self, layer: Digest, found: Layer, asked: AskedAt) {
        self.look();
        if self.told_by.is_some() && self.changes == asked.changes {
            self.found.insert(layer, (found, asked.at), 1);
        }
    }

    /// The layer as the agent would find it now, if that is known.
    pub(super) fn get(&mut self, layer: Digest, now: Moment) -> Option<Layer> {
        self.look();
        self.found.get(&layer).filter(|(_, at)| now.since(*at) < MAX_AGE).map(|(found, _)| found.clone())
    }

    fn look(&mut self) {
        let Some(told_by) = &mut self.told_by else { return };
        match told_by.look() {
            Change::None => {}
            Change::Some => self.forget(),
            Change::Over => {
                self.told_by = None;
                self.forget();
            }
        }
    }

    fn forget(&mut self) {
        self.changes += 1;
        self.found = Recent::new(MAX_LAYERS);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn told() -> (Remembered, UnixStream) {
        let (agent, keeper) = UnixStream::pair().unwrap();
        keeper.set_nonblocking(true).unwrap();
        let mut remembered = Remembered::new();
        remembered.is_told_by(Changes::over(keeper));
        (remembered, agent)
    }

    fn layer(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    const FOUND: Layer = Layer::File { length: 7, here: 0 };

    fn at(millis: u64) -> Moment {
        Moment::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn an_answer_counts_for_a_moment_and_not_a_change_longer() {
        let (mut remembered, mut agent) = told();
        let asked = remembered.asks(at(0));
        for name in ["a", "b"] {
            remembered.found(layer(name), FOUND, asked);
        }
        assert_eq!(remembered.get(layer("a"), at(999)), Some(FOUND));
        assert_eq!((remembered.get(layer("a"), at(1000)), remembered.get(layer("c"), at(0))), (None, None));
        agent.write_all(&[1]).unwrap();
        assert_eq!(remembered.get(layer("b"), at(1)), None, "somebody has pulled something");
        let before = remembered.asks(at(2));
        agent.write_all(&[1]).unwrap();
        remembered.found(layer("a"), FOUND, before);
        assert_eq!(remembered.get(layer("a"), at(3)), None, "it was asked before the change");
        let after = remembered.asks(at(4));
        remembered.found(layer("a"), FOUND, after);
        assert_eq!(remembered.get(layer("a"), at(5)), Some(FOUND));
    }

    #[test]
    fn without_an_agent_that_tells_of_changes_nothing_is_remembered() {
        let mut remembered = Remembered::new();
        let asked = remembered.asks(at(0));
        remembered.found(layer("a"), FOUND, asked);
        assert!(!remembered.is_told() && remembered.get(layer("a"), at(0)).is_none());
        let (mut remembered, agent) = told();
        let asked = remembered.asks(at(0));
        remembered.found(layer("a"), FOUND, asked);
        drop(agent);
        assert_eq!(remembered.get(layer("a"), at(0)), None, "the next agent may not know who pulled it");
        assert!(!remembered.is_told());
    }
}
