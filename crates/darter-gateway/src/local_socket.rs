//! Creates the unix sockets of this host's services, for their owner only.
//!
//! - A socket has its mode before it has its name, so that no other user can connect in between, whatever the umask is.
//! - An existing file is removed only if it is a socket at which no process answers, such as that of a killed process. A file that somebody
//!   named by mistake stays.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use darter_core::fault::advice;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// How many connections may wait to be accepted.
const WAITING: i32 = 1024;

/// Why a socket could not be created.
#[derive(Debug, thiserror::Error)]
pub enum NotMade {
    /// A process answers there.
    #[error("another process answers there: stop it, or give another path")]
    Taken,
    /// Something that is not a socket has its name.
    #[error("this path is not a socket: give another path, or move it away")]
    NotASocket,
    /// The kernel allows about a hundred bytes.
    #[error("its path is too long: give a shorter one")]
    TooLong(#[source] io::Error),
    /// The system refused.
    #[error("{}", advice(.0))]
    Refused(#[source] io::Error),
}

/// Creates a socket that only its owner (and root) may open, and its parent directories. It is non-blocking.
///
/// # Errors
/// If a process answers there, something else has the name, or the system refuses.
pub fn listen_at(path: &Path) -> Result<UnixListener, NotMade> {
    let address = SocketAddrUnix::new(path).map_err(|errno| NotMade::TooLong(errno.into()))?;
    if UnixStream::connect(path).is_ok() {
        return Err(NotMade::Taken);
    }
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(NotMade::NotASocket),
        Ok(_) => std::fs::remove_file(path).map_err(NotMade::Refused)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(NotMade::Refused(error)),
        Err(_) => {}
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(NotMade::Refused)?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let made = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).and_then(|socket| {
        // `bind` creates the name with the mode of the socket.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &address)?;
        listen(&socket, WAITING)?;
        Ok(socket)
    });
    made.map(UnixListener::from).map_err(|errno| NotMade::Refused(errno.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_socket_is_its_owners_and_takes_the_place_of_a_dead_one_alone() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("run/darter.sock");
        let first = listen_at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(listen_at(&path), Err(NotMade::Taken)));
        drop(first);
        let _second = listen_at(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let room = tempfile::tempdir().unwrap();
        let file = room.path().join("notes");
        fs::write(&file, "mine").unwrap();
        let link = room.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link, &room.path().to_owned()] {
            let error = listen_at(path).unwrap_err();
            assert!(matches!(error, NotMade::NotASocket), "{}: {error}", path.display());
        }
        assert_eq!(fs::read(&file).unwrap(), b"mine");
        let deep = room.path().join("x".repeat(120));
        assert!(matches!(listen_at(&deep), Err(NotMade::TooLong(_))));
    }
}
