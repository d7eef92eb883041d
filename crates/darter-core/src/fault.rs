//! The one vocabulary of every error in Darter: whose fault a failure is, whether asking again helps, and how an error is told in full.
//!
//! Each crate has error types of its own, which say what was tried and what to do next. The agent's reaction to an error (try again, ask the next
//! seed, drop a peer, choose an exit code or an HTTP status, count it) follows from its [`Blame`] alone, so that one failure is never judged twice in
//! two ways.
//!
//! Not here: texts for people, but for what to do about a refusal of the file system ([`advice`]), which several crates tell. All
//! others are the errors' own, without the text of their causes: [`in_full`] adds these.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The party that can do something about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The user: a wrong address, missing or wrong credentials, too many requests, a wrong option.
    User,
    /// The origin's operator.
    Origin,
    /// The network between two hosts.
    Network,
    /// Another agent.
    Peer,
    /// This host's disk: full, read-only, broken, not permitted.
    Disk,
    /// This program.
    Ourselves,
}

/// How much asking again helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Asking again fails again, wherever it is asked, until somebody has mended something.
    Never,
    /// At once, from the beginning: what is asked for has changed.
    Now,
    /// After a while; after this time, where it is known.
    Later(Option<Duration>),
    /// Not here, but another agent may succeed.
    Elsewhere,
}

/// The judgement on a failure: its fault, and what a retry is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The party at fault.
    pub fault: Fault,
    /// How much asking again helps.
    pub retry: Retry,
}

/// An error that knows its [`Blame`].
pub trait Blamed: Error {
    /// The judgement on this error: whose fault it is, and what a retry is worth.
    fn blame(&self) -> Blame;
}

impl Fault {
    /// Every fault there is.
    pub const ALL: [Self; 6] = [Self::User, Self::Origin, Self::Network, Self::Peer, Self::Disk, Self::Ourselves];

    /// In one word, for metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Origin => "origin",
            Self::Network => "network",
            Self::Peer => "peer",
            Self::Disk => "disk",
            Self::Ourselves => "ourselves",
        }
    }
}

impl Retry {
    /// In one word, for JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Now => "now",
            Self::Later(_) => "later",
            Self::Elsewhere => "elsewhere",
        }
    }

    /// The retry of this name; `after` is the time to wait, if it is known.
    pub fn named(name: &str, after: Option<Duration>) -> Option<Self> {
        [Self::Never, Self::Now, Self::Later(after), Self::Elsewhere].into_iter().find(|retry| retry.name() == name)
    }

    /// How long to wait first, where that is known.
    pub const fn after(self) -> Option<Duration> {
        match self {
            Self::Later(after) => after,
            _ => None,
        }
    }

    /// True if the same request to the same agent may succeed after a while.
    pub const fn is_later(self) -> bool {
        matches!(self, Self::Later(_))
    }
}

impl Blame {
    /// This fault, and whether asking again helps.
    pub const fn new(fault: Fault, retry: Retry) -> Self {
        Self { fault, retry }
    }

    /// True if nobody else (another seed, this node by itself) should try where this failed. An origin that asks to come less often would
    /// otherwise be asked by every host.
    pub const fn is_final(self) -> bool {
        match self.retry {
            Retry::Never => true,
            Retry::Later(_) => matches!(self.fault, Fault::User),
            Retry::Now | Retry::Elsewhere => false,
        }
    }

    /// True if the same command may succeed when it is run again, without anybody mending anything.
    pub const fn may_pass(self) -> bool {
        matches!(self.retry, Retry::Now | Retry::Later(_))
    }
}

impl Blamed for io::Error {
    fn blame(&self) -> Blame {
        use io::ErrorKind as Kind;
        let (fault, retry) = match self.kind() {
            Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::NotConnected
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::AddrNotAvailable
            | Kind::TimedOut
            | Kind::BrokenPipe
            | Kind::UnexpectedEof => (Fault::Network, Retry::Later(None)),
            Kind::ResourceBusy => (Fault::User, Retry::Later(None)),
            // The disk has room again once somebody has removed something.
            Kind::StorageFull | Kind::QuotaExceeded => (Fault::Disk, Retry::Never),
            Kind::NotFound
            | Kind::AddrInUse
            | Kind::PermissionDenied
            | Kind::AlreadyExists
            | Kind::NotADirectory
            | Kind::IsADirectory
            | Kind::DirectoryNotEmpty
            | Kind::ReadOnlyFilesystem
            | Kind::FileTooLarge
            | Kind::InvalidFilename
            | Kind::InvalidInput
            | Kind::CrossesDevices => (Fault::User, Retry::Never),
            Kind::OutOfMemory | Kind::WouldBlock | Kind::Interrupted => (Fault::Ourselves, Retry::Later(None)),
            _ => match self.raw_os_error() {
                Some(TOO_MANY_FILES | TOO_MANY_FILES_IN_ALL) => (Fault::Ourselves, Retry::Later(None)),
                _ => (Fault::Disk, Retry::Never),
            },
        };
        Blame::new(fault, retry)
    }
}

const INPUT_OUTPUT_ERROR: i32 = 5;
const TOO_MANY_FILES_IN_ALL: i32 = 23;
const TOO_MANY_FILES: i32 = 24;

/// Advice about a refusal of the file system, in a few words.
pub fn advice(refusal: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match refusal.kind() {
        // A refusal of ours, whose text says what to do.
        _ if refusal.get_ref().is_some() => "it can't be used",
        Kind::NotADirectory => "something else than a directory is in its place, remove it",
        Kind::IsADirectory => "a directory is in its place, remove it",
        Kind::AlreadyExists => "something is in its place already, remove it",
        Kind::NotFound => "something removed it, or a directory above it is missing",
        Kind::PermissionDenied => "check its owner and its permissions, and those of the directories above it",
        Kind::ReadOnlyFilesystem => {
            "the file system is mounted read-only, mount it for writing or choose another place"
        }
        Kind::StorageFull => "the file system is full, free some of it or choose another place",
        Kind::QuotaExceeded => {
            "this user's quota on the file system is used up, free some of it or choose another place"
        }
        Kind::FileTooLarge => "the file is larger than the file system or the process's limit (`ulimit -f`) allows",
        _ => match refusal.raw_os_error() {
            Some(INPUT_OUTPUT_ERROR) => "the disk fails, look into the kernel's log",
            Some(TOO_MANY_FILES) => "too many files are open, raise the limit (`ulimit -n`)",
            Some(TOO_MANY_FILES_IN_ALL) => "too many files are open on this host",
            _ => "check the disk and the permissions",
        },
    }
}

/// An error with its causes down to the last one, in one line. A cause that a text before it tells already is not repeated:
/// wrappers often repeat what they wrap.
pub const fn in_full<'a>(error: &'a (dyn Error + 'static)) -> InFull<'a> {
    InFull(error)
}

/// See [`in_full`].
#[derive(Clone, Copy, Debug)]
pub struct InFull<'a>(&'a (dyn Error + 'static));

impl Display for InFull<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut told = self.0.to_string();
        f.write_str(&told)?;
        let mut cause = self.0.source();
        while let Some(next) = cause {
            let text = next.to_string();
            if !text.is_empty() && !told.contains(&text) {
                write!(f, ": {text}")?;
                told.push_str(&text);
            }
            cause = next.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Wrapper {
        text: &'static str,
        #[source]
        source: Option<Box<dyn Error>>,
    }

    fn wrapped(text: &'static str, source: impl Into<Box<dyn Error>>) -> Wrapper {
        Wrapper { text, source: Some(source.into()) }
    }

    #[test]
    fn an_error_is_told_down_to_the_last_cause_and_nothing_twice() {
        let refused = io::Error::from_raw_os_error(20);
        let error = wrapped("can't start", wrapped("could not make /d/blobs", refused));
        assert_eq!(in_full(&error).to_string(), "can't start: could not make /d/blobs: Not a directory (os error 20)");
        let repeats = wrapped("can't connect: refused", wrapped("refused", wrapped("", io::Error::other("refused"))));
        assert_eq!(in_full(&repeats).to_string(), "can't connect: refused");
    }

    #[test]
    fn each_word_names_one_thing_and_is_read_back() {
        let after = Some(Duration::from_secs(17));
        for retry in [Retry::Never, Retry::Now, Retry::Later(after), Retry::Elsewhere] {
            assert_eq!(Retry::named(retry.name(), after), Some(retry));
        }
        for fault in Fault::ALL {
            assert_eq!(serde_json::to_string(&fault).unwrap(), format!("{:?}", fault.name()));
        }
        assert_eq!(Retry::named("soon", None), None);
    }

    #[test]
    fn only_what_every_agent_would_be_told_is_final() {
        let of = |fault, retry| Blame::new(fault, retry);
        assert!(of(Fault::User, Retry::Never).is_final());
        assert!(of(Fault::User, Retry::Later(None)).is_final(), "every host would ask an origin that asks for less");
        assert!(
            !of(Fault::Origin, Retry::Later(None)).is_final() && !of(Fault::Network, Retry::Later(None)).is_final()
        );
        assert!(!of(Fault::User, Retry::Elsewhere).is_final() && !of(Fault::Origin, Retry::Now).is_final());
    }

    #[test]
    fn a_refusal_of_the_system_says_what_to_do_and_whose_fault_it_is() {
        let cases = [
            (20, "something else than a directory", Fault::User, Retry::Never),
            (13, "permissions", Fault::User, Retry::Never),
            (30, "read-only", Fault::User, Retry::Never),
            (28, "full", Fault::Disk, Retry::Never),
            (122, "quota", Fault::Disk, Retry::Never),
            (5, "the disk fails", Fault::Disk, Retry::Never),
            (24, "ulimit -n", Fault::Ourselves, Retry::Later(None)),
            (27, "ulimit -f", Fault::User, Retry::Never),
        ];
        for (number, says, fault, retry) in cases {
            let refusal = io::Error::from_raw_os_error(number);
            assert!(advice(&refusal).contains(says), "{refusal}: {}", advice(&refusal));
            assert_eq!(refusal.blame(), Blame::new(fault, retry), "{refusal}");
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(refused.blame(), Blame::new(Fault::Network, Retry::Later(None)));
    }
}
