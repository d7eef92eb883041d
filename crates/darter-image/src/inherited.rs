//! Attributes that directories of a layer have of the layers below, if no member of its tar names them, or one does late.
//!
//! A tar need not name a directory that it has files in. When containerd unpacks for overlayfs, such a directory becomes what the nearest layer below
//! has at that path: owner, mode and attributes. (Its time is that of unpacking whatever the layers say, since something is made in it after it was
//! given the one from below.) A layer's expanded file is made without the layers below, and says root, 0755 and 1970. So an image whose layers are
//! mounted is what it should be only where the layers below say the same as that, or nothing; [`inherited`] tells where they say something else.
//!
//! As `mkparent` of containerd's `pkg/archive` does it: each layer below is asked, the nearest first, where the path leads within it, symbolic links included. The first that
//! has something there decides, and only if that is a directory. That a layer between hides it is not considered.
//!
//! A directory that was first made for a member in it, and named later in the tar, was one that no member names until then: attributes that it got from below stay, unless the
//! member says others, and what was made in it meanwhile has group and ACL of what it was. So it counts as differing, too, if there was something to pass on. The file marks both kinds
//! (byte 48 of an inode).
//!
//! Invariants: metadata is not believed, whatever hash it has: it may be a liar's, and an image's author may make much of little. Each inode of a directory is read once, no more bytes of directories
//! than there are, and looks at them and bytes of attributes are counted.
//!
//! Pure. The metadata is read elsewhere.

mod metadata;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use self::metadata::{Allowance, Inode, Resolved, Unnamed};
pub use self::metadata::{LayerDirectories, Unsound};
use crate::tar::Time;
use crate::tree::acl_with_mode;

const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Owner, mode and extended attributes of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// The permissions, with the bits above them and without the type.
    pub mode: u16,
    /// Its owner.
    pub uid: u32,
    /// Which group's.
    pub gid: u32,
    /// When it was changed.
    pub mtime: Time,
    /// By their whole names; those of `trusted` are not among them, which no directory has from another.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    /// Takes over what the kernel gives a new entry from the directory `above` it.
    fn made_in(&mut self, above: &Self) {
        if above.mode & 0o2000 != 0 {
            self.gid = above.gid;
        }
        if let Some(default) = above.xattrs.get(DEFAULT_ACL) {
            self.xattrs.insert(DEFAULT_ACL.to_vec(), default.clone());
            self.xattrs.insert(ACCESS_ACL.to_vec(), default.clone());
            self.follow_mode();
        }
    }

    /// Takes over what containerd gives a directory that it makes from the one `below`.
    fn copy(&mut self, below: Self) {
        (self.mode, self.uid, self.gid, self.mtime) = (below.mode, below.uid, below.gid, below.mtime);
        self.follow_mode();
        self.xattrs.extend(below.xattrs);
    }

    /// Adds the attributes of what it was `before` a member named it, which said nothing of these.
    fn keep(&mut self, before: &Self) {
        for (name, value) in &before.xattrs {
            self.xattrs.entry(name.clone()).or_insert_with(|| value.clone());
        }
        self.follow_mode();
    }

    /// True if an entry that is made in it gets another ACL than in `other`.
    fn passes_acl(&self, other: &Self) -> bool {
        self.xattrs.get(DEFAULT_ACL) != other.xattrs.get(DEFAULT_ACL)
    }

    /// True if an entry that is made in it gets another group than in `other`.
    fn passes_group(&self, other: &Self) -> bool {
        let group = |it: &Self| (it.mode & 0o2000 != 0).then_some(it.gid);
        group(self) != group(other)
    }

    /// The access ACL becomes what the mode makes of it.
    fn follow_mode(&mut self) {
        if let Some(acl) = self.xattrs.remove(ACCESS_ACL)
            && let Some(acl) = acl_with_mode(&acl, self.mode)
        {
            self.xattrs.insert(ACCESS_ACL.to_vec(), acl.into());
        }
    }
}

/// A directory that has something of the layers below, which its own layer's file does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The layer that does not name it, or late: its place in the image, from 0 at the bottom.
    pub layer: usize,
    /// True if a member names it, after what is in it.
    pub is_late: bool,
    /// Its path, without a `/` at its beginning.
    pub path: Vec<u8>,
    /// Its attributes in its layer's file.
    pub own: Attributes,
    /// Its attributes where the image is unpacked.
    pub real: Attributes,
    /// True if nobody sees it in the whole image, nor what it passed on to entries: a layer above has something at that path, or hides it.
    pub is_covered: bool,
}

/// The difference, for people.
impl fmt::Display for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layer, is_late, path, own, real, .. } = self;
        let path = crate::reason::shown(path);
        if *is_late && own == real {
            return write!(
                f,
                "layer {} names /{path} after what is in it, which has its group or ACL from below",
                layer + 1
            );
        }
        let named = if *is_late { "names" } else { "does not name" };
        write!(
            f,
            "layer {} {named} /{path}{}, which is unpacked with ",
            layer + 1,
            if *is_late { " late" } else { "" }
        )?;
        let told = |it: &Attributes| format!("mode {:04o} of {}:{}", it.mode, it.uid, it.gid);
        if told(own) == told(real) {
            let differ = real.xattrs.iter().filter(|(name, value)| own.xattrs.get(*name) != Some(value));
            let names: Vec<_> = differ.map(|(name, _)| crate::reason::shown(name)).collect();
            return f.write_str(&names.join(", "));
        }
        f.write_str(&told(real))
    }
}

/// The directories that mounting `layers`, the lowest first, would make other than unpacking them does. Directories above others come first.
///
/// # Errors
/// [`Unsound`] metadata.
pub fn inherited(layers: &[LayerDirectories]) -> Result<Vec<Inherited>, Unsound> {
    compare(layers, &Allowance::new())
}

fn compare(layers: &[LayerDirectories], allowance: &Allowance) -> Result<Vec<Inherited>, Unsound> {
    let mut found = Vec::new();
    // Directories that are not what their layer's file says, by layer and inode.
    let mut real: HashMap<(usize, u64), Attributes> = HashMap::new();
    for (layer, directories) in layers.iter().enumerate() {
        for unnamed in directories.unnamed()? {
            let own = directories.attributes(&unnamed.inode, allowance)?;
            let from_below = below(&layers[..layer], &unnamed.path, &real, allowance)?;
            let mut made = own.clone();
            if unnamed.is_late {
                (made.mode, made.uid, made.gid, made.xattrs) = (0o755, 0, 0, BTreeMap::new());
            }
            let bare = made.clone();
            if let Some(above) = real.get(&(layer, unnamed.parent)) {
                made.made_in(above);
            }
            if let Some(below) = from_below {
                made.copy(below);
            }
            // A group is passed on to directories that no member names, which are found by themselves unless this one is named later.
            let passes_on = made.passes_acl(&bare) || (unnamed.is_late && made.passes_group(&bare));
            let mut its = Attributes { mtime: own.mtime, ..made };
            if unnamed.is_late {
                let before = std::mem::replace(&mut its, own.clone());
                its.keep(&before);
            }
            if its != own || (unnamed.is_late && passes_on) {
                real.insert((layer, unnamed.inode.nid), its.clone());
                let mut is_covered = false;
                for above in &layers[layer + 1..] {
                    is_covered |= above.covers(&unnamed.path, allowance)?;
                }
                is_covered &= !passes_on;
                let Unnamed { is_late, path, .. } = unnamed;
                found.push(Inherited { layer, is_late, path, own, real: its, is_covered });
            }
        }
    }
    Ok(found)
}

/// The attributes that a directory at this path has of the layers below, the lowest first.
fn below(
    layers: &[LayerDirectories],
    path: &[u8],
    real: &HashMap<(usize, u64), Attributes>,
    allowance: &Allowance,
) -> Result<Option<Attributes>, Unsound> {
    for (layer, directories) in layers.iter().enumerate().rev() {
        match directories.resolve(path, allowance)? {
            Resolved::Nothing => {}
            Resolved::Other => return Ok(None),
            Resolved::Directory(Inode { nid, .. }) if real.contains_key(&(layer, nid)) => {
                return Ok(real.get(&(layer, nid)).cloned());
            }
            Resolved::Directory(inode) => return directories.attributes(&inode, allowance).map(Some),
        }
    }
    Ok(None)
}
