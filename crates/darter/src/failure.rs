//! How a command fails: its exit code, and what caused the failure. Most failures are an [`anyhow::Error`] around an error with a
//! [`Blame`], from which the exit code follows: it says whether the same command may succeed later.

use std::io;
use std::path::PathBuf;

use darter_agent::{FetchError, StartError};
use darter_api::ClientError;
use darter_api::Problem;
use darter_archive::ArchiveError;
use darter_core::{Blame, Blamed, Fault, Retry, in_full};
use darter_image::LayerError;
use darter_origin::OriginError;
use darter_store::StoreError;
use tokio::signal::unix::SignalKind;

use crate::cli::hidden::without_logins;

/// The exit code of a command that failed but may succeed when it is run again: `EX_TEMPFAIL` of sysexits.h.
const FAILED_FOR_NOW: u8 = 75;

/// A failure that decides the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command can't be run as it was given: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A bad configuration file: exit code 2.
    #[error(transparent)]
    Configuration(#[from] crate::config::FileError),
    /// The reader of standard output closed it early (`darter ls | head -1`). This is no failure: exit code 0.
    #[error("standard output was closed")]
    OutputClosed,
    /// The reader of a named pipe closed it early. This is no failure: exit code 0.
    #[error("the reader of {} closed it before the end", .0.display())]
    ReaderLeft(PathBuf),
    /// A signal told the process to stop.
    #[error("interrupted")]
    Interrupted,
    /// Some of several downloads failed, and each failure was reported; or other items failed, and all of that was reported.
    #[error("{failed} of {all} downloads failed")]
    Some {
        /// How many failed.
        failed: usize,
        /// How many there were.
        all: usize,
        /// True if every failure was printed already, as JSON or line by line.
        told: bool,
        /// True if all that failed may succeed later.
        may_pass: bool,
    },
    /// A failure with a judgement by the code that met it.
    #[error("{text}")]
    Judged {
        /// What went wrong, and what to do.
        text: String,
        /// Who can mend it.
        blame: Blame,
    },
    /// A signal told the process to stop. The process ends by the same signal, so that its parent sees the cause.
    #[error("interrupted{kept}")]
    Signal {
        /// Which signal.
        signal: i32,
        /// Says how many bytes are kept, and how to go on.
        kept: String,
    },
}

impl Failure {
    /// The process's exit code for any error.
    pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
        match error.downcast_ref::<Self>() {
            Some(Self::Usage(_) | Self::Configuration(_)) => 2,
            Some(Self::OutputClosed | Self::ReaderLeft(_)) => 0,
            Some(Self::Interrupted | Self::Signal { .. }) => 1,
            _ if blame(error).may_pass() => FAILED_FOR_NOW,
            _ => 1,
        }
    }

    /// The end of a command by a signal. `kept` says which bytes are kept, and how to go on.
    pub(crate) const fn ended_by(signal: SignalKind, kept: String) -> Self {
        Self::Signal { signal: signal.as_raw_value(), kept }
    }

    /// True if the failure was reported already.
    pub(crate) fn is_told(error: &anyhow::Error) -> bool {
        matches!(error.downcast_ref::<Self>(), Some(Self::Some { told: true, .. }))
    }

    /// True if the reader of a named pipe closed it early.
    pub(crate) fn is_reader_left(error: &anyhow::Error) -> bool {
        matches!(error.downcast_ref::<Self>(), Some(Self::ReaderLeft(_)))
    }

    /// The signal that ended the command, if one did.
    pub(crate) fn signal(error: &anyhow::Error) -> Option<i32> {
        match error.downcast_ref::<Self>() {
            Some(Self::Signal { signal, .. }) => Some(*signal),
            _ => None,
        }
    }
}

impl Blamed for Failure {
    fn blame(&self) -> Blame {
        match self {
            Self::Usage(_) | Self::Configuration(_) | Self::OutputClosed | Self::ReaderLeft(_) => {
                Blame::new(Fault::User, Retry::Never)
            }
            Self::Interrupted | Self::Signal { .. } => Blame::new(Fault::User, Retry::Now),
            Self::Some { may_pass: true, .. } => Blame::new(Fault::Origin, Retry::Later(None)),
            Self::Some { may_pass: false, .. } => Blame::new(Fault::Origin, Retry::Never),
            Self::Judged { blame, .. } => *blame,
        }
    }
}

/// The judgement on an error: that of the outermost cause that has one. Without any, the user has to mend the failure.
pub(crate) fn blame(error: &anyhow::Error) -> Blame {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.blame();
    }
    let known = error.chain().find_map(|cause| {
        of::<ClientError>(cause)
            .or_else(|| of::<FetchError>(cause))
            .or_else(|| of::<StartError>(cause))
            .or_else(|| of::<StoreError>(cause))
            .or_else(|| of::<LayerError>(cause))
            .or_else(|| of::<OriginError>(cause))
            .or_else(|| of::<ArchiveError>(cause))
            .or_else(|| of::<io::Error>(cause))
    });
    known.unwrap_or(Blame::new(Fault::User, Retry::Never))
}

fn of<E: Blamed + 'static>(cause: &(dyn std::error::Error + 'static)) -> Option<Blame> {
    cause.downcast_ref::<E>().map(Blamed::blame)
}

/// An error in one line, with all its causes, but without logins in addresses.
pub(crate) fn line(error: &anyhow::Error) -> String {
    without_logins(&in_full(error.as_ref()).to_string())
}

/// An error for programs: in one line, with its blame.
pub(crate) fn problem(error: &anyhow::Error) -> Problem {
    Problem::new(line(error), blame(error))
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use darter_origin::ErrorKind;

    use super::*;

    fn code(error: impl Into<anyhow::Error>) -> u8 {
        Failure::exit_code(&error.into())
    }

    #[test]
    fn the_exit_code_says_whether_running_it_again_may_help() {
        assert_eq!(code(Failure::Usage("no".into())), 2);
        assert_eq!(code(FetchError::Draining), FAILED_FOR_NOW);
        let origin = |kind| OriginError::new(kind, "the registry failed");
        let asked: anyhow::Error =
            Err::<(), _>(origin(ErrorKind::Status(503))).context("can't find it out").unwrap_err();
        assert_eq!((code(asked), code(origin(ErrorKind::NotFound))), (FAILED_FOR_NOW, 1));
        assert_eq!(code(FetchError::Range { length: 1 }), 1);
        let full = || io::Error::from_raw_os_error(28);
        let written: anyhow::Error = Err::<(), _>(full()).context("can't write FILE").unwrap_err();
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let many_files = io::Error::from_raw_os_error(24);
        assert_eq!((code(refused), code(many_files)), (FAILED_FOR_NOW, FAILED_FOR_NOW));
        assert_eq!((code(written), code(io::Error::from_raw_os_error(13))), (1, 1), "somebody has to mend that");
        assert_eq!(code(anyhow::anyhow!("the list names no URL")), 1);
        let some = |may_pass| Failure::Some { failed: 1, all: 2, told: true, may_pass };
        assert_eq!((code(some(true)), code(some(false))), (FAILED_FOR_NOW, 1));
    }

    #[test]
    fn a_program_is_told_the_causes_and_whose_fault_it_is() {
        let source = io::Error::from_raw_os_error(20);
        let error = StartError::Store(StoreError::Io { action: "open", path: "/d/blobs".into(), source });
        let told = problem(&error.into());
        assert!(told.error.ends_with("Not a directory (os error 20)"), "{told:?}");
        assert_eq!((told.fault, told.retry.as_deref()), (Some(Fault::Disk), Some("elsewhere")));
    }
}
