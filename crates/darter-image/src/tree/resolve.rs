//! Paths within the layer: symbolic links are followed, and none leads out of the root. As `RootPath` of containerd's continuity library does it: a
//! link's target is cleaned as text, `..` of it included, before it is looked at.

use std::collections::VecDeque;

use super::{Body, NodeId, Tree};
use crate::limits::{MAX_LINK_STEPS, MAX_LINKS, MAX_PATH};
use crate::reason::{Reason, shown};

/// The end of a path.
#[derive(Debug)]
pub(super) struct PathEnd {
    /// The last thing on the way that is there.
    pub(super) known: NodeId,
    /// The names below that are not.
    pub(super) missing: Vec<Box<[u8]>>,
}

/// A path without empty parts, `.`, and `..` but at its beginning; `.` for nothing.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let is_absolute = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if is_absolute => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (is_absolute, joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// The path up to the last `/`, and the name behind it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let begin = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    path.split_at(begin)
}

/// A part of the way: a name, and what is there.
struct Passed {
    name: Box<[u8]>,
    node: Option<NodeId>,
}

impl Tree {
    /// Follows a path. `member` is named in errors.
    pub(super) fn resolve(&mut self, path: &[u8], member: &[u8]) -> Result<PathEnd, Reason> {
        let mut parts: VecDeque<Box<[u8]>> = named_parts(path).map(Box::from).collect();
        let mut way: Vec<Passed> = Vec::new();
        let mut links = 0;
        while let Some(part) = parts.pop_front() {
            if links > 0 {
                self.steps += 1;
                if self.steps > MAX_LINK_STEPS {
                    return Err(Reason::TooLarge { what: "too many paths through symbolic links" });
                }
            }
            if *part == *b".." {
                way.pop();
                continue;
            }
            let above = way.last().map_or(Some(NodeId::ROOT), |passed| passed.node);
            let node = match above {
                Some(above) if !self.node(above).is_directory() => {
                    return Err(Reason::BelowFile { name: shown(member) });
                }
                Some(above) => self.child(above, &part),
                None => None,
            };
            let Some(Body::Symlink(target)) = node.map(|node| &self.node(node).body) else {
                way.push(Passed { name: part, node });
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Reason::TooManyLinks { name: shown(member) });
            }
            // Everything from the root again, since what the target says may pass other links.
            let mut whole = Vec::new();
            if !target.starts_with(b"/") {
                for passed in &way {
                    whole.push(b'/');
                    whole.extend_from_slice(&passed.name);
                }
            }
            whole.push(b'/');
            whole.extend_from_slice(target);
            let whole = clean(&whole);
            if whole.len() > MAX_PATH {
                return Err(Reason::TooLong { name: shown(member) });
            }
            way.clear();
            for part in named_parts(&whole).rev() {
                parts.push_front(part.into());
            }
        }
        let first_missing = way.iter().position(|passed| passed.node.is_none()).unwrap_or(way.len());
        let missing = way.split_off(first_missing);
        let known = way.last().and_then(|passed| passed.node).unwrap_or(NodeId::ROOT);
        Ok(PathEnd { known, missing: missing.into_iter().map(|passed| passed.name).collect() })
    }
}

/// The parts of a path that say something.
fn named_parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}
