//! Some agent is responsible for every piece that is lacking, and nobody waits for ever.
//!
//! A complete blob may lack a piece again: the disk damaged it, or somebody cut the file off. The driver of a session that lacks something looks
//! about once a second whether somebody leads, so that no sequence of events can leave a piece with nobody to fetch it; and whether anything came. A
//! node that leads and gives nothing is left ([`Vigil`]). A seed's word counts, and it is waited for as long as a blob may stand still; then it is left, too.
//! A blob of which nothing comes for that long ends once nobody is left who would lead it.
//!
//! Non-goals: how long a single request to a peer may take ([`Picker`](crate::Picker)).

use std::time::Duration;

use darter_core::{Moment, NodeId};

use super::{Output, Session};
use crate::{Awaited, Facts, Leader, Loss, Phase, Vigil};

/// How often a session that lacks something is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An agent that has not looked for longer was stopped, or its host slept: that time counts for nobody's silence.
const MAX_UNSEEN: Duration = Duration::from_secs(3);

/// Nothing may come of several leads, one after the other, for this many times as long as of one lead.
const MAX_STALLS: u32 = 4;

/// How long nobody may lead before somebody is to see to it: that comes about by itself right after an event.
const MAX_UNATTENDED: Duration = Duration::from_secs(2);

/// Facts that a session's driver sees, and the session does not.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// True if nobody waits for anything of others, though pieces are lacking: the session is at rest ([`Session::is_at_rest`]), the blob passes
    /// through while its readers have something to read, or this agent itself is at work on what is waited for, and gets on.
    pub is_idle: bool,
    /// How long nothing may come of what one lead does, if there is a limit.
    pub stall: Option<Duration>,
    /// How long an origin may take to answer.
    pub origin: Duration,
}

/// When a session was last looked at.
#[derive(Debug)]
pub(super) struct Unattended {
    looked: Moment,
    /// Since when nobody has been responsible for what is lacking.
    unattended: Option<Moment>,
}

impl Unattended {
    pub(super) const fn new(now: Moment) -> Self {
        Self { looked: now, unattended: None }
    }
}

impl Session {
    /// Looks for what is due though no input says so.
    pub(super) fn look_around(&mut self, seen: Seen, facts: &dyn Facts, now: Moment) {
        if !self.course.is_open() {
            (self.watch, self.vigil) = (Unattended::new(now), Vigil::new(now));
            return;
        }
        let unseen = now.since(self.watch.looked);
        if unseen < LOOK_EVERY {
            return;
        }
        self.watch.looked = now;
        if unseen > MAX_UNSEEN {
            self.vigil.slept(unseen - LOOK_EVERY, now);
        }
        if seen.is_idle {
            self.vigil.moved(now);
        }
        let is_led = self.leader() != Leader::Me;
        if seen.stall.is_some_and(|most| is_led && self.vigil.waited_in_all(now) >= most * MAX_STALLS) {
            // Leads that come and go may do so for ever.
            return self.outputs.push(Output::EndStalled);
        }
        if seen.stall.is_some_and(|most| self.vigil.stood_still(now) >= most) {
            let Some(lead) = self.following() else { return self.outputs.push(Output::EndStalled) };
            let why = format!("nothing came from {} for too long", facts.address(lead));
            // A lead that has said that it waits has had its time.
            let loss = if self.vigil.excused().is_zero() { Loss::Stalled } else { Loss::Mute };
            self.loses(lead, loss, why, facts, now);
            return;
        }
        if let Some(lead) = self.following().filter(|lead| self.is_mute(*lead, seen.origin, facts, now)) {
            let why = format!("{} let this agent in and gave nothing", facts.address(lead));
            self.loses(lead, Loss::Mute, why, facts, now);
            return;
        }
        // An agent that leads reads what is lacking, at each poll.
        let is_attended = self.leader() != Leader::Nobody || self.leadership.is_searching();
        if is_attended {
            self.watch.unattended = None;
            return;
        }
        let since = *self.watch.unattended.get_or_insert(now);
        if now.since(since) < MAX_UNATTENDED {
            return;
        }
        self.watch.unattended = None;
        self.outputs.push(Output::Unattended);
        self.goes_on();
    }

    /// When to look again.
    pub fn look_due(&self) -> Option<Moment> {
        self.course.is_open().then(|| self.watch.looked + LOOK_EVERY)
    }

    /// True if nothing has come for longer than it may since a node that leads let this agent in.
    fn is_mute(&self, lead: NodeId, origin: Duration, facts: &dyn Facts, now: Moment) -> bool {
        if facts.is_seed(lead) || self.course.phase() == Phase::Dissolving || self.picker.is_complete() {
            return false;
        }
        let is_first = self.picker.held().is_empty() && facts.pieces() == Some(facts.known_count());
        let awaited = if is_first { Awaited::First } else { Awaited::Read(origin) };
        now >= self.vigil.gives_up_at(awaited)
    }
}
