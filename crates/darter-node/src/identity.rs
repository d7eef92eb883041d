//! The agent's name in the fleet: drawn once, kept in `DATA_DIR/node-id` as 32 hexadecimal digits and a newline.
//!
//! A data directory that is copied to another machine, with a golden image say, brings its id along, and two agents would
//! have one. So `DATA_DIR/node-machine` says on which machine the id was drawn: the SHA-256 of the machine's own id (never
//! that id itself, which systemd asks to keep to oneself), as 64 hexadecimal digits and a newline. On another machine
//! a new id is drawn. A directory that an older release made has no such file, and a machine may have no id (a container):
//! then the id stays. Two agents that have one id all the same are told by whomever they connect to
//! ([`twins`](crate::fleet)).

use std::io;
use std::path::Path;

use darter_core::fault::advice;
use darter_core::{Digest, NodeId, in_full};
use darter_store::Dir;

use crate::error::StartError;

const FILE: &str = "node-id";
const NEW_FILE: &str = "node-id.new";
const MACHINE_FILE: &str = "node-machine";
const NEW_MACHINE_FILE: &str = "node-machine.new";

/// Where a machine's id is, the first that there is.
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// The node id of this data directory on this machine.
///
/// # Errors
/// As [`load_or_draw`].
pub(crate) fn of_this_machine(data_dir: &Path) -> Result<NodeId, StartError> {
    let id = MACHINE_IDS.iter().find_map(|path| std::fs::read_to_string(path).ok()).filter(|id| !id.trim().is_empty());
    load_or_draw(data_dir, id.as_deref())
}

/// Reads the node id of this data directory, or draws one and writes it down. `machine` is the machine's own id.
///
/// # Errors
/// [`StartError::File`] when the file can't be read or written, or holds something else.
fn load_or_draw(data_dir: &Path, machine: Option<&str>) -> Result<NodeId, StartError> {
    let dir = Dir::open(data_dir)?;
    let failed = |file: &str, reason: &str, source: Option<io::Error>| StartError::File {
        path: dir.path_of(file).display().to_string(),
        reason: reason.to_owned(),
        source,
    };
    let refused = |file: &'static str| move |error: io::Error| failed(file, advice(&error), Some(error));
    let known = match dir.read(FILE) {
        Ok(text) => Some(String::from_utf8_lossy(&text).trim().parse::<NodeId>().map_err(|_| {
            failed(FILE, "not a node id; remove the file and a new id is drawn at the next start", None)
        })?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let advice =
                "let the user that darter runs as read it, or remove it, and a new id is drawn at the next start";
            return Err(failed(FILE, advice, Some(error)));
        }
    };
    let machine = machine.map(digest_of);
    let (drawn_on, machine) = match dir.read(MACHINE_FILE) {
        Ok(text) => (Some(String::from_utf8_lossy(&text).trim().to_owned()), machine),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, machine),
        Err(error) => {
            let path = dir.path_of(MACHINE_FILE);
            tracing::warn!(path = %path.display(), error = %in_full(&error), "where the node id was drawn can't be read: remove the file");
            (None, None)
        }
    };
    let moved = machine.is_some() && drawn_on.is_some() && machine != drawn_on;
    let id = match known {
        Some(id) if !moved => id,
        before => {
            let id = draw().map_err(refused(FILE))?;
            let line = format!("{id}\n");
            let written = dir.replace(FILE, NEW_FILE, &[line.as_bytes()], true);
            written.map_err(refused(FILE))?;
            if let Some(before) = before {
                tracing::warn!(%before, %id, "the data directory was copied from another machine: a new node id was drawn");
            }
            id
        }
    };
    // After the id: if this is not written, the next start draws once more.
    if let Some(machine) = machine.filter(|_| moved || drawn_on.is_none()) {
        let line = format!("{machine}\n");
        let written = dir.replace(MACHINE_FILE, NEW_MACHINE_FILE, &[line.as_bytes()], true);
        written.map_err(refused(MACHINE_FILE))?;
    }
    Ok(id)
}

/// Names a machine to this program alone.
fn digest_of(machine: &str) -> String {
    let digest = Digest::sha256(format!("darter node-machine\n{}", machine.trim()).as_bytes()).to_string();
    digest.trim_start_matches("sha256:").to_owned()
}

/// A number that tells this process from every other one with the same id; never zero.
pub(crate) fn draw_run() -> u64 {
    let mut bytes = [0; 8];
    // Early in a host's life the pool may not answer; process id and time then tell processes apart.
    let drawn = match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => (u64::from(std::process::id()) << 32) ^ crate::context::unix_now(),
    };
    drawn.max(1)
}

fn draw() -> io::Result<NodeId> {
    let mut id = [0; 16];
    let filled = rustix::rand::getrandom(&mut id[..], rustix::rand::GetRandomFlags::empty())?;
    if filled != id.len() {
        return Err(io::Error::other("the system gave too few random bytes"));
    }
    Ok(NodeId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_drawn_once_and_garbage_is_said_plainly() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_draw(dir.path(), Some("a\n")).unwrap();
        assert_eq!(load_or_draw(dir.path(), Some("a\n")).unwrap(), first);
        std::fs::write(dir.path().join(FILE), "garbage").unwrap();
        assert!(matches!(load_or_draw(dir.path(), Some("a")), Err(StartError::File { .. })));
    }

    #[test]
    fn a_copied_data_directory_gets_a_new_id_on_the_other_machine() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_draw(dir.path(), Some("machine a")).unwrap();
        let second = load_or_draw(dir.path(), Some("machine b")).unwrap();
        assert_ne!(second, first);
        assert_eq!(load_or_draw(dir.path(), Some("machine b")).unwrap(), second, "drawn once there, too");
        let told = std::fs::read_to_string(dir.path().join(MACHINE_FILE)).unwrap();
        assert!(!told.contains("machine b"), "the machine's id is kept to itself");
    }

    #[test]
    fn an_id_stays_where_nothing_says_that_it_moved() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_draw(dir.path(), None).unwrap();
        assert_eq!(load_or_draw(dir.path(), Some("a")).unwrap(), first, "an older release, or a machine without an id");
        assert_eq!(load_or_draw(dir.path(), None).unwrap(), first);
        assert_ne!(load_or_draw(dir.path(), Some("b")).unwrap(), first);
    }

    #[test]
    fn a_link_in_its_place_is_neither_read_nor_written() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(FILE)).unwrap();
        let error = load_or_draw(dir.path(), None).unwrap_err();
        let told = in_full(&error).to_string();
        assert!(told.contains("symbolic link"), "{told}");
        assert!(!elsewhere.exists());
    }

    #[test]
    fn no_two_runs_are_alike() {
        assert_ne!(draw_run(), draw_run());
    }
}
