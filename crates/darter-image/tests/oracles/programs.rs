//! One directory, packed by the programs that pack layers, in every form that they know.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::hosts::{Mounted, can_mount, has, leave_out, run};
use crate::layers::{HUGE, huge_hole};
use crate::support::expand;
use crate::support::walk::{Listing, walk};

/// A directory with what all forms can say: names of at most 99 bytes, whole seconds, no attributes.
fn plain(root: &Path) {
    for (name, length) in [("a", 0), ("b", 1), ("c/d", 511), ("c/e", 70_000), ("c/f/g h", 512)] {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![b'x'; length]).unwrap();
    }
    fs::hard_link(root.join("c/e"), root.join("link")).unwrap();
    symlink("c/e", root.join("symbolic")).unwrap();
    fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o4711)).unwrap();
}

/// Makes files that only newer forms can express.
fn rich(root: &Path) {
    plain(root);
    let deep = "a directory with a long name/".repeat(9);
    fs::create_dir_all(root.join(&deep)).unwrap();
    fs::write(root.join(deep).join("f".repeat(255)), "deep").unwrap();
    symlink("t".repeat(300), root.join("long target")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    use std::os::unix::fs::FileExt as _;
    for at in [0, 1 << 20, (1 << 20) + 4096, 5_000_000] {
        sparse.write_all_at(&[7; 5000], at).unwrap();
    }
    sparse.set_len(9_000_123).unwrap();
    drop(sparse);
    let hole = fs::File::create(root.join("hole")).unwrap();
    hole.set_len(6 << 30).unwrap();
}

/// Packs, expands and mounts, and gives what is there.
fn through(room: &Path, in_seconds: bool, command: &mut Command) -> Option<Listing> {
    let packed = room.join("packed.tar");
    let _ = fs::remove_file(&packed);
    if let Err(told) = run(command.current_dir(room)) {
        leave_out(&format!("{command:?}: {told}"));
        return None;
    }
    let image = room.join("image");
    // `mount` would take a loop device that still has the file of before, with what it has read of it.
    let _ = fs::remove_file(&image);
    let tar = fs::read(&packed).unwrap();
    fs::write(&image, expand(&tar).unwrap_or_else(|reason| panic!("{command:?}: {reason}"))).unwrap();
    Some(listing(Mounted::new(&image).at.path(), in_seconds))
}

/// The listing of a directory, with times in whole seconds if a form has no finer ones.
fn listing(root: &Path, in_seconds: bool) -> Listing {
    let mut listing = walk(root);
    for found in listing.values_mut() {
        found.mtime.1 *= i64::from(!in_seconds);
    }
    listing
}

fn assert_same(command: &str, mut expected: Listing, mut found: Listing) {
    // The root is the layer's own.
    expected.remove(".");
    found.remove(".");
    assert!(expected.keys().eq(found.keys()), "{command}: {:?} {:?}", expected.keys(), found.keys());
    for (name, expected) in expected {
        assert_eq!(expected, found[&name], "{command}: {name}");
    }
}

#[test]
fn a_file_that_is_longer_than_32_bits_say_has_its_bytes_where_they_belong() {
    use std::os::unix::fs::FileExt as _;
    if !can_mount() {
        return;
    }
    let (room, tar) = (TempDir::new().unwrap(), huge_hole());
    let image = room.path().join("image");
    fs::write(&image, expand(&tar).unwrap()).unwrap();
    let mounted = Mounted::new(&image);
    let file = fs::File::open(mounted.at.path().join("huge")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), HUGE);
    let data = &tar[tar.len() - 1024 - 4608..tar.len() - 1024];
    let mut read = vec![1; 4608];
    file.read_exact_at(&mut read[..512], 0).unwrap();
    file.read_exact_at(&mut read[512..], HUGE - 4096).unwrap();
    assert!(read == data);
    for at in [512, 4096, HUGE / 2, HUGE - 8192] {
        file.read_exact_at(&mut read[..4096], at).unwrap();
        assert_eq!(read[..3584], [0; 3584], "{at}");
    }
}

#[test]
fn gnu_tar_bsdtar_and_python_pack_a_directory_and_it_is_mounted_as_it_was() {
    if !can_mount() {
        return;
    }
    let (simple, full) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for (room, make) in [(&simple, plain as fn(&Path)), (&full, rich)] {
        fs::create_dir(room.path().join("root")).unwrap();
        make(&room.path().join("root"));
    }
    let try_it = |room: &TempDir, program: &str, arguments: &str, in_seconds: bool| {
        let line = format!("{program} {arguments}");
        let mut command = Command::new(program);
        command.args(arguments.split(' ').filter(|word| !word.is_empty()));
        if let Some(found) = through(room.path(), in_seconds, &mut command) {
            assert_same(&line, listing(&room.path().join("root"), in_seconds), found);
        }
    };
    if has("tar") {
        for form in ["v7", "ustar", "oldgnu", "gnu"] {
            try_it(&simple, "tar", &format!("--format={form} -C root -cf packed.tar ."), true);
        }
        try_it(&full, "tar", "--format=gnu --sparse -C root -cf packed.tar .", true);
        for version in ["0.0", "0.1", "1.0"] {
            let line = format!("--format=pax --sparse --sparse-version={version} -C root -cf packed.tar .");
            try_it(&full, "tar", &line, false);
        }
    }
    if has("bsdtar") {
        try_it(&simple, "bsdtar", "--format=ustar -C root -cf packed.tar .", true);
        try_it(&full, "bsdtar", "--format=pax -C root -cf packed.tar .", false);
    }
    if has("python3") {
        for form in ["USTAR", "GNU", "PAX"] {
            let program = format!(
                "import tarfile\nwith tarfile.open('packed.tar', 'w', format=tarfile.{form}_FORMAT) as packed:\n    packed.add('root', arcname='.')"
            );
            let mut command = Command::new("python3");
            command.args(["-c", &program]);
            if let Some(found) = through(simple.path(), true, &mut command) {
                // Its times are floating-point numbers.
                assert_same(form, listing(&simple.path().join("root"), true), found);
            }
        }
    }
}
