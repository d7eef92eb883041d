//! Some agent is responsible for every piece that is lacking, and no agent waits for ever.
//!
//! A complete blob may come to lack a piece: the disk damaged it, or its file was cut off. While pieces are lacking, the driver of a session checks
//! about once a second that some agent leads, so that no sequence of events can leave a piece with nobody to fetch it; and that bytes come. A
//! node that leads and gives nothing is left ([`Vigil`]). A seed's word counts: it is left only when the blob has been stalled for the time that is allowed.
//! A blob of which nothing comes for that long ends once there is no agent left that would lead it.
//!
//! Non-goals: how long a single request to a peer may take ([`Picker`](crate::Picker)).

use std::time::Duration;

use darter_core::{Moment, NodeId};

use super::{Output, Session};
use crate::{Awaited, Facts, Leader, Loss, Phase, Vigil};

/// How often a session that lacks pieces is checked.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An agent that has not checked for longer than this was stopped, or its host slept: that time does not count as the silence of others.
const MAX_UNSEEN: Duration = Duration::from_secs(3);

/// Nothing may come from several leads, one after the other, for this many times as long as from one lead.
const MAX_STALLS: u32 = 4;

/// How long there may be no lead before this agent looks for one: normally it does right after an event.
const MAX_UNATTENDED: Duration = Duration::from_secs(2);

/// Facts that the driver of a session knows, and the session does not.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// True if no reader waits for other agents, though pieces are lacking: the session is at rest ([`Session::is_at_rest`]), the blob passes
    /// through while its readers have something to read, or this agent itself is at work on the pieces that are waited for, and makes progress.
    pub is_idle: bool,
    /// How long nothing may come while one agent leads, if there is a limit.
    pub stall: Option<Duration>,
    /// How long an origin may take to answer.
    pub origin: Duration,
}

/// When the session was last checked.
#[derive(Debug)]
pub(super) struct Unattended {
    looked: Moment,
    /// Since when no agent has been responsible for the lacking pieces.
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
            // The changes of lead might go on for ever.
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
        // An agent that leads reads the lacking pieces, at each poll.
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

    /// When to check again.
    pub fn look_due(&self) -> Option<Moment> {
        self.course.is_open().then(|| self.watch.looked + LOOK_EVERY)
    }

    /// True if `lead` is a node that let this agent in, and nothing has come for longer than allowed since.
    fn is_mute(&self, lead: NodeId, origin: Duration, facts: &dyn Facts, now: Moment) -> bool {
        if facts.is_seed(lead) || self.course.phase() == Phase::Dissolving || self.picker.is_complete() {
            return false;
        }
        let (known, held) = (facts.known_count(), self.picker.held());
        let has_told = self.vigil.is_told() && known > held.len();
        let is_first = held.is_empty() && facts.pieces() == Some(known);
        let awaited = if has_told || is_first { Awaited::Given } else { Awaited::Read(origin) };
        now >= self.vigil.gives_up_at(awaited)
    }
}
