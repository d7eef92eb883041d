//! Paths, and what is kept of members.

use super::resolve::split;
use super::*;
use crate::building::tar::{dir, file, symlink, tar};
use crate::limits::{MAX_LINK_STEPS, MAX_XATTRS};
use crate::tar::Parser;

fn tree(tar: &[u8]) -> Result<Tree, Reason> {
    let (mut parser, mut tree) = (Parser::new(), Tree::new());
    parser.push(tar, &mut tree)?;
    tree.finish()?;
    Ok(tree)
}

#[test]
fn paths_are_cleaned_as_text() {
    for (path, cleaned) in [
        ("", "."),
        (".", "."),
        ("./", "."),
        ("/", "/"),
        ("a//b/./c/", "a/b/c"),
        ("a/../b", "b"),
        ("../a/../../b", "../../b"),
        ("/../a", "/a"),
        ("a/..", "."),
    ] {
        assert_eq!(clean(path.as_bytes()).escape_ascii().to_string(), cleaned, "{path}");
    }
    assert_eq!(split(b"a/b"), (b"a/".as_slice(), b"b".as_slice()));
    assert_eq!(split(b"b"), (b"".as_slice(), b"b".as_slice()));
}

#[test]
fn sparse_data_that_has_to_be_copied_is_copied_in_whatever_chunks_it_comes() {
    let content: Vec<u8> = (0..1000_u32).map(|at| at as u8).collect();
    let sparse = |name: &str| {
        let map = "100,300,5000,200,9000,500";
        file(name, &content).pax("GNU.sparse.map", map).pax("GNU.sparse.numblocks", "3").pax("GNU.sparse.size", "9500")
    };
    let bytes = tar([sparse("a"), sparse("b")]);
    for chunk in [1, 7, 512, 100_000] {
        let (mut parser, mut tree) = (Parser::new(), Tree::new());
        for chunk in bytes.chunks(chunk) {
            parser.push(chunk, &mut tree).unwrap();
        }
        let mut expected = vec![0; 9500];
        expected[100..400].copy_from_slice(&content[..300]);
        expected[5000..5200].copy_from_slice(&content[300..500]);
        expected[9000..].copy_from_slice(&content[500..]);
        for name in [b"a", b"b"] {
            let Body::File { content: FileBytes::Chunks(chunks), .. } =
                &tree.node(tree.child(NodeId::ROOT, name).unwrap()).body
            else {
                panic!("{chunk}")
            };
            let mut found = vec![0; chunks.map.len() << chunks.bits];
            for (index, block) in &chunks.copied {
                let (at, from) = (index << chunks.bits, *block as usize * 512);
                let length = (tree.copied.len() - from).min(1 << chunks.bits);
                found[at..at + length].copy_from_slice(&tree.copied[from..from + length]);
            }
            found.truncate(9500);
            assert!(found == expected, "{chunk}");
        }
    }
}

#[test]
fn the_target_of_a_link_takes_its_place_as_text_and_the_kernel_follows_what_is_in_it() {
    let layer = |more: Vec<crate::building::tar::Entry>| {
        let links =
            [symlink("p", "a/b"), symlink("a/b", "../x/y"), symlink("x/y/q", "../z"), symlink("abs", "/c/d/..")];
        let made = [dir("a"), dir("x/y"), symlink("c", "x"), symlink("out", "p/../../..")];
        tree(&tar(made.into_iter().chain(links).chain(more)))
    };
    for (path, end) in [("p/q/f", "a/z/f"), ("p/f", "x/y/f"), ("abs/f", "x/f"), ("abs/y/f", "x/y/f"), ("out/f", "f")] {
        let found = layer(vec![file(path, "")]).unwrap();
        let id = end.split('/').try_fold(NodeId::ROOT, |at, name| found.child(at, name.as_bytes()));
        assert!(id.is_some_and(|id| matches!(found.node(id).body, Body::File { .. })), "{path}");
    }
    // `r/d` is looked up by the kernel, which goes to the host's `/x`, or above the place where the layer is unpacked.
    for target in ["/x", "../../x"] {
        let reason = layer(vec![symlink("r", target), symlink("s", "r/d"), file("s/f", "")]);
        assert!(reason.is_ok(), "the link itself is looked up: {reason:?}");
        let reason = layer(vec![symlink("r", target), symlink("s", "r/d"), file("s/e/f", "")]);
        assert!(matches!(reason, Err(Reason::Host { .. })), "{reason:?}");
    }
}

#[test]
fn links_that_lead_round_and_round_cost_little() {
    // Each of these members passes 255 links.
    let mut members: Vec<_> = (0..255).map(|at| symlink(&format!("l{at}"), &format!("l{}", at + 1))).collect();
    members.push(dir("l255"));
    members.extend((0..1000).map(|at| file(&format!("l0/{at}"), "")));
    assert!(tree(&tar(members.clone())).is_ok());
    members.insert(0, symlink("before", "l0"));
    members.push(file("before/x", ""));
    assert!(matches!(tree(&tar(members)), Err(Reason::TooManyLinks { .. })));
}

#[test]
fn a_layer_that_would_take_too_much_memory_is_refused_before_it_does() {
    let value = vec![b'v'; 60_000];
    let one = |at: usize| file(&at.to_string(), "").xattr("user.large", [at.to_string().as_bytes(), &value].concat());
    let mut tree = Tree::new();
    let mut parser = Parser::new();
    let reason = (0..).find_map(|at| parser.push(&crate::building::tar::member(&one(at)), &mut tree).err());
    assert!(matches!(reason, Some(Reason::TooLarge { .. })));
    assert!(tree.held <= MAX_HELD + 100_000, "{}", tree.held);
}

/// A default ACL of almost 64 KiB, for this user and more.
fn long_acl(first: u32) -> Vec<u8> {
    let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &7_u16.to_le_bytes(), &id.to_le_bytes()].concat();
    let mut acl = [&2_u32.to_le_bytes()[..], &entry(1, u32::MAX)].concat();
    (0..8000).for_each(|at| acl.extend(entry(2, first + at)));
    [4, 0x10, 0x20].into_iter().for_each(|tag| acl.extend(entry(tag, u32::MAX)));
    acl
}

#[test]
fn acls_that_a_directory_or_a_mode_makes_count_as_memory() {
    let mut members = vec![dir("d").xattr("system.posix_acl_default", long_acl(1))];
    let only_it = tree(&tar(members.clone())).unwrap();
    members.push(file("d/f", ""));
    let mut inherited = tree(&tar(members)).unwrap();
    assert!(inherited.held > only_it.held + 64_000, "{} {}", inherited.held, only_it.held);

    // The file's mode makes another one of it.
    inherited.held = MAX_HELD - 10_000;
    let written = crate::erofs::write(&mut inherited, 0, &darter_core::Digest::sha256(b""));
    assert!(matches!(written, Err(Reason::TooLarge { .. })));
}

#[test]
fn metadata_that_would_take_too_much_memory_is_refused_before_it_does() {
    let mut members = vec![dir("d").xattr("system.posix_acl_default", long_acl(1))];
    members.extend((0..9000).map(|at| file(&format!("d/{at}"), "")));
    let mut tree = tree(&tar(members)).unwrap();
    assert!(tree.held < 16 << 20, "{}", tree.held);
    let written = crate::erofs::write(&mut tree, 0, &darter_core::Digest::sha256(b""));
    assert!(matches!(written, Err(Reason::TooLarge { what }) if what.contains("metadata")));
}

#[test]
fn attributes_of_one_file_are_refused_as_soon_as_they_are_too_many() {
    let mut tree = Tree::new();
    let mut set = |name: u32, value: &[u8]| {
        let name = name.to_string().into_bytes().into();
        tree.set_xattr(NodeId::ROOT, Xattr { namespace: Namespace::User, name, value: value.into() })
    };
    // In the place of one that is there, any number may come.
    for at in 0..100_u8 {
        set(0, &[at; 60_000]).unwrap();
    }
    let set = (0..100_000).position(|at| set(at, b"value").is_err());
    let most = MAX_XATTRS / 12;
    assert!(set.is_some_and(|set| set <= most), "{set:?}");
    assert!(tree.node(NodeId::ROOT).xattrs.len() <= most);
}

#[test]
fn capabilities_that_a_hard_link_takes_away_leave_room_for_others() {
    let capability = [&0x0200_0000_u32.to_le_bytes()[..], &[0; 16]].concat();
    let mut members = vec![file("f", "").xattr("user.a", "x")];
    members
        .extend((0..3).map(|at| {
            crate::building::tar::hardlink(&format!("l{at}"), "f").xattr("security.capability", &capability)
        }));
    members.push(crate::building::tar::hardlink("last", "f"));
    let tree = tree(&tar(members)).unwrap();
    let node = tree.node(tree.child(NodeId::ROOT, b"f").unwrap());
    assert_eq!((node.xattrs.len(), node.xattr_bytes), (1, 8));
}

#[test]
fn names_and_targets_with_a_zero_byte_are_refused() {
    let sparse = |name: &str| {
        let sparse = file("s", [0; 512]).pax("GNU.sparse.major", "0").pax("GNU.sparse.minor", "1");
        let sparse = sparse.pax("GNU.sparse.map", "0,512").pax("GNU.sparse.numblocks", "1");
        tar([sparse.pax("GNU.sparse.size", "512").pax("GNU.sparse.name", name)])
    };
    assert!(tree(&sparse("a")).is_ok());
    for name in ["a\0b", "\0", "d\0/f", "a/b\0"] {
        assert!(matches!(tree(&sparse(name)), Err(Reason::ZeroByte { .. })), "{name:?}");
    }
}

#[test]
fn paths_that_are_too_much_work_at_the_end_are_refused_as_well() {
    let members =
        [dir("d"), symlink("l", "d"), dir("l/sub"), dir("x"), dir("x/y"), file("x", ""), dir("z"), file("z", "")];
    let (mut parser, mut tree) = (Parser::new(), Tree::new());
    parser.push(&tar(members), &mut tree).unwrap();
    tree.steps = MAX_LINK_STEPS;
    assert!(matches!(tree.finish(), Err(Reason::TooLarge { .. })));
    // An entry that can't be reached any more has no time, and that is all.
    tree.times = vec![((*b"x/y").into(), Time::default()), ((*b"gone").into(), Time::default())];
    assert!(tree.finish().is_ok());
}
