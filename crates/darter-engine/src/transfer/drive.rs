//! The task that does what was decided. It sleeps until it is kicked or something falls due, gathers everything there
//! is to do under the lock, and does it without.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{Moment, NodeId};
use darter_fleet::data::Ask;
use darter_swarm::news::Tellings;
use darter_swarm::{Action, Event, Teacher, Told};
use darter_wire::{Message, Wanted};
use tokio::sync::Notify;

use super::upkeep::Duty;
use super::{Asked, Lead, Transfer};
use crate::let_downs::How;

/// How often requests under way are looked at for progress.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

/// Everything there is to do at one time.
#[derive(Default)]
struct Work {
    actions: Vec<Action>,
    meet: Vec<NodeId>,
    /// How many hashes are known, and how many of them others are to hear of.
    known: u32,
    shown: u32,
    /// Whom to ask for more.
    teacher: Option<NodeId>,
    news: Tellings,
    outgoing: Vec<(NodeId, Message)>,
    finish: bool,
    duty: Duty,
    /// Nobody is let in any more.
    failed: bool,
    /// Time has passed that lets the lead send what it held back.
    may_send: bool,
    wake: Option<Moment>,
}

/// Starts the driver of a transfer; it ends when the transfer is closed.
pub(super) fn start(transfer: &Arc<Transfer>) {
    let driven = Arc::clone(transfer);
    transfer.tasks.spawn(async move {
        let mut looked = Moment::ZERO;
        loop {
            let now = driven.context.now();
            if now.since(looked) >= PROGRESS_PAUSE {
                looked = now;
                driven.look_for_progress(now);
            }
            let mut work = driven.gather(now);
            let (wake, may_send) = (work.wake.take(), work.may_send);
            driven.perform(work);
            if may_send {
                driven.sendable.send_replace(());
            }
            let sleep = wake.map_or(Duration::from_secs(3600), |at| at.since(driven.context.now()));
            tokio::select! {
                () = driven.kick.notified() => {}
                () = tokio::time::sleep(sleep) => {}
                () = driven.closed.cancelled() => break,
            }
        }
        driven.call_back_all();
        driven.reject_waiting();
    });
}

impl Transfer {
    /// Something has changed: wakes the driver, and whoever has nothing to read of the origin.
    pub(super) fn ring(&self) {
        self.kick.notify_one();
        self.replan();
    }

    /// Wakes whoever has nothing to read of the origin: what is to be read may have changed.
    pub(super) fn replan(&self) {
        self.plan_changed.iter().for_each(Notify::notify_one);
    }

    fn gather(&self, now: Moment) -> Work {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut work = Work::default();
        let is_open = state.session.course.is_open();
        let fetching = state.session.course.is_fetching() && !state.session.is_at_rest();
        if fetching != state.fetching.is_some() {
            state.fetching = fetching.then(|| self.context.fetching.enter());
        }
        if fetching {
            state.session.picker.share(self.context.fetching.count(), now, |node| self.fleet.standing(*node));
            let neighbours = state.session.met().len() + state.session.to_meet().len();
            state.session.picker.expect(neighbours);
            state.session.read_for_members(now);
            if state.session.course.asks() {
                state.session.picker.poll(now, &mut work.actions);
            }
        } else {
            // A holder keeps them for ever otherwise.
            let void = state.asked.drain().map(|(id, asked)| Action::Cancel { id, peer: asked.of });
            work.actions.extend(void);
        }
        for action in &work.actions {
            match *action {
                Action::Request { id, peer: of, piece, .. } => {
                    state.asked.insert(id, Asked { of, wanted: Wanted::Piece(piece), arrived: 0 });
                }
                Action::Ask { id, lead: of } => {
                    state.asked.insert(id, Asked { of, wanted: Wanted::Any, arrived: 0 });
                }
                Action::Cancel { id, .. } => {
                    state.asked.remove(&id);
                }
                Action::Doubt { peer } => {
                    self.context.metrics.holders_failing.inc();
                    state.session.doubts(peer);
                }
                Action::Report { peer, piece } => {
                    state.session.accuse(peer);
                    state.journal.note(now, format!("{} sent a wrong piece {piece}; not asked any more", peer.short()));
                }
            }
        }
        state.session.catch_up(self);
        work.known = state.session.hashes.count();
        work.shown = state.session.hashes.shown();
        if fetching && let Lead::Node(lead) = state.lead() {
            work.teacher = state.session.hashes.ask(now).map(|teacher| match teacher {
                Teacher::Neighbour(node) => node,
                Teacher::Lead => lead,
            });
        }
        work.failed = state.failure.is_some();
        work.may_send = state.session.books_mut().is_some_and(|books| books.may_give_more(now));
        if !work.failed {
            work.outgoing = state.session.speak(self, now).messages;
        }
        if is_open && let Lead::Node(lead) = state.lead() {
            work.outgoing.extend(state.session.tell_wants(self.blob).map(|message| (lead, message)));
        }
        work.meet = state.session.meet(|node| self.fleet.peer(node).is_some());
        if state.session.news_due().is_some_and(|due| due <= now) {
            work.news = state.session.tell(&work.meet, now);
        }
        let is_whole = state.session.picker.is_complete() && self.pieces() == Some(self.stored.prefix());
        let (has_verdict, leader) = (state.session.verdict.is_some(), state.lead());
        let is_whole = is_whole && !(state.compares && leader == Lead::Me);
        work.finish = state.session.course.begins_check(is_whole, has_verdict, leader, now);
        work.duty = self.duty(state, now);
        work.wake = self.next_wakeup(state, now);
        work
    }

    fn next_wakeup(&self, state: &super::State, now: Moment) -> Option<Moment> {
        let mut wake = if state.session.course.asks() { state.session.picker.next_wakeup() } else { None };
        let mut at_latest = |moment: Moment| wake = Some(wake.map_or(moment, |earlier| earlier.min(moment)));
        if let Some(moment) = state.session.books().and_then(|books| books.next_wakeup(now)) {
            at_latest(moment);
        }
        if let Some(moment) = state.session.news_due() {
            at_latest(moment);
        }
        let may_ask = state.session.course.is_fetching() && matches!(state.lead(), Lead::Node(_));
        if let Some(moment) = state.session.hashes.next_wakeup().filter(|_| may_ask) {
            at_latest(moment);
        }
        if !state.asked.is_empty() {
            at_latest(now + PROGRESS_PAUSE);
        }
        for moment in state.session.course.due().into_iter().chain(self.duty_due(state)) {
            at_latest(moment);
        }
        // A moment in the past would spin; what is overdue was handled just now.
        wake.map(|moment| moment.max(now + Duration::from_millis(1)))
    }

    fn perform(self: &Arc<Self>, work: Work) {
        for (node, message) in &work.outgoing {
            self.fleet.say(*node, message);
        }
        if !work.meet.is_empty() {
            let wants = !self.is_complete();
            let meet = Message::Meet { blob: self.blob, held: self.stored.held(), known: work.shown, wants };
            self.fleet.tell(&work.meet, &meet);
        }
        let (blob, known) = (self.blob, work.shown);
        for (nodes, told) in work.news {
            let message = match told {
                Told::Have(pieces) => Message::Have { blob, pieces, known },
                Told::Lost(pieces) => Message::Lost { blob, pieces },
            };
            self.fleet.tell(&nodes, &message);
        }
        if let Some(teacher) = work.teacher {
            self.fleet.say(teacher, &Message::AskHashes { blob: self.blob, from: work.known });
        }
        for action in work.actions {
            self.act(action);
        }
        if work.failed {
            self.reject_waiting();
        }
        self.attend(&work.duty);
        if work.finish {
            let finishing = Arc::clone(self);
            self.tasks.spawn(async move { finishing.finish().await });
        }
    }

    fn act(self: &Arc<Self>, action: Action) {
        let longest = u32::try_from(self.piece_length.bytes()).expect("at most 16 MiB");
        match action {
            Action::Request { id, peer, piece, urgent } => {
                let wanted = Wanted::Piece(piece);
                self.fleet.ask(peer, Ask { blob: self.blob, request: id, wanted, urgent, longest });
            }
            Action::Ask { id, lead } => {
                let wanted = Wanted::Any;
                self.fleet.ask(lead, Ask { blob: self.blob, request: id, wanted, urgent: false, longest });
            }
            Action::Cancel { id, peer } => self.fleet.cancel(peer, self.blob, id),
            // The lead's books have it.
            Action::Doubt { .. } => {}
            Action::Report { peer, piece } => {
                if self.lead() == Lead::Node(peer) {
                    self.let_down_by(peer, How::Surely);
                    self.lead_failed(peer, "it sent wrong pieces");
                } else if let Lead::Node(lead) = self.lead() {
                    self.fleet.say(lead, &Message::Report { blob: self.blob, peer, piece });
                }
            }
        }
    }

    /// Calls back whatever is still asked for: this transfer is over.
    fn call_back_all(&self) {
        let asked = std::mem::take(&mut self.state.lock().asked);
        for (id, asked) in asked {
            self.fleet.cancel(asked.of, self.blob, id);
        }
    }

    /// Tells the picker which answers are moving, so that a slow one is not given up.
    fn look_for_progress(&self, now: Moment) {
        let asked: Vec<_> = self.state.lock().asked.iter().map(|(id, asked)| (*id, asked.of, asked.arrived)).collect();
        for (id, node, before) in asked {
            let Some(arrived) = self.fleet.arrived(node, self.blob, id) else { continue };
            if arrived > before {
                let mut guard = self.state.lock();
                let state = &mut *guard;
                if let Some(asked) = state.asked.get_mut(&id) {
                    asked.arrived = arrived;
                }
                state.session.vigil.progressed((arrived - before).into(), now);
                if let Some(books) = state.session.books_mut() {
                    books.lead_mut().gave(node, false, now);
                }
                state.session.picker.handle(Event::Progress { request: id, bytes: arrived.into() }, now);
            }
        }
    }
}
