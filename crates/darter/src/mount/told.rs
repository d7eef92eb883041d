//! The status of a mount, for `darter mount --list` and `darter status`. Pure.

use std::path::{Path, PathBuf};

use darter_api::{MountKind, MountState, MountStatus};
use darter_core::{BlobId, Digest};
use darter_mount::Condition;
use darter_mount::file::Glance;

use crate::cli::MountArgs;

/// The part of a mount's status that does not change while it is mounted.
pub(super) struct About<'a> {
    pub(super) dir: &'a Path,
    /// The file's name, if a single file is mounted.
    pub(super) file: String,
    pub(super) url: String,
    pub(super) image: Option<Digest>,
    pub(super) kind: MountKind,
    pub(super) files: Option<u64>,
    pub(super) blob: BlobId,
    pub(super) length: u64,
    pub(super) since: u64,
    /// The socket of the daemon that supplies the bytes.
    pub(super) daemon: Option<PathBuf>,
}

/// A mount's status.
pub(super) fn status(args: &MountArgs, about: About<'_>, now: Glance) -> MountStatus {
    let (state, reason) = told_of(now.condition);
    MountStatus {
        dir: about.dir.to_owned(),
        file: about.file,
        url: about.url,
        image: about.image,
        kind: about.kind,
        files: about.files,
        blob: about.blob,
        length_bytes: about.length,
        held_bytes: now.held,
        whole: now.whole,
        alone: now.alone && now.whole,
        state,
        reason,
        waiting_reads: now.waiting as u64,
        fill: args.fill.to_string(),
        timeout_seconds: args.timeout.as_secs_f64(),
        since_unix_seconds: about.since,
        pid: std::process::id(),
        daemon: about.daemon,
    }
}

/// A condition as it is shown.
pub(super) fn told_of(condition: Condition) -> (MountState, Option<String>) {
    match condition {
        Condition::Open => (MountState::Open, None),
        Condition::Waiting(reason) => (MountState::Waiting, Some(reason)),
        Condition::Changed(reason) => (MountState::Changed, Some(reason)),
        Condition::Tainted(reason) => (MountState::Tainted, Some(reason)),
    }
}

/// The status of several files that are mounted together.
pub(super) fn together(glances: impl IntoIterator<Item = Glance>) -> Glance {
    let all = Glance { condition: Condition::Open, held: 0, whole: true, alone: true, waiting: 0 };
    glances.into_iter().fold(all, |all, one| Glance {
        // A tainted file takes precedence over one that waits.
        condition: match (all.condition, one.condition) {
            (tainted @ Condition::Tainted(_), _) => tainted,
            (condition, Condition::Open) => condition,
            (_, condition) => condition,
        },
        held: all.held + one.held,
        whole: all.whole && one.whole,
        alone: all.alone && one.alone,
        waiting: all.waiting + one.waiting,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_files_the_worst_says_how_they_are() {
        let glance = |condition| Glance { condition, held: 5, whole: true, alone: false, waiting: 1 };
        let waiting = || glance(Condition::Waiting("for a daemon".to_owned()));
        let tainted = || glance(Condition::Tainted("wrong".to_owned()));
        let all = together([waiting(), tainted(), waiting(), glance(Condition::Open)]);
        assert_eq!(all, Glance { held: 20, waiting: 4, ..tainted() });
        assert_eq!(together([glance(Condition::Open), waiting()]).condition, waiting().condition);
        assert_eq!(together([]), Glance { condition: Condition::Open, held: 0, whole: true, alone: true, waiting: 0 });
    }
}
