//! One question for everybody: an asker waits if somebody else asks the same already, and one that comes a little
//! later is given the same answer.
//!
//! Nobody is given the same answer twice from memory: whoever asks again wants to know what has changed since, and the
//! registry is asked. So a tag that moves is followed at once by an asker that asks twice, while a fleet that asks within a few
//! seconds costs one request.
//!
//! Pure, apart from the waiting: time is an argument. Remembered answers are bounded in bytes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use darter_core::recent::Recent;
use darter_core::{Digest, Moment, NodeId};
use darter_origin::OriginFailure;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::question::Reply;

/// Bytes of answers remembered.
const MAX_REMEMBERED: u64 = 16 << 20;
/// Counted for each answer besides its body.
const OVERHEAD: u64 = 4096;
/// Askers noted for an answer; those beyond are taken for ones that had it.
const MAX_ASKERS: usize = 8192;

/// The asker: another agent, or `None` for a program of this host.
pub(crate) type Asker = Option<NodeId>;

/// The outcome of a question.
pub(crate) type Outcome = Result<Reply, OriginFailure>;

/// Questions under way and answers that were given a short time ago. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Flights(Arc<Mutex<FlightTable>>);

struct FlightTable {
    under_way: HashMap<Digest, Flight>,
    answered: Recent<Digest, Answered>,
}

struct Flight {
    landed: watch::Receiver<Option<Outcome>>,
    askers: HashSet<Asker>,
}

struct Answered {
    outcome: Outcome,
    at: Moment,
    good_for: Duration,
    given: HashSet<Asker>,
}

/// How an asker comes by an answer.
pub(crate) enum Way {
    /// The answer is known.
    Known(Outcome),
    /// Somebody is asking.
    Follow(watch::Receiver<Option<Outcome>>),
    /// Nobody is: the asker is to find out, and to tell.
    Ask(Pilot),
}

/// Finds an answer out for everybody. Dropped without having landed, it leaves those who wait without one.
pub(crate) struct Pilot {
    flights: Flights,
    key: Digest,
    landing: watch::Sender<Option<Outcome>>,
}

impl Default for FlightTable {
    fn default() -> Self {
        Self { under_way: HashMap::new(), answered: Recent::new(MAX_REMEMBERED) }
    }
}

impl Flights {
    /// How `asker` comes by the answer to the question of this key.
    pub(crate) fn board(&self, key: Digest, asker: Asker, now: Moment) -> Way {
        let mut state = self.0.lock();
        if let Some(flight) = state.under_way.get_mut(&key) {
            flight.askers.insert(asker);
            return Way::Follow(flight.landed.clone());
        }
        if let Some(answered) = state.answered.get_mut(&key)
            && now - answered.at < answered.good_for
            && answered.given.len() < MAX_ASKERS
            && answered.given.insert(asker)
        {
            let mut outcome = answered.outcome.clone();
            if let Ok(reply) = &mut outcome {
                reply.age += now - answered.at;
            }
            return Way::Known(outcome);
        }
        let (landing, landed) = watch::channel(None);
        state.under_way.insert(key, Flight { landed, askers: HashSet::from([asker]) });
        Way::Ask(Pilot { flights: self.clone(), key, landing })
    }
}

impl Pilot {
    /// Tells everybody who waits, and remembers the answer for those who come within `good_for`.
    pub(crate) fn land(self, outcome: Outcome, good_for: Duration, now: Moment) {
        let mut state = self.flights.0.lock();
        let given = state.under_way.remove(&self.key).map(|flight| flight.askers).unwrap_or_default();
        let weight = OVERHEAD + outcome.as_ref().map_or(0, |reply| reply.body.len() as u64);
        state.answered.insert(self.key, Answered { outcome: outcome.clone(), at: now, good_for, given }, weight);
        drop(state);
        // Everybody may have gone by now.
        let _ = self.landing.send(Some(outcome));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        let mut state = self.flights.0.lock();
        let mine = |flight: &Flight| flight.landed.same_channel(&self.landing.subscribe());
        if state.under_way.get(&self.key).is_some_and(mine) {
            state.under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use darter_origin::ErrorKind;

    use super::*;

    const HERE: Asker = None;
    const WINDOW: Duration = Duration::from_secs(3);

    fn there(n: u8) -> Asker {
        Some(NodeId([n; 16]))
    }

    fn failed(text: &str) -> Outcome {
        Err(OriginFailure::new(ErrorKind::Timeout, text))
    }

    fn asks(way: Way) -> Pilot {
        match way {
            Way::Ask(pilot) => pilot,
            Way::Known(_) | Way::Follow(_) => panic!("the asker does not ask"),
        }
    }

    #[tokio::test]
    async fn who_comes_while_somebody_asks_waits_for_that_answer() {
        let (flights, key) = (Flights::default(), Digest::sha256(b"question"));
        let pilot = asks(flights.board(key, HERE, Moment::ZERO));
        let Way::Follow(mut landed) = flights.board(key, there(1), Moment::ZERO) else { panic!("it does not follow") };
        pilot.land(failed("why"), WINDOW, Moment::ZERO);
        let outcome = landed.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert_eq!(outcome.unwrap_err().text, "why");
    }

    #[tokio::test]
    async fn who_comes_soon_after_is_given_the_answer_once_and_who_asks_again_asks() {
        let (flights, key) = (Flights::default(), Digest::sha256(b"question"));
        asks(flights.board(key, there(1), Moment::ZERO)).land(failed("old"), WINDOW, Moment::ZERO);
        let soon = Moment::ZERO + WINDOW / 2;
        assert!(matches!(flights.board(key, there(2), soon), Way::Known(Err(_))));
        for again in [there(2), there(1)] {
            asks(flights.board(key, again, soon));
        }
        asks(flights.board(key, there(3), Moment::ZERO + WINDOW));
    }

    #[tokio::test]
    async fn a_question_that_came_to_nothing_is_asked_again() {
        let (flights, key) = (Flights::default(), Digest::sha256(b"question"));
        let pilot = asks(flights.board(key, HERE, Moment::ZERO));
        let Way::Follow(mut landed) = flights.board(key, there(1), Moment::ZERO) else { panic!("it does not follow") };
        drop(pilot);
        assert!(landed.wait_for(Option::is_some).await.is_err());
        asks(flights.board(key, there(1), Moment::ZERO));
    }
}
