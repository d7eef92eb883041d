//! Extended attributes: behind each inode a head of 12 bytes (a filter, 4, unused; how many are shared, 1; nothing, 7), then four bytes for
//! each shared one, then the others. An attribute is 4 bytes (length of its name, 1; its namespace, 1; length of its value, 2), name
//! and value, up to a multiple of four.
//!
//! Shared are those that several inodes have, each once in an area of its own; four bytes say in units of four where in it. Long ones are not
//! shared, since some readers read no more than a block of a shared one.

use std::collections::HashMap;

use super::{BLOCK, Page};
use crate::reason::Reason;
use crate::tree::{Body, Namespace, NodeId, Tree, Xattr, XattrId, acl_with_mode};

/// The bytes in front of an inode's attributes.
pub(super) const HEAD: usize = 12;

/// The most attributes of one inode that can be shared.
const MAX_SHARED: usize = u8::MAX as usize;

/// The attributes of all nodes, as they are written.
pub(super) struct Attributes {
    /// Of nodes that have an ACL, their attributes with what their mode makes of it, by node.
    changed: Vec<(NodeId, Vec<XattrId>)>,
    /// The place of each attribute in the shared area, in units of four bytes.
    shared_at: Vec<Option<u32>>,
    shared: Vec<XattrId>,
    shared_bytes: usize,
    sizes: Vec<usize>,
}

impl Attributes {
    /// Decides which attributes are shared. A node's ACL becomes what its mode makes of it.
    pub(super) fn of(tree: &mut Tree) -> Result<Self, Reason> {
        let changed = acls(tree)?;
        let mut all = Self {
            changed,
            shared_at: vec![None; tree.pool.len()],
            shared: Vec::new(),
            shared_bytes: 0,
            sizes: Vec::new(),
        };
        let mut uses = vec![0_u32; tree.pool.len()];
        let nodes = || (0..tree.nodes()).map(NodeId::of_index);
        for node in nodes() {
            for id in all.ids(tree, node) {
                uses[id.index()] += 1;
            }
        }
        // Nodes without a name count as well, and cost at worst some bytes.
        for node in nodes() {
            for id in all.ids(tree, node).to_vec() {
                let length = tree.pool.get(id).length();
                if uses[id.index()] > 1 && length <= BLOCK && all.shared_at[id.index()].is_none() {
                    all.shared_at[id.index()] = Some((all.shared_bytes / 4) as u32);
                    all.shared_bytes += length;
                    all.shared.push(id);
                }
            }
        }
        let sizes = nodes().map(|node| all.size_of(tree, node)).collect();
        Ok(Self { sizes, ..all })
    }

    fn ids<'a>(&'a self, tree: &'a Tree, node: NodeId) -> &'a [XattrId] {
        match self.changed.binary_search_by_key(&node, |(node, _)| *node) {
            Ok(found) => &self.changed[found].1,
            Err(_) => &tree.node(node).xattrs,
        }
    }

    /// A node's shared attributes, and the others.
    fn parted(&self, tree: &Tree, node: NodeId) -> (Vec<u32>, Vec<XattrId>) {
        let (mut shared, mut own) = (Vec::new(), Vec::new());
        for id in self.ids(tree, node) {
            match self.shared_at[id.index()] {
                Some(at) if shared.len() < MAX_SHARED => shared.push(at),
                _ => own.push(*id),
            }
        }
        (shared, own)
    }

    fn size_of(&self, tree: &Tree, node: NodeId) -> usize {
        if self.ids(tree, node).is_empty() {
            return 0;
        }
        let (shared, own) = self.parted(tree, node);
        HEAD + shared.len() * 4 + own.iter().map(|id| tree.pool.get(*id).length()).sum::<usize>()
    }

    /// How many bytes a node's attributes take behind its inode.
    pub(super) fn size(&self, node: NodeId) -> usize {
        self.sizes[node.index()]
    }

    /// How many bytes shared attributes take.
    pub(super) const fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    /// Writes a node's attributes.
    pub(super) fn write_inode(&self, page: &mut Page, tree: &Tree, node: NodeId, at: usize) {
        if self.size(node) == 0 {
            return;
        }
        let (shared, own) = self.parted(tree, node);
        page.put(at + 4, &[shared.len() as u8]);
        let mut at = at + HEAD;
        for place in shared {
            page.put32(at, place);
            at += 4;
        }
        for id in own {
            at = write(page, tree.pool.get(id), at);
        }
    }

    /// Writes the shared attributes.
    pub(super) fn write_shared(&self, page: &mut Page, tree: &Tree, at: usize) {
        self.shared.iter().fold(at, |at, id| write(page, tree.pool.get(*id), at));
    }
}

/// Writes an attribute, and says where the next one begins.
fn write(page: &mut Page, xattr: &Xattr, at: usize) -> usize {
    page.put(at, &[xattr.name.len() as u8, xattr.namespace as u8]);
    page.put16(at + 2, xattr.value.len() as u16);
    page.put(at + 4, &xattr.name);
    page.put(at + 4 + xattr.name.len(), &xattr.value);
    at + xattr.length()
}

/// The attributes of all nodes that have an ACL, in order.
fn acls(tree: &mut Tree) -> Result<Vec<(NodeId, Vec<XattrId>)>, Reason> {
    let mut changed = Vec::new();
    // The form that a mode gives an ACL, which may be long and on many files.
    let mut made: HashMap<(XattrId, u16), Option<XattrId>> = HashMap::new();
    for node in (0..tree.nodes()).map(NodeId::of_index) {
        let held = tree.node(node);
        let is_acl =
            |id: &XattrId| matches!(tree.pool.get(*id).namespace, Namespace::AclAccess | Namespace::AclDefault);
        if matches!(held.body, Body::Symlink(_)) || !held.xattrs.iter().any(is_acl) {
            continue;
        }
        let mode = held.mode;
        let mut ids = Vec::new();
        for id in held.xattrs.clone() {
            let xattr = tree.pool.get(id);
            match xattr.namespace {
                Namespace::AclAccess => {
                    let key = (id, mode & 0o777);
                    let acl = match made.get(&key) {
                        Some(acl) => *acl,
                        None => {
                            let value = acl_with_mode(&xattr.value, mode);
                            let xattr = value.map(|value| Xattr { value, name: Box::default(), ..*xattr });
                            let acl = xattr.map(|xattr| tree.intern(xattr)).transpose()?;
                            made.insert(key, acl);
                            acl
                        }
                    };
                    ids.extend(acl);
                }
                // Nothing, or no entries, takes the ACL away.
                Namespace::AclDefault if xattr.value.len() <= 4 => {}
                _ => ids.push(id),
            }
        }
        changed.push((node, ids));
    }
    Ok(changed)
}
