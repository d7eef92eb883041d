//! Complete layers that engines mount by their names in the directory of layers are read past the page cache of their files, as in Darter's own mounts.
//!
//! containerd mounts a layer with only `ro`, and has no setting for more. EROFS accepts `directio` for an existing mount, so the process that keeps the
//! directory looks at each new mount and sets it. Through the page cache of the layer's file, each page of a member would be parts of two pages of that file, everything would be in
//! memory twice, and on a busy host a page that is not in memory may take as long as a tick of the scheduler.
//!
//! Invariants:
//! - only new mounts are changed, by the name of a layer that was complete by then: others read a virtual file, and their reads ahead are as long as is good for that;
//! - options of a mount are only changed if it has EROFS' default options, since all options are set again;
//! - only the first mount of a layer: each container has mounts of its own, and what later ones read should stay in memory for those after them.
//!
//! A mount of a virtual file stays on it as long as its container runs. Once the layer is complete, reading ahead costs only a read of the disk: then it
//! reads ahead as much as one request can ask for.
//!
//! The keeper of the directory is also told of each such first mount: only there it can be seen which parts of a complete layer a start reads ([`resident`](crate::resident)).
//!
//! If a change fails, the mount stays as it was.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use darter_core::Digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::erofs;
use crate::mountinfo::{self, Mounted};
use crate::names;
use crate::read_ahead;
use crate::resident::MountedLayer;

/// The pause between two checks: a container of many layers makes many mounts at once.
const PAUSE: Duration = Duration::from_millis(50);

/// How often to check whether layers that are mounted as virtual files are complete.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// How many names of layers are remembered.
const MAX_NAMES: usize = 4096;

/// The options that EROFS shows for a mount without options.
const DEFAULTS: [&str; 5] = ["ro", "user_xattr", "acl", "cache_strategy=readaround", "seclabel"];

/// The mounts that were seen before.
#[derive(Debug, Default)]
struct Seen {
    mounts: HashSet<(u64, (u32, u32))>,
    names: HashSet<OsString>,
    /// Those of virtual files whose layers were not complete at the last check.
    lazy: Vec<Mounted>,
}

impl Seen {
    /// The mounts in this list that are the first ones of their layers, below `dir`. `is_whole` is asked about a name.
    fn first(&mut self, list: Vec<Mounted>, dir: &Path, is_whole: impl Fn(&Path) -> bool) -> Vec<Mounted> {
        let is_layer = |mount: &Mounted| mount.kind == "erofs" && Path::new(&mount.source).starts_with(dir);
        let layers: Vec<_> = list.into_iter().filter(is_layer).collect();
        let before = std::mem::take(&mut self.mounts);
        self.mounts = layers.iter().map(|mount| (mount.id, mount.device)).collect();
        self.lazy.retain(|mount| self.mounts.contains(&(mount.id, mount.device)));
        let mut first = Vec::new();
        for mount in layers {
            if before.contains(&(mount.id, mount.device)) {
                continue;
            }
            if !is_whole(Path::new(&mount.source)) {
                self.lazy.push(mount);
                continue;
            }
            if self.names.len() >= MAX_NAMES {
                self.names.clear();
            }
            if self.names.insert(mount.source.clone()) {
                first.push(mount);
            }
        }
        first
    }

    /// The mounts of virtual files whose layers are complete by now; each is returned once.
    fn whole(&mut self, is_whole: impl Fn(&Path) -> bool) -> Vec<Mounted> {
        self.lazy.extract_if(.., |mount| is_whole(Path::new(&mount.source))).collect()
    }

    /// Reads the present mounts. Blocking.
    fn look(&mut self, dir: &Path) -> io::Result<Vec<Mounted>> {
        let is_whole = |name: &Path| fs::symlink_metadata(name).is_ok_and(|state| state.is_symlink());
        Ok(self.first(mountinfo::parsed(&fs::read_to_string(mountinfo::PATH)?), dir, is_whole))
    }
}

/// Changes the mounts that engines make by the names in `dir`, as far as this process sees them, on a thread that ends with the process. `is_whole` is asked about the layer
/// of a name that was a virtual file when it was mounted. `starts` is called for the first mount of each complete layer.
pub fn attend(
    dir: PathBuf,
    is_whole: impl Fn(&Path) -> bool + Send + 'static,
    starts: impl Fn(Digest, MountedLayer) + Send + 'static,
) {
    let begun = File::open(mountinfo::PATH).and_then(|list| {
        let mut seen = Seen::default();
        // Mounts from before may be of any file.
        seen.look(&dir)?;
        seen.lazy.clear();
        thread::Builder::new()
            .name("engine-mounts".to_owned())
            .spawn(move || attended(&dir, &list, seen, is_whole, starts))
    });
    if let Err(error) = begun {
        tracing::warn!(%error, "complete layers that engines mount are read through the page cache: can't read the list of mounts");
    }
}

fn attended(
    dir: &Path,
    list: &File,
    mut seen: Seen,
    is_whole: impl Fn(&Path) -> bool,
    starts: impl Fn(Digest, MountedLayer),
) {
    let goes_on = erofs::goes_on();
    loop {
        let pause = (!seen.lazy.is_empty()).then_some(LOOK_EVERY);
        // Polling reports each change since the list was last read.
        let changed = poll(&mut [PollFd::new(list, PollFlags::PRI)], pause.as_ref());
        let first = match changed {
            Ok(0) => Ok(Vec::new()),
            Ok(_) | Err(Errno::INTR) => seen.look(dir),
            Err(error) => Err(error.into()),
        };
        match first {
            Ok(first) => {
                for mount in &first {
                    if goes_on {
                        see_to(mount);
                    }
                    tell(mount, &starts);
                }
            }
            Err(error) => tracing::debug!(%error, "can't read the list of mounts"),
        }
        for mount in seen.whole(&is_whole).iter().filter(|_| goes_on) {
            if let Err(error) = read_ahead::by_questions(&mount.dir, mount.device) {
                tracing::debug!(%error, at = %mount.dir.display(), "the read-ahead of a layer that an engine mounted stays as it was");
            }
        }
        thread::sleep(PAUSE);
    }
}

/// Calls `starts` for a mount, if it is a layer's.
fn tell(mount: &Mounted, starts: impl Fn(Digest, MountedLayer)) {
    let Some(layer) = names::layer_at(Path::new(&mount.source)) else { return };
    match MountedLayer::at(&mount.dir, mount.device) {
        Ok(mounted) => starts(layer, mounted),
        Err(error) => tracing::debug!(%error, %layer, "the first touches of a complete layer are not recorded"),
    }
}

/// Changes one mount. Blocking.
fn see_to(mount: &Mounted) {
    if !mount.options.split(',').all(|option| DEFAULTS.contains(&option)) {
        return;
    }
    let (file, at) = (Path::new(&mount.source), &mount.dir);
    match erofs::make_direct(file, at, mount.device) {
        Ok(true) => tracing::debug!(at = %at.display(), "a layer that an engine mounted is read past the page cache"),
        Ok(false) => {}
        Err(error) => {
            tracing::debug!(%error, at = %at.display(), "the way in which a mounted layer is read stays as it was");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, name: &str, options: &str) -> Mounted {
        let text = format!("{id} 1 0:{id} / /m/{id} ro - erofs {name} {options}");
        mountinfo::parsed(&text).remove(0)
    }

    #[test]
    fn the_first_mount_of_each_whole_layer_is_seen_to_and_no_other() {
        const OPTIONS: &str = "ro,user_xattr,acl,cache_strategy=readaround";
        let (dir, mut seen) = (Path::new("/l"), Seen::default());
        let mut look = |list: &[Mounted], whole: &[&str]| -> Vec<u64> {
            let is_whole = |name: &Path| whole.contains(&name.to_str().unwrap());
            seen.first(list.to_vec(), dir, is_whole).iter().map(|mount| mount.id).collect()
        };
        let a = mount(1, "/l/a", OPTIONS);
        assert_eq!(look(std::slice::from_ref(&a), &[]), [], "it is not whole");
        assert_eq!(
            look(std::slice::from_ref(&a), &["/l/a"]),
            [],
            "it has another file below than its name leads to by now"
        );
        let later = mount(2, "/l/a", OPTIONS);
        assert_eq!(look(&[a.clone(), later.clone()], &["/l/a"]), [2]);
        assert_eq!(look(&[a, later, mount(3, "/l/a", OPTIONS)], &["/l/a"]), [], "the second");
        // The number belongs to another mount by now.
        let others = [mount(1, "/l/b", OPTIONS), mount(5, "/other/d", OPTIONS)];
        assert_eq!(look(&others, &["/l/b", "/other/d"]), [], "1 has the device it had");
        let mut e = mount(1, "/l/e", OPTIONS);
        e.device = (0, 99);
        assert_eq!(look(&[e], &["/l/e"]), [1]);
        let mut ext4 = mount(9, "/l/f", OPTIONS);
        ext4.kind = "ext4".to_owned();
        assert_eq!(look(&[ext4], &["/l/f"]), []);
    }

    #[test]
    fn a_mount_of_a_layer_that_became_whole_since_is_told_of_once_and_one_that_is_gone_is_not() {
        const OPTIONS: &str = "ro,user_xattr,acl,cache_strategy=readaround";
        let (dir, mut seen) = (Path::new("/l"), Seen::default());
        let (a, b) = (mount(1, "/l/a", OPTIONS), mount(2, "/l/b", OPTIONS));
        seen.first(vec![a.clone(), b], dir, |_| false);
        assert!(seen.whole(|_| false).is_empty());
        seen.first(vec![a.clone()], dir, |_| false);
        assert_eq!((seen.whole(|_| true), seen.whole(|_| true)), (vec![a.clone()], Vec::new()));
        seen.first(vec![a, mount(3, "/l/c", OPTIONS)], dir, |_| true);
        assert!(seen.whole(|_| true).is_empty(), "it was whole when it was mounted");
    }
}
