//! Paths within a layer: where they lead as containerd follows them, by `RootPath` of its continuity library. None leads out of the layer's root.
//!
//! A path is walked name by name. The target of a link takes the place of the way to it, *as text*: what stands behind the link is joined to that, the
//! whole is cleaned (`..` takes a name away), and only then looked up. The names of a target are so passed without being looked at themselves; if one of
//! them is a link, the kernel follows it during the lookup. What has come of the path at its end is walked again, until a walk meets no link.
//!
//! The kernel does not know of the layer's root. A link that it follows by itself leads into the host if it is absolute or goes up above the root, and what is
//! there is not the layer's: such a path is refused ([`Astray::Host`]).
//!
//! Invariants: each walk but the last passes a link, and links are counted; so are looks, by [`Names::count`].

use crate::limits::{MAX_LINKS, MAX_NAME, MAX_PATH};

/// How many links the kernel follows in one lookup.
const MAX_FOLLOWED: u32 = 40;

/// A tree of directories and links, in which paths are followed.
pub(crate) trait Names {
    type Node: Copy;
    type Error;

    fn root(&mut self) -> Result<Self::Node, Self::Error>;
    fn child(&mut self, directory: Self::Node, name: &[u8]) -> Result<Option<Self::Node>, Self::Error>;
    fn kind(&mut self, node: Self::Node) -> Result<Kind, Self::Error>;
    /// Counts work: looks at names, and names of which text is made.
    fn count(&mut self, names: usize) -> Result<(), Self::Error>;
}

/// What a node is, as far as paths are concerned.
pub(crate) enum Kind {
    Directory,
    /// A symbolic link, and its target.
    Link(Vec<u8>),
    Other,
}

/// Why a path leads nowhere.
#[derive(Debug)]
pub(crate) enum Astray<E> {
    /// It goes through something that is no directory.
    BelowFile,
    TooManyLinks,
    TooLong,
    /// Where it leads depends on the host that unpacks.
    Host,
    /// The tree's own error.
    Names(E),
}

impl<E> From<E> for Astray<E> {
    fn from(error: E) -> Self {
        Self::Names(error)
    }
}

/// The end of a path.
#[derive(Debug)]
pub(crate) struct PathEnd<Node> {
    /// The last thing on the way that is there.
    pub(crate) known: Node,
    /// The names below that are not.
    pub(crate) missing: Vec<Box<[u8]>>,
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

/// Follows a path.
pub(crate) fn follow<N: Names>(names: &mut N, path: &[u8]) -> Result<PathEnd<N::Node>, Astray<N::Error>> {
    let mut links = 0;
    let mut place = walk(names, path, &mut links)?;
    loop {
        let text = match place {
            // No name of it is a link: another walk would end here, too, if it may pass anything.
            Place::Way(way) if way.0.is_empty() || links <= MAX_LINKS => return Ok(way.end(names.root()?)),
            Place::Way(_) => return Err(Astray::TooManyLinks),
            Place::Text(text) => text,
        };
        place = walk(names, &text, &mut links)?;
    }
}

/// Names below the root, none of which is a link, and what is there.
struct Way<Node>(Vec<(Box<[u8]>, Option<Node>)>);

/// Where a walk is.
enum Place<Node> {
    Way(Way<Node>),
    /// At a path of which some names may be links.
    Text(Vec<u8>),
}

/// What the kernel says of a path.
enum Looked<Node> {
    Link(Vec<u8>),
    /// No link, or nothing; and none was passed.
    Way(Way<Node>),
    /// The same, and one was.
    Behind,
}

impl<Node: Copy> Way<Node> {
    fn end(mut self, root: Node) -> PathEnd<Node> {
        let first_missing = self.0.iter().position(|(_, node)| node.is_none()).unwrap_or(self.0.len());
        let missing = self.0.split_off(first_missing).into_iter().map(|(name, _)| name).collect();
        let known = self.0.last().and_then(|(_, node)| *node).unwrap_or(root);
        PathEnd { known, missing }
    }

    fn text(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(name, _)| [b"/".as_slice(), name]).flatten().copied().collect()
    }

    /// Goes on to a name, unless that is a link, whose target it returns.
    fn step<N: Names<Node = Node>>(&mut self, names: &mut N, name: &[u8]) -> Result<Option<Vec<u8>>, Astray<N::Error>> {
        let above = match self.0.last() {
            None => Some(names.root()?),
            Some((_, node)) => *node,
        };
        let node = match above {
            None => None,
            Some(above) => child(names, above, name)?,
        };
        if let Some(node) = node
            && let Kind::Link(target) = names.kind(node)?
        {
            return Ok(Some(target));
        }
        self.0.push((name.into(), node));
        Ok(None)
    }
}

/// Walks a path once.
fn walk<N: Names>(names: &mut N, path: &[u8], links: &mut u32) -> Result<Place<N::Node>, Astray<N::Error>> {
    let mut place = Place::Way(Way(Vec::new()));
    let is_relative = !path.starts_with(b"/");
    for (index, name) in path.split(|byte| *byte == b'/').enumerate() {
        if name.is_empty() {
            continue;
        }
        if *links > MAX_LINKS {
            return Err(Astray::TooManyLinks);
        }
        let (before, target) = match place {
            Place::Way(mut way) => {
                let target = match name {
                    b"." => None,
                    b".." => {
                        way.0.pop();
                        None
                    }
                    name => way.step(names, name)?,
                };
                let Some(target) = target else {
                    place = Place::Way(way);
                    continue;
                };
                (way.text(), target)
            }
            Place::Text(text) => {
                let joined = join(names, &text, name)?;
                match look(names, &joined)? {
                    Looked::Link(target) => (text, target),
                    Looked::Way(way) => {
                        place = Place::Way(way);
                        continue;
                    }
                    Looked::Behind => {
                        place = Place::Text(joined);
                        continue;
                    }
                }
            }
        };
        *links += 1;
        // A target that stays as it is may have `..` behind a link, which the next walk passes, if nothing follows.
        let stays = target.starts_with(b"/") || (index == 0 && is_relative);
        place = Place::Text(if stays { target } else { join(names, &before, &target)? });
    }
    Ok(place)
}

/// One path below the root, of two.
fn join<N: Names>(names: &mut N, path: &[u8], more: &[u8]) -> Result<Vec<u8>, Astray<N::Error>> {
    let whole = clean(&[b"/", path, b"/", more].concat());
    names.count(1 + whole.len() / 16)?;
    if whole.len() > MAX_PATH { Err(Astray::TooLong) } else { Ok(whole) }
}

fn child<N: Names>(names: &mut N, above: N::Node, name: &[u8]) -> Result<Option<N::Node>, Astray<N::Error>> {
    if !matches!(names.kind(above)?, Kind::Directory) {
        return Err(Astray::BelowFile);
    }
    if name.len() > MAX_NAME {
        return Err(Astray::TooLong);
    }
    names.count(1)?;
    Ok(names.child(above, name)?)
}

/// Looks a clean path up as the kernel does: links on the way are followed, one at its end is not.
fn look<N: Names>(names: &mut N, path: &[u8]) -> Result<Looked<N::Node>, Astray<N::Error>> {
    let reversed = |path: &[u8]| -> Vec<Box<[u8]>> {
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).rev().map(Box::from).collect()
    };
    let mut rest = reversed(path);
    // The directories that the kernel is in, which `..` leaves.
    let mut inside = vec![names.root()?];
    let (mut way, mut followed) = (Way(Vec::new()), 0);
    while let Some(name) = rest.pop() {
        let Some(here) = inside.last().copied() else { return Err(Astray::Host) };
        if *name == *b".." {
            if !matches!(names.kind(here)?, Kind::Directory) {
                return Err(Astray::BelowFile);
            }
            inside.pop();
            if inside.is_empty() {
                return Err(Astray::Host);
            }
            continue;
        }
        let Some(node) = child(names, here, &name)? else {
            if followed > 0 {
                return Ok(Looked::Behind);
            }
            way.0.push((name, None));
            way.0.extend(rest.into_iter().rev().map(|name| (name, None)));
            return Ok(Looked::Way(way));
        };
        if let Kind::Link(target) = names.kind(node)? {
            if rest.is_empty() {
                return Ok(Looked::Link(target));
            }
            if target.starts_with(b"/") {
                return Err(Astray::Host);
            }
            followed += 1;
            if followed > MAX_FOLLOWED {
                return Err(Astray::TooManyLinks);
            }
            names.count(target.len() / 16)?;
            rest.extend(reversed(&target));
            continue;
        }
        inside.push(node);
        way.0.push((name, Some(node)));
    }
    Ok(if followed > 0 { Looked::Behind } else { Looked::Way(way) })
}
