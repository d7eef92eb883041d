//! Caches the agent's answers about layers, for engines that look the same layer up dozens of times in a second: for each layer
//! that it takes, containerd looks up all layers below.
//!
//! A cached answer is used for [`MAX_AGE`], as long as the agent reports changes and has reported none since it was asked. For example, a pull of another image that
//! names a layer may withdraw the layer; then it is asked for again. Only layers that were found are cached.
//!
//! Invariant: changes on the connection are read after the engine has asked and before it is answered.

use std::time::Duration;

use darter_api::changes::{Change, Changes};
use darter_core::recent::Recent;
use darter_core::{Digest, Moment};
use darter_mount::Layer;

/// How long an answer is used: changes that come with time alone, such as a layer's completion, are not reported.
const MAX_AGE: Duration = Duration::from_secs(1);

/// How many layers are cached.
const MAX_LAYERS: u64 = 10_000;

/// A point in time relative to the reported changes. Answers to questions from before the latest change are not cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AskedAt {
    changes: u64,
    at: Moment,
}

/// See the module's documentation.
pub(super) struct Remembered {
    /// The agent's reports of changes; `None` if it sends none.
    told_by: Option<Changes>,
    changes: u64,
    found: Recent<Digest, (Layer, Moment)>,
}

impl Remembered {
    /// An empty cache, without reports of changes.
    pub(super) fn new() -> Self {
        Self { told_by: None, changes: 0, found: Recent::new(MAX_LAYERS) }
    }

    /// From now on, `changes` are the agent's reports.
    pub(super) fn is_told_by(&mut self, changes: Changes) {
        self.told_by = Some(changes);
        self.forget();
    }

    /// True while an agent reports changes.
    pub(super) fn is_told(&mut self) -> bool {
        self.look();
        self.told_by.is_some()
    }

    /// To be called before the agent is asked.
    pub(super) fn asks(&mut self, now: Moment) -> AskedAt {
        self.look();
        AskedAt { changes: self.changes, at: now }
    }

    /// Stores the answer to the question of `asked`.
    pub(super) fn found(&mut self, layer: Digest, found: Layer, asked: AskedAt) {
        self.look();
        if self.told_by.is_some() && self.changes == asked.changes {
            self.found.insert(layer, (found, asked.at), 1);
        }
    }

    /// The cached layer, if the agent would still give the same answer.
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
