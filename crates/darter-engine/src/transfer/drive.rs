//! The task that drives the session: it carries out what [`Session`](darter_swarm::Session) decides. It sleeps
//! until something has happened or is due, asks the session under the lock what to do, and does that without the lock.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use darter_core::Moment;
use darter_fleet::data::Ask;
use darter_swarm::{Guilt, Input, Output, Session};
use darter_wire::Message;

use super::{Lead, Transfer, TransferState};
use crate::error::FetchError;

/// How often requests in progress are checked for progress.
const PROGRESS_PAUSE: Duration = Duration::from_millis(200);

/// When a driver that has nothing to wait for checks again.
const IDLE_PAUSE: Duration = Duration::from_secs(3600);

/// Starts the driver of a transfer; it ends when the transfer is closed.
pub(super) fn start(transfer: &Arc<Transfer>) {
    let driven = Arc::clone(transfer);
    transfer.spawn(async move {
        let mut looked = Moment::ZERO;
        let mut alarm = pin!(tokio::time::sleep(IDLE_PAUSE));
        let mut closed = pin!(driven.closed.cancelled());
        'open: loop {
            let Next { wake, asks } = driven.advance(driven.context.now());
            // Until something happens or is due, only the progress of requests is looked at: it has no consequence that could not wait for the next poll.
            loop {
                let now = driven.context.now();
                if asks && now.since(looked) >= PROGRESS_PAUSE {
                    looked = now;
                    driven.look_for_progress();
                }
                let next = wake.into_iter().chain(asks.then(|| looked + PROGRESS_PAUSE)).min();
                let due = tokio::time::sleep(next.map_or(IDLE_PAUSE, |at| at.since(now))).deadline();
                // Moving the alarm to each later moment would cost more than one that is too early.
                if due < alarm.deadline() || alarm.is_elapsed() {
                    alarm.as_mut().reset(due);
                }
                tokio::select! {
                    () = driven.driver.notified() => {
                        // Other events of the same moment are handled together.
                        tokio::task::yield_now().await;
                        continue 'open;
                    }
                    () = &mut alarm => {
                        if wake.is_some_and(|at| at <= driven.context.now()) {
                            continue 'open;
                        }
                    }
                    () = &mut closed => break 'open,
                }
            }
        }
        let last = {
            let mut state = driven.state();
            state.readers.close();
            state.session.end()
        };
        last.into_iter().for_each(|output| driven.carry_out(output));
    });
}

impl Transfer {
    /// Tells the session what has happened; the driver carries out what follows, if anything does.
    pub(crate) fn tell(&self, input: Input) {
        self.tell_and(input, |_, _| {});
    }

    /// Tells the session what has happened ([`tell`](Self::tell)), and then calls `note` under the same lock.
    pub(super) fn tell_and(&self, input: Input, note: impl FnOnce(&mut TransferState, Moment)) {
        let now = self.context.now();
        let mut state = self.state();
        state.session.handle(input, self, now);
        note(&mut state, now);
    }

    /// Does what there is to do now.
    fn advance(self: &Arc<Self>, now: Moment) -> Next {
        let mut outputs = Vec::new();
        let (next, began) = {
            let mut locked = self.state();
            let state = &mut *locked;
            let fetching = state.session.is_fetching();
            if fetching != state.fetching.is_some() {
                state.fetching = fetching.then(|| self.context.fetching.enter());
            }
            let seen = self.seen(state);
            state.session.look(seen, &**self, now);
            state.session.poll(&**self, now, &mut outputs);
            state.session.poll_origin(&**self, now, &mut outputs);
            let began = state.readers.clear(&state.session);
            (Next::of(&state.session, now), began)
        };
        self.gives_back(began);
        outputs.into_iter().for_each(|output| self.carry_out(output));
        next
    }

    fn carry_out(self: &Arc<Self>, output: Output) {
        match output {
            Output::Say { to, message } => {
                self.fleet.tell(&to, &message);
                if matches!(message, Message::Joined { .. }) {
                    self.tell_profile(&to);
                    self.tell_naming(&to);
                }
            }
            Output::SayDissolved { to } => self.say_dissolved(&to),
            Output::Reject { node, request, why } => self.reject(node, request, why),
            Output::Dial(infos) => infos.iter().for_each(|info| self.fleet.ensure(info)),
            Output::Ask { request, of, wanted, urgent } => {
                let longest = u32::try_from(self.piece_length.bytes()).expect("at most 16 MiB");
                self.fleet.ask(of, Ask { blob: self.blob, request, wanted, urgent, longest });
            }
            Output::Withdraw { request, of } => self.fleet.cancel(of, self.blob, request),
            Output::Give => {
                self.sendable.send_replace(());
            }
            Output::Read { reader, run } => self.read(reader, run),
            Output::Widened(widening) => self.widened(widening),
            Output::Narrowed { before, after, why } => self.narrowed(before, after, &why),
            Output::LeadReadsInOrder { lead, reason } => {
                self.note(format!("{reason}; {} reads all of it from the first byte", self.fleet.address(lead)));
            }
            Output::Check => {
                let finishing = Arc::clone(self);
                self.spawn(async move { finishing.finish().await });
            }
            Output::Completed => self.tell_seeds_of_whole(),
            Output::Unattended => self.note("no agent was fetching the missing pieces; continuing"),
            Output::Seek(step) => self.seek(step),
            Output::Return(seed) => self.return_to(seed),
            Output::LeadLost { lead, loss, lets_down, why } => self.lead_lost(lead, loss, lets_down, &why),
            Output::StartOver { lead, guilt, reason } => {
                let starting = Arc::clone(self);
                self.spawn(async move { starting.start_over_without(lead, guilt, reason).await });
            }
            Output::EndTrust { reason } => self.end_trust(&reason),
            Output::EndStalled => self.end_stalled(),
            Output::Doubted(_) => {
                self.context.metrics.holders_failing.inc();
            }
            Output::Accused { peer, piece, led } => {
                self.note(format!("{} sent a wrong piece {piece}; not asked any more", peer.short()));
                self.tell_giver(peer, piece);
                if led {
                    self.let_down_by(peer, Guilt::Sure);
                }
            }
            Output::Reported { peer, put_aside } => {
                let what = if put_aside { "put aside after wrong pieces" } else { "reported for a wrong piece" };
                self.note(format!("{} {what}", peer.short()));
            }
            Output::Recheck { by, piece } => self.recheck(by, piece),
            Output::RecheckWhole { by, expected, got } => self.recheck_whole(by, expected, got),
            Output::GiveUp(failure) => {
                let error = FetchError::from_failure(failure.clone())
                    .unwrap_or_else(|| FetchError::Withdrawn { blob: self.blob, reason: failure.text });
                self.give_up(&error);
            }
            Output::Superseded { by, failure } => {
                // An honest seed says so each time; a seed that never gives anything may say it for ever.
                if !self.fleet.is_seed(by) || self.stored.held().is_empty() {
                    self.let_down_by(by, Guilt::BlamesOrigin);
                }
                self.superseded(failure);
            }
            Output::Dissolve { reason } => {
                // An honest seed withdraws once, when it has given nothing of the blob.
                if let Lead::Node(lead) = self.lead()
                    && self.stored.held().is_empty()
                {
                    self.let_down_by(lead, Guilt::Perhaps);
                }
                self.throw_away(FetchError::Withdrawn { blob: self.blob, reason });
            }
            Output::Refuted { expected, got, reader } => self.throw_away(FetchError::refuted(expected, got, reader)),
        }
    }

    /// Tells the session which answers are making progress, so that slow ones are not given up.
    fn look_for_progress(&self) {
        let asked: Vec<_> = self.state().session.asked().collect();
        for (request, of) in asked {
            if let Some(bytes) = self.fleet.arrived(of, self.blob, request) {
                self.tell(Input::Moved { request, bytes });
            }
        }
    }
}

/// What to do if nothing happens.
struct Next {
    /// When to advance again.
    wake: Option<Moment>,
    /// True if requests are in progress.
    asks: bool,
}

impl Next {
    fn of(session: &Session, now: Moment) -> Self {
        let wake = [session.next_wakeup(now), session.look_due()].into_iter().flatten().min();
        // A moment in the past would cause a busy loop; what is overdue was handled just now.
        let wake = wake.map(|moment| moment.max(now + Duration::from_millis(1)));
        Self { wake, asks: session.asked().next().is_some() }
    }
}
