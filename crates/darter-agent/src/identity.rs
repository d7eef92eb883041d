//! The agent's id in the fleet, and the key that can prove it.
//!
//! `DATA_DIR/node-key` has the key, which is generated at the first start ([`NodeKey`] has the format), and `DATA_DIR/node-id` the id as 32
//! hexadecimal digits and a newline: the [hash of the public key](darter_core::identity). The key is for a transport that proves
//! who is at its ends. There is none yet: over plain TCP the id is only claimed.
//!
//! An id that an older release generated has no key. It stays, and a key is put beside it, until a transport proves keys: a new id costs, since
//! rendezvous hashing then chooses other seeds for half of what a seed keeps, and for a whole fleet at once if it is upgraded. As long as nothing
//! checks the id, a new id has no benefit. Once a transport proves keys, `node-id` must be the key's hash.
//!
//! A damaged key is set aside as `node-key.unread`, and a new one is generated: it brings a new id, since the old one
//! can't be proved any more. A key that a newer release wrote is set aside as `node-key.newer`, and its id
//! stays. Neither is ever deleted.
//!
//! A data directory that is copied to another machine, for example with a golden image, contains its id, and two agents would
//! have the same. So `DATA_DIR/node-machine` says on which machine the id was generated: a SHA-256 of the machine's id (never
//! that id itself, which systemd asks to keep confidential), as 64 hexadecimal digits and a newline. On another machine,
//! key and id are generated again, and the key before is kept as `node-key.moved`. A directory that an older release made has no such file, and a
//! machine may have no id (a container): then they stay. So they do if the file contains anything else, which a newer release may have written: it is
//! left alone. If two agents have one id all the same, the agents that they connect to tell them
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

/// The suffixes of keys that are set aside because they can't be read.
const NEWER: &str = "newer";
const UNREAD: &str = "unread";

/// Files with a machine's id; the first that exists is used.
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// The node id of this data directory on this machine.
///
/// # Errors
/// The same as of [`load_or_draw`].
pub(crate) fn of_this_machine(data_dir: &Path) -> Result<NodeId, StartError> {
    let read = |path: &&str| known_machine(&std::fs::read_to_string(path).ok()?).map(str::to_owned);
    load_or_draw(data_dir, MACHINE_IDS.iter().find_map(read).as_deref())
}

/// The id in a machine's file. An image that was never booted has none: the file is empty, or contains `uninitialized` (machine-id(5)).
fn known_machine(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|id| !matches!(*id, "" | "uninitialized"))
}

/// Reads the node id of this data directory, or generates a key and writes both. `machine` is the machine's own id.
///
/// # Errors
/// [`StartError::File`] if a file can't be read or written, or `node-id` contains something else.
fn load_or_draw(data_dir: &Path, machine: Option<&str>) -> Result<NodeId, StartError> {
    let dir = Dir::open(data_dir)?;
    let known = read_id(&dir)?;
    let key = read_key(&dir)?;
    let machine = machine.map(digest_of);
    let (drawn_on, machine) = match dir.read(MACHINE_FILE) {
        Ok(text) => match digest_in(&text) {
            Some(digest) => (Some(digest), machine),
            None => {
                let path = dir.path_of(MACHINE_FILE);
                tracing::warn!(path = %path.display(), "the file that says on which machine the node id was generated is a newer version's or damaged: it is left alone, and the id stays");
                (None, None)
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, machine),
        Err(error) => {
            let path = dir.path_of(MACHINE_FILE);
            tracing::warn!(path = %path.display(), error = %in_full(&error), "the file that says on which machine the node id was generated can't be read: remove it");
            (None, None)
        }
    };
    let moved = machine.is_some() && drawn_on.is_some() && machine != drawn_on;
    let id = match (known, key) {
        (Some(id), Key::Kept(_)) if !moved => id,
        // An older release generated the id, or a newer one has a key for it.
        (Some(id), Key::None | Key::Newer) if !moved => {
            draw_key(&dir)?;
            id
        }
        (None, Key::Kept(key)) if !moved => write_id(&dir, key.public().node())?,
        (before, key) => {
            if matches!(key, Key::Kept(_)) {
                let kept = dir.set_aside(KEY_FILE, "moved").map_err(refused(&dir, KEY_FILE))?;
                tracing::warn!(kept, "the node's key is another machine's: it is set aside");
            }
            let id = draw_key(&dir)?;
            write_id(&dir, id)?;
            match before {
                Some(before) if moved => {
                    tracing::warn!(%before, %id, "the data directory was copied from another machine: a new node id was generated");
                }
                Some(before) => tracing::warn!(%before, %id, "the key is new, and so is the node id"),
                None => {}
            }
            id
        }
    };
    // After the id: if this is not written, the next start generates another id.
    if let Some(machine) = machine.filter(|_| moved || drawn_on.is_none()) {
        write(&dir, MACHINE_FILE, NEW_MACHINE_FILE, &machine)?;
    }
    Ok(id)
}

/// How many files of each kind are not used: keys that were set aside as unreadable or a newer release's, and the machine's file. Blocking.
pub(crate) fn set_aside(data_dir: &Path) -> Result<[(&'static str, usize); 2], StartError> {
    let dir = Dir::open(data_dir)?;
    let names = dir.names().map_err(refused(&dir, KEY_FILE))?;
    let is_aside = |name: &&String| {
        let suffix = name.strip_prefix(KEY_FILE).and_then(|rest| rest.strip_prefix('.'));
        suffix.is_some_and(|suffix| suffix.starts_with(NEWER) || suffix.starts_with(UNREAD))
    };
    let keys = names.iter().filter(is_aside).count();
    let is_machine_unknown = match dir.read(MACHINE_FILE) {
        Ok(text) => digest_in(&text).is_none(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    Ok([(KEY_FILE, keys), (MACHINE_FILE, usize::from(is_machine_unknown))])
}

/// What was found in a key's file.
enum Key {
    None,
    Kept(NodeKey),
    /// A newer release's key, which was set aside.
    Newer,
    /// A damaged key, which was set aside.
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
        Ok(text) => String::from_utf8_lossy(&text).trim().parse().map(Some).map_err(|error| {
            let source = io::Error::new(io::ErrorKind::InvalidData, error);
            failed(dir, FILE, "not a node id; remove the file and the next start writes it anew", Some(source))
        }),
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
        // Something other than a file has its name.
        Err(_) if matches!(dir.look(KEY_FILE), Ok(None)) => KeyError::Damaged,
        Err(error) => {
            let advice = "let the user that darter runs as, and nobody else, read it; or move it away, and a new key is \
                          drawn at the next start";
            return Err(failed(dir, KEY_FILE, advice, Some(error)));
        }
    };
    let (key, suffix) = match fault {
        KeyError::Newer(_) => (Key::Newer, NEWER),
        KeyError::Damaged => (Key::Damaged, UNREAD),
    };
    let kept = dir.set_aside(KEY_FILE, suffix).map_err(refused(dir, KEY_FILE))?;
    let path = dir.path_of(KEY_FILE);
    tracing::warn!(path = %path.display(), %fault, kept, "the node's key can't be used: it is set aside, and a new one is generated");
    Ok(key)
}

/// Generates a key, and returns its id.
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

/// A value that identifies a machine only to this program.
fn digest_of(machine: &str) -> String {
    let digest = Digest::sha256(format!("darter node-machine\n{}", machine.trim()).as_bytes()).to_string();
    digest.trim_start_matches("sha256:").to_owned()
}

/// The digest in the machine's file; `None` if it contains anything else.
fn digest_in(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?.trim();
    (text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_ascii_lowercase())
}

/// A number that distinguishes this process from every other one with the same id; never zero.
pub(crate) fn draw_run(clock: &dyn Clock) -> u64 {
    let mut bytes = [0; 8];
    // Shortly after the host has started, random numbers may not be available; process id and time then distinguish processes.
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
        let error = load_or_draw(dir.path(), Some("a")).unwrap_err();
        assert!(matches!(error, StartError::File { source: Some(_), .. }), "{error:?}");
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
        assert_eq!(set_aside(dir.path()).unwrap(), [("node-key", 3), ("node-machine", 0)]);
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
        let moved = std::fs::read_to_string(dir.path().join("node-key.moved")).unwrap();
        assert_eq!(NodeKey::from_text(&moved).unwrap().public(), first, "the other machine's key is not lost");
        assert_eq!(set_aside(dir.path()).unwrap(), [("node-key", 0), ("node-machine", 0)]);
    }

    #[test]
    fn an_unknown_form_of_the_machines_file_costs_neither_key_nor_id() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_draw(dir.path(), Some("a")).unwrap();
        let key = key_in(dir.path()).public();
        let at = dir.path().join(MACHINE_FILE);
        let digest = digest_of("b");
        for text in
            ["darter node-machine 2\nof another kind\n", "", &digest[1..], &format!("{digest}0"), &"g".repeat(64)]
        {
            std::fs::write(&at, text).unwrap();
            for machine in [Some("a"), Some("b"), None] {
                assert_eq!(load_or_draw(dir.path(), machine).unwrap(), first, "{text:?}");
                assert_eq!(key_in(dir.path()).public(), key, "{text:?}");
                assert_eq!(std::fs::read_to_string(&at).unwrap(), text, "left alone");
            }
            assert_eq!(set_aside(dir.path()).unwrap(), [("node-key", 0), ("node-machine", 1)]);
        }
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
