//! Paths, and what is kept of members.

use super::resolve::{clean, split};
use super::*;
use crate::building::tar::{dir, file, symlink, tar};
use crate::tar::Parser;

fn tree(tar: &[u8]) -> Result<Tree, Reason> {
    let (mut parser, mut tree) = (Parser::new(), Tree::new());
    parser.push(tar, &mut tree)?;
    tree.finish();
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
            let Body::File { content: Content::Chunks(chunks), .. } =
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
