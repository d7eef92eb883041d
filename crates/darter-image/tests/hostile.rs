//! Tars that mean harm: nothing panics, everything ends, and what is made can be read without trust.

#![allow(missing_docs)]

mod support;

use darter_image::Reason;
use proptest::prelude::*;

use self::support::tar::{Entry, entry, file, member, number, record, seal, symlink, tar};
use self::support::{drawn, expand_by, read};

/// A tar becomes the same file in whatever chunks it comes, and a sound one.
fn expand(tar: &[u8], chunk: usize) -> Result<u64, Reason> {
    let expanded = expand_by(tar, chunk);
    assert!(expanded == expand_by(tar, tar.len().max(1)));
    expanded.map(|image| read::check(&image))
}

/// A change of a tar: a place, and what is put there.
fn change() -> impl Strategy<Value = (prop::sample::Index, Vec<u8>)> {
    let digits = prop::collection::vec(prop::sample::select(b"01234567 -,.=\n\0/\xff\x80".to_vec()), 1..14);
    (any::<prop::sample::Index>(), prop_oneof![prop::collection::vec(any::<u8>(), 1..20), digits])
}

/// Puts right checksums into whatever could be headers, so that what is in them is read.
fn sealed(mut tar: Vec<u8>) -> Vec<u8> {
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            seal(block.try_into().unwrap());
        }
    }
    tar
}

/// A sparse file in any form, with any map.
fn sparse() -> impl Strategy<Value = Entry> {
    let part = (0_i64..20_000, 0_i64..3000);
    (prop::collection::vec(part, 0..5), 0_u64..60_000, any::<bool>(), 0..4_u8).prop_map(
        |(mut parts, size, is_sorted, form)| {
            if is_sorted {
                let mut end = 0;
                for part in &mut parts {
                    part.0 += end;
                    end = part.0 + part.1;
                }
            }
            let stored: i64 = parts.iter().map(|part| part.1).sum();
            let content = vec![7; stored as usize];
            let list: Vec<_> = parts.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
            let size = size.to_string();
            match form {
                0 => {
                    file("s", content).old_sparse(size.parse().unwrap(), &parts[..parts.len().min(4)], parts.len() > 4)
                }
                1 => file("s", content)
                    .pax("GNU.sparse.map", list.join(","))
                    .pax("GNU.sparse.numblocks", parts.len().to_string())
                    .pax("GNU.sparse.size", size),
                form => {
                    let lines: String = list.iter().map(|part| part.replace(',', "\n") + "\n").collect();
                    let map = support::tar::filled(format!("{}\n{lines}", parts.len()).as_bytes());
                    file("s", [map, content].concat())
                        .pax("GNU.sparse.major", if form == 2 { "1" } else { "0" })
                        .pax("GNU.sparse.minor", "0")
                        .pax("GNU.sparse.realsize", size)
                }
            }
        },
    )
}

proptest! {
    #[test]
    fn drawn_layers_are_sound(layer in any::<u64>(), chunk in 1_usize..2000) {
        let _ = expand(&tar(drawn::layer(layer)), chunk);
    }

    #[test]
    fn changed_layers_are_sound_or_refused(
        layer in any::<u64>(),
        changes in prop::collection::vec(change(), 1..6),
        length in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
        chunk in 1_usize..2000,
    ) {
        let mut tar = tar(drawn::layer(layer));
        for (at, bytes) in changes {
            let at = at.index(tar.len());
            let end = (at + bytes.len()).min(tar.len());
            tar[at..end].copy_from_slice(&bytes[..end - at]);
        }
        let mut tar = sealed(tar);
        if is_cut {
            tar.truncate(length.index(tar.len()));
        }
        let _ = expand(&tar, chunk);
    }

    #[test]
    fn sparse_files_with_any_map_are_sound_or_refused(files in prop::collection::vec(sparse(), 1..4), chunk in 1_usize..2000) {
        let _ = expand(&tar(files), chunk);
    }

    #[test]
    fn any_records_are_taken_or_refused(
        records in prop::collection::vec((prop_oneof![
            prop::sample::select(vec![
                "path", "linkpath", "size", "uid", "gid", "mtime", "atime", "SCHILY.xattr.user.a", "SCHILY.xattr.security.capability",
                "SCHILY.xattr.system.posix_acl_access", "GNU.sparse.map", "GNU.sparse.numblocks", "GNU.sparse.major", "GNU.sparse.offset",
            ]).prop_map(str::to_owned),
            "[a-z=\\.]{0,9}",
        ], prop_oneof!["[-+0-9.,a-z/]{0,12}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..40)]), 0..5),
        chunk in 1_usize..2000,
    ) {
        let content = records.iter().flat_map(|(key, value)| record(key.as_bytes(), value)).collect();
        let _ = expand(&tar([Entry { content, ..entry(b'x', "x") }, file("f", "hello")]), chunk);
    }
}

#[test]
fn lengths_that_nobody_has_are_refused_before_anything_is_made() {
    let mut huge: [u8; 512] = member(&entry(b'x', "x")).try_into().unwrap();
    for length in [1 << 20, (1 << 20) + 1, i64::MAX, -1] {
        huge[124..136].copy_from_slice(&number::<12>(length));
        seal(&mut huge);
        assert!(expand(&huge, 512).is_err(), "{length}");
    }
    let all = file("f", "")
        .pax("GNU.sparse.map", "0,0")
        .pax("GNU.sparse.numblocks", "1")
        .pax("GNU.sparse.size", i64::MAX.to_string());
    assert!(matches!(expand(&tar([all]), 512), Err(Reason::Sparse { .. })));
}

#[test]
fn more_attributes_than_an_inode_can_have_are_refused_and_as_many_as_it_can_are_not() {
    let with = |count: u8| (0..count).fold(file("f", ""), |file, at| file.xattr(&format!("user.{at}"), [at; 65_000]));
    assert_eq!(expand(&tar([with(4)]), 4096), Ok(2));
    assert!(matches!(expand(&tar([with(5)]), 4096), Err(Reason::TooLarge { .. })));
    // Shared ones are 255 at most, and take four bytes each.
    let many = |name: &str| (0..300).fold(file(name, ""), |file, at| file.xattr(&format!("user.{at}"), "x"));
    assert_eq!(expand(&tar([many("a"), many("b")]), 4096), Ok(3));
}

#[test]
fn an_expander_may_go_from_thread_to_thread() {
    let mut expander = darter_image::Expander::new();
    let pushed = std::thread::spawn(move || expander.push(&[0; 512]).map(|()| expander)).join();
    assert!(pushed.unwrap().is_ok());
}

#[test]
fn paths_as_deep_as_they_can_be_are_made_and_written() {
    let deep = "a/".repeat(2047);
    assert_eq!(expand(&tar([file(&format!("{deep}f"), "x")]), 4096), Ok(2049));
    assert!(matches!(expand(&tar([file(&format!("{deep}ff"), "x")]), 4096), Err(Reason::TooLong { .. })));
}

#[test]
fn a_root_of_any_length_is_where_the_superblock_says() {
    // With `.` and `..` these fill a block.
    let full = [file(&"a".repeat(229), ""), file(&"b".repeat(232), "")];
    for tail in 13..=512_usize {
        let lengths = if tail <= 267 { vec![tail] } else { vec![tail / 2, tail - tail / 2] };
        let entries = |lengths: &[usize]| -> Vec<Entry> {
            lengths.iter().zip(["c", "d"]).map(|(length, letter)| file(&letter.repeat(length - 12), "")).collect()
        };
        let mut of_one_block = entries(&lengths);
        if let Some(rest) = tail.checked_sub(27).filter(|rest| *rest >= 13) {
            of_one_block = entries(&if rest <= 267 { vec![rest] } else { vec![rest / 2, rest - rest / 2] });
        }
        let of_two_blocks = [full.to_vec(), entries(&lengths)].concat();
        for mut layer in [of_one_block, of_two_blocks] {
            let inodes = layer.len() as u64 + 1;
            assert_eq!(expand(&tar(layer.clone()), 4096), Ok(inodes), "{tail}");
            layer.push(file(".wh..wh..opq", ""));
            assert_eq!(expand(&tar(layer), 4096), Ok(inodes), "{tail}, opaque");
        }
    }
}

#[test]
fn symbolic_links_are_where_every_kernel_looks_for_them() {
    for label in [0_usize, 1, 17, 200, 380, 440, 448, 500, 900] {
        let links = (1..=520).step_by(7).map(|length| {
            let link = symlink(&format!("l{length}"), &"t".repeat(length));
            if label == 0 { link } else { link.xattr("security.selinux", format!("{length:03}{}", "x".repeat(label))) }
        });
        assert_eq!(expand(&tar(links), 4096), Ok(76), "{label}");
    }
}
