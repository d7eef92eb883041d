//! One agent's session in one swarm: everything that it decides about one blob.
//!
//! Events go in ([`Input`], [`Session::handle`]), actions come out ([`Output`], [`Session::poll`]), and [`Session::next_wakeup`] says when to look
//! though nothing happens. The driver of a session asks for outputs after each input from which something follows, and does them one after the other.
//!
//! | file | what lives there |
//! |---|---|
//! | `input`, `output` | [`Input`], [`Output`] |
//! | `hearing` | [`Session::handle`]: what follows from each input |
//! | `poll` | [`Session::poll`]: what is to be done now |
//! | `following` | who leads (`leads`, `follow`, `lost_lead`): the picker asks it, hashes are proven by its key, news goes to it |
//! | `neighbours` | who is met, asked for pieces and hashes, and told news |
//! | `start`, [`trace`] | [`SessionStart`]; what it was told and did, so that it can be told again |
//! | `ending`, `resting` | what others are told of an end, and of a pause that the origin asked for |
//! | `seeking` | the search for a lead; what follows when one is lost |
//! | `doubting` | doubts that others have of what is given and vouched for here |
//! | `pieces` | what a holder has, by its answers; which pieces are here |
//! | `leading` | `Books`: members come, go, and say what they hold and miss |
//! | `origin` | what is read of the origin, by which reader ([`Session::poll_origin`], [`Session::reads_on`]) |
//! | `giving` | what members are sent that ask for any piece ([`Session::choose`]) |
//! | `wants` | what is wanted, here and by members, and what the lead is told of it |
//! | `telling` | what is told of pieces and hashes |
//! | `watch` | [`Session::look`]: somebody is responsible for what is lacking, and nobody waits for ever |
//!
//! Two agents are neighbours when both have said what they hold: each says so ([`Message::Meet`](darter_protocol::Message)) when it is
//! named the other by its lead, or when the other meets it, and connected to it. The lead is nobody's neighbour: it is asked to choose.
//!
//! Invariants: the picker, the hashes and the news go by the lead that [`Leadership`] says; a lead tells no news, since it gives of
//! its own accord, and meets its neighbours anew when it follows another. Books are open from the first member on, also if this agent follows another lead.
//!
//! Nothing is told to the machines behind it but by inputs. Two questions are answered at once, since their askers can't wait for an
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
    /// Which piece to ask of whom.
    picker: Picker,
    /// The leadership, as this agent sees it.
    leadership: Leadership,
    /// The step of the search for a lead that is under way.
    step: Option<Step>,
    /// Agents that hold pieces, found by asking around: to be met when somebody leads.
    found_holders: Vec<PeerInfo>,
    /// True if the lead, or the last one that was another agent, is a seed: its word is trusted.
    follows_seed: bool,
    /// True if a part of the blob was read from the origin here.
    has_read: bool,
    /// How far the list of hashes goes.
    hashes: Hashes,
    /// The members that are let in here, and what they are told.
    books: Option<Box<Books>>,
    /// The readers of the origin, and their runs.
    origin: Origin,
    /// The root and digest of the whole, once an agent has checked it.
    verdict: Option<Verdict>,
    /// The agent that did.
    checked_by: CheckedBy,
    /// True if pieces that may be of two versions stand beside each other: the lead compares them before it checks the whole.
    compares: bool,
    /// How far the blob is.
    course: Course,
    /// How long nothing has come.
    vigil: Vigil,
    /// The pause that the origin asked for.
    pause: Option<Pause>,
    /// When members are told next that their lead reads the origin.
    sign_due: Option<Moment>,
    /// When that was last passed on.
    passed_on: Option<Moment>,
    /// Until when it wants to be asked for nothing.
    rest_until: Moment,
    wants: Wants,
    news: News,
    /// Peers that were told what is held here.
    met: BTreeSet<NodeId>,
    /// Peers that are to be told, when they are connected.
    to_meet: BTreeSet<NodeId>,
    /// True if those that were met know that everything is wanted here.
    told_all: bool,
    /// Requests under way.
    asked: BTreeMap<RequestId, PendingRequest>,
    doubts: Doubts,
    /// The pieces that peers were given from here.
    given: Given,
    /// How many pieces the lead has given that were here, since one came that was not.
    repeated: u32,
    /// The seed that led and said that the origin asks to slow down.
    limited_by: Option<NodeId>,
    /// For each node the piece from whose hash on it asked, and was not answered yet.
    questions: BTreeMap<NodeId, u32>,
    /// Outputs that go before anything else.
    outputs: Vec<Output>,
    /// True if it is to be polled before its time.
    is_due: bool,
    watch: Unattended,
    trace: Option<Box<trace::SessionTrace>>,
}

impl Session {
    /// The session of agent `me`, which wants everything and has met nobody.
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

    /// It begins with what an earlier process found out of the whole, and with all of it or not.
    pub fn resumes(&mut self, verdict: Option<Verdict>, is_complete: bool) {
        (self.verdict, self.course) = (verdict, Course::new(is_complete));
    }

    /// Which piece to ask of whom.
    pub const fn picker(&self) -> &Picker {
        &self.picker
    }

    /// The leadership, as this agent sees it.
    pub const fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// How far the list of hashes goes.
    pub const fn hashes(&self) -> &Hashes {
        &self.hashes
    }

    /// How far the blob is.
    pub const fn course(&self) -> &Course {
        &self.course
    }

    /// How long nothing has come.
    pub const fn vigil(&self) -> &Vigil {
        &self.vigil
    }

    /// The root and digest of the whole, once an agent has checked it, and which agent that was.
    pub const fn verdict(&self) -> (Option<&Verdict>, CheckedBy) {
        (self.verdict.as_ref(), self.checked_by)
    }

    /// True if pieces that may be of two versions stand beside each other.
    pub const fn compares(&self) -> bool {
        self.compares
    }

    /// This process has ended; what lies on its disk remains. It begins anew with `leadership`.
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
