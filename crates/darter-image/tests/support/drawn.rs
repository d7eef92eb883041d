//! Layers that a number draws: few names, so that members meet each other in every way.

#![allow(dead_code, unreachable_pub)]

use super::tar::{Entry, device, dir, entry, file, filled, hardlink, symlink};

/// An ACL: owner rwx, user 1000 r-x, group r-x, mask rwx, others r--.
pub const ACL: &[u8] = b"\x02\0\0\0\
    \x01\0\x07\0\xff\xff\xff\xff\
    \x02\0\x05\0\xe8\x03\0\0\
    \x04\0\x05\0\xff\xff\xff\xff\
    \x10\0\x07\0\xff\xff\xff\xff\
    \x20\0\x04\0\xff\xff\xff\xff";

/// Numbers that follow from one (SplitMix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }

    fn path(&mut self) -> String {
        let parts = 1 + self.below(3);
        let mut path: Vec<_> = (0..parts).map(|_| self.one(&["a", "b", "c", "a", "b", "c", "d", "..", "."])).collect();
        path.insert(0, self.one(&["", ".", "a", "b", "c", "x"]));
        if path[0].is_empty() && self.below(2) == 0 {
            path.remove(0);
        }
        path.join("/")
    }

    fn name(&mut self) -> String {
        match self.below(12) {
            0 => format!("{}/.wh.{}", self.path(), self.one(&["a", "b", "new"])),
            1 => format!("{}/.wh..wh..opq", self.path()),
            2 => self.path() + "/",
            _ => self.path(),
        }
    }
}

/// The layer of this number.
pub fn layer(number: u64) -> Vec<Entry> {
    let mut draw = Draw(number);
    let members = 1 + draw.below(12);
    (0..members).flat_map(|_| member(&mut draw)).collect()
}

/// Another layer of this number: a link to the place of another one, others behind that, and what is below them. Most of these are unpacked.
pub fn linked(number: u64) -> Vec<Entry> {
    let mut draw = Draw(number);
    let mut layer = vec![dir("a"), dir("b"), dir("x/y")];
    layer.extend(["f", "a/f", "b/f", "x/f", "x/y/f"].map(|name| file(name, name)));
    let next = format!("{}/{}", draw.one(&["a", "b", "x/y"]), draw.one(&["l", "m", "n"]));
    layer.push(symlink("p", &format!("{}{next}", draw.one(&["", "", "./", "/"]))));
    let targets = ["../a", "../b", "../x", "../x/y", "../../b", "/x/y", "..", "y", "../z"];
    layer.push(symlink(&next, draw.one(&targets)));
    for above in ["a", "b", "x", "x/y"] {
        if draw.below(2) == 0 {
            layer
                .push(symlink(&format!("{above}/q"), draw.one(&["../z", "../a", "z", "/b", "../x/y", "../../a", "l"])));
        }
    }
    layer.push(symlink("r", draw.one(&["p/q", "p/..", "p", "p/../n", "p/./q", "a/../p/q"])));
    for at in 0..1 + draw.below(2) {
        let to = draw.one(&["p", "r", "p/q", "r/q", "p/z", "p/q/q"]);
        layer.push(match draw.below(4) {
            0 => dir(&format!("{to}/d")).mtime(draw.below(2_000_000_000) as i64),
            1 => hardlink(&format!("hard{at}"), &format!("{to}{}", draw.one(&["/f", "/../f", "/q/../f", "/./f"]))),
            _ => file(&format!("{to}/g"), at.to_string()),
        });
    }
    layer
}

/// A member, and the headers that belong to it.
fn member(draw: &mut Draw) -> Vec<Entry> {
    let name = draw.name();
    let mut member = match draw.below(20) {
        0..=6 => drawn_file(draw, &name),
        7..=11 => dir(&name),
        12..=15 => symlink(&name, &draw.path()),
        16 | 17 => hardlink(&name, &draw.path()),
        18 => device(b'3', &name, draw.below(3) as i64, draw.below(300) as i64),
        _ => entry(b'6', &name),
    };
    member.mode = draw.below(0o10_000) as i64;
    member.uid = draw.below(3) as i64 * 1000;
    member.gid = draw.below(3) as i64 * 70_000;
    member.mtime = draw.below(2_000_000_000) as i64;
    let has_data = matches!(member.kind, b'0') || (member.kind == 0 && !member.name.ends_with(b"/"));
    if !has_data && draw.below(3) == 0 {
        // The length of nothing; that of an old directory is none if it is negative.
        let least = if member.kind == 0 { 0 } else { -1 };
        member.size = Some(draw.below(3000) as i64 + least);
    }
    let member = match draw.below(12) {
        0 => member.xattr("user.a", "b"),
        1 => member.xattr("security.selinux", "label"),
        2 => member.xattr("security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        3 => member.xattr("system.posix_acl_access", ACL),
        4 if member.kind == b'5' => member.xattr("system.posix_acl_default", ACL),
        _ => member,
    };
    named(draw, member)
}

/// A file in any form: as it is, of the old type (a directory if its name ends so), or with holes.
fn drawn_file(draw: &mut Draw, name: &str) -> Entry {
    let content = "x".repeat(draw.below(1500) as usize).into_bytes();
    match draw.below(8) {
        0 => entry(0, &format!("{name}/")),
        1 if !name.ends_with('/') => Entry { content, ..entry(0, name) },
        2 => {
            let map = format!("512,{},9000,0", content.len());
            let sparse = file(name, content).pax("GNU.sparse.map", map).pax("GNU.sparse.numblocks", "2");
            sparse.pax("GNU.sparse.size", "9000")
        }
        3 => {
            let map = format!("1\n4096\n{}\n", content.len());
            let sparse = file(name, [filled(map.as_bytes()), content].concat());
            let sparse = sparse.pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0");
            sparse.pax("GNU.sparse.realsize", "8192")
        }
        _ => file(name, content),
    }
}

/// The member with its name where one may be: in its header, in a record, or in a header before it.
fn named(draw: &mut Draw, mut member: Entry) -> Vec<Entry> {
    let other = draw.one(&["other", "other/", "o/.wh.other", "./"]);
    match draw.below(6) {
        0 => {
            let name = std::mem::replace(&mut member.name, other.into());
            vec![member.pax("path", name)]
        }
        1 => {
            let name = std::mem::replace(&mut member.name, other.into());
            let long = Entry { content: [name.as_slice(), b"\0"].concat(), ..entry(b'L', "././@LongLink") };
            vec![long, member]
        }
        2 if member.pax.iter().any(|(key, _)| key.starts_with(b"GNU.sparse")) => {
            let name = std::mem::replace(&mut member.name, other.into());
            vec![member.pax("GNU.sparse.name", name)]
        }
        _ => vec![member],
    }
}
