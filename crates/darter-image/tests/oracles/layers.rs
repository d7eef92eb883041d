//! Layers, each of a kind that layers in use are of, or could be.

use crate::support::drawn::ACL;
use crate::support::tar::{Entry, device, dir, entry, file, filled, hardlink, record, symlink, tar};

/// Revision 2, `cap_net_raw` effective, as `ping` has it.
const CAPABILITY: &[u8] = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

/// An ACL that says no more than a mode.
const SMALL_ACL: &[u8] =
    b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";

fn bytes(length: usize) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn raw(name: &[u8], entry: Entry) -> Entry {
    Entry { name: name.to_vec(), ..entry }
}

/// Every layer that containerd unpacks, by name.
pub(crate) fn right() -> Vec<(&'static str, Vec<u8>)> {
    let deep = (0..60).map(|at| format!("directory-{at}")).collect::<Vec<_>>().join("/");
    vec![
        ("empty", tar([])),
        ("nothing at all", Vec::new()),
        ("only the root", tar([dir("./").mode(0o700).owner(5, 5), dir("/").mode(0o711), dir("..")])),
        (
            "plain",
            tar([
                dir("usr/"),
                dir("usr/bin").mode(0o2751).owner(1000, 1001),
                file("usr/bin/tool", bytes(1_234_567)).mode(0o4755),
                file("usr/bin/empty", ""),
                file("usr/bin/block", bytes(512)),
                file("usr/bin/one more", bytes(513)).mode(0o600),
                symlink("usr/bin/sh", "tool"),
                symlink("usr/long", &"x/".repeat(1000)),
                symlink("usr/longest", &format!("{}e", "y".repeat(4094))),
                symlink("usr/a-block", &"z".repeat(512)),
                symlink("usr/nearly", &"z".repeat(449)),
                dir("tmp").mode(0o1777),
            ]),
        ),
        (
            "hard links",
            tar([
                file("a", "content"),
                hardlink("b", "a").mode(0o755).owner(7, 8).mtime(1_600_000_000),
                hardlink("d/c", "./b"),
                symlink("s", "a"),
                hardlink("t", "/s"),
                symlink("l", "d"),
                hardlink("e", "l/c"),
                hardlink("followed", "s/."),
                hardlink("followed-too", "./s/"),
                file("a", "replaced, and the others stay"),
                file("cap", "x").xattr("security.capability", CAPABILITY),
                hardlink("cap-lost", "cap"),
                file("kept", "x").xattr("security.capability", CAPABILITY),
                hardlink("cap-kept", "kept").xattr("security.capability", CAPABILITY).xattr("user.more", "1"),
            ]),
        ),
        (
            "devices",
            tar([
                device(b'3', "dev/null", 1, 3).mode(0o666),
                device(b'4', "dev/sda17", 8, 17).mode(0o660).owner(0, 6),
                device(b'3', "dev/large", 4095, 1_048_575),
                device(b'3', "dev/cut", 4096, 1_048_576 + 7),
                entry(b'6', "dev/pipe").mode(0o622),
                device(b'3', "whiteout", 0, 0).mode(0),
            ]),
        ),
        (
            "whiteouts",
            tar([
                file(".wh.gone", ""),
                dir("etc"),
                file("etc/.wh.passwd", "").owner(3, 4),
                file("opt/.wh..wh..opq", ""),
                file("opt/new", "n"),
                file("var/.wh.was-file", ""),
                file("var/was-file", "it is one again"),
                file("var/.wh.was-directory", ""),
                dir("var/was-directory"),
                dir("var/.wh.by-directory"),
                file("x/.wh..wh.plnk", ""),
                file(&format!("x/.wh.{}", "n".repeat(252)), ""),
                file(&format!("x/.wh.{}", "m".repeat(255)), ""),
                file(".wh..wh..opq", ""),
                file("p/.wh..wh..opq", ""),
                file("p/.wh..wh..opq", ""),
                dir("p").xattr("user.more", "1").xattr("trusted.overlay.opaque", "x"),
            ]),
        ),
        (
            "attributes",
            tar([
                file("cap", "c").xattr("security.capability", CAPABILITY),
                file("user", "u").xattr("user.empty", "").xattr("user.large", bytes(2000)).xattr("user.b", "\0\n="),
                dir("labelled").xattr("security.selinux", "system_u:object_r:bin_t:s0\0"),
                file("labelled/1", "1").xattr("security.selinux", "system_u:object_r:bin_t:s0\0"),
                file("labelled/2", "2")
                    .xattr("security.selinux", "system_u:object_r:bin_t:s0\0")
                    .xattr("user.own", "2"),
                symlink("labelled/3", "2").xattr("security.selinux", "system_u:object_r:bin_t:s0\0"),
                symlink("left-out", "x").xattr("user.on-a-link", "1"),
                entry(b'6', "pipe").xattr("user.on-a-pipe", "1"),
                file("unknown", "x").xattr("btrfs.compression", "zlib").xattr("trusted.mine", "1").xattr("user", "2"),
                file("other", "x").pax("LIBARCHIVE.xattr.user.b64", "YQ==").pax("SCHILY.acl.access", "user::rwx"),
                dir("twice").xattr("user.a", "1").xattr("user.b", "1"),
                dir("twice").xattr("user.b", "2").xattr("user.c", "2").mode(0o711),
                file("acl", "x").xattr("system.posix_acl_access", ACL).mode(0o640),
                file("acl-of-mode", "x").xattr("system.posix_acl_access", SMALL_ACL).mode(0o600),
                dir("inherits").xattr("system.posix_acl_default", ACL),
                file("inherits/file", "x"),
                dir("inherits/below/implied"),
                symlink("inherits/link", "x"),
                file("inherits/.wh.gone", ""),
                symlink("link-acl", "x").xattr("system.posix_acl_access", ACL),
            ]),
        ),
        (
            "times and numbers",
            tar([
                file("nanos", "").pax("mtime", "1700000000.123456789123"),
                file("half", "").pax("mtime", "1700000000.5"),
                file("before", "").mtime(-1_000_000),
                file("before-pax", "").pax("mtime", "-12.25"),
                file("zero", "").mtime(0),
                file("late", "").mtime(4_102_444_800),
                file("far", "").pax("mtime", "9223372036"),
                file("too-far", "").pax("mtime", "99999999999"),
                file("large-owner", "").owner(2_097_152, 4_294_967_294),
                file("negative-owner", "").owner(-2, -1),
                file("pax-owner", "").pax("uid", "3000000").pax("gid", "+17"),
                file("no-value", "").owner(5, 6).pax("uid", "").pax("path", ""),
                dir("d").mtime(1_500_000_000),
                file("d/later", ""),
            ]),
        ),
        (
            "names",
            tar([
                file("./dot", "1"),
                file("/absolute", "2"),
                file("../above", "3"),
                file("a/../b/./c//d", "4"),
                file("../../../e/../f", "5"),
                raw(b"not-\xff\xfe-utf8", file("", "6")),
                file(&"n".repeat(255), "7"),
                file(&format!("{deep}/file"), "8"),
                file("new\nline\t\"quoted\"\\", "9"),
                file("!first", ""),
                file("-", ""),
                file("...", ""),
                file(" ", ""),
                raw(b"\x01", file("", "")),
                file("renamed", "").pax("path", "by/pax"),
                file("trailing/", "a file all the same"),
                entry(0, "old-directory/"),
                entry(b'7', "contiguous"),
            ])
            .into_iter()
            .collect(),
        ),
        (
            "replaced",
            tar([
                file("x", "1"),
                file("x", "2"),
                file("f", "file"),
                dir("f").mtime(1_400_000_000),
                file("f/below", "1"),
                file("f", "file again").mtime(1_450_000_000),
                dir("d"),
                file("d/kept", "1"),
                dir("d/").mode(0o700).mtime(1_300_000_000),
                symlink("s", "d"),
                dir("s").mtime(1_200_000_000),
                file("s/in-its-own-directory", "1"),
                symlink("t", "x"),
                file("t", "a file in a link's place"),
                file("u", "1"),
                symlink("u", "x"),
                entry(b'6', "v"),
                device(b'3', "v", 1, 5),
            ]),
        ),
        (
            "below links",
            tar([
                dir("usr/lib").mtime(1_111_111_111),
                symlink("./lib", "usr/lib"),
                file("./lib/x", "goes to usr/lib"),
                symlink("abs", "/usr/lib"),
                file("abs/y", "the same"),
                symlink("out", "../../../../etc"),
                file("out/passwd", "inside"),
                symlink("dangling", "no/where"),
                file("dangling/file", "made"),
                symlink("one", "two"),
                symlink("two", "three/../four"),
                file("one/file", "f"),
                symlink("usr/lib/up", ".."),
                file("lib/up/z", "to usr"),
                hardlink("hard", "lib/x"),
                dir("lib/dir").mtime(1_222_222_222),
                symlink("lib/.wh.strange", "x"),
            ]),
        ),
        (
            "global headers",
            tar([
                Entry { content: record(b"mtime", b"1"), ..entry(b'g', "made/above/pax_global_header") },
                file("x", "not touched by it"),
                file("pax_global_header", "goes"),
                Entry { content: record(b"comment", b"0123"), ..entry(b'g', "pax_global_header") },
                file("y", ""),
            ]),
        ),
        (
            "old and odd headers",
            [
                // Without padding or an end; the last header of two with one name counts.
                crate::support::tar::member(&Entry {
                    content: b"long/name\0".to_vec(),
                    ..entry(b'L', "././@LongLink")
                }),
                crate::support::tar::member(&Entry {
                    content: b"target\0rest".to_vec(),
                    ..entry(b'K', "././@LongLink")
                }),
                crate::support::tar::member(&symlink("short", "short")),
                crate::support::tar::member(&file("last", "unfilled"))[..520].to_vec(),
            ]
            .concat(),
        ),
        (
            "lengths of what has no data",
            tar([
                entry(0, "old-directory/").size(512),
                file("x", "not its data"),
                entry(0, "named").size(1000).pax("path", "by/pax/"),
                entry(0, "measured/").pax("size", "700"),
                long_name("by/gnu/"),
                entry(0, "named").size(5000),
                Entry { content: bytes(600), ..entry(0, "no-directory/") }.pax("path", "an/old-file"),
                hardlink("link", "x").size(-1),
                symlink("symlink", "x").size(-512),
                dir("directory").size(-1),
                device(b'3', "device", 1, 3).pax("size", "-2"),
                file("last", "is there"),
            ]),
        ),
        (
            "of an unknown type, and nothing",
            tar([
                Entry { content: bytes(700), ..entry(b'V', "./") },
                entry(b'D', "."),
                entry(b'D', "/"),
                dir("d").mtime(1_100_000_000),
                entry(b'V', "d/.wh.gone"),
                entry(b'M', "p/.wh..wh..opq"),
                file("x", ""),
            ]),
        ),
        (
            "a link's target that passes another link",
            tar([
                dir("a"),
                dir("x/y"),
                symlink("p", "a/b"),
                symlink("a/b", "../x/y"),
                symlink("x/y/q", "../z"),
                file("p/q/f", "in a/z"),
                file("p/g", "in x/y"),
                symlink("dots", "p/../n"),
                file("dots/f", "in a/n"),
                dir("p/q/d").mtime(1_222_222_222),
            ]),
        ),
        (
            "a hard link's target that passes links and goes up",
            tar([
                dir("a"),
                dir("x/y"),
                symlink("l", "a/b"),
                symlink("a/b", "/x/y"),
                file("a/f", "this one"),
                file("x/f", "not this one"),
                hardlink("hard", "l/../f"),
                file("x/y/g", ""),
                hardlink("below", "l/g"),
                hardlink("dot", "l/./g"),
            ]),
        ),
        ("sparse by pax", sparse_by_pax()),
        ("many names", many_names(10_000)),
    ]
}

/// The same, without the member that containerd does not know: it leaves that as it is, as does this.
pub(crate) fn unpacked() -> Vec<(&'static str, Vec<u8>)> {
    let known =
        |(name, tar): (_, Vec<u8>)| if name == "names" { (name, without_contiguous(&tar)) } else { (name, tar) };
    right().into_iter().map(known).collect()
}

fn without_contiguous(tar: &[u8]) -> Vec<u8> {
    let at = tar.chunks(512).rposition(|block| block.starts_with(b"contiguous\0")).unwrap() * 512;
    [&tar[..at], &tar[at + 512..]].concat()
}

/// GNU's long name of the next member.
fn long_name(name: &str) -> Entry {
    Entry { content: [name.as_bytes(), b"\0"].concat(), ..entry(b'L', "././@LongLink") }
}

/// All three forms of PAX, with parts that are aligned and parts that are not.
fn sparse_by_pax() -> Vec<u8> {
    let content = bytes(4096 + 100 + 512);
    let parts = [(8192_u64, 4096_usize), (20_000, 100), (1_000_000, 512)];
    let size = "1000512";
    let list: Vec<String> = parts.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
    let mut zero = file("zero", &content).pax("GNU.sparse.size", size).pax("GNU.sparse.numblocks", "3");
    for (offset, length) in parts {
        zero = zero.pax("GNU.sparse.offset", offset.to_string()).pax("GNU.sparse.numbytes", length.to_string());
    }
    let one = file("GNUSparseFile.1/one", &content)
        .pax("GNU.sparse.name", "one")
        .pax("GNU.sparse.size", size)
        .pax("GNU.sparse.numblocks", "3")
        .pax("GNU.sparse.map", list.join(","));
    let map = list.iter().map(|part| part.replace(',', "\n") + "\n").collect::<String>();
    let in_data = |entries: &str, rest: &str| [filled(format!("{entries}{rest}").as_bytes()), content.clone()].concat();
    let form = |entry: Entry, name: &str, size: &str| {
        entry
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", name)
            .pax("GNU.sparse.realsize", size)
    };
    let two = form(file("GNUSparseFile.1/two", in_data("3\n", &map)), "two", size);
    let nothing = form(file("GNUSparseFile.1/nothing", filled(b"0\n")), "nothing", "70000");
    let ends = form(file("GNUSparseFile.1/ends", filled(b"1\n70000\n0\n")), "ends", "70000");
    let dense = form(file("GNUSparseFile.1/dense", [filled(b"1\n0\n700\n"), bytes(700)].concat()), "dense", "700");
    tar([zero, one, two, nothing, ends, dense])
}

/// Longer than 32 bits can say.
pub(crate) const HUGE: u64 = 5 << 30;

/// A file of that length, with data at both ends.
pub(crate) fn huge_hole() -> Vec<u8> {
    let size = HUGE;
    let map = format!("2\n0\n512\n{}\n4096\n", size - 4096);
    let content = [filled(map.as_bytes()), bytes(512 + 4096)].concat();
    tar([file("GNUSparseFile.1/huge", content)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "huge")
        .pax("GNU.sparse.realsize", size.to_string())])
}

/// One directory with `count` names.
pub(crate) fn many_names(count: usize) -> Vec<u8> {
    let name = |at: usize| format!("many/{:x}-{}", at.wrapping_mul(2_654_435_761) % 1_000_003, "n".repeat(at % 40));
    tar((0..count).map(|at| file(&name(at), [at as u8])))
}

/// Every layer that containerd does not unpack, by what is told of it.
pub(crate) fn refused() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("hard link to later, which the layer has not", tar([hardlink("link", "later"), file("later", "")])),
        ("hard link to nothing", tar([hardlink("link", "nothing")])),
        ("hard link to ./itself, which", tar([file("itself", ""), hardlink("itself", "./itself")])),
        ("which is a directory", tar([dir("d"), hardlink("link", "d")])),
        ("f/x: something above it", tar([file("f", ""), file("f/x", "")])),
        ("f/d/x: something above it", tar([file("f", ""), file("f/d/x", "")])),
        ("symbolic links on the way", tar([symlink("a", "b"), symlink("b", "a"), file("a/x", "")])),
        ("target is 1 to 4095", tar([symlink("a", "")])),
        ("target is 1 to 4095", tar([symlink("a", &"t".repeat(4096))])),
        ("a name in it", tar([file(&"n".repeat(256), "")])),
        ("a whiteout has to name", tar([file("a/.wh.", "")])),
        ("a whiteout has to name", tar([file("a/.wh...", "")])),
        ("device number", tar([device(b'3', "d", -1, 0)])),
        ("type 'V'", tar([entry(b'V', "volume")])),
        ("only directories have a default ACL", tar([file("f", "").xattr("system.posix_acl_default", ACL)])),
        ("no valid ACL", tar([file("f", "").xattr("system.posix_acl_access", b"\x02\0\0\0\x01")])),
        ("no valid set of capabilities", tar([file("f", "").xattr("security.capability", "x")])),
        ("it has no name", tar([file("f", "").xattr("user.", "x")])),
        ("names are 1 to 255", tar([file("f", "").xattr(&format!("user.{}", "n".repeat(251)), "x")])),
        ("a negative length", tar([file("f", "").size(-1)])),
        ("a negative length", tar([file("f", "").size(-1).pax("size", "0")])),
        ("a negative length", tar([file("f", "").pax("size", "-1")])),
        ("a negative length", tar([entry(0, "old-directory/").size(-1)])),
        (
            "it is no file",
            tar([Entry { name: b"old-directory/".to_vec(), kind: 0, ..sparse("0,512", "1", "512", 512) }]),
        ),
        ("type 'D'", tar([entry(b'D', "d")])),
        ("in the middle of a file", tar([file("f", bytes(1000))])[..900].to_vec()),
        ("in the middle of a header", tar([file("f", "")])[..300].to_vec()),
        ("wrong checksum", tar([Entry { name: b"f".to_vec(), ..file("f", "") }]).iter().map(|byte| byte ^ 1).collect()),
        ("whose number is none", tar([file("f", "").pax("uid", "many")])),
        ("time is none", tar([file("f", "").pax("mtime", "1.x")])),
        ("map is wrong", tar([sparse("1024,512,0,512", "2", "2048", 1024)])),
        ("map and its data", tar([sparse("0,512", "1", "2048", 1024)])),
        ("map is wrong", tar([sparse("0,4096", "1", "2048", 4096)])),
    ]
}

fn sparse(map: &str, entries: &str, size: &str, stored: usize) -> Entry {
    file("sparse", bytes(stored))
        .pax("GNU.sparse.map", map)
        .pax("GNU.sparse.numblocks", entries)
        .pax("GNU.sparse.size", size)
}
