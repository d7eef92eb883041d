//! A way of bringing content to nodes, as a race drives it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Result;

use crate::race::course::Testbed;

/// A node's progress.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Look {
    /// Content bytes held.
    pub held: u64,
    /// True if it holds all and has checked what it checks by itself.
    pub done: bool,
    /// Seconds from its start until it was done, when the method knows better than the laboratory, which looks now and then.
    pub seconds: Option<f64>,
}

/// A way of bringing content to nodes. Created with everything running that runs before a download is asked for.
pub trait Method {
    /// Lets a node, numbered from 0, begin.
    fn begin(&mut self, node: usize) -> Result<()>;
    /// The progress of a node that has begun; `None` while that can't be told.
    fn look(&mut self, node: usize) -> Result<Option<Look>>;
    /// Ids of all its processes that run.
    fn processes(&self) -> Vec<u32>;
    /// Ends a node's process, or the seed's (`None`), as a crash would.
    fn kill(&mut self, node: Option<usize>);
    /// Content bytes read from the origin so far.
    fn origin_sent(&self) -> Result<u64>;
    /// True if every file of a node has the right bytes. Called after the race.
    fn is_right(&mut self, node: usize) -> Result<bool>;
    /// True if looking at a node costs it something, so that it is looked at less often.
    fn looks_disturb(&self) -> bool;
    /// Seconds that passed at the slowest node from when it held all until it had handed all to an engine. Called after the race.
    fn lag(&self) -> Result<Option<f64>> {
        Ok(None)
    }
}

/// Bytes that files in a directory take: what a download has written, also where it leaves holes.
pub(crate) fn written(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|data| (data.blocks() * 512).min(data.len())).sum()
}

/// Judges the files in a node's `content` directory, and frees their memory for the next.
pub(crate) fn judge(course: &Testbed<'_>, node: usize) -> Result<bool> {
    let directory = course.nodes[node].directory().join("content");
    let right = is_right(course, &directory)?;
    fs::remove_dir_all(directory)?;
    Ok(right)
}

/// True if a directory has all files of the content, with the right bytes.
pub(crate) fn is_right(course: &Testbed<'_>, directory: &Path) -> Result<bool> {
    for (name, digest) in &course.content.files {
        let path = directory.join(name);
        if !path.is_file() || crate::oci::digest_of(&path)? != *digest {
            return Ok(false);
        }
    }
    Ok(true)
}
