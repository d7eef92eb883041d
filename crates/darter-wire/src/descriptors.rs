//! File descriptors: raises this process's limit, and handles failures to accept connections.
//!
//! An agent needs a descriptor for each connection and each blob that is read. Systems grant a process 1,024 unless it asks for more, up to its hard limit; so an agent raises its limit when it
//! starts.
//!
//! A port that can't accept connections because no descriptor is left tries again after growing pauses: the connection that could not be accepted stays in the kernel's queue, so trying at once would
//! only cost CPU.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::time::Instant;

/// The pause after the first failure.
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How often a port that sometimes fails and sometimes works is logged.
const TELL_FAILURE_EVERY: Duration = Duration::from_secs(60);

/// Raises the soft limit of open files to the hard limit. If the system refuses, the soft limit stays.
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => tracing::debug!(?before, now = ?limit.maximum, "raised the limit of open files"),
        Err(error) => tracing::warn!(%error, limit = ?before, "could not raise the limit of open files"),
    }
}

/// How many files this process may have open.
pub fn limit() -> Option<usize> {
    getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok())
}

/// One port's failures to accept connections.
#[derive(Debug)]
pub struct AcceptFailures {
    port: &'static str,
    pause: Duration,
    said: Option<Instant>,
}

impl AcceptFailures {
    /// No failures yet of a port that logs call `port`.
    pub const fn new(port: &'static str) -> Self {
        Self { port, pause: MIN_PAUSE, said: None }
    }

    /// Accepting a connection failed. Logs why, unless that was logged a short time ago, and returns the pause before the next try.
    pub fn failed(&mut self, error: &(dyn std::error::Error + 'static)) -> Duration {
        let cause = io_error_in(error);
        // The client disconnected before it was accepted: nothing is wrong here.
        if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionAborted) {
            return Duration::ZERO;
        }
        if self.said.is_none_or(|said| said.elapsed() >= TELL_FAILURE_EVERY) {
            self.said = Some(Instant::now());
            let advice = advice(cause.and_then(Errno::from_io_error));
            tracing::warn!(port = self.port, error, advice, "can't accept connections; trying again");
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        pause
    }

    /// A connection was accepted.
    pub const fn succeeded(&mut self) {
        self.pause = MIN_PAUSE;
    }
}

/// Advice about a failure to accept.
fn advice(cause: Option<Errno>) -> String {
    match cause {
        Some(Errno::MFILE) => {
            let limit = getrlimit(Resource::Nofile).current.map_or_else(|| "unlimited".to_owned(), |it| it.to_string());
            format!(
                "this process has all the files open that it may ({limit}): raise its limit (LimitNOFILE= in a unit file, \
                 ulimit -Hn in a shell)"
            )
        }
        Some(Errno::NFILE) => "the system has no file descriptor left: raise fs.file-max".to_owned(),
        Some(Errno::NOBUFS | Errno::NOMEM) => "the system has no memory left for connections".to_owned(),
        _ => "look into the system's log".to_owned(),
    }
}

/// The system's refusal behind an error.
fn io_error_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        at = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_pauses_ever_longer_and_what_a_client_did_is_no_failure() {
        let mut failures = AcceptFailures::new("a port");
        let full = io::Error::from(Errno::MFILE);
        let pauses: Vec<u128> = (0..6).map(|_| failures.failed(&full).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1000]);
        assert_eq!(failures.failed(&io::Error::from(Errno::CONNABORTED)), Duration::ZERO);
        failures.succeeded();
        assert_eq!(failures.failed(&full), MIN_PAUSE);
    }

    #[test]
    fn the_advice_names_the_limit_that_is_reached() {
        let wrapped = crate::WireError::Io { doing: "accept a connection", source: Errno::MFILE.into() };
        let cause = io_error_in(&wrapped).and_then(Errno::from_io_error);
        assert!(advice(cause).contains("LimitNOFILE"), "{}", advice(cause));
        assert!(advice(Some(Errno::NFILE)).contains("fs.file-max"));
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
