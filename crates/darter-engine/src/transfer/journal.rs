//! The journal of one blob on this agent: who gave each piece, and notable events. `darter
//! explain` prints it.
//!
//! Kept in memory as long as the transfer exists, and as `DATA_DIR/explain/<blob>.json` when it ends or the agent drains, so that a later run can
//! still print it. If the file is lost, no data is lost:
//!
//! ```text
//! {"format":1,"blob":…}        format, and the fields of an [`Explanation`]
//! ```
//!
//! Older releases wrote no format; fields are added without another one. A file of another format, or of JSON that is no explanation,
//! is a newer release's: it is not overwritten, and goes only with a blob that a user removes. What is no JSON was cut short by a crash.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use darter_api::{ExplainedEvent, ExplainedRange, Explanation, Giver, Traffic, Wait};
use darter_core::{BlobId, Digest, Manifest, Moment, PieceIndex, PieceSet};
use darter_store::dir::Access;
use darter_store::{Dir, StoreError};
use serde::{Deserialize, Serialize};

/// Most events kept of one transfer; later ones are only counted.
const MAX_EVENTS: usize = 200;

const DIRECTORY: &str = "explain";

/// The format of the files that this release writes.
const FORMAT: u32 = 1;

/// The beginning of a file of this release, and of those before it. In others the format has to be looked for.
const HEADS: [&[u8]; 2] = [b"{\"format\":1,", b"{\"blob\":"];

/// Shorter waits are not reported.
const MIN_TOLD_WAIT: Duration = Duration::from_millis(100);

/// The record of one transfer.
#[derive(Debug)]
pub(crate) struct Journal {
    name: String,
    digest: Option<Digest>,
    began: Moment,
    began_unix: u64,
    complete: Option<Moment>,
    givers: Vec<Giver>,
    by_piece: HashMap<PieceIndex, u16>,
    traffic: Traffic,
    events: Vec<ExplainedEvent>,
    unsaid: usize,
    /// How long readers waited for each giver (by number), and for the check of the whole (`None`).
    waits: HashMap<Option<u16>, Duration>,
    /// Until when waiting was counted, so that readers that wait at the same time are counted once.
    waited_until: Moment,
    given: HashMap<u16, GiverShare>,
    max_lag: u64,
}

/// What one giver gave.
#[derive(Debug)]
struct GiverShare {
    bytes: u64,
    first: Moment,
    last: Moment,
}

impl Journal {
    /// A journal that begins now. `held` are the pieces that an earlier run left on the disk.
    pub(crate) fn new(name: String, digest: Option<Digest>, now: Moment, unix: u64, held: &PieceSet) -> Self {
        let mut journal = Self {
            name,
            digest,
            began: now,
            began_unix: unix,
            complete: None,
            givers: Vec::new(),
            by_piece: HashMap::new(),
            traffic: Traffic::default(),
            events: Vec::new(),
            unsaid: 0,
            waits: HashMap::new(),
            waited_until: now,
            given: HashMap::new(),
            max_lag: 0,
        };
        let disk = journal.giver(Giver::Disk);
        journal.by_piece.extend(held.iter().map(|piece| (piece, disk)));
        journal
    }

    /// A piece arrived and was verified.
    pub(crate) fn gave(&mut self, piece: PieceIndex, bytes: u64, from: Giver, now: Moment) {
        match from {
            Giver::Origin => self.traffic.from_origin += bytes,
            Giver::Seed { .. } => self.traffic.from_seed += bytes,
            Giver::Peer { .. } => self.traffic.from_peers += bytes,
            Giver::Disk => {}
        }
        let giver = self.giver(from);
        self.by_piece.insert(piece, giver);
        let given = self.given.entry(giver).or_insert(GiverShare { bytes: 0, first: now, last: now });
        given.bytes += bytes;
        given.last = now;
    }

    /// `bytes` later bytes have arrived while an earlier piece is missing.
    pub(crate) fn lagged(&mut self, bytes: u64) {
        self.max_lag = self.max_lag.max(bytes);
    }

    /// A reader waited for a piece since `since`, and has it now. The last piece also waits for the check of the whole.
    pub(crate) fn waited(&mut self, piece: PieceIndex, since: Moment, is_last: bool, now: Moment) {
        let since = since.max(self.waited_until);
        self.waited_until = now.max(since);
        let Some(giver) = self.by_piece.get(&piece).copied() else { return };
        let came = self.given.get(&giver).filter(|_| is_last).map_or(now, |given| given.last).min(now);
        *self.waits.entry(Some(giver)).or_default() += came.since(since);
        *self.waits.entry(None).or_default() += now.since(since.max(came));
    }

    fn told_waits(&self) -> Vec<Wait> {
        let told = |(giver, waited): (&Option<u16>, &Duration)| {
            let from = giver.map(|giver| self.givers[usize::from(giver)].clone());
            let given = giver.and_then(|giver| self.given.get(&giver));
            let rate = given.and_then(|given| {
                // From the request on: for a single piece there is no other time span.
                let began = if given.first == given.last { self.began } else { given.first };
                let span = given.last.since(began).as_secs_f64();
                (span > 0.0).then(|| (given.bytes as f64 / span) as u64)
            });
            Wait { from, seconds: waited.as_secs_f64(), rate }
        };
        let mut waits: Vec<_> = self.waits.iter().filter(|(_, waited)| **waited >= MIN_TOLD_WAIT).map(told).collect();
        waits.sort_by(|one, other| other.seconds.total_cmp(&one.seconds));
        waits
    }

    /// For how many pieces the giver is known.
    pub(crate) fn pieces(&self) -> u32 {
        u32::try_from(self.by_piece.len()).expect("a blob has fewer than 2^32 pieces")
    }

    /// Counts bytes sent to a peer.
    pub(crate) const fn sent(&mut self, bytes: u64) {
        self.traffic.to_peers += bytes;
    }

    /// Counts bytes passed to a program of this host.
    pub(crate) const fn served(&mut self, bytes: u64) {
        self.traffic.to_local += bytes;
    }

    /// Adds a notable event.
    pub(crate) fn note(&mut self, now: Moment, what: impl Into<String>) {
        if self.events.len() >= MAX_EVENTS {
            self.unsaid += 1;
            return;
        }
        self.events.push(ExplainedEvent { at: now.since(self.began).as_secs_f64(), what: what.into() });
    }

    /// The blob is complete, and has this digest, if known.
    pub(crate) fn completed(&mut self, now: Moment, digest: Option<Digest>) {
        self.digest = digest.or(self.digest);
        if self.complete.is_none() {
            self.complete = Some(now);
        }
    }

    /// Seconds from the request until now, or until the blob was complete.
    pub(crate) fn elapsed(&self, now: Moment) -> f64 {
        self.complete.unwrap_or(now).since(self.began).as_secs_f64()
    }

    /// True if the transfer had begun before `when`.
    pub(crate) fn began_by(&self, when: Moment) -> bool {
        self.began < when
    }

    /// The bytes so far, by their source.
    pub(crate) const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// True if bytes arrived during this run; otherwise an earlier run's record says more.
    pub(crate) const fn has_history(&self) -> bool {
        self.traffic.from_origin + self.traffic.from_seed + self.traffic.from_peers > 0 || self.complete.is_none()
    }

    /// The name under which the blob was requested.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The whole record.
    pub(crate) fn explain(&self, blob: BlobId, manifest: &Manifest) -> Explanation {
        let mut pieces: Vec<_> = self.by_piece.iter().map(|(&piece, &giver)| (piece, giver)).collect();
        pieces.sort_unstable_by_key(|(piece, _)| *piece);
        let mut ranges: Vec<ExplainedRange> = Vec::new();
        for (piece, giver) in pieces {
            let Some(bytes) = manifest.piece_range(piece) else { continue };
            let from = &self.givers[usize::from(giver)];
            match ranges.last_mut() {
                Some(last) if last.end == bytes.start() && last.from == *from => last.end = bytes.end(),
                _ => ranges.push(ExplainedRange { start: bytes.start(), end: bytes.end(), from: from.clone() }),
            }
        }
        let mut events = self.events.clone();
        if self.unsaid > 0 {
            let at = events.last().map_or(0.0, |event| event.at);
            events.push(ExplainedEvent { at, what: format!("and {} more events", self.unsaid) });
        }
        Explanation {
            blob,
            name: self.name.clone(),
            digest: self.digest,
            root: manifest.root().map(|root| root.to_string()),
            length: manifest.length(),
            started: self.began_unix,
            seconds: self.complete.map(|end| end.since(self.began).as_secs_f64()),
            traffic: self.traffic,
            ranges,
            events,
            waits: self.told_waits(),
            max_lag_bytes: self.max_lag,
            waiting: None,
            failed: None,
        }
    }

    fn giver(&mut self, giver: Giver) -> u16 {
        if let Some(at) = self.givers.iter().position(|known| *known == giver) {
            return at as u16;
        }
        // With more than 65,535 givers, the others are added to the last one; the number of bytes stays right.
        if self.givers.len() < usize::from(u16::MAX) {
            self.givers.push(giver);
        }
        (self.givers.len() - 1) as u16
    }
}

/// A file of the archive.
#[derive(Serialize)]
struct Kept<'a> {
    format: u32,
    #[serde(flatten)]
    explanation: &'a Explanation,
}

/// The format of a file; without one, the first.
#[derive(Deserialize)]
struct Form {
    #[serde(default = "first_format")]
    format: u32,
}

const fn first_format() -> u32 {
    FORMAT
}

/// The explanations of ended transfers, on the disk.
#[derive(Clone, Debug)]
pub struct Archive(Dir);

impl Archive {
    /// Opens the archive of a data directory. Blocking.
    ///
    /// # Errors
    /// The directory can't be opened or created.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let dir = Dir::open(data_dir)?;
        let explain = dir.sub_or_anew(DIRECTORY);
        explain.map(Self).map_err(|source| StoreError::Io { action: "open", path: dir.path_of(DIRECTORY), source })
    }

    /// Writes an explanation, and replaces an earlier one as a whole, unless a newer version wrote that. Blocking.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn keep(&self, explanation: &Explanation) -> io::Result<()> {
        let (name, fresh) = (name_of(explanation.blob), fresh_name_of(explanation.blob));
        if self.is_newer(&name) {
            return Ok(());
        }
        self.0.replace(&name, &fresh, &[&serde_json::to_vec(&Kept { format: FORMAT, explanation })?], false)
    }

    /// The explanation of a blob, if there is a readable one.
    pub fn recall(&self, blob: BlobId) -> Option<Explanation> {
        let text = self.0.read(&name_of(blob)).ok()?;
        let form: Form = serde_json::from_slice(&text).ok()?;
        serde_json::from_slice(&text).ok().filter(|_| form.format == FORMAT)
    }

    /// True if a newer version wrote this file.
    fn is_newer(&self, name: &str) -> bool {
        self.head_of(name).is_ok_and(|head| !HEADS.iter().any(|known| head.starts_with(known)))
            && self.0.read(name).is_ok_and(|text| may_be_newer(&text))
    }

    fn head_of(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.0.open_file(name, Access::Read)?.take(HEADS[0].len() as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Removes all explanations except those of `blobs`: an evicted blob needs none. Those that a newer version wrote stay, and their number is
    /// returned. Blocking. A file with any other kind of name may be a newer version's, and stays.
    ///
    /// # Errors
    /// The directory can't be read. A file that can't be removed is logged and stays.
    pub fn keep_only(&self, blobs: &HashSet<BlobId>) -> io::Result<usize> {
        let mut newer = Vec::new();
        for name in self.0.names()? {
            let Some(blob) = name.split_once('.').and_then(|(stem, _)| stem.parse().ok()) else { continue };
            let is_whole = name == name_of(blob);
            if !is_whole && name != fresh_name_of(blob) {
                continue;
            }
            if is_whole && self.is_newer(&name) {
                newer.push(name);
                continue;
            }
            let known = is_whole && blobs.contains(&blob);
            // The check also closes files that an older release left readable for others.
            if (!known || !self.0.look(&name).is_ok_and(|look| look.is_some()))
                && let Err(error) = self.0.remove(&name)
            {
                tracing::warn!(path = %self.0.path_of(&name).display(), %error, "an old explanation can't be removed");
            }
        }
        if let Some(example) = newer.first().map(|name| self.0.path_of(name)) {
            tracing::warn!(explanations = newer.len(), example = %example.display(), "explanations that a newer version wrote are left alone: until it runs, no explanations of these blobs are kept");
        }
        Ok(newer.len())
    }

    /// Removes the explanations of blobs that are gone, while others may be written: `blobs` is called for the existing blobs after the explanations were listed.
    /// Blocking.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn forget_gone(&self, blobs: impl FnOnce() -> HashSet<BlobId>) -> io::Result<()> {
        let names = self.0.names()?;
        let kept: Vec<BlobId> = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect();
        if !kept.is_empty() {
            let blobs = blobs();
            let gone = kept.into_iter().filter(|blob| !blobs.contains(blob));
            gone.filter(|blob| !self.is_newer(&name_of(*blob))).for_each(|blob| self.forget(blob));
        }
        Ok(())
    }

    /// Removes a blob's explanation.
    pub fn forget(&self, blob: BlobId) {
        // It is no error if there is none.
        let _ = self.0.remove(name_of(blob));
    }
}

/// True if a newer version may have written this: it has another format, or is JSON and no explanation.
fn may_be_newer(text: &[u8]) -> bool {
    match serde_json::from_slice::<Form>(text) {
        Ok(form) => form.format != FORMAT || serde_json::from_slice::<Explanation>(text).is_err(),
        Err(_) => serde_json::from_slice::<serde_json::Value>(text).is_ok(),
    }
}

/// The name of a file that is still being written.
fn fresh_name_of(blob: BlobId) -> String {
    format!("{blob}.new")
}

fn name_of(blob: BlobId) -> String {
    format!("{blob}.json")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use darter_core::{NodeId, PieceHash, PieceLength};

    use super::*;

    #[test]
    fn neighbouring_pieces_of_one_giver_are_one_range() {
        let length = PieceLength::from_log2(14).unwrap();
        let mut manifest = Manifest::new(length, Some(60_000));
        manifest.extend(0, &[PieceHash([0; 32]); 4]).unwrap();
        let start = Moment::from_micros(5);
        let mut journal = Journal::new("x".into(), None, start, 7, &[PieceIndex(3)].into_iter().collect());
        let peer = Giver::Peer { node: NodeId([1; 16]), addr: "10.0.0.1:7400".into() };
        journal.gave(PieceIndex(1), 16_384, peer.clone(), start);
        journal.gave(PieceIndex(0), 16_384, peer.clone(), start);
        journal.gave(PieceIndex(2), 16_384, Giver::Origin, start);
        journal.lagged(16_384);
        journal.lagged(0);
        journal.completed(start + Duration::from_secs(2), None);
        let told = journal.explain(BlobId([0; 32]), &manifest);
        assert_eq!(
            told.ranges,
            [
                ExplainedRange { start: 0, end: 32_768, from: peer },
                ExplainedRange { start: 32_768, end: 49_152, from: Giver::Origin },
                ExplainedRange { start: 49_152, end: 60_000, from: Giver::Disk },
            ]
        );
        assert_eq!((told.traffic.from_peers, told.traffic.from_origin), (32_768, 16_384));
        assert_eq!((told.seconds, told.max_lag_bytes), (Some(2.0), 16_384));
    }

    #[test]
    fn waiting_is_told_by_who_was_waited_for_and_counted_once() {
        let at = |seconds| Moment::ZERO + Duration::from_secs(seconds);
        let mut journal = Journal::new("x".into(), None, at(0), 7, &PieceSet::new());
        let seed = Giver::Seed { node: NodeId([1; 16]), addr: "10.0.0.2:7400".into() };
        journal.gave(PieceIndex(0), 10_000_000, seed.clone(), at(10));
        journal.waited(PieceIndex(0), at(0), false, at(10));
        journal.gave(PieceIndex(1), 25_000_000, seed.clone(), at(20));
        // Two readers at the same time.
        journal.waited(PieceIndex(1), at(10), false, at(20));
        journal.waited(PieceIndex(1), at(12), false, at(20));
        journal.gave(PieceIndex(2), 0, seed.clone(), at(20));
        journal.waited(PieceIndex(2), at(20), true, at(21));
        let told = journal.explain(BlobId([0; 32]), &Manifest::new(PieceLength::UNKNOWN_BLOB, None)).waits;
        let seed = Wait { from: Some(seed), seconds: 20.0, rate: Some(3_500_000) };
        assert_eq!(told, [seed, Wait { from: None, seconds: 1.0, rate: None }]);
    }

    /// An agent that runs for months handles a million blobs.
    #[test]
    fn an_explanation_goes_with_its_blob_and_one_that_comes_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        let manifest = Manifest::new(PieceLength::UNKNOWN_BLOB, None);
        let keep = |name: u8| {
            let journal = Journal::new("y".into(), None, Moment::ZERO, 7, &PieceSet::new());
            archive.keep(&journal.explain(BlobId([name; 32]), &manifest)).unwrap();
        };
        let foreign = dir.path().join(DIRECTORY).join("of a newer one");
        std::fs::write(&foreign, b"x").unwrap();
        (1..=3).for_each(keep);
        let there = || {
            keep(4);
            HashSet::from([BlobId([2; 32])])
        };
        archive.forget_gone(there).unwrap();
        let kept: Vec<u8> = (1..=4).filter(|name| archive.recall(BlobId([*name; 32])).is_some()).collect();
        assert!(kept == [2, 4] && foreign.exists(), "{kept:?}");
    }

    #[test]
    fn what_a_newer_release_explained_is_not_overwritten_and_the_last_ones_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        let blob = BlobId([9; 32]);
        let at = dir.path().join(DIRECTORY).join(name_of(blob));
        let journal = Journal::new("y".into(), None, Moment::ZERO, 7, &PieceSet::new());
        let told = journal.explain(blob, &Manifest::new(PieceLength::UNKNOWN_BLOB, None));
        let without_format = serde_json::to_string(&told).unwrap();
        let newer = [
            "{\"later\":true}".to_owned(),
            format!("{{\"format\":2,{}", &without_format[1..]),
            format!("{{\"format\":\"other\",{}", &without_format[1..]),
            "[1]".to_owned(),
        ];
        for text in newer {
            std::fs::write(&at, &text).unwrap();
            assert_eq!(archive.keep_only(&HashSet::new()).unwrap(), 1, "{text}");
            archive.forget_gone(HashSet::new).unwrap();
            archive.keep(&told).unwrap();
            assert_eq!(std::fs::read_to_string(&at).unwrap(), text, "not touched");
            assert!(archive.recall(blob).is_none());
        }
        std::fs::write(&at, &without_format).unwrap();
        assert_eq!(archive.recall(blob).unwrap().name, "y", "the last release's");
        for damaged in ["", "{\"format\":1,\"blo", &without_format[..without_format.len() / 2]] {
            std::fs::write(&at, damaged).unwrap();
            assert_eq!(archive.keep_only(&HashSet::from([blob])).unwrap(), 0);
            archive.keep(&told).unwrap();
            assert_eq!(archive.recall(blob).unwrap().name, "y");
            let kept = std::fs::read(&at).unwrap();
            assert!(kept.starts_with(HEADS[0]));
            serde_json::from_slice::<Explanation>(&kept).expect("the last release reads it");
        }
        assert!(without_format.as_bytes().starts_with(HEADS[1]));
    }

    #[test]
    fn an_explanation_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(dir.path()).unwrap();
        let blob = BlobId([9; 32]);
        assert!(archive.recall(blob).is_none());
        let journal = Journal::new("y".into(), None, Moment::ZERO, 7, &PieceSet::new());
        let manifest = Manifest::new(PieceLength::UNKNOWN_BLOB, None);
        archive.keep(&journal.explain(blob, &manifest)).unwrap();
        assert_eq!(archive.recall(blob).unwrap().name, "y");
        archive.keep_only(&HashSet::from([blob])).unwrap();
        assert!(archive.recall(blob).is_some());
        archive.keep_only(&HashSet::new()).unwrap();
        assert!(archive.recall(blob).is_none());
        archive.forget(blob);
    }
}
