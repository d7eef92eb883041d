//! Archives of both kinds, looked through by ranges: what is in them comes out, little of them is read, and those that mean harm are refused.

#![allow(missing_docs)]

#[path = "../../darter-image/tests/support/tar.rs"]
mod tar;

use std::io::Write as _;

use darter_archive::inflate::Inflater;
use darter_archive::scan::Scanned;
use darter_archive::tree::Zipped;
use darter_archive::{ArchiveError, Body, Contents, Local, NodeId, Scan, Tree};
use darter_image::tar::Time;
use proptest::prelude::*;

use self::tar::{dir, entry, file, hardlink, symlink};

/// An archive that was looked through, and how much was read of it for that.
fn scan(archive: &[u8]) -> Result<(Scanned, u64), ArchiveError> {
    let mut scan = Scan::new(archive.len() as u64, Time { seconds: 7, nanos: 0 });
    let (mut read, mut steps) = (0, 0);
    while let Some(range) = scan.wants() {
        assert!(!range.is_empty() && range.len() <= 1 << 20 && range.end() <= archive.len() as u64, "{range}");
        steps += 1;
        assert!(steps < 10_000, "it ends");
        read += range.len();
        scan.take(&archive[range.start() as usize..range.end() as usize])?;
    }
    Ok((scan.finish()?, read))
}

/// A file's bytes, as a mount reads them.
fn bytes(archive: &[u8], contents: &Contents, size: u64) -> Option<Vec<u8>> {
    let part = |at: u64, length: u64| archive.get(at as usize..)?.get(..length as usize).map(<[u8]>::to_vec);
    match contents {
        Contents::Stored(at) => part(*at, size),
        Contents::Sparse(extents) => {
            let mut all = vec![0; size as usize];
            for extent in extents {
                let bytes = part(extent.at, extent.length)?;
                all[extent.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            Some(all)
        }
        Contents::Zipped(zipped) => {
            let Zipped { deflated, crc, .. } = **zipped;
            let local = Local::of(**zipped);
            let range = local.data(&part(local.range().start(), local.range().len())?).ok()?;
            let data = part(range.start(), range.len())?;
            if !deflated {
                return Some(data);
            }
            let (mut inflater, mut out, mut at) = (Inflater::new(size, crc), Vec::new(), 0);
            loop {
                let before = out.len();
                let (used, _) = inflater.inflate(&data[at..], true, &mut out).ok()?;
                at += used;
                if out.len() as u64 == size {
                    return Some(out);
                }
                assert!(used > 0 || out.len() > before, "it goes on");
            }
        }
        Contents::Whole(_) | Contents::Unreadable(_) => None,
    }
}

fn body<'a>(tree: &'a Tree, path: &str) -> &'a Body {
    &tree.get(tree.find(path).unwrap_or_else(|| panic!("{path} is missing"))).unwrap().body
}

fn content(archive: &[u8], tree: &Tree, path: &str) -> Vec<u8> {
    match body(tree, path) {
        Body::File { size, contents } | Body::SymlinkIn { size, contents } => {
            bytes(archive, contents, *size).unwrap_or_else(|| panic!("{path} can't be read"))
        }
        other => panic!("{path}: {other:?}"),
    }
}

/// Bytes that do not repeat soon, and that deflate makes shorter.
fn some(length: usize) -> Vec<u8> {
    let mut state = 9_u32;
    let byte = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"0123456789abcdef"[(state >> 28) as usize]
    };
    (0..length).map(byte).collect()
}

/// A member of a zip to be.
#[derive(Clone)]
struct Zip {
    name: Vec<u8>,
    content: Vec<u8>,
    deflated: bool,
    flags: u16,
    method: Option<u16>,
    made_on: u8,
    mode: u32,
    /// The length in the list, in place of the right one.
    size: Option<u32>,
    /// The offset that the list tells, if it is not the right one.
    header: Option<u32>,
    zip64: bool,
}

fn member(name: &str, content: impl AsRef<[u8]>) -> Zip {
    Zip {
        name: name.into(),
        content: content.as_ref().to_vec(),
        deflated: false,
        flags: 0x800,
        method: None,
        made_on: 3,
        mode: 0o100_644,
        size: None,
        header: None,
        zip64: false,
    }
}

fn deflated(name: &str, content: impl AsRef<[u8]>) -> Zip {
    Zip { deflated: true, ..member(name, content) }
}

fn zip(members: &[Zip]) -> Vec<u8> {
    let (mut out, mut list) = (Vec::new(), Vec::new());
    for member in members {
        let data = if member.deflated {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&member.content).unwrap();
            encoder.finish().unwrap()
        } else {
            member.content.clone()
        };
        let method = member.method.unwrap_or(if member.deflated { 8 } else { 0 });
        let at = member.header.unwrap_or(out.len() as u32);
        let size = member.size.unwrap_or(member.content.len() as u32);
        let crc = crc32fast::hash(&member.content);
        let common = |out: &mut Vec<u8>, extra: u16| {
            out.extend(20_u16.to_le_bytes());
            out.extend(member.flags.to_le_bytes());
            out.extend(method.to_le_bytes());
            // Noon of the first of May, 2024.
            out.extend((12_u16 << 11).to_le_bytes());
            out.extend((44_u16 << 9 | 5 << 5 | 1).to_le_bytes());
            out.extend(crc.to_le_bytes());
            let wide = |value: u32| if member.zip64 && extra > 0 { u32::MAX } else { value };
            out.extend(wide(data.len() as u32).to_le_bytes());
            out.extend(wide(size).to_le_bytes());
            out.extend((member.name.len() as u16).to_le_bytes());
            out.extend(extra.to_le_bytes());
        };
        out.extend(b"PK\x03\x04");
        common(&mut out, 0);
        out.extend(&member.name);
        out.extend(&data);
        list.extend(b"PK\x01\x02");
        list.extend([20, member.made_on]);
        common(&mut list, if member.zip64 { 20 } else { 0 });
        list.extend([0; 6]);
        list.extend((member.mode << 16).to_le_bytes());
        list.extend(at.to_le_bytes());
        list.extend(&member.name);
        if member.zip64 {
            list.extend([1, 0, 16, 0]);
            list.extend(u64::from(size).to_le_bytes());
            list.extend((data.len() as u64).to_le_bytes());
        }
    }
    let (at, length, count) = (out.len() as u32, list.len() as u32, members.len() as u16);
    out.extend(list);
    out.extend(b"PK\x05\x06");
    out.extend([0; 4]);
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(length.to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// The same zip, whose end is one of zip64.
fn with_zip64_end(zip: &[u8]) -> Vec<u8> {
    let (front, end) = zip.split_at(zip.len() - 22);
    let wide = |at: usize, length: usize| {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&end[at..at + length]);
        bytes
    };
    let mut out = front.to_vec();
    out.extend(b"PK\x06\x06");
    out.extend(44_u64.to_le_bytes());
    out.extend([45, 0, 45, 0]);
    out.extend([0; 8]);
    for (at, length) in [(8, 2), (10, 2), (12, 4), (16, 4)] {
        out.extend(wide(at, length));
    }
    out.extend(b"PK\x06\x07");
    out.extend([0; 4]);
    out.extend((front.len() as u64).to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    out.extend(b"PK\x05\x06");
    out.extend([0; 4]);
    out.extend([0xff; 12]);
    out.extend([0; 2]);
    out
}

#[test]
fn a_tars_members_are_known_by_its_headers_alone() {
    let large = some(3 << 20);
    let long = format!("{}/name", "directory".repeat(20));
    let archive = tar::tar([
        dir("d/").mode(0o700),
        file("d/large", &large),
        file("after", "after").mode(0o4755).mtime(-5),
        symlink("link", "d/large"),
        hardlink("hard", "d/large"),
        file(&long, "").pax("path", &long),
        file("sparse", "abcdef")
            .pax("GNU.sparse.map", "3,2,100000,4")
            .pax("GNU.sparse.numblocks", "2")
            .pax("GNU.sparse.size", "100010"),
        entry(b'6', "fifo"),
        file("after", "the later one counts"),
    ]);
    let (Scanned { tree, kind }, read) = scan(&archive).unwrap();
    assert_eq!(kind, "tar");
    assert!(read < 600 << 10, "{read} of {}", archive.len());
    assert!(content(&archive, &tree, "d/large") == large);
    assert!(content(&archive, &tree, "hard") == large);
    assert_eq!(tree.find("hard"), tree.find("d/large"), "one file with two names");
    assert_eq!(content(&archive, &tree, "after"), b"the later one counts");
    assert_eq!(*body(&tree, "link"), Body::Symlink(b"d/large".as_slice().into()));
    assert_eq!(*body(&tree, "fifo"), Body::Fifo);
    assert!(tree.find(&long).is_some());
    let mut expected = vec![0; 100_010];
    expected[3..5].copy_from_slice(b"ab");
    expected[100_000..100_004].copy_from_slice(b"cdef");
    assert!(content(&archive, &tree, "sparse") == expected);
    assert_eq!(tree.get(tree.find("d").unwrap()).unwrap().mode, 0o700);
    assert_eq!(tree.get(NodeId::ROOT).unwrap().mtime.seconds, 7, "what nobody dates");
}

#[test]
fn tars_that_end_early_or_lead_out_are_refused() {
    let archive = tar::tar([file("a", some(2 << 20)), file("b", "b")]);
    for length in [300, 700, 1 << 20, 2 << 20] {
        let told = scan(&archive[..length]).unwrap_err().to_string();
        assert!(told.contains("ends after") || told.contains("no tar"), "{length}: {told}");
    }
    let out = tar::tar([file("../../etc/passwd", "x")]);
    assert!(matches!(scan(&out), Err(ArchiveError::Outside { .. })));
    let through = tar::tar([symlink("etc", "/etc"), file("etc/passwd", "x")]);
    assert!(matches!(scan(&through), Err(ArchiveError::BelowFile { .. })));
    assert!(matches!(scan(&tar::tar([hardlink("x", "none")])), Err(ArchiveError::LinkToNothing { .. })));
    assert!(matches!(scan(b"\x1f\x8b\x08\0\0\0\0\0\0\0"), Err(ArchiveError::Packed { kind: "gzip" })));
    assert!(matches!(scan(b"<html>no archive</html>"), Err(ArchiveError::Unknown)));
    assert!(matches!(scan(b""), Err(ArchiveError::Unknown)));
}

#[test]
fn zeros_are_a_tar_without_members_only_if_they_are_all_and_few() {
    for length in [512, 1024, 10 << 10] {
        let (scanned, _) = scan(&vec![0; length]).unwrap();
        assert_eq!((scanned.kind, scanned.tree.len()), ("tar", 1), "{length}");
    }
    for length in [511, (10 << 10) + 512, 3 << 20] {
        assert!(matches!(scan(&vec![0; length]), Err(ArchiveError::Unknown)), "{length}");
    }
    for length in [4096, 1 << 20] {
        let mut image = vec![0; length];
        image[length - 1000..].fill(7);
        assert!(matches!(scan(&image), Err(ArchiveError::Unknown)), "{length}");
        image.extend(zip(&[member("x", "y")]));
        assert_eq!(scan(&image).map(|(scanned, _)| scanned.kind), Ok("zip"), "{length}");
    }
}

#[test]
fn a_zips_members_are_known_by_the_list_at_its_end() {
    let large = some(3 << 20);
    let dos = Zip { made_on: 0, mode: 0, flags: 0, ..member("win\\dir\\x.txt", "dos") };
    let german = Zip { name: b"sch\x94n".to_vec(), flags: 0, ..member("", "old") };
    let members = [
        member("d/", ""),
        member("d/stored", &large),
        deflated("d/deflated", &large),
        Zip { mode: 0o120_777, ..member("link", "d/stored") },
        deflated("empty", ""),
        Zip { mode: 0o100_755, zip64: true, ..deflated("wide", "zip64") },
        dos,
        german,
        member("twice", "first"),
        member("twice", "second"),
    ];
    let archive = zip(&members);
    for (before, archive) in
        [(0, archive.clone()), (5000, archive.clone()), (0, with_zip64_end(&archive)), (5000, with_zip64_end(&archive))]
    {
        // A program that unpacks it.
        let archive = [&vec![b'#'; before], &archive[..]].concat();
        let (Scanned { tree, kind }, read) = scan(&archive).unwrap();
        assert_eq!(kind, "zip");
        assert!(read < 200 << 10, "{read} of {}", archive.len());
        assert!(content(&archive, &tree, "d/stored") == large);
        assert!(content(&archive, &tree, "d/deflated") == large);
        assert_eq!(content(&archive, &tree, "wide"), b"zip64");
        assert_eq!(content(&archive, &tree, "win/dir/x.txt"), b"dos");
        assert_eq!(content(&archive, &tree, "schön"), b"old");
        assert_eq!(content(&archive, &tree, "twice"), b"second");
        assert_eq!(content(&archive, &tree, "link"), b"d/stored");
        assert!(matches!(body(&tree, "link"), Body::SymlinkIn { size: 8, .. }));
        let wide = tree.get(tree.find("wide").unwrap()).unwrap();
        assert_eq!((wide.mode, wide.mtime.seconds), (0o755, 1_714_564_800));
        assert_eq!(tree.files, 7, "links and directories are none, nor is what another one replaced");
    }
    let nothing = zip(&[]);
    assert!(scan(&nothing).unwrap().0.tree.is_empty());
}

#[test]
fn zips_that_confuse_or_explode_are_refused() {
    let zeros = vec![0; 1 << 20];
    let overlapping = zip(&[deflated("one", &zeros), Zip { header: Some(0), ..deflated("two", &zeros) }]);
    let told = scan(&overlapping).unwrap_err().to_string();
    assert!(told.contains("overlaps"), "{told}");
    let endless = zip(&[Zip { size: Some(u32::MAX - 1), ..deflated("bomb", "x") }]);
    assert!(scan(&endless).unwrap_err().to_string().contains("can't become"));
    let short = zip(&[Zip { size: Some(9), ..member("x", "four") }]);
    assert!(scan(&short).unwrap_err().to_string().contains("can't become 9"));
    let outside = zip(&[member("../x", "x")]);
    assert!(matches!(scan(&outside), Err(ArchiveError::Outside { .. })));
    let beyond = zip(&[Zip { header: Some(1 << 30), ..member("x", "x") }]);
    assert!(scan(&beyond).unwrap_err().to_string().contains("behind the end"));
    let good = zip(&[member("a", "a"), deflated("b", some(9999))]);
    for length in [4, good.len() / 2, good.len() - 1] {
        let told = scan(&good[..length]).unwrap_err().to_string();
        assert!(told.contains("end is missing") || told.contains("list of members at its end"), "{told}");
    }
    let mut fewer = good;
    let end = fewer.len() - 22;
    fewer[end + 10] = 7;
    assert!(scan(&fewer).unwrap_err().to_string().contains("should have 7 members, and 2"));
    // A member whose own header says another length of its name, so that its data would lie in the next one.
    let mut shifted = zip(&[member("a", "a"), member("b", "b")]);
    shifted[28..30].copy_from_slice(&60_000_u16.to_le_bytes());
    let (scanned, _) = scan(&shifted).unwrap();
    let Body::File { size, contents } = body(&scanned.tree, "a") else { panic!() };
    assert_eq!(bytes(&shifted, contents, *size), None);
}

#[test]
fn what_is_encrypted_or_packed_otherwise_is_named_and_the_rest_can_be_read() {
    let secret = Zip { flags: 0x801, ..member("secret", "x") };
    let archive = zip(&[secret.clone(), member("public", "p"), Zip { method: Some(93), ..member("zstd", "z") }]);
    let (scanned, _) = scan(&archive).unwrap();
    assert_eq!(content(&archive, &scanned.tree, "public"), b"p");
    let (count, named) = &scanned.tree.unreadable;
    assert_eq!(*count, 2);
    assert_eq!(named[0], ("secret".to_owned(), "is encrypted"));
    assert!(named[1].1.contains("zstd"));
    let told = scan(&zip(&[secret])).unwrap_err().to_string();
    assert!(told.contains("secret is encrypted") && told.contains("darter get"), "{told}");
}

#[test]
fn wrong_data_is_an_error_and_never_other_bytes() {
    let right = some(100_000);
    let archive = zip(&[deflated("x", &right)]);
    let (scanned, _) = scan(&archive).unwrap();
    let Body::File { size, contents } = body(&scanned.tree, "x") else { panic!() };
    for at in (40..archive.len() - 200).step_by(997) {
        let mut wrong = archive.clone();
        wrong[at] ^= 0x55;
        assert_eq!(bytes(&wrong, contents, *size), None, "a change at {at}");
    }
}

/// Reads everything that can be read.
fn read_all(archive: &[u8]) {
    let Ok((scanned, _)) = scan(archive) else { return };
    for node in (0..scanned.tree.len()).filter_map(NodeId::at) {
        let (Body::File { size, contents } | Body::SymlinkIn { size, contents }) =
            &scanned.tree.get(node).unwrap().body
        else {
            continue;
        };
        // A sparse file may be longer than memory.
        let read = if *size < 1 << 24 { bytes(archive, contents, *size) } else { None };
        assert!(read.is_none_or(|read| read.len() as u64 == *size));
    }
}

fn change() -> impl Strategy<Value = (prop::sample::Index, Vec<u8>)> {
    (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..9))
}

fn changed(mut archive: Vec<u8>, changes: Vec<(prop::sample::Index, Vec<u8>)>) -> Vec<u8> {
    for (place, bytes) in changes {
        let at = place.index(archive.len());
        let end = (at + bytes.len()).min(archive.len());
        archive[at..end].copy_from_slice(&bytes[..end - at]);
    }
    archive
}

proptest! {
    #[test]
    fn changed_zips_make_nothing_panic(wide in any::<bool>(), changes in prop::collection::vec(change(), 0..6), cut in any::<prop::sample::Index>(), cuts in any::<bool>()) {
        let members = [member("d/a", "aaaa"), deflated("b", some(700)), Zip { zip64: true, ..deflated("c", "c") }, Zip { mode: 0o120_777, ..member("l", "b") }];
        let plain = zip(&members);
        let mut archive = changed(if wide { with_zip64_end(&plain) } else { plain }, changes);
        if cuts {
            archive.truncate(cut.index(archive.len()));
        }
        read_all(&archive);
    }

    #[test]
    fn changed_tars_make_nothing_panic(changes in prop::collection::vec(change(), 0..6), cut in any::<prop::sample::Index>(), cuts in any::<bool>()) {
        let members = [dir("d/"), file("d/a", some(1500)).pax("mtime", "5.5"), symlink("l", "d/a"), hardlink("h", "d/a")];
        let mut archive = changed(tar::tar(members), changes);
        for block in archive.chunks_exact_mut(512) {
            if block[257..262] == *b"ustar" {
                tar::seal(block.try_into().unwrap());
            }
        }
        if cuts {
            archive.truncate(cut.index(archive.len()));
        }
        read_all(&archive);
    }

    #[test]
    fn any_paths_make_a_tree_without_doubt(paths in prop::collection::vec("(\\.\\./|\\./|/|a/|b/|a|b|c){1,5}", 0..12)) {
        let members = paths.iter().enumerate().map(|(number, path)| match number % 4 {
            0 => dir(path),
            1 => symlink(path, "a"),
            2 => hardlink(path, "a"),
            _ => file(path, path),
        });
        if let Ok((scanned, _)) = scan(&tar::tar(members)) {
            for node in (0..scanned.tree.len()).filter_map(NodeId::at) {
                for (name, child) in scanned.tree.entries(node).unwrap_or_default() {
                    prop_assert!(!name.is_empty() && !name.contains(&b'/') && **name != *b".." && **name != *b".");
                    prop_assert!(child.index() > 0 && scanned.tree.get(*child).is_some());
                }
            }
        }
    }
}
