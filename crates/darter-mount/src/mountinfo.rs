//! The kernel's list of mounts, `/proc/PID/mountinfo`: see proc(5). Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// The file with the mounts that this process sees.
pub const PATH: &str = "/proc/self/mountinfo";

/// One mount in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The mount's id, which another mount may get once this one is gone.
    pub id: u64,
    /// The number of its file system's device.
    pub device: (u32, u32),
    /// The directory at which it is mounted.
    pub dir: PathBuf,
    /// The file system's type.
    pub kind: String,
    /// What was mounted, as named at that time.
    pub source: OsString,
    /// The file system's own options.
    pub options: String,
}

/// The mounts in the list's text, in order. Malformed lines are skipped.
pub fn parsed(text: &str) -> Vec<Mounted> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Mounted> {
    let (front, back) = line.split_once(" - ")?;
    let (mut front, mut back) = (front.split(' '), back.split(' '));
    let id = front.next()?.parse().ok()?;
    let (major, minor) = front.nth(1)?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let dir = unescaped(front.nth(1)?).into();
    let (kind, source) = (back.next()?.to_owned(), unescaped(back.next()?));
    Some(Mounted { id, device, dir, kind, source, options: back.next().unwrap_or_default().to_owned() })
}

/// Decodes spaces and the like, which are written as three octal digits.
fn unescaped(text: &str) -> OsString {
    let (bytes, mut found, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'\\').then(|| text.get(at + 1..at + 4)).flatten();
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                found.push(byte);
                at += 4;
            }
            None => {
                found.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_the_spaces_in_their_names() {
        let text = "36 35 98:0 / /mnt\\040a/b\\134c rw,noatime shared:1 - fuse.darter darter rw,user_id=0\n\
                    37 35 0:41 / / rw - erofs /l/a\\040b.erofs ro,acl\nnonsense\n1 - 2\n";
        let mounts = parsed(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].id, mounts[0].device, mounts[0].dir.to_str()), (36, (98, 0), Some("/mnt a/b\\c")));
        assert_eq!((mounts[0].kind.as_str(), mounts[0].source.to_str()), ("fuse.darter", Some("darter")));
        assert_eq!((mounts[1].source.to_str(), mounts[1].options.as_str()), (Some("/l/a b.erofs"), "ro,acl"));
        assert_eq!(unescaped("\\04"), "\\04");
    }
}
