//! How whoever asks for layers may go by an answer for a while: it is told when answers may not hold any more.
//!
//! `POST /v1/layers/changes` with `Connection: upgrade` and `Upgrade: darter-changes` is answered by 101. Then the agent sends a byte at once, and one whenever what it
//! answered before may be another answer now: before anybody can have pulled the image that is the cause. The end of the connection says the same, for good.
//!
//! So whoever looks into the connection before it uses an answer, and finds nothing there, is answered the same as by the agent. Changes with time
//! alone, such as how much of a layer is here, are not told.
//!
//! For root and the agent's own user alone. An older agent refuses.

use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;

/// The value of the `Upgrade` header.
pub const PROTOCOL: &str = "darter-changes";

/// A connection by which changes are told.
#[derive(Debug)]
pub struct Changes(UnixStream);

/// The news since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Answers of before may not hold any more.
    Some,
    /// Answers of before may not hold any more, and nothing more is told: the agent ends.
    Over,
}

impl Changes {
    /// Over a connection that does not block, and that has begun to tell.
    pub const fn over(connection: UnixStream) -> Self {
        Self(connection)
    }

    /// The news since the last look. Does not wait.
    pub fn look(&mut self) -> Change {
        let mut told = [0; 64];
        let mut change = Change::None;
        loop {
            match self.0.read(&mut told) {
                Ok(0) => return Change::Over,
                Ok(_) => change = Change::Some,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return change,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Change::Over,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_was_told_is_seen_once_and_the_end_for_ever() {
        let (mut agent, keeper) = UnixStream::pair().unwrap();
        keeper.set_nonblocking(true).unwrap();
        let mut changes = Changes::over(keeper);
        assert_eq!(changes.look(), Change::None);
        agent.write_all(&[1; 100]).unwrap();
        assert_eq!((changes.look(), changes.look()), (Change::Some, Change::None));
        agent.write_all(&[1]).unwrap();
        drop(agent);
        assert_eq!((changes.look(), changes.look()), (Change::Over, Change::Over));
    }
}
