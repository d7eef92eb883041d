//! Attributes that a file keeps when another file replaces it: mode, owner, group and extended attributes. Also the extended attribute
//! by which a later get recognises that a file already has the content that it would download.

use std::ffi::CStr;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::SystemTime;

use darter_core::BlobId;
use rustix::fs::{
    AtFlags, CWD, Gid, StatxAttributes, StatxFlags, Uid, XattrFlags, fchown, fgetxattr, flistxattr, fsetxattr, statx,
};

use super::temporary::Temporary;

/// Names the blob that was written, with the file's length and modification time at that moment. It does not name the URL, since files are
/// passed on with their attributes.
const MARK: &CStr = c"user.darter.blob";

/// Marks a file of a store that also has another name.
const STORES: &CStr = c"user.darter.store";

/// The POSIX access list: rights of further users and groups.
const ACCESS_LIST: &CStr = c"system.posix_acl_access";

/// The largest attribute that is copied: Linux's own limit.
const MAX_VALUE: usize = 64 << 10;

/// True if a new file can replace an old one: it can be created in that directory and given the owner and group of the old one. Otherwise the old file
/// itself has to be written. This is tried, since even root may lack the right: in a container, over NFS.
pub(super) fn can_replace(old: &Metadata, directory: &Path) -> bool {
    Temporary::create(directory).is_ok_and(|model| give_owner(model.file(), old.uid(), old.gid()).is_ok())
}

/// Gives a file this user and group, unless it has them.
pub(crate) fn give_owner(file: &File, uid: u32, gid: u32) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (uid, gid) {
        fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    Ok(())
}

/// True if `path` is a mount point, which can't be replaced.
pub(crate) fn is_mount(path: &Path) -> bool {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    found.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Gives `file` the owner, group, mode and extended attributes of the file that it replaces. Set-user-ID and set-group-ID bits are
/// dropped, as the kernel drops them when a file is written.
pub(crate) fn keep(file: &File, old: &Metadata, old_path: &Path) -> io::Result<()> {
    give_owner(file, old.uid(), old.gid())?;
    file.set_permissions(Permissions::from_mode(old.mode() & 0o1777))?;
    if let Ok(old_file) = File::open(old_path) {
        copy_attributes(&old_file, file);
    }
    Ok(())
}

/// Copies extended attributes as far as this user may set them. A failure is ignored.
fn copy_attributes(from: &File, to: &File) {
    let mut names = vec![0; MAX_VALUE];
    let Ok(length) = flistxattr(from, &mut names[..]) else { return };
    let mut value = vec![0; MAX_VALUE];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        // These attributes describe the old bytes.
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

/// Gives a file the group, mode and access list that a new file in `directory` would get: they follow from the umask, the directory's set-group-ID
/// bit and its default list.
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

/// Marks a complete file with the blob that was written into it.
pub(super) fn mark(file: &File, blob: BlobId) {
    if let Ok(found) = file.metadata() {
        // On a file system without attributes, the next get reads the file again.
        let _ = fsetxattr(file, MARK, mark_text(blob, &found).as_bytes(), XattrFlags::empty());
    }
}

/// Sets the date of a file that is right already, and renews its mark: the blob that it was marked with, or else `blob`.
pub(super) fn date(path: &Path, modified: SystemTime, blob: BlobId) -> io::Result<()> {
    let file = File::open(path)?;
    let blob = marked_as(&file).unwrap_or(blob);
    file.set_modified(modified)?;
    mark(&file, blob);
    Ok(())
}

/// True if the file was written as this blob and has not changed since.
pub(super) fn is_marked(path: &Path, blob: BlobId) -> bool {
    File::open(path).is_ok_and(|file| marked_as(&file) == Some(blob))
}

/// The blob that a file was written as, if the file has not changed since.
fn marked_as(file: &File) -> Option<BlobId> {
    let mut value = [0; 256];
    let length = fgetxattr(file, MARK, &mut value[..]).ok()?;
    let text = std::str::from_utf8(&value[..length]).ok()?;
    let blob = text.split(' ').next()?.parse().ok()?;
    (text == mark_text(blob, &file.metadata().ok()?)).then_some(blob)
}

/// Marks a store's file before it gets a second name, so that no later get writes into the store through that name. False if it
/// can't be marked, such as another user's file, which may not be linked either.
pub(super) fn mark_as_stores(file: &File) -> bool {
    fsetxattr(file, STORES, b"1", XattrFlags::empty()).is_ok()
}

/// True if a file is a store's, under a second name.
pub(super) fn is_stores(path: &Path) -> bool {
    rustix::fs::lgetxattr(path, STORES, &mut [0; 8][..]).is_ok()
}

fn mark_text(blob: BlobId, found: &Metadata) -> String {
    format!("{blob} {} {}.{:09}", found.len(), found.mtime(), found.mtime_nsec())
}
