//! One agent's session in one swarm: everything that it decides about one blob.
//!
//! | file | what happens | what follows |
//! |---|---|---|
//! | `following` | another lead ([`Session::leads`], [`Session::follow`], [`Session::lost_lead`]) | the picker asks it, hashes are proven by its key, news goes to it |
//! | `neighbours` | neighbours are named, met or lost ([`Session::named`], [`Session::met_by`], [`Session::gone`], …) | who is met, asked for pieces and hashes, and told news |
//! | `pieces` | a request is answered or not, a piece comes or goes ([`Session::stored`], [`Session::lacks`], …) | what its holder has; it is asked for no more, told, and given |
//! | `leading` | members come, go and say what they hold ([`Session::admit`], [`Session::left`], …) | who gets what, what is read of the origin |
//! | `wants` | readers here and members say what they wait for ([`Session::wish`], [`Session::member_wants`]) | what is read first, and what the lead is told |
//! | `telling` | hashes come ([`Session::catch_up`], …), or it is time to tell news | pieces are asked for, and neighbours hear of it |
//!
//! Two agents are neighbours when both have said what they hold: each says so ([`Message::Meet`](darter_protocol::Message)) when it is
//! named the other by its lead, or when the other meets it, and connected to it. The lead is nobody's neighbour: it is asked to choose.
//!
//! Invariants: the picker, the hashes and the news go by the lead that [`Leadership`] says; whoever leads tells no news, since it gives of
//! its own accord, and meets its neighbours anew when it follows another. Books are open from the first member on, whoever leads above.
//!
//! The machines are open to the caller for what concerns one of them alone: a reader's place, a request that failed, a search for a lead,
//! the check of the whole.
//!
//! Non-goals: connections and the store, which are the caller's.

mod following;
mod leading;
mod neighbours;
mod pieces;
mod telling;
#[cfg(test)]
mod tests;
mod wants;

use std::collections::BTreeSet;

use darter_core::{Moment, NodeId};
use darter_protocol::Verdict;

pub use self::neighbours::Meeting;
pub use self::pieces::Came;
use self::wants::Wants;
use crate::{Books, Course, Hashes, Leader, Leadership, News, Picker, Tuning, Vigil};

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    me: NodeId,
    tuning: Tuning,
    /// Which piece to ask of whom.
    pub picker: Picker,
    /// Who leads.
    pub leadership: Leadership,
    /// How far the list of hashes goes.
    pub hashes: Hashes,
    /// Who is let in here, and what they are told.
    books: Option<Box<Books>>,
    /// What the whole must be, once somebody has checked it.
    pub verdict: Option<Verdict>,
    /// How far the blob is.
    pub course: Course,
    /// How long nothing has come.
    pub vigil: Vigil,
    wants: Wants,
    news: News,
    /// Peers that were told what is held here.
    met: BTreeSet<NodeId>,
    /// Peers that are to be told, when they are connected.
    to_meet: BTreeSet<NodeId>,
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
            hashes,
            books: None,
            verdict: None,
            course: Course::new(false),
            vigil: Vigil::new(now),
            wants: Wants::everything(),
            news: News::new(tuning),
            met: BTreeSet::new(),
            to_meet: BTreeSet::new(),
        }
    }

    /// This process has ended; what lies on its disk remains. It begins anew with `leadership`.
    pub fn restart(&mut self, leadership: Leadership, now: Moment) {
        self.leadership = leadership;
        self.books = None;
        self.news = News::new(self.tuning);
        for node in std::mem::take(&mut self.met).into_iter().chain(std::mem::take(&mut self.to_meet)) {
            self.forget(node, now);
        }
        self.change_lead(Leader::Nobody, None, now);
    }
}
