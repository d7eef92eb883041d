//! Why an agent that was asked to lead does not, and what follows for the other agents that may be asked.

use std::time::Duration;

use crate::error::FetchError;

/// An agent that took longer than this to say that an origin fails has been patient with it: the next agent would be as patient, and so would
/// this one be.
const PATIENT_AFTER: Duration = Duration::from_secs(10);

/// True if an agent that took this long to say that the origin fails has tried it for all.
pub(super) fn was_patient(waited: Duration) -> bool {
    waited > PATIENT_AFTER
}

/// Why a seed did not let this agent in.
pub(super) enum Refused {
    /// This agent itself can't go on, whichever seed is asked.
    Final(FetchError),
    /// The origin refuses it, says the agent that was asked: another seed may say otherwise.
    Word(FetchError),
    /// The seed could not read the origin.
    Origin(String),
    /// The origin refuses it to the seed, and may give it to this agent, which is configured for that origin.
    ToIt(String),
    /// The seed's own trouble.
    Trouble(String),
}

/// Seeds' words of an origin's refusal. One seed may be wrong, or lie: the word of two counts, and the word of one if no other can be asked.
#[derive(Default)]
pub(super) struct SeedsWords(Option<FetchError>);

impl SeedsWords {
    /// A seed says that the origin refuses.
    ///
    /// # Errors
    /// The first seed's word, if this is the second.
    pub(super) fn add(&mut self, word: FetchError) -> Result<(), FetchError> {
        match self.0.take() {
            Some(first) => Err(first),
            None => {
                self.0 = Some(word);
                Ok(())
            }
        }
    }

    /// No other seed can be asked.
    ///
    /// # Errors
    /// The word of the one seed that refused, if one did.
    pub(super) fn believe(&mut self) -> Result<(), FetchError> {
        self.0.take().map_or(Ok(()), Err)
    }
}

impl From<FetchError> for Refused {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Withdrawn { reason, .. } => Self::Trouble(reason),
            FetchError::Stopped { .. } => Self::Trouble("it was stopped".to_owned()),
            FetchError::Broken { .. } => Self::Trouble("it broke off by a fault of its own".to_owned()),
            other => Self::Final(other),
        }
    }
}
