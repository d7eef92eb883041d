//! The agents of `--join`: connected at start, kept connected, retried when lost.
//!
//! A name stands for *all* its addresses, and is looked up again every few seconds, so that the seeds behind it may come, go and move.
//! An address that leads back to this agent is skipped, since a name may stand for it, too.
//!
//! An address where nothing answers is retried for ever, since a seed may be started later than its nodes; so is an
//! agent of another release, which may be upgraded. If everything to join answers as something other than Darter, only the operator can correct it: at
//! start that is an error. If only some does, it is an error in the log: an address may belong to another program since it was configured, and the rest of
//! the fleet is there.
//!
//! Nothing here keeps the agent from serving its host: a caller that needs the first attempts waits for them in
//! [`Seeds::first_attempts`], for a bounded time.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_api::SeedStatus;
use darter_core::{Blame, Blamed as _, Fault, Moment, NodeId, Retry, in_full};
use darter_wire::WireError;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Fleet;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause if only an upgrade of the other agent helps.
const MAX_UPGRADE_PAUSE: Duration = Duration::from_secs(60);

/// How long an address that leads back to this agent is left alone. It may belong to another agent later.
const ONESELF_PAUSE: Duration = Duration::from_secs(60);

/// A connection that ends sooner than this counts as a failed attempt.
const MIN_CONNECTED: Duration = Duration::from_secs(5);

/// How often a name is looked up.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);

/// How long to wait for the first attempts at start.
const FIRST_ATTEMPTS_TIMEOUT: Duration = Duration::from_secs(1);

/// Most addresses of one name that are used.
const MAX_ADDRESSES: usize = 64;

/// The seeds of this agent and their state.
pub struct Seeds {
    fleet: Arc<Fleet>,
    given: Vec<JoinAddress>,
    /// Notified when an attempt at an address ends for the first time.
    attempted: watch::Sender<()>,
}

/// Something answers at an address to join, but not as an agent of this fleet would.
#[derive(Debug, thiserror::Error)]
#[error("can't join {addr}: {reason}")]
pub struct JoinError {
    /// The address, as it was given.
    pub addr: String,
    /// What answered, and what to do.
    pub reason: String,
}

/// One entry of `--join`: an address, or a name.
struct JoinAddress {
    text: String,
    state: Mutex<Resolution>,
}

#[derive(Default)]
struct Resolution {
    /// Why the name has no address.
    unresolved: Option<String>,
    resolved: bool,
    addresses: BTreeMap<SocketAddr, Address>,
}

/// One address and its state.
#[derive(Default)]
struct Address {
    node: Option<NodeId>,
    /// The result of the last attempt; `None` before the first one has ended.
    attempt: Option<Attempt>,
    /// True if the name no longer stands for it: it is dropped once no agent is connected there.
    outdated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Attempt {
    Connected,
    Oneself,
    /// The operator has to correct it, for this reason.
    Mistake(String),
    /// It may be temporary, for this reason.
    Trouble(String),
}

impl Seeds {
    /// Starts to connect to every address, and keeps it connected, in the background.
    pub fn join(fleet: &Arc<Fleet>, given: &[String]) -> Arc<Self> {
        let given = given.iter().map(|text| JoinAddress { text: text.clone(), state: Mutex::default() }).collect();
        let seeds = Arc::new(Self { fleet: Arc::clone(fleet), given, attempted: watch::channel(()).0 });
        for at in 0..seeds.given.len() {
            let keeper = Arc::clone(&seeds);
            fleet.tasks.spawn(async move { keeper.resolve(at).await });
        }
        seeds
    }

    /// Waits, for a bounded time, until every address was tried once.
    ///
    /// # Errors
    /// [`JoinError`] if something answers at every address, but not as an agent of this fleet would.
    pub async fn first_attempts(&self) -> Result<(), JoinError> {
        let mut attempted = self.attempted.subscribe();
        let all = async { while !self.all_attempted() && attempted.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(FIRST_ATTEMPTS_TIMEOUT, all).await;
        let mistakes: Option<Vec<_>> = self.given.iter().map(|given| Some((given, given.mistake()?))).collect();
        match mistakes.into_iter().flatten().next() {
            Some((given, reason)) => Err(JoinError { addr: given.text.clone(), reason }),
            None => Ok(()),
        }
    }

    fn all_attempted(&self) -> bool {
        self.given.iter().all(|given| {
            let state = given.state.lock();
            state.resolved && state.addresses.values().all(|address| address.attempt.is_some())
        })
    }

    /// The addresses to join, each with its state.
    pub fn status(&self) -> Vec<SeedStatus> {
        let mut rows = Vec::new();
        for JoinAddress { text, state } in &self.given {
            let state = state.lock();
            let others = state.addresses.iter().filter(|(_, address)| address.attempt != Some(Attempt::Oneself));
            let known = others.map(|(at, address)| {
                let at = at.to_string();
                let at = (at != *text).then_some(at);
                let up = self.is_up(address.node);
                let reason = address.trouble().filter(|_| !up).map(str::to_owned);
                SeedStatus { addr: text.clone(), up, node: address.node, at, reason }
            });
            let before = rows.len();
            rows.extend(known);
            if rows.len() == before && state.addresses.is_empty() {
                let reason = state.unresolved.clone();
                rows.push(SeedStatus { addr: text.clone(), up: false, node: None, at: None, reason });
            }
        }
        rows
    }

    fn is_up(&self, node: Option<NodeId>) -> bool {
        node.is_some_and(|node| self.fleet.peer(node).is_some())
    }

    /// Looks the name up again and again, and keeps each of its addresses connected.
    async fn resolve(self: Arc<Self>, at: usize) {
        let JoinAddress { text, state } = &self.given[at];
        let literal = text.parse::<SocketAddr>().is_ok();
        loop {
            let found = tokio::select! {
                found = tokio::net::lookup_host(text.as_str()) => found,
                () = self.fleet.stop.cancelled() => return,
            };
            match found {
                Ok(found) => {
                    let new = state.lock().resolved_to(found.take(MAX_ADDRESSES));
                    for addr in new {
                        let keeper = Arc::clone(&self);
                        self.fleet.tasks.spawn(async move { keeper.keep(at, addr).await });
                    }
                }
                // Addresses that were found before still count.
                Err(error) if state.lock().fails_first(&error) => {
                    tracing::warn!(seed = text, %error, "the name of a seed has no address; asking again");
                }
                Err(error) => tracing::debug!(seed = text, %error, "the name of a seed has no address"),
            }
            self.attempted.send_replace(());
            if literal {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(RESOLVE_EVERY) => {}
                () = self.fleet.stop.cancelled() => return,
            }
        }
    }

    /// Keeps one address connected until the name no longer stands for it.
    async fn keep(&self, at: usize, addr: SocketAddr) {
        let JoinAddress { text, state } = &self.given[at];
        let mut pause = FIRST_PAUSE;
        let mut told = ToldAttempts::default();
        let address = addr.to_string();
        loop {
            let began = self.fleet.context.now();
            let outcome = tokio::select! {
                outcome = self.fleet.dial(&address) => outcome,
                () = self.fleet.stop.cancelled() => return,
            };
            let (attempt, node, max_pause) = match outcome {
                Ok(node) => (Attempt::Connected, Some(node), MAX_PAUSE),
                Err(error) => (Attempt::of(&error), None, max_pause(&error)),
            };
            if told.is_new(&attempt) {
                tell(text, addr, &attempt);
            }
            if let Some(address) = state.lock().addresses.get_mut(&addr) {
                address.node = node.or(address.node);
                address.attempt = Some(attempt.clone());
            }
            self.attempted.send_replace(());
            self.fleet.joined.store(self.all_attempted(), Ordering::Relaxed);
            if let Some(node) = node {
                self.while_connected(node).await;
                pause = self.next_pause(pause, began);
            } else {
                pause = (pause * 2).min(max_pause);
            }
            let sleep = if attempt == Attempt::Oneself { ONESELF_PAUSE } else { pause };
            if state.lock().drop_outdated(addr) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.fleet.stop.cancelled() => return,
            }
        }
    }

    /// Returns when the agent is no longer connected.
    async fn while_connected(&self, node: NodeId) {
        let mut changed = self.fleet.changed.subscribe();
        while self.fleet.peer(node).is_some() {
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return },
                () = self.fleet.stop.cancelled() => return,
            }
        }
    }

    /// The next pause; it grows also if a seed keeps closing the connection at once.
    fn next_pause(&self, pause: Duration, began: Moment) -> Duration {
        let lasted = self.fleet.context.now().since(began);
        if lasted >= MIN_CONNECTED { FIRST_PAUSE } else { (pause * 2).min(MAX_PAUSE) }
    }
}

impl JoinAddress {
    /// Why it can't be joined, if the operator has to correct something at each of its addresses.
    fn mistake(&self) -> Option<String> {
        let state = self.state.lock();
        let mistakes: Option<Vec<_>> = state.addresses.values().map(Address::mistake).collect();
        mistakes?.first().map(|reason| (*reason).to_owned())
    }
}

impl Address {
    fn mistake(&self) -> Option<&str> {
        match &self.attempt {
            Some(Attempt::Mistake(reason)) => Some(reason),
            _ => None,
        }
    }

    /// Why the last attempt failed.
    fn trouble(&self) -> Option<&str> {
        match &self.attempt {
            Some(Attempt::Mistake(reason) | Attempt::Trouble(reason)) => Some(reason),
            _ => None,
        }
    }
}

impl Resolution {
    /// Sets the addresses for which the name stands now. Returns the new ones.
    fn resolved_to(&mut self, found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        self.resolved = true;
        self.unresolved = None;
        for address in self.addresses.values_mut() {
            address.outdated = true;
        }
        let mut new = Vec::new();
        for addr in found {
            let known = self.addresses.entry(addr).or_insert_with(|| {
                new.push(addr);
                Address::default()
            });
            known.outdated = false;
        }
        new
    }

    /// True if the name has no address, for the first time in a row.
    fn fails_first(&mut self, error: &io::Error) -> bool {
        self.resolved = true;
        self.unresolved.replace(format!("the name has no address: {error}")).is_none()
    }

    /// If the name no longer stands for this address, drops the address and returns true.
    fn drop_outdated(&mut self, addr: SocketAddr) -> bool {
        let outdated = self.addresses.get(&addr).is_none_or(|address| address.outdated);
        if outdated {
            self.addresses.remove(&addr);
        }
        outdated
    }
}

impl Attempt {
    fn of(error: &WireError) -> Self {
        let told = in_full(error).to_string();
        match (error, error.blame()) {
            (WireError::Oneself { .. }, _) => Self::Oneself,
            (WireError::Connect { addr, source }, _) => Self::Trouble(format!("cannot connect to {addr}: {source}")),
            (_, Blame { fault: Fault::User, retry: Retry::Never }) => Self::Mistake(told),
            _ => Self::Trouble(told),
        }
    }
}

/// The longest pause after an attempt that failed with this error.
const fn max_pause(error: &WireError) -> Duration {
    if error.needs_upgrade() { MAX_UPGRADE_PAUSE } else { MAX_PAUSE }
}

/// Most reasons that are logged for one address.
const MAX_TOLD: usize = 16;

/// The results of attempts at an address that were logged since it was last connected. An agent of another release may refuse sometimes by its version
/// and sometimes by a reset connection, depending on the bytes that it did not read: each is logged once.
#[derive(Default)]
struct ToldAttempts(Vec<Attempt>);

impl ToldAttempts {
    fn is_new(&mut self, attempt: &Attempt) -> bool {
        if self.0.contains(attempt) {
            return false;
        }
        if *attempt == Attempt::Connected || self.0.len() >= MAX_TOLD {
            self.0.clear();
        }
        // After the first failure it no longer counts as connected.
        self.0.retain(|before| *before != Attempt::Connected);
        self.0.push(attempt.clone());
        true
    }
}

/// Logs the state of an address.
fn tell(given: &str, addr: SocketAddr, attempt: &Attempt) {
    match attempt {
        Attempt::Connected => tracing::info!(seed = given, %addr, "connected"),
        Attempt::Oneself => tracing::info!(seed = given, %addr, "this address is the agent's own; skipped"),
        Attempt::Trouble(reason) => {
            tracing::warn!(seed = given, reason, "the seed is unreachable; going on without it and retrying");
        }
        Attempt::Mistake(reason) => tracing::error!(seed = given, reason, "can't join this seed; trying again"),
    }
}

#[cfg(test)]
mod tests {
    use darter_wire::Versions;

    use super::*;

    fn addr(host: u8) -> SocketAddr {
        ([10, 0, 0, host], 7400).into()
    }

    #[test]
    fn each_reason_is_told_once_until_the_address_is_connected_again() {
        let (version, reset) = (Attempt::Trouble("version 4".to_owned()), Attempt::Trouble("reset".to_owned()));
        let mut told = ToldAttempts::default();
        let news: Vec<bool> =
            [&version, &reset, &version, &reset, &Attempt::Connected, &Attempt::Connected, &reset, &version]
                .map(|attempt| told.is_new(attempt))
                .into();
        assert_eq!(news, [true, true, false, false, true, false, true, true]);
        assert!(told.is_new(&Attempt::Connected));
        for reason in 0..100 {
            told.is_new(&Attempt::Trouble(reason.to_string()));
        }
        assert!(told.0.len() <= MAX_TOLD);
    }

    #[test]
    fn a_name_stands_for_all_its_addresses_of_the_moment() {
        let mut state = Resolution::default();
        assert_eq!(state.resolved_to([addr(1), addr(2)].into_iter()), [addr(1), addr(2)]);
        assert_eq!(state.resolved_to([addr(2), addr(3)].into_iter()), [addr(3)], "each is kept by one task");
        assert!(state.drop_outdated(addr(1)) && !state.drop_outdated(addr(2)));
        assert_eq!(state.resolved_to([addr(1)].into_iter()), [addr(1)], "it came back");
    }

    #[test]
    fn a_name_without_an_address_keeps_the_ones_it_had() {
        let mut state = Resolution::default();
        state.resolved_to([addr(1)].into_iter());
        let none = io::ErrorKind::NotFound.into();
        assert!(state.fails_first(&none) && !state.fails_first(&none), "said once");
        assert!(state.unresolved.as_ref().is_some_and(|why| why.contains("not found")), "{:?}", state.unresolved);
        assert!(!state.drop_outdated(addr(1)));
        state.resolved_to([addr(1)].into_iter());
        assert_eq!(state.unresolved, None);
        assert!(state.fails_first(&none), "said again after it was there");
    }

    #[test]
    fn only_what_is_no_darter_is_a_mistake() {
        let addr = || "a:1".to_owned();
        let source = || std::io::ErrorKind::ConnectionRefused.into();
        let troubles = [
            WireError::Version { addr: addr(), ours: Versions::SPOKEN, theirs: Versions::exactly(9) },
            WireError::HungUp { addr: addr(), source: None },
            WireError::HungUp { addr: addr(), source: Some(source()) },
            // The error may be another agent's: it must not keep this agent from serving its host.
            WireError::SameId { addr: addr(), node: NodeId([1; 16]), other: addr() },
            WireError::NoAnswer { addr: addr(), after: FIRST_PAUSE },
            WireError::Connect { addr: addr(), source: source() },
        ];
        assert!(troubles.iter().all(|error| matches!(Attempt::of(error), Attempt::Trouble(_))));
        assert_eq!(troubles.map(|error| max_pause(&error) > MAX_PAUSE), [true, false, false, false, false, false]);
        assert_eq!(Attempt::of(&WireError::Oneself { addr: addr() }), Attempt::Oneself);
        assert!(matches!(Attempt::of(&WireError::NotDarter { addr: addr() }), Attempt::Mistake(_)));
    }
}
