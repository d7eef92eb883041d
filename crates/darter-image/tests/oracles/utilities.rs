//! erofs-utils' own checks of expanded layers.

use std::process::Command;

use tempfile::TempDir;

use crate::hosts::{has, leave_out, run};
use crate::layers;
use crate::support::{drawn, expand, tar};

#[test]
fn fsck_finds_nothing_and_dump_reads_the_superblock() {
    if !has("fsck.erofs") || !has("dump.erofs") {
        return;
    }
    let room = TempDir::new().unwrap();
    let image = room.path().join("erofs");
    let drawn = (0..100).map(|number| ("drawn", tar::tar(drawn::layer(number))));
    let huge = [("a huge hole", layers::huge_hole())];
    for (name, tar) in layers::right().into_iter().chain(huge).chain(drawn) {
        let Ok(expanded) = expand(&tar) else { continue };
        std::fs::write(&image, &expanded).unwrap();
        let dumped = match run(Command::new("dump.erofs").arg("-s").arg(&image)) {
            // Before 1.6.
            Err(told) if told.contains("blksize 512 isn't supported") => return leave_out(&told),
            dumped => dumped.unwrap_or_else(|told| panic!("{name}: {told}")),
        };
        let blocks = format!("blocks: {:>40}", expanded.len() / 512);
        let told =
            dumped.lines().any(|line| line.split(':').map(str::trim).eq(["Filesystem blocks", blocks[8..].trim()]));
        assert!(told && dumped.contains("sb_csum mtime"), "{name}: {dumped}");
        // It writes that one's holes out, and reads them.
        if name != "a huge hole" {
            let told = run(Command::new("fsck.erofs").args(["--extract", "-d1"]).arg(&image));
            let told = told.unwrap_or_else(|told| panic!("{name}: {told}"));
            assert!(!told.contains("<E>"), "{name}: {told}");
        }
    }
}
