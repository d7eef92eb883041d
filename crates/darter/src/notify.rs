//! Notifies systemd of the daemon's state, as sd_notify(3) describes: it is ready, its status line, it reads its
//! configuration again, it stops, and, if there is a watchdog, it is alive. Without `NOTIFY_SOCKET` nothing is
//! sent.
//!
//! Nothing here waits: a manager that does not read its socket must not block the daemon. Messages that change the
//! daemon's state are kept and sent again ([`Manager::catch_up`]); the others are dropped, since more of them will follow.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long to wait before a message is sent again that found the manager's socket full.
const SEND_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Most messages that are kept for the manager; the oldest is dropped first. Each reload has two, and ends with the daemon ready.
const MAX_UNSAID: usize = 16;

/// The service manager that started this process, if it wants notifications.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    /// Messages that found the manager's socket full.
    unsaid: VecDeque<String>,
    /// True once the log says that the manager does not read its socket.
    is_warned: bool,
}

impl Manager {
    /// The manager that the environment names.
    pub(crate) fn from_environment() -> Self {
        let own = std::process::id().to_string();
        let for_us = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == own);
        let watchdog = std::env::var("WATCHDOG_USEC").ok().filter(|_| for_us);
        Self::new(std::env::var_os("NOTIFY_SOCKET").as_deref(), watchdog.as_deref())
    }

    fn new(socket: Option<&OsStr>, watchdog_microseconds: Option<&str>) -> Self {
        let socket = socket.and_then(|name| {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                [b'/', ..] => SocketAddr::from_pathname(name),
                _ => return None,
            };
            let opened = address.and_then(|address| {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Ok((socket, address))
            });
            // If the manager can't be notified, the daemon runs all the same.
            opened
                .inspect_err(
                    |error| tracing::warn!(%error, "NOTIFY_SOCKET can't be used; the service manager is not notified"),
                )
                .ok()
        });
        let microseconds = watchdog_microseconds.and_then(|text| text.parse().ok()).filter(|micros| *micros > 0);
        let watchdog = microseconds.filter(|_| socket.is_some()).map(Duration::from_micros);
        Self { socket, watchdog, unsaid: VecDeque::new(), is_warned: false }
    }

    /// True if a manager wants notifications.
    pub(crate) const fn listens(&self) -> bool {
        self.socket.is_some()
    }

    /// How often to tell the watchdog that the daemon is alive: half of the time after which the manager takes it for dead.
    pub(crate) fn alive_every(&self) -> Option<Duration> {
        self.watchdog.map(|span| span / 2)
    }

    pub(crate) fn ready(&mut self, status: &str) {
        self.say(format!("READY=1\n{}", status_line(status)));
    }

    pub(crate) fn status(&mut self, status: &str) {
        self.say_if_read(&status_line(status));
    }

    pub(crate) fn alive(&mut self) {
        self.say_if_read("WATCHDOG=1\n");
    }

    /// Announces a reload; [`ready`](Self::ready) has to follow. The time in the message tells the manager which of several reloads it is.
    pub(crate) fn reloading(&mut self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.say(format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n"));
    }

    pub(crate) fn stopping(&mut self, status: &str) {
        self.say(format!("STOPPING=1\n{}", status_line(status)));
    }

    /// Ends when kept messages should be sent again; never while there are none.
    pub(crate) async fn behind(&self) {
        if self.unsaid.is_empty() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(SEND_AGAIN_AFTER).await;
    }

    /// Sends kept messages until the manager's socket is full.
    pub(crate) fn catch_up(&mut self) {
        while let Some(word) = self.unsaid.front() {
            match self.send(word) {
                Err(error) if is_full(&error) => {
                    if !std::mem::replace(&mut self.is_warned, true) {
                        let word = word.lines().next().unwrap_or_default();
                        tracing::warn!(
                            word,
                            "the service manager does not read NOTIFY_SOCKET, and may take the daemon for not ready; \
                             trying again"
                        );
                    }
                    return;
                }
                Err(error) => tracing::warn!(%error, "the service manager was not notified; check NOTIFY_SOCKET"),
                Ok(_) => {}
            }
            self.unsaid.pop_front();
        }
        if std::mem::take(&mut self.is_warned) {
            tracing::info!("the service manager reads NOTIFY_SOCKET again, and has been notified");
        }
    }

    fn say(&mut self, word: String) {
        if self.socket.is_none() {
            return;
        }
        if self.unsaid.len() >= MAX_UNSAID {
            self.unsaid.pop_front();
        }
        self.unsaid.push_back(word);
        self.catch_up();
    }

    /// Sends a message unless older ones wait.
    fn say_if_read(&mut self, word: &str) {
        self.catch_up();
        if self.unsaid.is_empty()
            && let Err(error) = self.send(word)
        {
            tracing::debug!(%error, "the service manager was not notified");
        }
    }

    fn send(&self, word: &str) -> io::Result<usize> {
        let Some((socket, address)) = &self.socket else { return Ok(0) };
        socket.send_to_addr(word.as_bytes(), address)
    }
}

/// True if the socket is full for now.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// The status as one line, whatever it contains.
fn status_line(status: &str) -> String {
    format!("STATUS={}\n", status.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reaches_a_socket_with_a_path_or_an_abstract_name() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("notify");
        let name = format!("@darter-test-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str().to_owned()),
            (UnixDatagram::bind_addr(&by_name).unwrap(), name.into()),
        ];
        for (socket, name) in sockets {
            let mut manager = Manager::new(Some(&name), Some("3000000"));
            assert_eq!(manager.alive_every(), Some(Duration::from_millis(1500)));
            let heard = || {
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            };
            manager.ready("all\nwell");
            assert_eq!(heard(), "READY=1\nSTATUS=all well\n");
            manager.alive();
            assert_eq!(heard(), "WATCHDOG=1\n");
            manager.reloading();
            let told = heard();
            let time = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end();
            assert!(time.parse::<u64>().unwrap() > 0, "{told}");
            manager.stopping("draining");
            assert_eq!(heard(), "STOPPING=1\nSTATUS=draining\n");
        }
    }

    #[tokio::test]
    async fn a_manager_that_reads_nothing_holds_up_nobody_and_is_told_once_it_reads() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut manager = Manager::new(Some(path.as_os_str()), Some("3000000"));
        // More messages than fit into a socket's queue.
        (0..5000).for_each(|_| manager.alive());
        manager.ready("up");
        // Far more reloads than messages are kept.
        for _ in 0..100 {
            manager.reloading();
            manager.ready("still up");
        }
        manager.alive();
        manager.stopping("draining");
        socket.set_nonblocking(true).unwrap();
        let read = || {
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
        };
        while let Some(word) = read() {
            assert_eq!(word, "WATCHDOG=1\n");
        }
        let mut kept = Vec::new();
        while !manager.unsaid.is_empty() {
            manager.behind().await;
            manager.catch_up();
            kept.extend(std::iter::from_fn(read));
        }
        assert_eq!(kept.len(), MAX_UNSAID);
        assert!(kept.ends_with(&["READY=1\nSTATUS=still up\n".into(), "STOPPING=1\nSTATUS=draining\n".into()]));
        manager.alive();
        assert_eq!(read().as_deref(), Some("WATCHDOG=1\n"));
    }

    #[test]
    fn nobody_who_listens_is_no_failure() {
        for name in [None, Some(""), Some("relative"), Some("/nowhere/notify")] {
            let mut manager = Manager::new(name.map(OsStr::new), None);
            manager.ready("up");
            assert!(manager.unsaid.is_empty(), "nobody will read it");
            assert_eq!(manager.alive_every(), None);
        }
    }
}
