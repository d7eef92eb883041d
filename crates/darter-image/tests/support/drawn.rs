//! Layers that a number draws: few names, so that members meet each other in every way.

#![allow(dead_code, unreachable_pub)]

use super::tar::{Entry, device, dir, entry, file, hardlink, symlink};

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
    (0..members).map(|_| member(&mut draw)).collect()
}

fn member(draw: &mut Draw) -> Entry {
    let name = draw.name();
    let mut member = match draw.below(20) {
        0..=6 => file(&name, "x".repeat(draw.below(1500) as usize)),
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
    match draw.below(12) {
        0 => member.xattr("user.a", "b"),
        1 => member.xattr("security.selinux", "label"),
        2 => member.xattr("security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        3 => member.xattr("system.posix_acl_access", ACL),
        4 if member.kind == b'5' => member.xattr("system.posix_acl_default", ACL),
        _ => member,
    }
}
