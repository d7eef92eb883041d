//! Layers above others, as containerd unpacks them for overlayfs: a directory that no member names has what the layers below have of it. Each layer's tree is
//! compared with what its own file says, and wherever these are not the same, [`inherited`] has said so, and what is there instead.

use std::path::Path;
use std::process::Command;

use darter_image::inherited::Attributes;
use darter_image::{Inherited, LayerDirectories, TAR_START, inherited, metadata_at};
use tempfile::TempDir;

use crate::hosts::{Mounted, can_mount, oracle, run};
use crate::support::drawn::{self, ACL};
use crate::support::expand;
use crate::support::tar::{Entry, dir, file, symlink, tar};
use crate::support::walk::{Found, walk};

/// A layer: its tar, and what becomes of it.
struct Layer {
    expanded: Vec<u8>,
    unpacked: TempDir,
}

/// Unpacks a layer above others; what containerd says if it can't.
fn unpack(below: &[Layer], tar: &[u8], oracle: &Path) -> Result<Layer, String> {
    let room = TempDir::new().unwrap();
    let stored = room.path().join("tar");
    std::fs::write(&stored, tar).unwrap();
    let unpacked = TempDir::new().unwrap();
    let parents = below.iter().rev().map(|layer| layer.unpacked.path());
    run(Command::new(oracle).arg("apply").arg(&stored).arg(unpacked.path()).args(parents))?;
    Ok(Layer { expanded: expand(tar).map_err(|reason| reason.to_string())?, unpacked })
}

fn directories(file: &[u8]) -> LayerDirectories {
    let start = metadata_at(file).unwrap() as usize;
    LayerDirectories::new(&file[..TAR_START as usize], file[start..].to_vec()).unwrap()
}

/// As a listing of the tree has it.
fn told(attributes: &Attributes) -> String {
    let Attributes { mode, uid, gid, xattrs, .. } = attributes;
    let mut told = format!("mode 04{mode:04o} owner {uid}:{gid}");
    for (name, value) in xattrs {
        told += &format!(" {}={}", name.escape_ascii(), value.escape_ascii());
    }
    told
}

/// A directory that a layer's tar made and no member gave a time. (Those that `drawn` names have others.)
fn is_unnamed(found: &Found) -> bool {
    found.is_directory && found.mtime == (0, 0)
}

/// A listing's line without its ACLs, which an entry may have from a directory above it.
fn without_acls(what: &str) -> String {
    let Some(begin) = what.find(" system.") else { return what.to_owned() };
    let ends = [" trusted.", " user."].iter().filter_map(|namespace| what[begin..].find(namespace));
    [&what[..begin], &what[begin + ends.min().unwrap_or(what.len() - begin)..]].concat()
}

/// Compares each layer's tree; how many directories were said to be otherwise.
fn compare(name: &str, layers: &[Layer], different: &mut Vec<String>) -> usize {
    let all: Vec<_> = layers.iter().map(|layer| directories(&layer.expanded)).collect();
    let found = inherited(&all).unwrap();
    for (number, layer) in layers.iter().enumerate() {
        let image = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(image.path(), &layer.expanded).unwrap();
        let mounted = Mounted::new(image.path());
        let (theirs, ours) = (walk(layer.unpacked.path()), walk(mounted.at.path()));
        for (path, own) in ours.iter().filter(|(path, _)| *path != ".") {
            let Some(real) = theirs.get(path) else {
                different.push(format!("{name}: layer {number}: {path} is not there"));
                continue;
            };
            let in_late = |it: &Inherited| {
                it.layer == number && it.is_late && path.starts_with(&format!("{}/", it.path.escape_ascii()))
            };
            // Some of it was made in what that directory was before.
            if found.iter().any(in_late) {
                continue;
            }
            let mut said = found.iter().filter(|it| it.layer == number && it.path.escape_ascii().to_string() == *path);
            // The attribute that makes a directory opaque is its own layer's.
            let opaque = " trusted.overlay.opaque=y";
            let is_right = match said.next() {
                Some(it) => {
                    told(&it.real) == real.what.replace(opaque, "") && told(&it.own) == own.what.replace(opaque, "")
                }
                None if is_unnamed(own) => own.what == real.what,
                None => without_acls(&own.what) == without_acls(&real.what),
            };
            if !is_right {
                different.push(format!("{name}: layer {number}: {path}:\n  theirs {real:?}\n  ours   {own:?}"));
            }
        }
        assert_eq!(theirs.len(), ours.len(), "{name}: layer {number}");
    }
    found.len()
}

/// A layer with directories that others have something in.
fn lower() -> Vec<Entry> {
    vec![
        dir("tmp").mode(0o1777),
        dir("root").mode(0o700),
        dir("srv").mode(0o2775).owner(0, 50),
        dir("home/user").mode(0o750).owner(1000, 1000).xattr("user.a", "b").mtime(1_000_000_000),
        dir("shared").xattr("system.posix_acl_default", ACL).xattr("system.posix_acl_access", ACL),
        dir("labelled").xattr("security.selinux", "label"),
        dir("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("var", "/tmp"),
        dir("gone/deeper").mode(0o711),
        dir("hidden/below").mode(0o711),
        file("etc", "no directory"),
        dir("plain"),
    ]
}

#[test]
fn directories_that_no_member_names_are_known_where_the_layers_below_have_them_otherwise() {
    if !can_mount() {
        return;
    }
    let Some(oracle) = oracle() else { return };
    let names =
        ["tmp", "root", "srv/a/b", "home/user", "shared/a", "labelled", "usr/lib", "lib", "var", "plain", "etc"];
    let unnamed = tar(names.iter().map(|name| file(&format!("{name}/new"), "")));
    let named: Vec<_> =
        names.iter().flat_map(|name| [dir(name).mode(0o711), file(&format!("{name}/new"), "")]).collect();
    // Named after what is in them: what they have from below and no member says stays.
    let late = ["home/user", "shared", "labelled", "plain", "srv"].iter();
    let late: Vec<_> = late.flat_map(|name| [file(&format!("{name}/new"), ""), dir(name).mode(0o711)]).collect();
    let moved = dir("moved/deeper").mtime(1_000_000_000);
    let by_link = [moved, symlink("moved", "gone"), file("gone/deeper/x", "")];
    let opaque = tar([file("hidden/.wh..wh..opq", ""), file("gone/deeper/.wh.x", "")]);
    let whiteout = tar([file(".wh.tmp", ""), file(".wh.plain", "")]);
    let lower = tar(lower());
    let above_whiteout = tar([file("tmp/x", ""), file("plain/x", ""), file("hidden/below/x", "")]);
    let mut different = Vec::new();
    for (name, tars, count) in [
        // `srv/a` and `shared/a` have group and ACL of a directory above them, which has them from below.
        ("unnamed", vec![lower.clone(), unnamed.clone()], 9),
        // It names the last one of each path.
        ("named", vec![lower.clone(), tar(named)], 3),
        ("alone", vec![unnamed.clone()], 0),
        ("twice", vec![lower.clone(), unnamed.clone(), unnamed], 18),
        ("hidden", vec![lower.clone(), opaque, above_whiteout.clone()], 3),
        ("whiteouts", vec![lower.clone(), whiteout, above_whiteout], 1),
        ("late", vec![lower.clone(), tar(late)], 4),
        ("a time by a link", vec![lower, tar(by_link)], 1),
    ] {
        let mut layers = Vec::new();
        for tar in &tars {
            layers.push(unpack(&layers, tar, oracle).unwrap_or_else(|told| panic!("{name}: {told}")));
        }
        let found = compare(name, &layers, &mut different);
        assert_eq!(found, count, "{name}");
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// How many layers drawn from numbers are tried, each above those before it; and how many are a stack.
const LAYERS: u64 = 250;
const HEIGHT: usize = 3;

#[test]
fn of_whatever_layers_containerd_unpacks_all_other_directories_are_as_their_own_layer_says() {
    if !can_mount() {
        return;
    }
    let Some(oracle) = oracle() else { return };
    let (mut different, mut stacks, mut said, mut layers) = (Vec::new(), 0, 0, Vec::new());
    for number in 0..LAYERS {
        // containerd refuses three in five by themselves, and some above others.
        let Ok(layer) = unpack(&layers, &tar(drawn::layer(number + 1_000_000)), oracle) else { continue };
        layers.push(layer);
        if layers.len() == HEIGHT {
            stacks += 1;
            said += compare(&format!("stack up to layer {number}"), &layers, &mut different);
            layers.clear();
        }
    }
    eprintln!("containerd unpacked {stacks} stacks, with {said} directories that are otherwise");
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(stacks > 5 && said > 5, "{stacks} {said}");
}
