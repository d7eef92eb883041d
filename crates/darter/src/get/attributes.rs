//! What a file has besides its bytes, for one that takes the place of another: mode, owner, group and extended attributes.
//! And the mark by which a later get sees that a file is what it would download.

use std::ffi::CStr;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use darter_core::BlobId;
use rustix::fs::{Gid, Uid, XattrFlags, fchown, fgetxattr, flistxattr, fsetxattr};

use super::temporary::Temporary;

/// Names the blob that was written, with the file's length and modification time then. It says nothing of the URL: files are
/// passed on, with their attributes.
const MARK: &CStr = c"user.darter.blob";

/// Says that a file is a store's, which has it under another name.
const STORES: &CStr = c"user.darter.store";

/// Who besides owner and group may do what.
const ACCESS_LIST: &CStr = c"system.posix_acl_access";

/// The largest attribute that is copied: what Linux allows at all.
const MAX_VALUE: usize = 64 << 10;

/// Whether a new file of this process can be given the owner and group of an old one. Where it can't, the old file itself has to
/// be written.
pub(super) fn can_own(old: &Metadata) -> bool {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let mine = |gid: u32| {
        gid == group.as_raw()
            || rustix::process::getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
    };
    user.is_root() || (old.uid() == user.as_raw() && mine(old.gid()))
}

/// Gives `file` the owner, group, mode and extended attributes of what it replaces. Bits that lend the owner's rights to whoever
/// runs the file are not kept, as they are not when a file is written to.
pub(super) fn keep(file: &File, old: &Metadata, old_path: &Path) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        fchown(file, Some(Uid::from_raw(old.uid())), Some(Gid::from_raw(old.gid())))?;
    }
    file.set_permissions(Permissions::from_mode(old.mode() & 0o1777))?;
    if let Ok(old_file) = File::open(old_path) {
        copy_attributes(&old_file, file);
    }
    Ok(())
}

/// Extended attributes, as far as this user may set them: they are kept where that is possible, and no reason to fail.
fn copy_attributes(from: &File, to: &File) {
    let mut names = vec![0; MAX_VALUE];
    let Ok(length) = flistxattr(from, &mut names[..]) else { return };
    let mut value = vec![0; MAX_VALUE];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // These speak of the old bytes.
        if name == MARK
            || name == STORES
            || matches!(name.to_bytes(), b"security.capability" | b"security.ima" | b"security.evm")
        {
            continue;
        }
        if let Ok(length) = fgetxattr(from, name, &mut value[..]) {
            let _ = fsetxattr(to, name, &value[..length], XattrFlags::empty());
        }
    }
}

/// Gives a file the group, mode and access list of one that is made in a directory now: what the umask, the directory's set-group-ID
/// bit and its default list leave.
pub(super) fn as_new_in(directory: &Path, file: &File) -> io::Result<()> {
    let model = Temporary::create(directory)?;
    let (wanted, now) = (model.file().metadata()?, file.metadata()?);
    if wanted.gid() != now.gid() {
        fchown(file, None, Some(Gid::from_raw(wanted.gid())))?;
    }
    let mut list = vec![0; MAX_VALUE];
    if let Ok(length) = fgetxattr(model.file(), ACCESS_LIST, &mut list[..]) {
        fsetxattr(file, ACCESS_LIST, &list[..length], XattrFlags::empty())?;
    }
    file.set_permissions(Permissions::from_mode(wanted.mode() & 0o777))
}

/// Marks a file that is written and will not change: as which blob it was written.
pub(super) fn mark(file: &File, blob: BlobId) {
    if let Ok(found) = file.metadata() {
        // A file system without attributes makes the next get read again.
        let _ = fsetxattr(file, MARK, mark_text(blob, &found).as_bytes(), XattrFlags::empty());
    }
}

/// Whether a file is still what was written as this blob.
pub(super) fn is_marked(path: &Path, blob: BlobId) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let Ok(found) = file.metadata() else { return false };
    let mut value = [0; 256];
    let length = fgetxattr(&file, MARK, &mut value[..]).unwrap_or(0);
    length > 0 && &value[..length] == mark_text(blob, &found).as_bytes()
}

/// Marks a store's file before it gets a second name, so that no later get writes into the store by that name. False where it
/// can't be marked.
pub(super) fn mark_as_stores(file: &File) -> bool {
    fsetxattr(file, STORES, b"1", XattrFlags::empty()).is_ok()
}

/// Whether a file is a store's under another name.
pub(super) fn is_stores(path: &Path) -> bool {
    rustix::fs::lgetxattr(path, STORES, &mut [0; 8][..]).is_ok()
}

fn mark_text(blob: BlobId, found: &Metadata) -> String {
    format!("{blob} {} {}.{:09}", found.len(), found.mtime(), found.mtime_nsec())
}
