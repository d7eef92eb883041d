//! Owner, mode, time and extended attributes of a member, on what it makes.

use super::pool::{Namespace, Xattr};
use super::{Body, NodeId, Tree, XattrId, acl};
use crate::limits::{MAX_XATTR_NAME, MAX_XATTR_VALUE, MAX_XATTRS};
use crate::reason::{Reason, shown};
use crate::tar::{TarMember, Time};

/// The last second that nanoseconds since 1970 reach in 63 bits, and the last of its nanoseconds.
const MAX_TIME: (i64, u32) = (9_223_372_036, 854_775_807);

/// A time as containerd gives it to files.
pub(super) const fn bounded(time: Time) -> Time {
    let is_late = time.seconds > MAX_TIME.0 || (time.seconds == MAX_TIME.0 && time.nanos > MAX_TIME.1);
    if time.seconds < 0 || is_late { Time { seconds: 0, nanos: 0 } } else { time }
}

/// Bytes of memory that an attribute of a node takes besides itself: its number here, and in what the writer makes of a node with an ACL.
const XATTR_PLACE: usize = 4 * size_of::<XattrId>();

/// The fate of an attribute.
enum Fate {
    Kept(Namespace),
    LeftOut,
}

impl Tree {
    /// Gives a node what a member says of it.
    pub(super) fn give_attributes(&mut self, node: NodeId, member: &TarMember, name: &[u8]) -> Result<(), Reason> {
        self.give_owner(node, member);
        for (attribute, value) in &member.xattrs {
            let wrong = |what| Reason::Xattr { name: shown(name), attribute: shown(attribute), what };
            if let Fate::Kept(namespace) = self.fate(node, attribute, value).map_err(wrong)? {
                let suffix = &attribute[namespace.prefix().len()..];
                self.set_xattr(node, Xattr { namespace, name: suffix.into(), value: value.as_slice().into() })?;
            }
        }
        let node = self.node_mut(node);
        if !matches!(node.body, Body::Symlink(_)) {
            node.mode = member.mode;
        }
        node.mtime = bounded(member.mtime);
        Ok(())
    }

    /// Gives a node a member's owner, as `chown` does it: the highest number changes nothing, larger ones are cut, and what is no directory
    /// loses its capabilities.
    pub(super) fn give_owner(&mut self, node: NodeId, member: &TarMember) {
        let pool = &self.pool;
        let node = &mut self.nodes[node.index()];
        for (field, given) in [(&mut node.uid, member.uid), (&mut node.gid, member.gid)] {
            let given = given as u32;
            if given != u32::MAX {
                *field = given;
            }
        }
        if !node.is_directory() {
            let capability = (Namespace::Security, b"capability".as_slice());
            if let Ok(at) = node.xattrs.binary_search_by(|held| pool.get(*held).key().cmp(&capability)) {
                node.xattr_bytes -= pool.get(node.xattrs.remove(at)).length();
            }
        }
    }

    /// Sets an attribute, in the place of one of the same name.
    pub(super) fn set_xattr(&mut self, node: NodeId, xattr: Xattr) -> Result<(), Reason> {
        let id = self.intern(xattr)?;
        let (pool, node) = (&self.pool, &mut self.nodes[node.index()]);
        let found = node.xattrs.binary_search_by(|held| pool.get(*held).key().cmp(&pool.get(id).key()));
        let replaced = found.map_or(0, |at| pool.get(node.xattrs[at]).length());
        let bytes = node.xattr_bytes - replaced + pool.get(id).length();
        if bytes > MAX_XATTRS {
            return Err(Reason::TooLarge { what: "a file has more than 256 KiB of extended attributes" });
        }
        node.xattr_bytes = bytes;
        match found {
            Ok(at) => node.xattrs[at] = id,
            Err(at) => {
                node.xattrs.insert(at, id);
                self.hold(XATTR_PLACE)?;
            }
        }
        Ok(())
    }

    /// Keeps an attribute, and counts the memory that it takes.
    pub(crate) fn intern(&mut self, xattr: Xattr) -> Result<XattrId, Reason> {
        let (id, weight) = self.pool.intern(xattr);
        self.hold(weight)?;
        Ok(id)
    }

    /// The ACLs that something new in a directory has from it.
    pub(super) fn inherited(&mut self, directory: NodeId, is_directory: bool) -> Result<Vec<XattrId>, Reason> {
        let (pool, xattrs) = (&self.pool, &self.node(directory).xattrs);
        let of_default = (Namespace::AclDefault, b"".as_slice());
        let Ok(at) = xattrs.binary_search_by(|held| pool.get(*held).key().cmp(&of_default)) else {
            return Ok(Vec::new());
        };
        let default = xattrs[at];
        // Looked up by its number, since an ACL may be long and a directory may have many files.
        let access = match self.access_acls.get(&default) {
            Some(access) => *access,
            None => {
                let value = pool.get(default).value.clone();
                let access = self.intern(Xattr { namespace: Namespace::AclAccess, name: Box::default(), value })?;
                self.access_acls.insert(default, access);
                access
            }
        };
        let ids = if is_directory { vec![access, default] } else { vec![access] };
        self.hold(ids.len() * XATTR_PLACE)?;
        Ok(ids)
    }

    /// The form that Linux gives an attribute when it is set; an error where it refuses, and containerd fails.
    fn fate(&self, node: NodeId, attribute: &[u8], value: &[u8]) -> Result<Fate, &'static str> {
        if attribute.starts_with(Namespace::Trusted.prefix()) {
            return Ok(Fate::LeftOut);
        }
        if attribute.is_empty() || attribute.len() > MAX_XATTR_NAME {
            return Err("names are 1 to 255 bytes");
        }
        if value.len() > MAX_XATTR_VALUE {
            return Err("values are at most 65,535 bytes");
        }
        let body = &self.node(node).body;
        let Some(namespace) = Namespace::of(attribute) else { return Ok(Fate::LeftOut) };
        match namespace {
            Namespace::User if !matches!(body, Body::File { .. } | Body::Directory(_)) => return Ok(Fate::LeftOut),
            Namespace::User | Namespace::Security if attribute.len() == namespace.prefix().len() => {
                return Err("it has no name of its own");
            }
            Namespace::AclAccess | Namespace::AclDefault => {
                if matches!(body, Body::Symlink(_)) || acl::is_of_another_version(value) {
                    return Ok(Fate::LeftOut);
                }
                if !acl::is_valid(value) {
                    return Err("it is no valid ACL");
                }
                if namespace == Namespace::AclDefault && !matches!(body, Body::Directory(_)) {
                    return Err("only directories have a default ACL");
                }
            }
            Namespace::Security if attribute == b"security.capability" && !is_capability(value) => {
                return Err("it is no valid set of capabilities");
            }
            Namespace::User | Namespace::Security | Namespace::Trusted => {}
        }
        Ok(Fate::Kept(namespace))
    }
}

/// True if the kernel takes these capabilities: of revision 2 or 3, as long as that is; or none.
fn is_capability(value: &[u8]) -> bool {
    // The revision's lowest bit makes the capabilities effective.
    match value.first_chunk().map(|revision| u32::from_le_bytes(*revision) & !1) {
        Some(0x0200_0000) => value.len() == 20,
        Some(0x0300_0000) => value.len() == 24,
        _ => value.is_empty(),
    }
}
