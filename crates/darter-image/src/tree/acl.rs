//! POSIX ACLs as `system.posix_acl_*` has them: version 2 in four bytes, then for each entry tag (2), permissions (2) and id (4), all
//! little-endian.

const VERSION: u32 = 2;
const HEAD: usize = 4;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

fn tag(entry: &[u8]) -> u16 {
    u16::from_le_bytes([entry[0], entry[1]])
}

/// True if these bytes say that they are of a version that Linux does not know: it does not support them, rather than to refuse them.
pub(super) fn is_of_another_version(value: &[u8]) -> bool {
    value.first_chunk().is_some_and(|version| u32::from_le_bytes(*version) != VERSION)
}

/// True if Linux takes these bytes: entries in order, one for owner, group and others each, and a mask where somebody is named. No bytes,
/// and no entries, are no ACL, and valid.
pub(super) fn is_valid(value: &[u8]) -> bool {
    if value.is_empty() {
        return true;
    }
    let Some(entries) = value.get(HEAD..) else { return false };
    if !entries.len().is_multiple_of(ENTRY) {
        return false;
    }
    let mut last = 0;
    let mut seen = 0;
    for entry in entries.chunks_exact(ENTRY) {
        let tag = tag(entry);
        let is_named = matches!(tag, USER | GROUP);
        let in_order = if is_named { tag >= last } else { tag > last };
        let is_known = matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
        if !is_known || !in_order || entry[2] > 7 || entry[3] > 0 || (is_named && entry[4..] == [0xff; 4]) {
            return false;
        }
        (last, seen) = (tag, seen | tag);
    }
    let has = |tags: u16| seen & tags == tags;
    entries.is_empty() || has(USER_OBJ | GROUP_OBJ | OTHER) && (seen & (USER | GROUP) == 0 || has(MASK))
}

/// An access ACL of something with this mode, as `chmod` leaves it; `None` if it says no more than the mode.
pub(crate) fn with_mode(value: &[u8], mode: u16) -> Option<Box<[u8]>> {
    let entries = value.get(HEAD..).unwrap_or_default().chunks_exact(ENTRY);
    let has_mask = entries.clone().any(|entry| tag(entry) == MASK);
    if entries.len() == 0 || entries.clone().all(|entry| matches!(tag(entry), USER_OBJ | GROUP_OBJ | OTHER)) {
        return None;
    }
    let mut changed = value.to_vec();
    for entry in changed[HEAD..].chunks_exact_mut(ENTRY) {
        let shift = match tag(entry) {
            USER_OBJ => 6,
            GROUP_OBJ if !has_mask => 3,
            MASK => 3,
            OTHER => 0,
            _ => continue,
        };
        entry[2] = (mode >> shift & 7) as u8;
    }
    Some(changed.into())
}
