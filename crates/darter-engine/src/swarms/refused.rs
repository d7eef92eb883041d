//! Why an agent that was asked to lead does not, and what follows for the other agents.

use std::time::Duration;

use crate::error::FetchError;

/// An agent that took longer than this to report that an origin fails has retried it: the next agent, or this one, would retry it for as
/// long again.
const PATIENT_AFTER: Duration = Duration::from_secs(10);

/// True if an agent that took this long to report that the origin fails has retried it for all.
pub(super) fn was_patient(waited: Duration) -> bool {
    waited > PATIENT_AFTER
}

/// Why an agent did not let this one in.
pub(super) enum Refused {
    /// This agent itself can't go on, whichever agent is asked.
    Final(FetchError),
    /// The agent that was asked reports that the origin refuses: another seed may not agree.
    Word(FetchError),
    /// The agent could not read the origin.
    Origin(String),
    /// The origin refuses the agent that was asked, and may accept this one, which is configured for that origin.
    ToIt(String),
    /// A failure of that agent itself.
    Trouble(String),
}

/// Seeds' reports that an origin refuses. One seed may be wrong, or lie: the report counts if two seeds agree, or if no other seed can be asked.
#[derive(Default)]
pub(super) struct SeedsWords(Option<FetchError>);

impl SeedsWords {
    /// A seed reports that the origin refuses.
    ///
    /// # Errors
    /// The first seed's report, if this is the second.
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
    /// The report of the one seed that refused, if one did.
    pub(super) fn believe(&mut self) -> Result<(), FetchError> {
        self.0.take().map_or(Ok(()), Err)
    }
}

impl From<FetchError> for Refused {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Withdrawn { reason, .. } => Self::Trouble(reason),
            FetchError::Stopped { .. } => Self::Trouble("it was stopped".to_owned()),
            FetchError::Broken { .. } => Self::Trouble("it stopped because of an error of its own".to_owned()),
            other => Self::Final(other),
        }
    }
}
