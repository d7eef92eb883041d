//! The files that this command has changed, so that `--undo` can restore them: each file's text before the first run and after later ones.
//!
//! The ledger is on the disk before the first of the files is changed. If a run is interrupted, each file is as it
//! was, or the ledger knows it.
//!
//! Format: one JSON object, version 1. A ledger of a later version is not touched.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::tree::{Access, Tree};

const VERSION: u32 = 1;
/// How many written texts of one file are kept: an interrupted run may have left the last but one.
const MAX_WRITTEN: usize = 4;

/// Everything that `--undo` restores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    version: u32,
    pub(crate) files: Vec<ChangedFile>,
    /// Directories that were created, outermost first.
    pub(crate) directories: Vec<PathBuf>,
}

/// A file that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangedFile {
    pub(crate) path: PathBuf,
    /// Its text before; `None` if it did not exist.
    pub(crate) before: Option<String>,
    /// Its modification time before, in seconds and nanoseconds.
    modified: Option<(u64, u32)>,
    /// Its mode and owner before; ledgers of older releases lack them.
    #[serde(default)]
    access: Option<Access>,
    /// The texts that this command wrote, the latest last.
    written: Vec<String>,
    /// True if it was changed by others between two runs.
    edited: bool,
}

/// What `--undo` does with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undo {
    /// Nothing: it is as before already.
    Nothing,
    /// Restore it: it is as this command left it.
    GiveBack,
    /// Leave it alone: others have changed it.
    Edited,
}

impl ChangedFile {
    /// Decides by the file's current text.
    pub(crate) fn undo(&self, now: Option<&str>) -> Undo {
        if now == self.before.as_deref() {
            return Undo::Nothing;
        }
        let is_ours = now.is_some_and(|now| self.written.iter().any(|written| written == now));
        if is_ours && !self.edited { Undo::GiveBack } else { Undo::Edited }
    }

    /// The access for restoring a file that was removed: restrictive, since the file may have had passwords.
    pub(crate) fn access(&self) -> Access {
        self.access.unwrap_or(Access::PRIVATE)
    }

    pub(crate) fn modified(&self) -> Option<SystemTime> {
        let (seconds, nanoseconds) = self.modified?;
        Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
    }
}

impl Ledger {
    /// Reads the ledger; if there is none, returns an empty one.
    pub(crate) fn read(tree: &Tree, path: &Path) -> anyhow::Result<Self> {
        let wrong = || format!("can't read {}, which says what was changed", path.display());
        let Some(text) = tree.read(path).with_context(wrong)? else { return Ok(Self::default()) };
        let ledger: Self = serde_json::from_str(&text).with_context(wrong)?;
        anyhow::ensure!(
            ledger.version == VERSION,
            "{} was written by a later release of darter: use that release",
            path.display()
        );
        Ok(ledger)
    }

    /// Notes that a file is about to be changed from `now` to `new`.
    pub(crate) fn note(
        &mut self,
        path: &Path,
        now: Option<&str>,
        (modified, access): (Option<SystemTime>, Option<Access>),
        new: &str,
    ) {
        let modified = modified.and_then(|modified| modified.duration_since(SystemTime::UNIX_EPOCH).ok());
        let modified = modified.map(|since| (since.as_secs(), since.subsec_nanos()));
        let place = self.files.iter().position(|entry| entry.path == path);
        let fresh = ChangedFile {
            path: path.to_owned(),
            before: now.map(str::to_owned),
            modified,
            access,
            written: vec![new.to_owned()],
            edited: false,
        };
        let Some(place) = place else { return self.files.push(fresh) };
        let entry = &mut self.files[place];
        match entry.undo(now) {
            Undo::Nothing => *entry = fresh,
            undo => {
                entry.edited |= undo == Undo::Edited;
                entry.written.retain(|written| written != new);
                entry.written.push(new.to_owned());
                let excess = entry.written.len().saturating_sub(MAX_WRITTEN);
                entry.written.drain(..excess);
            }
        }
    }

    /// Restores the earlier ledger's entry for a file, because it was not changed after all.
    pub(crate) fn forget(&mut self, path: &Path, earlier: &Self) {
        self.files.retain(|entry| entry.path != path);
        self.files.extend(earlier.files.iter().find(|entry| entry.path == path).cloned());
    }

    /// Notes that directories are about to be created.
    pub(crate) fn note_directories(&mut self, directories: impl IntoIterator<Item = PathBuf>) {
        for directory in directories {
            if !self.directories.contains(&directory) {
                self.directories.push(directory);
            }
        }
    }

    /// Writes the ledger, accessible to its owner only: hosts.toml may have passwords in headers.
    pub(crate) fn write(&mut self, tree: &Tree, path: &Path) -> io::Result<()> {
        self.version = VERSION;
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        let before = tree.read(path)?;
        tree.write(path, before.as_deref(), &(text + "\n"), Access::PRIVATE, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs that each change a file from the first text to the second one; returns what `--undo` then does.
    fn after(runs: &[(Option<&str>, &str)], now: Option<&str>) -> (Undo, Option<String>) {
        let mut ledger = Ledger::default();
        for (found, written) in runs {
            ledger.note(Path::new("/f"), *found, (None, None), written);
        }
        (ledger.files[0].undo(now), ledger.files[0].before.clone())
    }

    #[test]
    fn the_first_text_is_given_back_unless_somebody_has_changed_the_file() {
        let first = Some("0".to_owned());
        assert_eq!(after(&[(None, "1")], Some("1")), (Undo::GiveBack, None));
        assert_eq!(after(&[(Some("0"), "1"), (Some("1"), "2")], Some("2")), (Undo::GiveBack, first.clone()));
        assert_eq!(after(&[(Some("0"), "1"), (Some("1"), "2")], Some("1")), (Undo::GiveBack, first.clone()), "cut off");
        assert_eq!(after(&[(Some("0"), "1")], Some("0")), (Undo::Nothing, first.clone()));
        assert_eq!(after(&[(Some("0"), "1")], Some("x")), (Undo::Edited, first.clone()));
        assert_eq!(after(&[(Some("0"), "1")], None), (Undo::Edited, first.clone()), "somebody removed it");
        assert_eq!(after(&[(Some("0"), "1"), (Some("x"), "2")], Some("2")), (Undo::Edited, first), "in between");
        let again = after(&[(Some("0"), "1"), (Some("0"), "2")], Some("2"));
        assert_eq!(again, (Undo::GiveBack, Some("0".to_owned())), "undone by hand, then set up again");
    }

    #[test]
    fn a_ledger_of_an_older_release_gives_a_removed_file_back_to_its_owner_alone() {
        let old = r#"{"version": 1, "files": [{"path": "/f", "before": "x", "modified": null, "written": ["y"], "edited": false}],
                      "directories": []}"#;
        let ledger: Ledger = serde_json::from_str(old).unwrap();
        assert_eq!(ledger.files[0].access(), Access::PRIVATE);
    }

    #[test]
    fn a_file_that_was_not_changed_after_all_is_known_as_before() {
        let mut earlier = Ledger::default();
        earlier.note(Path::new("/f"), Some("0"), (None, None), "1");
        let mut ledger = earlier.clone();
        ledger.note(Path::new("/f"), Some("x"), (None, None), "2");
        ledger.note(Path::new("/g"), Some("x"), (None, None), "2");
        ["/f", "/g"].iter().for_each(|path| ledger.forget(Path::new(path), &earlier));
        assert_eq!(ledger, earlier);
    }
}
