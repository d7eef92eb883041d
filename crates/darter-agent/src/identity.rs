//! The agent's name in the fleet, and the key that can prove it.
//!
//! `DATA_DIR/node-key` has the key, drawn at the first start ([`NodeKey`] has the format), and `DATA_DIR/node-id` the name as 32
//! hexadecimal digits and a newline: the [hash of the public key](darter_core::identity). The key is for a transport that proves
//! who is at its ends. There is none yet: over plain TCP the name is just said.
//!
//! An id that an older release drew has no key. It stays, and a key is put beside it, until a transport proves keys: a new
//! name costs, since rendezvous hashing then names others for half of what a seed keeps, and for a whole fleet at once if it is
//! upgraded. As long as nothing checks it, that buys nothing. Once something does, `node-id` must be the key's.
//!
//! A key that is damaged is set aside as `node-key.unread`, and a new one is drawn: with it comes a new id, since the old one
//! can't be proved any more. One that a newer release wrote is set aside as `node-key.newer`, and the id that it has a name for
//! stays. Neither is ever deleted.
//!
//! A data directory that is copied to another machine, with a golden image say, brings its id along, and two agents would
//! have one. So `DATA_DIR/node-machine` says on which machine the id was drawn: the SHA-256 of the machine's own id (never
//! that id itself, which systemd asks to keep to oneself), as 64 hexadecimal digits and a newline. On another machine
//! key and id are drawn anew. A directory that an older release made has no such file, and a machine may have no id (a container):
//! then they stay. Two agents that have one id all the same are told by the agents that they connect to
//! (`twins` of `darter-fleet`).

use std::io;
use std::path::Path;

use darter_core::fault::advice;
use darter_core::{Clock, Digest, KeyError, NodeId, NodeKey, in_full};
use darter_store::Dir;

use crate::error::StartError;

const FILE: &str = "node-id";
const NEW_FILE: &str = "node-id.new";
const KEY_FILE: &str = "node-key";
const NEW_KEY_FILE: &str = "node-key.new";
const MACHINE_FILE: &str = "node-machine";
const NEW_MACHINE_FILE: &str = "node-machine.new";

/// Files set aside for one reason, at most.
const MAX_SET_ASIDE: usize = 100;

/// Files with a machine's id: the first that exists counts.
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// The node id of this data directory on this machine.
///
/// # Errors
/// As [`load_or_draw`].
pub(crate) fn of_this_machine(data_dir: &Path) -> Result<NodeId, StartError> {
    let read = |path: &&str| known_machine(&std::fs::read_to_string(path).ok()?).map(str::to_owned);
    load_or_draw(data_dir, MACHINE_IDS.iter().find_map(read).as_deref())
}

/// The id in a machine's file. An image that was not booted yet has none: it is empty there, or `uninitialized` (machine-id(5)).
fn known_machine(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|id| !matches!(*id, "" | "uninitialized"))
}

/// Reads the node id of this data directory, or draws a key and writes down both. `machine` is the machine's own id.
///
/// # Errors
/// [`StartError::File`] when a file can't be read or written, or `node-id` holds something else.
fn load_or_draw(data_dir: &Path, machine: Option<&str>) -> Result<NodeId, StartError> {
    let dir = Dir::open(data_dir)?;
    let known = read_id(&dir)?;
    let key = read_key(&dir)?;
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
    let id = match (known, key) {
        (Some(id), Key::Kept(_)) if !moved => id,
        // An older release drew the id, or a newer one has a key for it.
        (Some(id), Key::None | Key::Newer) if !moved => {
            draw_key(&dir)?;
            id
        }
        (None, Key::Kept(key)) if !moved => write_id(&dir, key.public().node())?,
        (before, _) => {
            let id = draw_key(&dir)?;
            write_id(&dir, id)?;
            match before {
                Some(before) if moved => {
                    tracing::warn!(%before, %id, "the data directory was copied from another machine: a new node id was drawn");
                }
                Some(before) => tracing::warn!(%before, %id, "with the key, the node id is a new one"),
                None => {}
            }
            id
        }
    };
    // After the id: if this is not written, the next start draws once more.
    if let Some(machine) = machine.filter(|_| moved || drawn_on.is_none()) {
        write(&dir, MACHINE_FILE, NEW_MACHINE_FILE, &machine)?;
    }
    Ok(id)
}

/// The state of a key's file.
enum Key {
    None,
    Kept(NodeKey),
    /// A newer release's; it was set aside.
    Newer,
    /// It was set aside.
    Damaged,
}

fn failed(dir: &Dir, file: &str, reason: &str, source: Option<io::Error>) -> StartError {
    StartError::File { path: dir.path_of(file).display().to_string(), reason: reason.to_owned(), source }
}

fn refused(dir: &Dir, file: &str) -> impl FnOnce(io::Error) -> StartError {
    move |error| failed(dir, file, advice(&error), Some(error))
}

fn read_id(dir: &Dir) -> Result<Option<NodeId>, StartError> {
    match dir.read(FILE) {
        Ok(text) => {
            String::from_utf8_lossy(&text).trim().parse().map(Some).map_err(|_| {
                failed(dir, FILE, "not a node id; remove the file and the next start writes it anew", None)
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let advice = "let the user that darter runs as read it, or remove it, and the next start writes it anew";
            Err(failed(dir, FILE, advice, Some(error)))
        }
    }
}

fn read_key(dir: &Dir) -> Result<Key, StartError> {
    let fault = match dir.read(KEY_FILE) {
        Ok(text) => match NodeKey::from_text(&String::from_utf8_lossy(&text)) {
            Ok(key) => return Ok(Key::Kept(key)),
            Err(fault) => fault,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Key::None),
        // Something that is no file has its name.
        Err(_) if matches!(dir.look(KEY_FILE), Ok(None)) => KeyError::Damaged,
        Err(error) => {
            let advice = "let the user that darter runs as, and nobody else, read it; or move it away, and a new key is \
                          drawn at the next start";
            return Err(failed(dir, KEY_FILE, advice, Some(error)));
        }
    };
    let (key, suffix) = match fault {
        KeyError::Newer(_) => (Key::Newer, "newer"),
        KeyError::Damaged => (Key::Damaged, "unread"),
    };
    let kept = set_aside(dir, suffix).map_err(refused(dir, KEY_FILE))?;
    let path = dir.path_of(KEY_FILE);
    tracing::warn!(path = %path.display(), %fault, kept, "the node's key can't be used: it is set aside, and a new one is drawn");
    Ok(key)
}

/// Moves the key's file to a name that nothing has, and returns that.
fn set_aside(dir: &Dir, suffix: &str) -> io::Result<String> {
    let taken = dir.names()?;
    let names = (1..=MAX_SET_ASIDE).map(|number| match number {
        1 => format!("{KEY_FILE}.{suffix}"),
        _ => format!("{KEY_FILE}.{suffix}-{number}"),
    });
    let free = names.into_iter().find(|name| !taken.contains(name));
    let free = free.ok_or_else(|| io::Error::other("too many damaged keys were set aside here: remove some"))?;
    dir.rename(KEY_FILE, dir, &free)?;
    Ok(free)
}

/// Draws a key, and returns the id that goes with it.
fn draw_key(dir: &Dir) -> Result<NodeId, StartError> {
    let key = NodeKey::draw();
    write(dir, KEY_FILE, NEW_KEY_FILE, key.to_text().trim_end())?;
    Ok(key.public().node())
}

fn write_id(dir: &Dir, id: NodeId) -> Result<NodeId, StartError> {
    write(dir, FILE, NEW_FILE, &id.to_string())?;
    Ok(id)
}

fn write(dir: &Dir, file: &str, temporary: &str, text: &str) -> Result<(), StartError> {
    let written = dir.replace(file, temporary, &[text.as_bytes(), b"\n"], true);
    written.map_err(refused(dir, file))
}

/// Names a machine to this program alone.
fn digest_of(machine: &str) -> String {
    let digest = Digest::sha256(format!("darter node-machine\n{}", machine.trim()).as_bytes()).to_string();
    digest.trim_start_matches("sha256:").to_owned()
}

/// A number that tells this process from every other one with the same id; never zero.
pub(crate) fn draw_run(clock: &dyn Clock) -> u64 {
    let mut bytes = [0; 8];
    // Early in a host's life the pool may not answer; process id and time then tell processes apart.
    let drawn = match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => (u64::from(std::process::id()) << 32) ^ clock.unix(),
    };
    drawn.max(1)
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
    fn an_image_that_was_not_booted_yet_is_no_machine() {
        assert_eq!(known_machine("0123456789abcdef0123456789abcdef\n"), Some("0123456789abcdef0123456789abcdef"));
        assert_eq!((known_machine("uninitialized\n"), known_machine("\n")), (None, None));
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

    fn key_in(dir: &Path) -> NodeKey {
        NodeKey::from_text(&std::fs::read_to_string(dir.join(KEY_FILE)).unwrap()).unwrap()
    }

    #[test]
    fn an_id_is_the_hash_of_a_key_that_nobody_else_can_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let id = load_or_draw(dir.path(), None).unwrap();
        assert_eq!(key_in(dir.path()).public().node(), id);
        let mode = std::fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        assert_eq!(load_or_draw(dir.path(), None).unwrap(), id, "the key says it, too");
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), format!("{id}\n"));
    }

    #[test]
    fn an_id_of_the_last_release_stays_and_a_key_is_put_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let before = "0123456789abcdef0123456789abcdef";
        std::fs::write(dir.path().join(FILE), format!("{before}\n")).unwrap();
        for _ in 0..2 {
            assert_eq!(load_or_draw(dir.path(), Some("a")).unwrap().to_string(), before);
            assert_ne!(key_in(dir.path()).public().node().to_string(), before);
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_set_aside_and_never_lost() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let first = load_or_draw(dir.path(), None).unwrap();
        let newer = "darter node key 2\nof another kind\n";
        std::fs::write(at(KEY_FILE), newer).unwrap();
        assert_eq!(load_or_draw(dir.path(), None).unwrap(), first, "going back a release is no new node");
        assert_eq!(std::fs::read_to_string(at("node-key.newer")).unwrap(), newer);
        let mut before = first;
        for (damage, kept) in [("", "node-key.unread"), ("garbage", "node-key.unread-2")] {
            std::fs::write(at(KEY_FILE), damage).unwrap();
            let id = load_or_draw(dir.path(), None).unwrap();
            assert_ne!(id, before, "the old id can't be proved any more");
            assert_eq!(id, key_in(dir.path()).public().node());
            assert_eq!(std::fs::read_to_string(at(kept)).unwrap(), damage);
            before = id;
        }
        assert_eq!(load_or_draw(dir.path(), None).unwrap(), before);
    }

    #[test]
    fn a_copied_data_directory_gets_a_key_of_its_own_on_the_other_machine() {
        let dir = tempfile::tempdir().unwrap();
        load_or_draw(dir.path(), Some("machine a")).unwrap();
        let first = key_in(dir.path()).public();
        let id = load_or_draw(dir.path(), Some("machine b")).unwrap();
        assert_ne!(key_in(dir.path()).public(), first);
        assert_eq!(key_in(dir.path()).public().node(), id);
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
        let clock = darter_core::SystemClock::start();
        assert_ne!(draw_run(&clock), draw_run(&clock));
    }
}
