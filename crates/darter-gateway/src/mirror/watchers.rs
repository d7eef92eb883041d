//! Watchers: clients that cache answers about layers until they are notified that these may have become wrong. They are the processes that keep directories of layers, and are
//! asked for the same layer dozens of times in a second.
//!
//! The notification is one byte. It is written without waiting, before the change takes effect: a watcher that reads its socket before it uses a cached
//! answer finds the byte there. If the socket is full, it has unread bytes, which mean the same.

use std::io::{ErrorKind, Write as _};
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;

/// Most watchers at a time; a further one replaces the oldest.
const MAX_WATCHERS: usize = 64;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<Vec<UnixStream>>);

impl Watchers {
    /// Adds a watcher with its non-blocking connection. It is notified at once, so that it knows from when on it receives notifications.
    pub(super) fn add(&self, connection: UnixStream) {
        let mut watchers = self.0.lock();
        if !is_told(&connection) {
            return;
        }
        if watchers.len() >= MAX_WATCHERS {
            watchers.remove(0);
        }
        watchers.push(connection);
    }

    /// Notifies all watchers that earlier answers may have become wrong.
    pub(super) fn tell(&self) {
        self.0.lock().retain(is_told);
    }
}

/// False if the connection is closed.
fn is_told(mut connection: &UnixStream) -> bool {
    loop {
        match connection.write(&[1]) {
            Ok(_) => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for end in [&ours, &theirs] {
            end.set_nonblocking(true).unwrap();
        }
        (ours, theirs)
    }

    #[test]
    fn each_change_is_in_the_socket_when_it_has_been_told_and_whoever_is_gone_is_forgotten() {
        let watchers = Watchers::default();
        let (ours, mut theirs) = pair();
        let (other, gone) = pair();
        watchers.add(ours);
        watchers.add(other);
        drop(gone);
        let mut told = [0; 16];
        assert_eq!(theirs.read(&mut told).unwrap(), 1, "from here on it is told");
        assert_eq!(theirs.read(&mut told).unwrap_err().kind(), ErrorKind::WouldBlock);
        watchers.tell();
        assert_eq!(theirs.read(&mut told).unwrap(), 1);
        assert_eq!(watchers.0.lock().len(), 1);
        for _ in 0..10_000 {
            watchers.tell();
        }
        assert_eq!(watchers.0.lock().len(), 1, "one that has not read for long was told all the same");
        assert!(theirs.read(&mut told).unwrap() > 0);
        drop(watchers);
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).unwrap();
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let watchers = Watchers::default();
        let mut kept = Vec::new();
        for _ in 0..=MAX_WATCHERS {
            let (ours, theirs) = pair();
            watchers.add(ours);
            kept.push(theirs);
        }
        assert_eq!(watchers.0.lock().len(), MAX_WATCHERS);
        let mut told = Vec::new();
        (&kept[0]).read_to_end(&mut told).unwrap();
        assert_eq!(told, [1], "its connection ended: it goes by nothing any more");
    }
}
