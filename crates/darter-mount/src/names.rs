//! Names and inodes of the directory of layers. No I/O.
//!
//! The directory contains `sha256/XX/DIGEST.erofs`, where XX are the first two digits: the names that containerd looks up. All 256 directories
//! always exist, and a file for each layer that is requested and can be had. An inode is a layer in one form: a file, or a link to the
//! store's file once the layer is complete. Inodes live as long as the kernel knows them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use darter_core::Digest;
use fuser::INodeNo;

/// The directory of an algorithm; there is only one.
pub(crate) const ALGORITHM: &str = "sha256";
pub(crate) const ALGORITHM_INODE: INodeNo = INodeNo(2);

/// The inode of the first of 256 directories.
const FIRST_SHARD: u64 = 3;

/// The first inode of a layer.
const FIRST_LAYER: u64 = 1000;

const RETIRED: &str = "retired-";

const EXTENSION: &str = ".erofs";

/// The end of the name of a layer's dm-verity file, which never exists.
const SIDECAR: &str = ".erofs.dmverity";

/// What a name in one of the directories stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryName {
    /// A layer.
    Layer(Digest),
    /// A file that never exists.
    Never,
    /// Anything else.
    Nothing,
}

/// The inode of the directory with this number.
pub(crate) const fn shard_inode(shard: u8) -> INodeNo {
    INodeNo(FIRST_SHARD + shard as u64)
}

/// The number of the directory with this inode.
pub(crate) fn shard_of(inode: INodeNo) -> Option<u8> {
    u8::try_from(inode.0.checked_sub(FIRST_SHARD)?).ok()
}

/// The number of the directory with this name of two digits.
pub(crate) fn shard_named(name: &OsStr) -> Option<u8> {
    let name = name.to_str().filter(|name| name.len() == 2 && name.bytes().all(is_digit))?;
    u8::from_str_radix(name, 16).ok()
}

/// What a name in a directory stands for.
pub(crate) fn named(shard: u8, name: &OsStr) -> EntryName {
    let Some(name) = name.to_str() else { return EntryName::Nothing };
    if name.ends_with(SIDECAR) {
        return EntryName::Never;
    }
    let Some(digits) = name.strip_suffix(EXTENSION) else { return EntryName::Nothing };
    if !digits.starts_with(&format!("{shard:02x}")) || !digits.bytes().all(is_digit) {
        return EntryName::Nothing;
    }
    format!("{ALGORITHM}:{digits}").parse().map_or(EntryName::Nothing, EntryName::Layer)
}

/// The layer whose name this path ends with: `XX/DIGEST.erofs`.
pub fn layer_at(path: &Path) -> Option<Digest> {
    let shard = path.parent().and_then(Path::file_name).and_then(shard_named)?;
    match named(shard, path.file_name()?) {
        EntryName::Layer(layer) => Some(layer),
        EntryName::Never | EntryName::Nothing => None,
    }
}

/// The name, in the root directory, of a retired inode.
pub(crate) fn retired_name(inode: INodeNo) -> String {
    format!("{RETIRED}{}", inode.0)
}

/// The inode with this name in the root directory.
pub(crate) fn retired_named(name: &OsStr) -> Option<INodeNo> {
    name.to_str()?.strip_prefix(RETIRED)?.parse().ok().map(INodeNo)
}

/// The number of the directory, and the name of a layer's file in it; `None` for digests of another algorithm.
pub(crate) fn name_of(layer: Digest) -> Option<(u8, String)> {
    let text = layer.to_string();
    let digits = text.strip_prefix(ALGORITHM)?.strip_prefix(':')?;
    let shard = u8::from_str_radix(digits.get(..2)?, 16).ok()?;
    Some((shard, format!("{digits}{EXTENSION}")))
}

/// Names have lower-case digits.
const fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The form of a layer in the directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// A virtual file of this length.
    File(u64),
    /// A link to the complete file in the store.
    Link(PathBuf),
}

/// An inode.
#[derive(Debug)]
pub(crate) struct Node<T> {
    pub(crate) layer: Digest,
    pub(crate) form: Form,
    /// How often the kernel was told of it, minus how often the kernel has forgotten it.
    known: u64,
    /// The node's own state.
    pub(crate) own: T,
}

/// The inodes that the kernel knows.
#[derive(Debug)]
pub(crate) struct Inodes<T> {
    next: u64,
    nodes: HashMap<u64, Node<T>>,
    /// The inodes that lookups find now.
    current: HashMap<(Digest, Form), u64>,
}

impl<T> Inodes<T> {
    pub(crate) fn new() -> Self {
        Self { next: FIRST_LAYER, nodes: HashMap::new(), current: HashMap::new() }
    }

    /// The kernel is told of a layer in this form.
    pub(crate) fn enter(&mut self, layer: Digest, form: Form, make: impl FnOnce() -> T) -> INodeNo {
        let key = (layer, form);
        if let Some(inode) = self.current.get(&key)
            && let Some(node) = self.nodes.get_mut(inode)
        {
            node.known += 1;
            return INodeNo(*inode);
        }
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, Node { layer, form: key.1.clone(), known: 1, own: make() });
        self.current.insert(key, inode);
        INodeNo(inode)
    }

    /// The kernel is told of an inode once more; false if the inode does not exist.
    pub(crate) fn told_again(&mut self, inode: INodeNo) -> bool {
        let node = self.nodes.get_mut(&inode.0);
        node.map(|node| node.known += 1).is_some()
    }

    /// An inode.
    pub(crate) fn get(&self, inode: INodeNo) -> Option<&Node<T>> {
        self.nodes.get(&inode.0)
    }

    /// The inodes of a layer.
    pub(crate) fn of(&self, layer: Digest) -> impl Iterator<Item = &Node<T>> {
        self.nodes.values().filter(move |node| node.layer == layer)
    }

    /// The kernel forgets an inode `times` times. Decreases its count, and returns the node's own state if it is
    /// zero now.
    pub(crate) fn forget(&mut self, inode: INodeNo, times: u64) -> Option<T> {
        let node = self.nodes.get_mut(&inode.0)?;
        node.known = node.known.saturating_sub(times);
        if node.known > 0 {
            return None;
        }
        self.retire(inode);
        self.nodes.remove(&inode.0).map(|node| node.own)
    }

    /// Lookups no longer find this inode; programs that have it open keep it.
    pub(crate) fn retire(&mut self, inode: INodeNo) {
        let Some(node) = self.nodes.get(&inode.0) else { return };
        let key = (node.layer, node.form.clone());
        if self.current.get(&key) == Some(&inode.0) {
            self.current.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    #[test]
    fn a_layer_is_found_by_its_digits_in_its_directory_and_nowhere_else() {
        let (shard, name) = name_of(layer("x")).unwrap();
        let of = |shard, name: &str| named(shard, OsStr::new(name));
        assert_eq!(of(shard, &name), EntryName::Layer(layer("x")));
        assert_eq!(of(shard.wrapping_add(1), &name), EntryName::Nothing, "another directory");
        assert_eq!(of(shard, &format!("{name}.dmverity")), EntryName::Never);
        let digits = name.strip_suffix(EXTENSION).unwrap();
        for other in
            [digits.to_owned(), name.to_uppercase(), format!("{digits}0.erofs"), name[1..].to_owned(), ".erofs".into()]
        {
            assert_eq!(of(shard, &other), EntryName::Nothing, "{other}");
        }
        assert_eq!(name_of(format!("sha512:{}", "0".repeat(128)).parse().unwrap()), None);
        for shard in 0..=255 {
            let name = format!("{shard:02x}");
            assert_eq!(shard_named(OsStr::new(&name)), Some(shard));
            assert_eq!(shard_of(shard_inode(shard)), Some(shard));
        }
        for other in ["0", "000", "0g", "AB", "+1", ""] {
            assert_eq!(shard_named(OsStr::new(other)), None, "{other}");
        }
        assert_eq!((shard_of(ALGORITHM_INODE), shard_of(INodeNo(FIRST_LAYER))), (None, None));
    }

    #[test]
    fn an_inode_lives_as_long_as_the_kernel_knows_it_and_a_whole_layer_gets_another() {
        let mut inodes = Inodes::new();
        let file = inodes.enter(layer("x"), Form::File(9), || "file");
        assert_eq!(inodes.enter(layer("x"), Form::File(9), || panic!("it is there")), file);
        let link = inodes.enter(layer("x"), Form::Link("/store/x".into()), || "link");
        assert!(link != file && inodes.enter(layer("y"), Form::File(9), || "other") != file);
        assert_eq!(inodes.forget(file, 1), None);
        assert_eq!(inodes.get(file).unwrap().own, "file", "it is open");
        assert_eq!(inodes.forget(file, 1), Some("file"));
        assert!(inodes.get(file).is_none() && inodes.forget(file, 1).is_none());
        assert_eq!(inodes.get(link).unwrap().form, Form::Link("/store/x".into()));
        assert_ne!(inodes.enter(layer("x"), Form::File(9), || "again"), file);
    }

    #[test]
    fn what_is_wrong_is_given_to_nobody_else_and_stays_wrong_for_those_who_have_it() {
        let mut inodes = Inodes::new();
        let wrong = inodes.enter(layer("x"), Form::File(9), || "wrong");
        inodes.retire(wrong);
        let right = inodes.enter(layer("x"), Form::File(9), || "right");
        assert!(right != wrong && inodes.get(wrong).unwrap().own == "wrong");
        assert_eq!(inodes.forget(wrong, 1), Some("wrong"));
        assert_eq!(inodes.enter(layer("x"), Form::File(9), || panic!("it is there")), right);
    }
}
