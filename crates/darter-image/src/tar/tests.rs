//! Headers, numbers and records that are odd, and what is made of them.

use super::header::{Header, number};
use super::pax::Records;
use super::*;
use crate::building::tar as building;
use crate::building::tar::{Entry, entry, file, seal};

/// The members of a tar, in chunks of this size.
fn members_by(tar: &[u8], chunk: usize) -> Result<Vec<TarMember>, Reason> {
    struct All(Vec<TarMember>);
    impl Sink for All {
        fn member(&mut self, member: TarMember) -> Result<bool, Reason> {
            self.0.push(member);
            Ok(false)
        }
        fn data(&mut self, _: &[u8]) {
            panic!("nobody wanted it");
        }
    }
    let (mut parser, mut all) = (Parser::new(), All(Vec::new()));
    for chunk in tar.chunks(chunk) {
        parser.push(chunk, &mut all)?;
    }
    parser.finish()?;
    Ok(all.0)
}

fn only(tar: &[u8]) -> TarMember {
    let members = members_by(tar, 100).unwrap();
    assert_eq!(members.len(), 1, "{members:?}");
    members.into_iter().next().unwrap()
}

#[test]
fn numbers_are_octal_or_base_256() {
    for (field, value) in [
        (b"0000644\0".as_slice(), 0o644),
        (b"   644 \0", 0o644),
        (b"\0\0\0\0", 0),
        (b"777\0junk", 0o777),
        (b"\x80\0\0\0\0\0\0\x2a", 42),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
    ] {
        assert_eq!(number(field), Ok(value), "{field:?}");
    }
    for wrong in
        [b"12a".as_slice(), b"8", b"-1", b"1 2", b"\x80\0\0\0\x80\0\0\0\0\0\0\0", b"\x80\x01\0\0\0\0\0\0\0\0\0\0"]
    {
        assert!(number(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_name_has_what_stands_before_it_as_its_format_says() {
    let base: [u8; 512] = building::member(&file("name", "")).try_into().unwrap();
    let with = |change: &dyn Fn(&mut [u8; 512])| {
        let mut block = base;
        change(&mut block);
        seal(&mut block);
        Header::parse(&block).unwrap().name
    };
    assert_eq!(with(&|block| block[345..348].copy_from_slice(b"a/b")), b"a/b/name");
    let star = |block: &mut [u8; 512]| {
        block[345..348].copy_from_slice(b"a/b");
        block[476..488].copy_from_slice(b"00000000001\0");
        block[508..].copy_from_slice(b"tar\0");
    };
    assert_eq!(with(&star), b"a/b/name");
    let gnu = |block: &mut [u8; 512], field: &[u8]| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..345 + field.len()].copy_from_slice(field);
    };
    assert_eq!(with(&|block| gnu(block, b"00000000001\0")), b"name", "it is a time");
    assert_eq!(with(&|block| gnu(block, b"written/by/go")), b"written/by/go/name");
    let v7 = |block: &mut [u8; 512]| {
        block[257..265].fill(0);
        block[345..348].copy_from_slice(b"a/b");
    };
    assert_eq!(with(&v7), b"name");
}

#[test]
fn checksums_of_signed_bytes_are_taken() {
    let mut block: [u8; 512] = building::member(&file("n\u{e9}", "")).try_into().unwrap();
    let sum: i32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { i32::from(*byte as i8) })
        .sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(Header::parse(&block).is_ok());
    block[0] ^= 1;
    assert_eq!(Header::parse(&block), Err("wrong checksum"));
}

#[test]
fn records_are_read_to_the_byte() {
    let records = Records::parse(b"9 path=a\n17 comment=1\n2=3\n").unwrap();
    assert_eq!((records.get(b"path"), records.get(b"comment")), (Some(b"a".as_slice()), Some(b"1\n2=3".as_slice())));
    for wrong in [
        b"8 path=a\n".as_slice(),
        b"99 path=a\n",
        b"path=a\n",
        b"5 a\n",
        b"4 a=\n",
        b"6 =aa\n",
        b"12 path=a\0b\n\n",
        b"10 a\0b=cd\n",
        b"26 GNU.sparse.numbytes=512\n",
    ] {
        assert!(Records::parse(wrong).is_err(), "{:?}", wrong.escape_ascii().to_string());
    }
}

#[test]
fn times_have_nine_places_and_a_sign() {
    for (told, seconds, nanos) in [
        ("12", 12, 0),
        ("12.5", 12, 500_000_000),
        ("12.000000001999", 12, 1),
        ("-0.25", -1, 750_000_000),
        ("-3.", -3, 0),
    ] {
        let member = only(&building::tar([file("f", "").pax("mtime", told)]));
        assert_eq!(member.mtime, Time { seconds, nanos }, "{told}");
    }
}

#[test]
fn what_follows_a_member_without_data_is_the_next_one() {
    // Some programs write the length of what a link links to.
    let tar =
        building::tar([building::hardlink("link", "x").size(1_000_000), building::dir("d").size(7), file("f", "x")]);
    let names: Vec<_> = members_by(&tar, 512).unwrap().into_iter().map(|member| member.name).collect();
    assert_eq!(names, [b"link".to_vec(), b"d".to_vec(), b"f".to_vec()]);
}

#[test]
fn what_is_said_of_one_member_is_not_said_of_the_next() {
    let long = |kind, name: &str| Entry { content: name.into(), ..entry(kind, "././@LongLink") };
    let tar = building::tar([
        long(b'L', "long"),
        long(b'K', "target"),
        building::symlink("short", "x"),
        file("second", ""),
        Entry { content: building::record(b"path", b"by pax"), ..entry(b'x', "x") },
        Entry { content: building::record(b"comment", b"1"), ..entry(b'g', "global") },
        file("third", ""),
    ]);
    let members = members_by(&tar, 512).unwrap();
    let told: Vec<_> =
        members.iter().map(|member| (member.kind, member.name.as_slice(), member.link.as_slice())).collect();
    assert_eq!(
        told,
        [
            (MemberKind::Symlink, b"long".as_slice(), b"target".as_slice()),
            (MemberKind::Regular, b"second", b""),
            (MemberKind::Global, b"global", b""),
            (MemberKind::Regular, b"third", b""),
        ]
    );
}

#[test]
fn an_old_gnu_sparse_file_may_have_a_map_of_several_blocks() {
    let parts: Vec<(i64, i64)> = (0..30).map(|at| (at * 10_000, 512)).collect();
    let head = file("sparse", vec![1; 30 * 512]).old_sparse(300_000, &parts[..4], true);
    let bytes = building::member(&head);
    let (header, data) = bytes.split_at(512);
    let mut more = Vec::new();
    for (index, parts) in parts[4..].chunks(21).enumerate() {
        let mut block = vec![0; 512];
        for (at, (offset, length)) in parts.iter().enumerate() {
            block[at * 24..][..12].copy_from_slice(&building::number::<12>(*offset));
            block[at * 24 + 12..][..12].copy_from_slice(&building::number::<12>(*length));
        }
        block[504] = u8::from(index == 0);
        more.extend(block);
    }
    let tar = [header, &more, data].concat();
    let member = only(&tar);
    assert_eq!((member.size, member.data), (300_000, 512 + 1024));
    let segments = member.segments.unwrap();
    assert_eq!((segments.len(), segments[29]), (30, Segment { offset: 290_000, length: 512 }));
}

#[test]
fn a_tar_may_end_without_its_end() {
    let whole = building::tar([file("f", "hello")]);
    for length in [512 + 5, 512 + 300, 1024, 1536, 2048] {
        assert_eq!(only(&whole[..length]).name, b"f", "{length}");
    }
    let behind = [whole.clone(), b"whatever stands behind the end".to_vec()].concat();
    assert_eq!(only(&behind).name, b"f");
    for (length, what) in [(100, "a header"), (512 + 4, "a file")] {
        assert_eq!(members_by(&whole[..length], 7), Err(Reason::Truncated { at: length as u64, what }));
    }
    let one_zero = [&whole[..1536], &whole[..512]].concat();
    assert!(matches!(members_by(&one_zero, 512), Err(Reason::Malformed { at: 1024, .. })));
}
