//! A trace of what an agent was told about who leads, and what it decided, so that its history can be run again.
//!
//! An agent that records ([`Leadership::record`]) keeps its first [`MAX_RECORDED`] decisions. Any other [`Leadership`] that is told the same from
//! the start decides the same, in an agent, in the simulator or in a test ([`Trace::replay`]). Questions that change nothing are
//! not recorded.

use darter_core::{BlobId, NodeId};

use super::{Found, Leader, Leadership, Loss, Step};

/// Decisions that are kept, at most.
pub const MAX_RECORDED: usize = 1024;

/// One input to leadership: what an agent was told or asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceInput {
    /// [`Leadership::set`].
    Leads(Leader),
    /// [`Leadership::lost`].
    Lost(NodeId, Loss),
    /// [`Leadership::piece_came`].
    PieceCame,
    /// [`Leadership::seed_came`], and whether a seed is followed.
    SeedCame(NodeId, bool),
    /// [`Leadership::refused`].
    Refused(NodeId),
    /// [`Leadership::silent`].
    Silent(NodeId),
    /// [`Leadership::begin_search`].
    BeginSearch,
    /// [`Leadership::end_search`].
    EndSearch,
    /// [`Leadership::next`], with these seeds and members.
    Next(Vec<NodeId>, Vec<NodeId>),
    /// [`Leadership::found`].
    Found(Found),
}

/// The decision on an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// None: the input was no question.
    Nothing,
    /// Yes or no.
    Whether(bool),
    /// The next step.
    Do(Step),
}

/// An agent's decisions from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The agent.
    pub me: NodeId,
    /// The key by which seeds are ranked.
    pub source: BlobId,
    /// The key by which members are ranked.
    pub blob: BlobId,
    /// True if the agent may follow others.
    pub may_follow: bool,
    /// Inputs, each with the decision on it.
    pub decisions: Vec<(TraceInput, Decided)>,
}

impl Trace {
    /// The decisions of another agent in the same place that is told the same.
    pub fn replay(&self) -> Vec<Decided> {
        let mut leadership = Leadership::new(self.me, self.source, self.blob, self.may_follow);
        self.decisions.iter().map(|(heard, _)| leadership.hear(heard)).collect()
    }

    /// The decisions.
    pub fn decided(&self) -> Vec<Decided> {
        self.decisions.iter().map(|(_, decided)| *decided).collect()
    }
}

impl Leadership {
    /// Keeps what is heard and decided from now on.
    pub fn record(&mut self) {
        self.recorded.get_or_insert_default();
    }

    /// The trace, if one is kept.
    pub fn trace(&self) -> Option<Trace> {
        let decisions = self.recorded.clone()?;
        Some(Trace { me: self.me, source: self.source, blob: self.blob, may_follow: self.may_follow, decisions })
    }

    /// Tells it the input, or asks it the question, that `heard` stands for.
    pub fn hear(&mut self, heard: &TraceInput) -> Decided {
        match heard {
            TraceInput::Leads(leader) => self.set(*leader),
            TraceInput::Lost(lead, loss) => return Decided::Whether(self.lost(*lead, *loss)),
            TraceInput::PieceCame => self.piece_came(),
            TraceInput::SeedCame(seed, follows_seed) => {
                return Decided::Whether(self.seed_came(*seed, |_| *follows_seed));
            }
            TraceInput::Refused(node) => self.refused(*node),
            TraceInput::Silent(node) => self.silent(*node),
            TraceInput::BeginSearch => return Decided::Whether(self.begin_search()),
            TraceInput::EndSearch => self.end_search(),
            TraceInput::Next(seeds, members) => return Decided::Do(self.next(seeds, members)),
            TraceInput::Found(found) => self.found(found.clone()),
        }
        Decided::Nothing
    }

    pub(super) fn keep(&mut self, heard: impl FnOnce() -> TraceInput, decided: Decided) {
        if let Some(recorded) = self.recorded.as_mut().filter(|recorded| recorded.len() < MAX_RECORDED) {
            recorded.push((heard(), decided));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: BlobId = BlobId([1; 32]);
    const BLOB: BlobId = BlobId([2; 32]);

    fn node(name: u8) -> NodeId {
        NodeId([name; 16])
    }

    fn heard() -> Vec<TraceInput> {
        let seed = node(9);
        let found = Found { members: vec![node(1), node(5)], ..Found::default() };
        vec![
            TraceInput::Leads(Leader::Node(seed)),
            TraceInput::Lost(seed, Loss::Forgot),
            TraceInput::PieceCame,
            TraceInput::Leads(Leader::Node(seed)),
            TraceInput::Lost(node(8), Loss::Failed),
            TraceInput::Lost(seed, Loss::Failed),
            TraceInput::BeginSearch,
            TraceInput::BeginSearch,
            TraceInput::Next(vec![seed], vec![node(4)]),
            TraceInput::Refused(node(4)),
            TraceInput::Next(vec![], vec![node(4)]),
            TraceInput::Silent(node(6)),
            TraceInput::Found(found),
            TraceInput::Next(vec![], vec![node(4)]),
            TraceInput::Leads(Leader::Me),
            TraceInput::Next(vec![], vec![]),
            TraceInput::SeedCame(seed, false),
            TraceInput::EndSearch,
        ]
    }

    #[test]
    fn what_one_agent_decided_another_decides_that_hears_the_same() {
        let mut leadership = Leadership::new(node(3), SOURCE, BLOB, true);
        assert_eq!(leadership.trace(), None, "nobody asked it to");
        leadership.record();
        let decided: Vec<_> = heard().iter().map(|it| leadership.hear(it)).collect();
        let trace = leadership.trace().unwrap();
        assert_eq!(trace.decisions.iter().map(|(heard, _)| heard.clone()).collect::<Vec<_>>(), heard());
        assert_eq!((trace.decided(), trace.replay()), (decided.clone(), decided.clone()));
        let steps = decided.iter().filter(|it| matches!(it, Decided::Do(_))).count();
        assert_eq!(steps, 4);
        assert_eq!(decided[4..8], [false, true, true, false].map(Decided::Whether));
        let elsewhere = Trace { me: node(200), may_follow: false, ..trace };
        assert_ne!(elsewhere.replay(), decided, "a seed in its place would lead");
    }

    #[test]
    fn an_agent_keeps_no_more_than_so_many_decisions() {
        let mut leadership = Leadership::new(node(3), SOURCE, BLOB, true);
        leadership.record();
        (0..=MAX_RECORDED).for_each(|_| leadership.refused(node(1)));
        leadership.piece_came();
        assert_eq!(leadership.trace().unwrap().decisions.len(), MAX_RECORDED);
    }
}
