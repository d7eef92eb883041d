//! Paths within the layer that is being made, as [`paths`](crate::paths) follows them.

use super::{Body, NodeId, Tree};
use crate::limits::MAX_LINK_STEPS;
use crate::paths::{Astray, Kind, Names, PathEnd, follow};
use crate::reason::{Reason, shown};

/// The path up to the last `/`, and the name behind it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let begin = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    path.split_at(begin)
}

/// The tree while a path is followed.
struct Looking<'a> {
    tree: &'a Tree,
    has_links: bool,
    steps: u64,
}

impl Names for Looking<'_> {
    type Node = NodeId;
    type Error = Reason;

    fn root(&mut self) -> Result<NodeId, Reason> {
        Ok(NodeId::ROOT)
    }

    fn child(&mut self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, Reason> {
        Ok(self.tree.child(directory, name))
    }

    fn kind(&mut self, node: NodeId) -> Result<Kind, Reason> {
        Ok(match &self.tree.node(node).body {
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(target) => {
                self.has_links = true;
                Kind::Link(target.to_vec())
            }
            _ => Kind::Other,
        })
    }

    fn count(&mut self, names: usize) -> Result<(), Reason> {
        // A path without links costs what its member's header costs.
        if self.has_links {
            self.steps += names as u64;
            if self.steps > MAX_LINK_STEPS {
                return Err(Reason::TooLarge { what: "too many paths through symbolic links" });
            }
        }
        Ok(())
    }
}

impl Tree {
    /// Follows a path. `member` is named in errors.
    pub(super) fn resolve(&mut self, path: &[u8], member: &[u8]) -> Result<PathEnd<NodeId>, Reason> {
        let mut looking = Looking { tree: self, has_links: false, steps: self.steps };
        let found = follow(&mut looking, path);
        self.steps = looking.steps;
        found.map_err(|astray| match astray {
            Astray::BelowFile => Reason::BelowFile { name: shown(member) },
            Astray::TooManyLinks => Reason::TooManyLinks { name: shown(member) },
            Astray::TooLong => Reason::TooLong { name: shown(member) },
            Astray::Host => Reason::Host { name: shown(member) },
            Astray::Names(reason) => reason,
        })
    }
}
