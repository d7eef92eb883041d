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
}

impl Failure {
    /// The process's exit code for an error from anywhere.
    pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
        match error.downcast_ref::<Self>() {
            Some(Self::Usage(_) | Self::Configuration(_)) => 2,
            Some(Self::OutputClosed) => 0,
            Some(Self::Interrupted) | None => 1,
        }
    }
}
