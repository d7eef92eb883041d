//! The agent's name in the fleet: drawn once, kept in `DATA_DIR/node-id` as 32 hexadecimal digits and a newline.

use std::io;
use std::path::Path;

use darter_core::NodeId;
use darter_store::Dir;

use crate::error::StartError;

const FILE: &str = "node-id";
const NEW_FILE: &str = "node-id.new";

/// Reads the node id of this data directory, or draws one and writes it down.
///
/// # Errors
/// [`StartError::File`] when the file can't be read or written, or holds something else.
pub(crate) fn load_or_draw(data_dir: &Path) -> Result<NodeId, StartError> {
    let dir = Dir::open(data_dir)?;
    let path = dir.path_of(FILE);
    let failed = |reason: String| StartError::File { path: path.display().to_string(), reason };
    match dir.read(FILE) {
        Ok(text) => String::from_utf8_lossy(&text)
            .trim()
            .parse()
            .map_err(|_| failed("not a node id; remove the file and a new id is drawn at the next start".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = draw().map_err(|error| failed(error.to_string()))?;
            let line = format!("{id}\n");
            let written = dir.replace(FILE, NEW_FILE, &[line.as_bytes()], true);
            written.map_err(|error| failed(error.to_string()))?;
            Ok(id)
        }
        Err(error) => Err(failed(error.to_string())),
    }
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
        let first = load_or_draw(dir.path()).unwrap();
        assert_eq!(load_or_draw(dir.path()).unwrap(), first);
        std::fs::write(dir.path().join(FILE), "garbage").unwrap();
        assert!(matches!(load_or_draw(dir.path()), Err(StartError::File { .. })));
    }

    #[test]
    fn a_link_in_its_place_is_neither_read_nor_written() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(FILE)).unwrap();
        let error = load_or_draw(dir.path()).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert!(!elsewhere.exists());
    }
}
