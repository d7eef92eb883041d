//! The names of directories, and the mounts that containerd is told to make. No I/O.
//!
//! | below the root | contents |
//! |---|---|
//! | `snapshots/N/fs`, `snapshots/N/work` | the files of the snapshot with this number, unpacked or written, and overlayfs' work directory |
//! | `layers/N` | a layer, mounted |
//! | `snapshots.redb` | the list of snapshots and mounts ([`book`](crate::book)) |
//!
//! Names are short, since all of an overlay's options have to fit into a page.

use std::path::{Path, PathBuf};

use crate::tree::SnapshotKind;

/// One mount, which containerd makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) kind: &'static str,
    pub(crate) source: String,
    pub(crate) options: Vec<String>,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// True if overlayfs should be told to run without an index.
    pub(crate) no_index: bool,
}

impl Layout {
    pub(crate) const fn new(root: PathBuf, no_index: bool) -> Self {
        Self { root, no_index }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn book(&self) -> PathBuf {
        self.root.join("snapshots.redb")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn snapshot(&self, number: u64) -> PathBuf {
        self.snapshots().join(number.to_string())
    }

    pub(crate) fn upper(&self, number: u64) -> PathBuf {
        self.snapshot(number).join("fs")
    }

    pub(crate) fn work(&self, number: u64) -> PathBuf {
        self.snapshot(number).join("work")
    }

    pub(crate) fn layer(&self, number: u64) -> PathBuf {
        self.layers().join(number.to_string())
    }

    /// The mounts for the active snapshot or view `number` over the directories `below`, the uppermost first.
    pub(crate) fn mounts(&self, kind: SnapshotKind, number: u64, below: &[PathBuf]) -> Vec<Mount> {
        let bind = |source: &Path, mode: &str| {
            let options = vec![mode.to_owned(), "rbind".to_owned()];
            vec![Mount { kind: "bind", source: source.display().to_string(), options }]
        };
        match (kind, below) {
            (SnapshotKind::View, []) => return bind(&self.upper(number), "ro"),
            (_, []) => return bind(&self.upper(number), "rw"),
            // Overlayfs needs at least two directories, or one to write into.
            (SnapshotKind::View, [only]) => return bind(only, "ro"),
            _ => {}
        }
        let mut options = Vec::new();
        if kind == SnapshotKind::Active {
            options.push(format!("workdir={}", self.work(number).display()));
            options.push(format!("upperdir={}", self.upper(number).display()));
        }
        let lower: Vec<_> = below.iter().map(|dir| dir.display().to_string()).collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        if self.no_index {
            options.push("index=off".to_owned());
        }
        vec![Mount { kind: "overlay", source: "overlay".to_owned(), options }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(kind: SnapshotKind, below: &[&str]) -> String {
        let below: Vec<_> = below.iter().map(PathBuf::from).collect();
        let layout = Layout::new("/r".into(), true);
        let [mount] = &layout.mounts(kind, 3, &below)[..] else { panic!("one mount") };
        format!("{} {} {}", mount.kind, mount.source, mount.options.join(" "))
    }

    #[test]
    fn what_is_written_into_lies_on_top_of_all_others() {
        assert_eq!(mounts(SnapshotKind::Active, &[]), "bind /r/snapshots/3/fs rw rbind");
        assert_eq!(
            mounts(SnapshotKind::Active, &["/r/layers/2", "/r/snapshots/1/fs"]),
            "overlay overlay workdir=/r/snapshots/3/work upperdir=/r/snapshots/3/fs lowerdir=/r/layers/2:/r/snapshots/1/fs index=off"
        );
    }

    #[test]
    fn views_can_not_be_written_into() {
        assert_eq!(mounts(SnapshotKind::View, &[]), "bind /r/snapshots/3/fs ro rbind");
        assert_eq!(mounts(SnapshotKind::View, &["/r/layers/2"]), "bind /r/layers/2 ro rbind");
        assert_eq!(mounts(SnapshotKind::View, &["/b", "/a"]), "overlay overlay lowerdir=/b:/a index=off");
    }
}
