//! How a command fails, as far as the exit code depends on it. Everything else is an [`anyhow::Error`] and exits 1.

/// A failure that decides the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command can't be carried out as it was given: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A bad configuration file: exit code 2.
    #[error(transparent)]
    Configuration(#[from] crate::config::FileError),
    /// The reader of standard output has seen enough (`darter ls | head -1`): not a failure, exit code 0.
    #[error("standard output was closed")]
    OutputClosed,
    /// Told to stop by a signal.
    #[error("interrupted")]
    Interrupted,
    /// Some of several downloads failed, each of which was told; or of other things, where all was told.
    #[error("{failed} of {all} downloads failed")]
    Some {
        /// How many failed.
        failed: usize,
        /// How many there were.
        all: usize,
        /// Nothing more is to be said: a program has all of it.
        told: bool,
    },
    /// Told to stop by a signal, of which the process dies: whoever waits for it sees that.
    #[error("interrupted{kept}")]
    Signal {
        /// Which signal.
        signal: i32,
        /// What is kept, and how to go on.
        kept: String,
    },
}

impl Failure {
    /// The process's exit code for an error from anywhere.
    pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
        match error.downcast_ref::<Self>() {
            Some(Self::Usage(_) | Self::Configuration(_)) => 2,
            Some(Self::OutputClosed) => 0,
            Some(Self::Interrupted | Self::Some { .. } | Self::Signal { .. }) | None => 1,
        }
    }

    /// Whether all was said of it.
    pub(crate) fn is_told(error: &anyhow::Error) -> bool {
        matches!(error.downcast_ref::<Self>(), Some(Self::Some { told: true, .. }))
    }

    /// The signal that ended the command, if one did.
    pub(crate) fn signal(error: &anyhow::Error) -> Option<i32> {
        match error.downcast_ref::<Self>() {
            Some(Self::Signal { signal, .. }) => Some(*signal),
            _ => None,
        }
    }
}
