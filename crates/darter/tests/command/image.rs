//! `darter image expand`: a layer becomes a file that can be mounted, or nothing.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::{Outcome, Room};

/// A tar with one file, `hello`, of five bytes.
fn layer() -> Vec<u8> {
    let mut header = [0; 512];
    header[..5].copy_from_slice(b"hello");
    for (at, field) in
        [(100, "0000644\0"), (108, "0000000\0"), (116, "0000000\0"), (124, "00000000005\0"), (136, "00000000000\0")]
    {
        header[at..at + field.len()].copy_from_slice(field.as_bytes());
    }
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(b"world");
    tar.resize(512 * 4, 0);
    tar
}

fn room_with(layer: &[u8]) -> Room {
    let room = Room::new();
    std::fs::create_dir_all(room.path("out")).unwrap();
    std::fs::write(room.path("out").join("layer.tar"), layer).unwrap();
    room
}

#[test]
fn a_layer_becomes_a_file_with_superblock_tar_and_metadata() {
    let room = room_with(&layer());
    let told = room.run("image expand layer.tar layer.erofs").succeeded();
    assert!(told.out.is_empty() && told.err.contains("mount -t erofs -o ro layer.erofs"), "{}", told.err);
    let made = room.read("layer.erofs");
    assert_eq!((made.len() % 4096, &made[1024..1028]), (0, b"\xe2\xe1\xf5\xe0".as_slice()));
    assert!(made[4096..].starts_with(&layer()));

    let told = room.run("image expand layer.tar second.erofs --json").succeeded();
    let told = told.json();
    assert_eq!((&told["compression"], &told["inodes"], &told["tar_bytes"]), (&"none".into(), &2.into(), &2048.into()));
    assert_eq!((&told["digest"], &told["length_bytes"]), (&told["diff_id"], &made.len().into()));
    assert!(room.read("second.erofs") == made, "the same every time");
    let right = told["diff_id"].as_str().unwrap();
    let quiet =
        room.run(&format!("image expand layer.tar second.erofs -q --diff-id {right} --digest {right}")).succeeded();
    assert!(quiet.err.is_empty() && quiet.out.is_empty());

    let mut command = room.darter("image expand - third.erofs");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&layer()).unwrap();
    Outcome::of(child.wait_with_output().unwrap()).succeeded();
    assert!(room.read("third.erofs") == made, "from standard input, too");
}

#[test]
fn what_cannot_be_expanded_leaves_nothing_and_keeps_what_was_there() {
    let room = room_with(&layer()[..515]);
    std::fs::write(room.path("out").join("old.erofs"), "old").unwrap();
    room.run("image expand layer.tar old.erofs").failed_with(1, &["can't expand layer.tar", "ends after 515 bytes"]);
    assert_eq!(room.read("old.erofs"), b"old");
    let problem = room.run("image expand layer.tar new.erofs --json").json();
    assert_eq!((&problem["fault"], &problem["retry"]), (&"origin".into(), &"never".into()));

    std::fs::write(room.path("out").join("layer.tar"), layer()).unwrap();
    let wrong = format!("sha256:{}", "0".repeat(64));
    for flag in ["--diff-id", "--digest"] {
        room.run(&format!("image expand layer.tar new.erofs {flag} {wrong}")).failed_with(1, &[flag, &wrong]);
    }
    room.run("image expand nothing.tar new.erofs").failed_with(1, &["can't read nothing.tar", "No such file"]);
    room.run("image expand layer.tar nowhere/new.erofs").failed_with(1, &["can't write into nowhere"]);
    room.run("image expand layer.tar .").failed_with(2, &["is a directory"]);
    room.run("image expand layer.tar /dev/null").failed_with(2, &["is not a regular file"]);
    std::fs::write(room.path("out").join("layer.tar"), b"\xfd7zXZ\0\0\0").unwrap();
    room.run("image expand layer.tar new.erofs").failed_with(1, &["xz"]);
    assert_eq!(room.files(), ["layer.tar", "old.erofs"]);
}
