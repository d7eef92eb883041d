//! Extended attributes, each kept once: a layer may have the same SELinux label on every file.

use std::collections::HashMap;
use std::sync::Arc;

/// Which namespace an attribute is in, of those that EROFS has numbers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Namespace {
    User = 1,
    AclAccess = 2,
    AclDefault = 3,
    Trusted = 4,
    Security = 6,
}

impl Namespace {
    const ALL: [Self; 5] = [Self::User, Self::AclAccess, Self::AclDefault, Self::Trusted, Self::Security];

    /// The beginning of an attribute's name.
    pub(crate) const fn prefix(self) -> &'static [u8] {
        match self {
            Self::User => b"user.",
            Self::AclAccess => b"system.posix_acl_access",
            Self::AclDefault => b"system.posix_acl_default",
            Self::Trusted => b"trusted.",
            Self::Security => b"security.",
        }
    }

    /// The namespace with this number.
    pub(crate) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|namespace| *namespace as u8 == number)
    }

    /// The namespace that an attribute is in.
    pub(crate) fn of(attribute: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|namespace| match namespace {
            Self::AclAccess | Self::AclDefault => attribute == namespace.prefix(),
            _ => attribute.starts_with(namespace.prefix()),
        })
    }
}

/// An attribute.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Xattr {
    pub(crate) namespace: Namespace,
    /// The name behind the namespace's prefix.
    pub(crate) name: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
}

impl Xattr {
    /// The key that only one attribute of a file has.
    pub(crate) fn key(&self) -> (Namespace, &[u8]) {
        (self.namespace, &self.name)
    }

    /// How many bytes it takes in EROFS.
    pub(crate) fn length(&self) -> usize {
        (4 + self.name.len() + self.value.len()).next_multiple_of(4)
    }
}

/// An attribute in a [`Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct XattrId(u32);

impl XattrId {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// All attributes of a tree, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    all: Vec<Arc<Xattr>>,
    known: HashMap<Arc<Xattr>, XattrId>,
}

impl Pool {
    pub(crate) fn get(&self, id: XattrId) -> &Xattr {
        &self.all[id.index()]
    }

    pub(crate) const fn len(&self) -> usize {
        self.all.len()
    }

    /// Keeps an attribute, and says how much more memory that takes.
    pub(super) fn intern(&mut self, xattr: Xattr) -> (XattrId, usize) {
        if let Some(id) = self.known.get(&xattr) {
            return (*id, 0);
        }
        // There are fewer than bytes in MAX_HELD.
        let id = XattrId(self.all.len() as u32);
        // Besides its bytes: itself, three allocations, and its places in list and map.
        let weight = xattr.name.len() + xattr.value.len() + 4 * size_of::<Xattr>();
        let xattr = Arc::new(xattr);
        self.all.push(Arc::clone(&xattr));
        self.known.insert(xattr, id);
        (id, weight)
    }
}
