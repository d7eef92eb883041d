//! Kills and full disks, each in a process of its own: the test binary runs itself.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use darter_core::{Manifest, PieceIndex};
use darter_store::{DiskStore, Put, Store as _, StoreError};

use crate::content::{Content, PIECE, config};

const DIR: &str = "DARTER_STORE_TEST_DIR";
const PIECES: u64 = 512;
/// The child process saves all it has after this piece.
const FLUSHED_AFTER: u32 = 100;

fn content() -> Content {
    Content::new(1, PIECES * PIECE)
}

/// Runs one of the ignored tests below in a process of its own, started by `launcher`.
fn start(launcher: &[&str], test: &str, dir: &Path) -> Child {
    let this = std::env::current_exe().unwrap();
    let mut command = match launcher {
        [] => Command::new(&this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&this);
            command
        }
    };
    let arguments = ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"];
    command.args(arguments).env(DIR, dir).stdout(Stdio::piped()).spawn().unwrap()
}

/// Part of [`pieces_survive_a_kill`]: stores pieces until it is killed, and says what it did. Besides the saves that come by
/// themselves, as early as the disk lets them, there is one of which it says when it is done.
#[test]
#[ignore = "runs in a process that another test starts"]
fn store_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let mut config = config(None);
    config.flush_every = Duration::from_millis(1);
    let store = DiskStore::open(Path::new(&dir), &config).unwrap();
    let content = content();
    let blob = content.open(&store);
    loop {
        for piece in 0..content.pieces() {
            if blob.put(PieceIndex(piece), content.piece(piece)).unwrap() == Put::Stored {
                println!("stored");
            }
            if piece == FLUSHED_AFTER {
                store.flush().unwrap();
                println!("flushed");
            }
        }
        blob.drop_pieces(&(0..content.pieces()).step_by(3).map(PieceIndex).collect()).unwrap();
    }
}

#[test]
fn pieces_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let content = content();
    let mut flushed_before = 0;
    for round in 0..8 {
        let mut child = start(&[], "crash::store_until_killed", dir.path());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Later in every round: in the first writes, between saves, while pieces are dropped.
        let said: Vec<String> = lines
            .map_while(Result::ok)
            .filter(|line| line.ends_with("stored") || line.ends_with("flushed"))
            .take(1 + round * 70)
            .collect();
        assert!(!said.is_empty());
        flushed_before += usize::from(said.iter().any(|line| line.ends_with("flushed")));
        child.kill().unwrap();
        child.wait().unwrap();

        let store = DiskStore::open(dir.path(), &config(None)).unwrap();
        let Some(blob) = store.open(content.id).unwrap() else {
            assert_eq!(flushed_before, 0, "what was saved is there");
            continue;
        };
        let claimed = blob.held().len();
        // A lap drops every third piece, and no more.
        assert!(flushed_before == 0 || claimed > FLUSHED_AFTER / 2, "{claimed} are left of what was saved");
        let mut buffer = Vec::new();
        for piece in 0..content.pieces() {
            // A piece that was dropped after its last save reads as lost; whatever reads is right.
            if blob.read_piece(PieceIndex(piece), &mut buffer).is_ok() {
                assert_eq!(buffer, content.piece(piece));
            }
        }
        assert_eq!(claimed, blob.held().len() + blob.take_lost().len());
    }
    assert!(flushed_before > 0, "something was saved before one of the kills");
}

/// Part of [`a_full_disk_stops_storing_and_nothing_else`]: runs where no file may grow beyond a few MiB.
#[test]
#[ignore = "runs in a process that another test starts"]
fn store_until_the_disk_is_full() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = DiskStore::open(Path::new(&dir), &config(None)).unwrap();
    let content = Content::new(1, 2048 * PIECE);
    let growing = Manifest::new(content.manifest.piece_length(), None);
    let blob = store.open_or_create(content.id, content.info(), growing).unwrap();
    blob.extend(0, content.manifest.hashes()).unwrap();
    let put = |piece| blob.put(PieceIndex(piece), content.piece(piece));
    let refused = (0..content.pieces()).find_map(|piece| put(piece).err()).expect("the disk is full at some time");
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    let held = blob.held().len();
    assert!(held > 0);
    content.check_held(&*blob);
    assert_eq!(store.usage().used, u64::from(held) * PIECE);
    store.flush().unwrap();
    let other = Content::new(2, 3 * PIECE);
    other.fill(&store);
    println!("held {held}");
}

#[test]
fn a_full_disk_stops_storing_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let limited = ["sh", "-c", "ulimit -f 16384 && trap '' XFSZ && exec \"$0\" \"$@\""];
    let child = start(&limited, "crash::store_until_the_disk_is_full", dir.path());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("held "), "{said}");
    let store = DiskStore::open(dir.path(), &config(None)).unwrap();
    let blob = store.open(Content::new(1, 0).id).unwrap().unwrap();
    assert!(said.contains(&format!("held {}", blob.held().len())), "{said}");
    Content::new(1, 2048 * PIECE).check_held(&*blob);
}
