//! An agent's session in one swarm: everything that the agent decides about one blob.
//!
//! Events go in ([`Input`], [`Session::handle`]), actions come out ([`Output`], [`Session::poll`]), and [`Session::next_wakeup`] says when to poll
//! although nothing happens. The driver of a session asks for outputs after each input from which something follows, and carries them out in order.
//!
//! | file | what lives there |
//! |---|---|
//! | `input`, `output` | [`Input`], [`Output`] |
//! | `hearing` | [`Session::handle`]: the consequences of each input |
//! | `poll` | [`Session::poll`]: the outputs that are due now |
//! | `following` | changes of the lead (`leads`, `follow`, `lost_lead`): the picker asks it, its key proves hashes, news goes to it |
//! | `neighbours` | the agents that are met, asked for pieces and hashes, and told news |
//! | `start`, [`trace`] | [`SessionStart`]; a record of its inputs and outputs, so that they can be run again |
//! | `ending`, `resting` | what other agents are told when the blob ends, and when the origin asked for a pause |
//! | `seeking` | the search for a lead; the consequences of losing one |
//! | `doubting` | doubts of other agents about the pieces and the verdict that they got here |
//! | `pieces` | which pieces a holder has, by its answers; which pieces are here |
//! | `leading` | `Books`: members come, go, and say what they hold and miss |
//! | `origin` | the pieces that are read from the origin, by which reader ([`Session::poll_origin`], [`Session::reads_on`]) |
//! | `giving` | the pieces that are sent to members that ask for any piece ([`Session::choose`]) |
//! | `wants` | the pieces that are wanted, here and by members, and what the lead is told of this |
//! | `telling` | the news of pieces and hashes for other agents |
//! | `watch` | [`Session::look`]: some agent is responsible for every lacking piece, and none waits for ever |
//!
//! Two agents are neighbours when each has told the other which pieces it holds ([`Message::Meet`](darter_protocol::Message)). An agent does so when
//! its lead names the other to it, or when the other does so first, and they are connected. The lead is nobody's neighbour: it is asked to choose pieces.
//!
//! Invariants: the picker, the hashes and the news have the lead that [`Leadership`] has; a lead sends no news of its pieces, since it gives them
//! unasked, and meets its neighbours anew when it follows another. Books are open from the first member on, also if this agent follows another lead.
//!
//! The parts of a session are told things only by inputs. Two questions are answered at once, since whoever asks can't wait for an
//! output: a sender with a free slot, and a reader with the next bytes of the origin in hand.
//!
//! Non-goals: connections and the store, which are the caller's.

mod doubting;
mod ending;
mod following;
mod giving;
mod hearing;
mod input;
mod leading;
mod neighbours;
mod origin;
mod output;
mod pieces;
mod poll;
mod resting;
mod seeking;
mod start;
mod telling;
#[cfg(test)]
mod tests;
pub mod trace;
mod wants;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use darter_core::{Moment, NodeId};
use darter_protocol::{PeerInfo, Verdict};

use self::doubting::Doubts;
pub use self::ending::Rejection;
pub use self::giving::Choice;
use self::hearing::PendingRequest;
pub use self::input::{Desk, Input, LetIn};
use self::neighbours::Meeting;
use self::origin::Origin;
pub use self::origin::{AtPiece, Gave, ReadsOn};
pub use self::output::{Guilt, Output};
pub use self::pieces::Came;
use self::resting::Pause;
pub use self::seeking::Sought;
pub use self::start::SessionStart;
use self::wants::Wants;
use self::watch::Unattended;
pub use self::watch::{LOOK_EVERY, Seen};
use crate::given::Given;
use crate::{
    Books, CheckedBy, Course, Hashes, Leader, Leadership, News, Phase, Picker, RequestId, Step, Tuning, Vigil,
};

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    me: NodeId,
    tuning: Tuning,
    /// Which piece to request from which peer.
    picker: Picker,
    /// The leadership, as this agent sees it.
    leadership: Leadership,
    /// The step of the search for a lead that is under way.
    step: Option<Step>,
    /// Agents that hold pieces, found by a survey: to be met when an agent leads.
    found_holders: Vec<PeerInfo>,
    /// True if the lead, or the last one that was another agent, is a seed: its word is trusted.
    follows_seed: bool,
    /// True if a part of the blob was read from the origin here.
    has_read: bool,
    /// The list of hashes.
    hashes: Hashes,
    /// The members that were admitted here, and what they are told.
    books: Option<Box<Books>>,
    /// The readers of the origin, and the runs of pieces that they read.
    origin: Origin,
    /// The root and digest of the whole, once an agent has checked it.
    verdict: Option<Verdict>,
    /// The agent that checked it.
    checked_by: CheckedBy,
    /// True if pieces of two versions may be here together: the lead compares them with the origin's before it checks the whole.
    compares: bool,
    /// The phase that the blob is in.
    course: Course,
    /// For how long nothing has come.
    vigil: Vigil,
    /// The pause that the origin asked for.
    pause: Option<Pause>,
    /// When members are next told that their lead waits for the origin.
    sign_due: Option<Moment>,
    /// When a lead's word that it waits for its origin was last passed on.
    passed_on: Option<Moment>,
    /// Until when the origin asked not to be asked for anything.
    rest_until: Moment,
    wants: Wants,
    news: News,
    /// Peers that were told which pieces are held here.
    met: BTreeSet<NodeId>,
    /// Peers that are to be told which pieces are held here, when they are connected.
    to_meet: BTreeSet<NodeId>,
    /// True if the peers that were met know that everything is wanted here.
    told_all: bool,
    /// Requests under way.
    asked: BTreeMap<RequestId, PendingRequest>,
    doubts: Doubts,
    /// The pieces that peers were given from here.
    given: Given,
    /// How many pieces in a row the lead has given that were here already.
    repeated: u32,
    /// The seed that led and said that the origin asks to slow down.
    limited_by: Option<NodeId>,
    /// For each node that asked for hashes and was not answered yet: the piece from whose hash on it asked.
    questions: BTreeMap<NodeId, u32>,
    /// Outputs that go before all others.
    outputs: Vec<Output>,
    /// True if the session is to be polled before [`Session::next_wakeup`].
    is_due: bool,
    watch: Unattended,
    trace: Option<Box<trace::SessionTrace>>,
}

impl Session {
    /// The session of agent `me`, which wants everything and has met no other agent.
    pub fn new(
        me: NodeId,
        picker: Picker,
        leadership: Leadership,
        hashes: Hashes,
        tuning: Tuning,
        now: Moment,
    ) -> Self {
        Self {
            me,
            tuning,
            picker,
            leadership,
            step: None,
            found_holders: Vec::new(),
            follows_seed: true,
            has_read: false,
            hashes,
            books: None,
            origin: Origin::default(),
            verdict: None,
            checked_by: CheckedBy::Earlier,
            compares: false,
            course: Course::new(false),
            vigil: Vigil::new(now),
            pause: None,
            sign_due: None,
            passed_on: None,
            rest_until: Moment::ZERO,
            wants: Wants::everything(),
            news: News::new(tuning),
            met: BTreeSet::new(),
            to_meet: BTreeSet::new(),
            told_all: false,
            asked: BTreeMap::new(),
            doubts: Doubts::default(),
            given: Given::default(),
            repeated: 0,
            limited_by: None,
            questions: BTreeMap::new(),
            outputs: Vec::new(),
            is_due: false,
            watch: Unattended::new(now),
            trace: None,
        }
    }

    /// Begins with the verdict that an earlier process found out, and with all of the blob or not.
    pub fn resumes(&mut self, verdict: Option<Verdict>, is_complete: bool) {
        (self.verdict, self.course) = (verdict, Course::new(is_complete));
    }

    /// Which piece to request from which peer.
    pub const fn picker(&self) -> &Picker {
        &self.picker
    }

    /// The leadership, as this agent sees it.
    pub const fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// The list of hashes.
    pub const fn hashes(&self) -> &Hashes {
        &self.hashes
    }

    /// The phase that the blob is in.
    pub const fn course(&self) -> &Course {
        &self.course
    }

    /// For how long nothing has come.
    pub const fn vigil(&self) -> &Vigil {
        &self.vigil
    }

    /// The root and digest of the whole, once an agent has checked it, and which agent that was.
    pub const fn verdict(&self) -> (Option<&Verdict>, CheckedBy) {
        (self.verdict.as_ref(), self.checked_by)
    }

    /// True if pieces of two versions may be here together.
    pub const fn compares(&self) -> bool {
        self.compares
    }

    /// The process has ended, and what is on its disk remains. The session begins anew with `leadership`.
    pub fn restart(&mut self, leadership: Leadership, now: Moment) {
        (self.leadership, self.step, self.follows_seed) = (leadership, None, true);
        (self.books, self.origin) = (None, Origin::default());
        (self.news, self.vigil, self.watch) = (News::new(self.tuning), Vigil::new(now), Unattended::new(now));
        self.course = Course::new(self.course.phase() == Phase::Complete);
        (self.pause, self.trace) = (None, None);
        self.asked.clear();
        self.questions.clear();
        self.outputs.clear();
        for node in std::mem::take(&mut self.met).into_iter().chain(std::mem::take(&mut self.to_meet)) {
            self.forget(node, now);
        }
        self.change_lead(Leader::Nobody, None, now);
    }

    /// The lead says what the whole must be.
    pub(super) fn told_verdict(&mut self, verdict: Verdict) {
        (self.verdict, self.checked_by) = (Some(verdict), CheckedBy::Lead);
    }
}
