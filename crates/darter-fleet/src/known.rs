//! The nodes that this agent knows: those to which it was connected, and those that others told it of. If no seed is left, it
//! finds its fleet through them.
//!
//! Nodes that were connected are remembered on disk, in `DATA_DIR/peers`, so that a node that restarts while its seed is
//! down still finds the others:
//!
//! ```text
//! {"format": 1, "peers": [{"node": "32 hexadecimal digits", "addr": "HOST:PORT", "met": unix seconds}, …]}
//! ```
//!
//! A file of another format, or one that can't be read, is set aside as `peers.unread`, never deleted. If that fails, it is left alone, and no
//! nodes are remembered.
//!
//! Invariants: the table and the file are bounded. A node that others told of never replaces one that was
//! connected. A node that does not answer is tried again after growing pauses, and forgotten after some tries, or after a day if it was connected.
//!
//! [`KnownNodes`] decides without I/O; [`load`] and [`save`] read and write the file.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use darter_core::{Moment, NodeId, Place, in_full, rendezvous};
use darter_store::Dir;
use darter_store::dir::Access;
use darter_wire::PeerInfo;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Most nodes that are known.
const MAX_KNOWN: usize = 1024;

/// Most nodes that are remembered across restarts: those that were connected last.
const MAX_REMEMBERED: usize = 256;

/// The maximum size of a file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// A node that others told of is forgotten after this many tries without an answer.
const MAX_FAILURES: u32 = 3;

/// A node that was connected is forgotten when it has not answered for this long: a network that was cut in two for
/// some hours must reconnect, though no agent is left that sees both parts. The time does not count from the last connection, since hosts that start
/// together after a power failure all get no answers at first.
const KEEP_FOR: Duration = Duration::from_secs(24 * 3600);

/// For how many seconds others are told of a node that has left, since it may come back.
const TELL_FOR: u64 = 3600;

/// The pause after the first try without an answer; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(600);

const FILE: &str = "peers";
const NEW_FILE: &str = "peers.new";
const FORMAT: u32 = 1;

/// One known node.
#[derive(Clone, Debug)]
struct Acquaintance {
    info: PeerInfo,
    /// When it was last connected, in Unix seconds; zero if others told of it.
    met: u64,
    /// How many tries got no answer since then.
    failures: u32,
    /// When the first of these tries was made.
    silent_since: Option<Moment>,
    retry_at: Moment,
}

impl Acquaintance {
    const fn new(info: PeerInfo, met: u64) -> Self {
        Self { info, met, failures: 0, silent_since: None, retry_at: Moment::ZERO }
    }
}

/// All known nodes.
#[derive(Debug, Default)]
pub(super) struct KnownNodes {
    nodes: HashMap<NodeId, Acquaintance>,
    /// True if a node was connected that is not in the file.
    unsaved: bool,
    /// True if the last attempt to write the file failed.
    is_refused: bool,
    /// True if the file can't be read, and could not be set aside.
    is_left_alone: bool,
}

impl KnownNodes {
    /// A node is connected. `unix_now` is the current time in Unix seconds.
    pub(super) fn met(&mut self, info: PeerInfo, unix_now: u64) {
        if info.addr.is_empty() {
            return;
        }
        let is_news = self.nodes.get(&info.node).is_none_or(|known| known.met == 0 || known.info.addr != info.addr);
        self.unsaved |= is_news;
        let node = info.node;
        self.nodes.insert(node, Acquaintance::new(info, unix_now));
        self.shrink(Some(node));
    }

    /// Another agent told of a node. For a node that was connected, the address known here counts.
    pub(super) fn heard(&mut self, info: PeerInfo) {
        if info.addr.is_empty() {
            return;
        }
        match self.nodes.get_mut(&info.node) {
            Some(known) if known.met > 0 && known.failures == 0 => {}
            // The node may have moved: the agent that tells of it was connected with it.
            Some(known) if known.info.addr != info.addr => {
                let met = known.met;
                *known = Acquaintance::new(info, met);
            }
            Some(_) => {}
            None => {
                let node = info.node;
                self.nodes.insert(node, Acquaintance::new(info, 0));
                self.shrink(Some(node));
            }
        }
    }

    /// A node did not answer at its known address.
    pub(super) fn failed(&mut self, node: NodeId, now: Moment) {
        let Some(known) = self.nodes.get_mut(&node) else { return };
        known.failures += 1;
        let silent_since = *known.silent_since.get_or_insert(now);
        let is_given_up = match known.met {
            0 => known.failures >= MAX_FAILURES,
            _ => now.since(silent_since) > KEEP_FOR,
        };
        if is_given_up {
            self.forget(node);
            return;
        }
        known.retry_at = now + (FIRST_PAUSE * 2_u32.saturating_pow(known.failures - 1)).min(MAX_PAUSE);
    }

    /// Another agent answers at the address of this node.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.unsaved |= self.nodes.remove(&node).is_some_and(|known| known.met > 0);
    }

    /// Nodes that may be tried now, in the order of rendezvous hashing for `key`.
    pub(super) fn ranked(&self, key: &[u8], now: Moment) -> Vec<PeerInfo> {
        let able = self.nodes.values().filter(|known| known.retry_at <= now).map(|known| &known.info.node);
        let ranked = rendezvous::ranking(key, able);
        ranked.iter().filter_map(|node| self.nodes.get(node)).map(|known| known.info.clone()).collect()
    }

    /// Nodes of which others should be told, ranked like [`ranked`](Self::ranked): those that are connected, or left a short
    /// time ago.
    pub(super) fn tellable(
        &self,
        key: &[u8],
        most: usize,
        is_connected: impl Fn(NodeId) -> bool,
        unix_now: u64,
    ) -> Vec<PeerInfo> {
        let was_met = |known: &&Acquaintance| {
            known.met > 0 && known.failures == 0 && unix_now.saturating_sub(known.met) <= TELL_FOR
        };
        let able = self.nodes.values().filter(|known| is_connected(known.info.node) || was_met(known));
        let ranked = rendezvous::ranking(key, able.map(|known| &known.info.node));
        let infos = ranked.iter().filter_map(|node| self.nodes.get(node)).map(|known| known.info.clone());
        infos.take(most).collect()
    }

    /// The contents of the file, if they have changed since the last call.
    fn take_unsaved(&mut self) -> Option<Remembered> {
        if self.is_left_alone || !std::mem::take(&mut self.unsaved) {
            return None;
        }
        let row = |known: &Acquaintance| Row { node: known.info.node, addr: known.info.addr.clone(), met: known.met };
        let mut peers: Vec<_> = self.nodes.values().filter(|known| known.met > 0).map(row).collect();
        peers.sort_unstable_by(|a, b| b.met.cmp(&a.met).then(a.node.cmp(&b.node)));
        peers.truncate(MAX_REMEMBERED);
        Some(Remembered { format: FORMAT, peers })
    }

    fn recall(&mut self, remembered: Remembered) {
        for Row { node, addr, met } in remembered.peers.into_iter().take(MAX_REMEMBERED) {
            let info = PeerInfo { node, addr, place: Place::default() };
            let known = Acquaintance::new(info, met.max(1));
            self.nodes.entry(node).or_insert(known);
        }
    }

    /// Keeps the table within its bound: nodes that others told of are removed first, then those that were connected longest ago.
    fn shrink(&mut self, newest: Option<NodeId>) {
        if self.nodes.len() <= MAX_KNOWN {
            return;
        }
        let least = self.nodes.iter().filter(|(node, _)| Some(**node) != newest).min_by_key(|(node, known)| {
            let tried = u32::MAX - known.failures;
            (known.met, tried, **node)
        });
        if let Some(node) = least.map(|(node, _)| *node) {
            self.nodes.remove(&node);
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    format: u32,
    peers: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    node: NodeId,
    addr: String,
    met: u64,
}

/// Reads the file. A file that can't be read is set aside; returns true if it was.
pub(super) fn load(known: &Mutex<KnownNodes>, data_dir: &Path) -> bool {
    let loaded = Dir::open(data_dir).map_err(io::Error::other).and_then(|dir| {
        match read(&dir) {
            Ok(remembered) => known.lock().recall(remembered),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                let kept = dir.set_aside(FILE, "unread").inspect_err(|_| known.lock().is_left_alone = true)?;
                tracing::warn!(error = %in_full(&error), kept, "the list of known nodes can't be read; starting an empty one");
                return Ok(true);
            }
        }
        Ok(false)
    });
    loaded.unwrap_or_else(|error| {
        tracing::warn!(error = %in_full(&error), "the list of known nodes can't be used");
        true
    })
}

fn read(dir: &Dir) -> io::Result<Remembered> {
    let mut text = Vec::new();
    dir.open_file(FILE, Access::Read)?.take(MAX_FILE).read_to_end(&mut text)?;
    let remembered: Remembered = serde_json::from_slice(&text)?;
    if remembered.format != FORMAT {
        let what = format!("format {} is not known to this release", remembered.format);
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(remembered)
}

/// Writes the file, if there is anything new. It is replaced as a whole; if that fails, the next call tries again.
pub(super) fn save(known: &Mutex<KnownNodes>, data_dir: &Path) {
    let Some(remembered) = known.lock().take_unsaved() else { return };
    let text = serde_json::to_vec(&remembered).expect("a list of nodes is plain data");
    let written = Dir::open(data_dir).map_err(io::Error::other);
    let written = written.and_then(|dir| dir.replace(FILE, NEW_FILE, &[&text], false));
    let mut known = known.lock();
    let was_refused = std::mem::replace(&mut known.is_refused, written.is_err());
    known.unsaved |= written.is_err();
    if let Err(error) = written
        && !was_refused
    {
        tracing::warn!(error = %in_full(&error), "the list of known nodes can't be written; trying again until it is");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn info(node: u16) -> PeerInfo {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&node.to_le_bytes());
        PeerInfo { node: NodeId(id), addr: format!("10.0.{}.{}:7400", node / 256, node % 256), place: Place::default() }
    }

    /// The nodes of which others are told when nobody is connected.
    fn told(known: &KnownNodes, unix_now: u64) -> Vec<PeerInfo> {
        known.tellable(b"key", 9, |_| false, unix_now)
    }

    #[test]
    fn others_are_told_of_nodes_that_are_there() {
        let mut known = KnownNodes::default();
        known.met(info(1), 100);
        assert_eq!(told(&known, 100 + TELL_FOR).len(), 1);
        assert!(told(&known, 101 + TELL_FOR).is_empty(), "one that left long ago");
        let still_there = known.tellable(b"key", 9, |node| node == info(1).node, 101 + TELL_FOR);
        assert_eq!(still_there.len(), 1);
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn nodes_that_were_met_are_remembered_across_restarts_and_hearsay_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let known = Mutex::new(KnownNodes::default());
        known.lock().met(info(1), 100);
        known.lock().heard(info(2));
        save(&known, dir.path());
        let again = Mutex::new(KnownNodes::default());
        load(&again, dir.path());
        let ranked = again.lock().ranked(b"key", at(0));
        assert_eq!(ranked.iter().map(|it| it.node).collect::<Vec<_>>(), [info(1).node]);
        assert!(again.lock().take_unsaved().is_none(), "nothing new");
    }

    #[test]
    fn what_a_disk_refused_is_written_once_it_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, "no directory").unwrap();
        let known = Mutex::new(KnownNodes::default());
        known.lock().met(info(1), 100);
        (0..2).for_each(|_| save(&known, &path));
        fs::remove_file(&path).unwrap();
        save(&known, &path);
        assert!(path.join(FILE).exists() && known.lock().take_unsaved().is_none());
    }

    #[test]
    fn a_node_that_was_met_days_before_a_restart_is_asked_for_a_day_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let known = Mutex::new(KnownNodes::default());
        known.lock().met(info(1), 100);
        save(&known, dir.path());
        let again = Mutex::new(KnownNodes::default());
        load(&again, dir.path());
        let mut again = again.lock();
        for hour in 0..24 {
            again.failed(info(1).node, at(hour * 3600));
            assert_eq!(again.ranked(b"key", at(hour * 3600) + MAX_PAUSE).len(), 1, "its network may be late");
        }
        again.met(info(1), 300_000);
        again.failed(info(1).node, at(90_000));
        assert_eq!(again.ranked(b"key", at(90_000) + MAX_PAUSE).len(), 1, "it was there meanwhile");
        again.failed(info(1).node, at(90_001) + KEEP_FOR);
        assert!(again.ranked(b"key", at(90_001) + KEEP_FOR + MAX_PAUSE).is_empty());
    }

    #[test]
    fn what_a_newer_release_wrote_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let texts = [r#"{"format":2,"peers":[]}"#, "no JSON at all"];
        for text in texts {
            fs::write(at(FILE), text).unwrap();
            assert!(load(&Mutex::new(KnownNodes::default()), dir.path()));
            assert!(!at(FILE).exists());
        }
        assert_eq!(["peers.unread", "peers.unread-2"].map(|name| fs::read_to_string(at(name)).unwrap()), texts);
    }

    #[test]
    fn a_list_that_cannot_be_set_aside_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let newer = r#"{"format":2,"peers":[]}"#;
        fs::write(dir.path().join(FILE), newer).unwrap();
        fs::write(dir.path().join("peers.unread"), "x").unwrap();
        (2..=100).for_each(|number| fs::write(dir.path().join(format!("peers.unread-{number}")), "x").unwrap());
        let known = Mutex::new(KnownNodes::default());
        assert!(load(&known, dir.path()));
        known.lock().met(info(1), 100);
        save(&known, dir.path());
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), newer);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_those_that_were_met() {
        let mut known = KnownNodes::default();
        known.met(info(0), 1);
        for node in 1..=2 * MAX_KNOWN as u16 {
            known.heard(info(node));
        }
        assert_eq!(known.nodes.len(), MAX_KNOWN);
        assert_eq!(told(&known, 2).len(), 1, "the one that was met is still known, and hearsay is not passed on");
        for node in 1..=2 * MAX_KNOWN as u16 {
            known.met(info(node), u64::from(node) + 1);
        }
        assert_eq!(known.nodes.len(), MAX_KNOWN);
        assert_eq!(known.take_unsaved().unwrap().peers.len(), MAX_REMEMBERED);
    }

    #[test]
    fn a_node_that_does_not_answer_is_asked_less_and_less_and_then_forgotten() {
        let mut known = KnownNodes::default();
        known.met(info(1), 1);
        known.heard(info(2));
        for node in [1, 2] {
            known.failed(info(node).node, at(10));
        }
        assert!(known.ranked(b"key", at(10)).is_empty() && told(&known, 2).is_empty());
        assert_eq!(known.ranked(b"key", at(11)).len(), 2);
        known.failed(info(1).node, at(11));
        assert_eq!(known.ranked(b"key", at(12)).len(), 1, "the pause grows");
        known.heard(PeerInfo { addr: "10.9.9.9:7400".into(), ..info(1) });
        assert_eq!(known.ranked(b"key", at(12)).len(), 2, "somebody else knows where it is now");
        for _ in 0..2 {
            known.failed(info(2).node, at(20));
        }
        for _ in 0..99 {
            known.failed(info(1).node, at(20));
        }
        assert!(known.ranked(b"key", at(19) + MAX_PAUSE).is_empty());
        assert_eq!(known.ranked(b"key", at(20) + MAX_PAUSE).len(), 1, "one that was met is asked for longer");
        let over = at(21) + KEEP_FOR;
        known.failed(info(1).node, over);
        assert!(known.ranked(b"key", over + MAX_PAUSE).is_empty());
    }
}
