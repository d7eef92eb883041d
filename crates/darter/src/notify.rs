//! Tells systemd how the daemon is, as sd_notify(3) describes: when it is ready, what it is doing, that it reads its
//! configuration anew, that it ends, and, where a watchdog waits for it, that it lives. Without `NOTIFY_SOCKET` all of it does
//! nothing.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A manager that reads nothing for so long is told nothing: it must not hold up the daemon, its signals and its end.
const MAX_SEND: Duration = Duration::from_secs(1);

/// The service manager that started this process, if one wants to know.
#[derive(Debug, Default)]
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// What the environment says.
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
                socket.set_write_timeout(Some(MAX_SEND))?;
                Ok((socket, address))
            });
            // A manager that can't be told must not keep the daemon from running.
            opened.inspect_err(|error| tracing::warn!(%error, "the service manager can't be told anything")).ok()
        });
        let microseconds = watchdog_microseconds.and_then(|text| text.parse().ok()).filter(|micros| *micros > 0);
        Self { watchdog: microseconds.filter(|_| socket.is_some()).map(Duration::from_micros), socket }
    }

    /// Whether anybody listens.
    pub(crate) const fn listens(&self) -> bool {
        self.socket.is_some()
    }

    /// How often to say that the daemon lives: twice in the time after which the manager takes it for dead.
    pub(crate) fn alive_every(&self) -> Option<Duration> {
        self.watchdog.map(|span| span / 2)
    }

    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\n{}", status_line(status)));
    }

    pub(crate) fn status(&self, status: &str) {
        self.send_if_read(&status_line(status));
    }

    pub(crate) fn alive(&self) {
        self.send_if_read("WATCHDOG=1\n");
    }

    /// To be followed by [`ready`](Self::ready). The time tells the manager which of several reloads it is.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n"));
    }

    pub(crate) fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\n{}", status_line(status)));
    }

    fn send(&self, text: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            tracing::debug!(%error, "the service manager was not told");
        }
    }

    /// The same, unless the manager has to read other words first: there will be another one of this kind.
    fn send_if_read(&self, text: &str) {
        let Some((socket, _)) = &self.socket else { return };
        let set = socket.set_nonblocking(true);
        self.send(text);
        if let Err(error) = set.and_then(|()| socket.set_nonblocking(false)) {
            tracing::debug!(%error, "the service manager's socket can't be set");
        }
    }
}

/// One line, whatever is in it.
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
            let manager = Manager::new(Some(&name), Some("3000000"));
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

    #[test]
    fn a_manager_that_reads_nothing_holds_up_nobody() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::new(Some(path.as_os_str()), Some("3000000"));
        // More than a socket's queue takes.
        (0..5000).for_each(|_| manager.alive());
        manager.stopping("draining");
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 64]).is_ok() {}
        manager.ready("up");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\nSTATUS=up\n", "once it reads again, it hears");
    }

    #[test]
    fn nobody_who_listens_is_no_failure() {
        for name in [None, Some(""), Some("relative"), Some("/nowhere/notify")] {
            let manager = Manager::new(name.map(OsStr::new), None);
            manager.ready("up");
            assert_eq!(manager.alive_every(), None);
        }
    }
}
