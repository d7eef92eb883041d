//! Content that did not match its digest: who had read it, so that another agent tries; a pause that grows before anybody
//! tries again; and who sent it, for `status` and the metrics.
//!
//! An agent that was itself deceived says by whom ([`Message::Refuted`](darter_wire::Message)): the deceiver is left out, and the deceived agent may
//! read the origin now. Any agent may say so: each agent's claim counts against one other agent, as it would against itself.
//!
//! Only sources whose name says what the content is (a digest, or the tar of an expanded layer) are remembered, and only for a while, so that a corrected source is read again. A setback
//! belongs to the source, not to the blob: a registry that somebody made up must not keep others from the content of the right one.
//! Decided without I/O; time is an argument.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use darter_api::WrongSource;
use darter_core::source::Credentials;
use darter_core::{BlobId, Digest, Moment, NodeId, Source};
use parking_lot::Mutex;

use crate::error::FetchError;

/// How long an agent is not asked again for a blob for which it delivered wrong content; doubles with each failure.
const MIN_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// How long after its pause a failure still makes the next pause longer.
const REMEMBER_FOR: Duration = Duration::from_secs(600);

/// Once this many agents have read a source one after the other, as at least as many agents report, nobody reads it for a while.
const MAX_READERS: usize = 3;

/// Most agents whose reports about readers are counted.
const MAX_SAYING: usize = 64;

const MAX_SETBACKS: usize = 1024;
const MAX_SOURCES: usize = 64;

/// Who is to blame for wrong content.
pub(crate) struct Culprit {
    /// The agent that read it, which is not the next to try.
    pub(crate) reader: NodeId,
    /// The agent that reported this, if it was another one.
    pub(crate) said_by: Option<NodeId>,
    /// The sender in short: the origin's host, or an agent's address.
    pub(crate) source: String,
    /// The sender as text, with the agent or origin that it read.
    pub(crate) from: String,
}

/// The key of a setback: for a registry's content, the source; for an address's content, also the credentials, since callers with others may be shown different
/// content.
pub(crate) fn key_of(source: &Source, credentials: &Credentials) -> BlobId {
    match source {
        Source::Registry { .. } | Source::Expanded(_) => source.record_key(&Credentials::none()),
        Source::Url { .. } => source.record_key(credentials),
    }
}

/// Recent wrong content.
#[derive(Debug, Default)]
pub struct Setbacks {
    /// By [`key_of`].
    keys: Mutex<HashMap<BlobId, Setback>>,
    /// By [`key_of`], the last wrong digest of content, and when it was found.
    came_to: Mutex<HashMap<BlobId, (Digest, Moment)>>,
    sources: Mutex<Vec<WrongSource>>,
}

#[derive(Debug)]
struct Setback {
    error: FetchError,
    times: u32,
    until: Moment,
    /// The agents that read wrong content since the last pause.
    readers: HashSet<NodeId>,
    /// For each agent that reported since then, the agent that it accused.
    said: HashMap<NodeId, NodeId>,
    /// The agents that reported; an agent that accuses itself and another agent counts once.
    witnesses: HashSet<NodeId>,
}

impl Setbacks {
    /// Notes that `reader` read a blob and got wrong content, as another agent reports or this one knows. A repeated report within the pause, such as from every waiting member, changes
    /// nothing. Returns true if the report was new.
    pub(crate) fn note(
        &self,
        key: BlobId,
        reader: NodeId,
        said_by: Option<NodeId>,
        error: &FetchError,
        now: Moment,
    ) -> bool {
        if let FetchError::WrongDigest { got, .. } = error {
            // The report is about what another agent read: it counts only if this agent gets the same bytes.
            self.came_to_the_same(key, **got, now);
        }
        let mut setbacks = self.keys.lock();
        setbacks.retain(|_, setback| now < setback.until + REMEMBER_FOR);
        if setbacks.len() >= MAX_SETBACKS && !setbacks.contains_key(&key) {
            let oldest = setbacks.iter().min_by_key(|(_, setback)| setback.until).map(|(key, _)| *key);
            oldest.and_then(|oldest| setbacks.remove(&oldest));
        }
        let setback = setbacks.entry(key).or_insert_with(|| Setback {
            error: error.clone(),
            times: 0,
            until: now,
            readers: HashSet::new(),
            said: HashMap::new(),
            witnesses: HashSet::new(),
        });
        if now >= setback.until {
            setback.readers.clear();
            setback.said.clear();
            setback.witnesses.clear();
        }
        if let Some(by) = said_by {
            let has_room = setback.said.len() < MAX_SAYING || setback.said.contains_key(&by);
            if !has_room || *setback.said.entry(by).or_insert(reader) != reader {
                return false;
            }
        }
        setback.witnesses.insert(said_by.unwrap_or(reader));
        setback.error = error.clone();
        let is_news = setback.readers.insert(reader);
        if is_news {
            let pause = MIN_PAUSE.saturating_mul(1 << setback.times.min(16)).min(MAX_PAUSE);
            setback.times += 1;
            setback.until = now + pause;
        }
        is_news
    }

    /// Why `reader` must not read a source now: it did so recently, or several others did, and got wrong content.
    pub(crate) fn refusal(&self, key: BlobId, reader: NodeId, now: Moment) -> Option<FetchError> {
        let setbacks = self.keys.lock();
        let setback = setbacks.get(&key).filter(|setback| now < setback.until)?;
        let has_read = setback.readers.contains(&reader);
        let are_many = setback.readers.len().min(setback.witnesses.len()) >= MAX_READERS;
        let refused = has_read || are_many;
        refused.then(|| match setback.error.clone() {
            FetchError::WrongDigest { expected, got, from, .. } if has_read => {
                FetchError::WrongDigest { expected, got, from, reader: Some(reader) }
            }
            error => error,
        })
    }

    /// True if content of this key was wrong of late, whoever read it, and did not turn out right since.
    pub(crate) fn has(&self, key: BlobId, now: Moment) -> bool {
        self.keys.lock().get(&key).is_some_and(|setback| now < setback.until + REMEMBER_FOR)
    }

    /// Content that was assembled from parts has the digest `got` and not its own. True if it had the same digest the last time: parts of several
    /// versions do not give the same whole twice, so the origin really has this content.
    pub(crate) fn came_to_the_same(&self, key: BlobId, got: Digest, now: Moment) -> bool {
        let mut came_to = self.came_to.lock();
        came_to.retain(|_, (_, at)| now < *at + REMEMBER_FOR);
        if came_to.len() >= MAX_SETBACKS && !came_to.contains_key(&key) {
            let oldest = came_to.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key);
            oldest.and_then(|oldest| came_to.remove(&oldest));
        }
        came_to.insert(key, (got, now)).is_some_and(|(before, _)| before == got)
    }

    /// Removes the entries of a blob that was right after all.
    pub(crate) fn clear(&self, key: BlobId) {
        self.keys.lock().remove(&key);
        self.came_to.lock().remove(&key);
    }

    /// Counts wrong content by its sender.
    pub(crate) fn blame(&self, from: &str, blob: BlobId, unix: u64) {
        let mut sources = self.sources.lock();
        if let Some(known) = sources.iter_mut().find(|known| known.from == from) {
            known.times += 1;
            (known.last, known.blob) = (unix, blob);
            return;
        }
        if sources.len() >= MAX_SOURCES {
            let oldest = sources.iter().enumerate().min_by_key(|(_, known)| known.last).map(|(at, _)| at);
            oldest.map(|at| sources.swap_remove(at));
        }
        sources.push(WrongSource { from: from.to_owned(), times: 1, last: unix, blob });
    }

    /// The senders of wrong content since this agent started, the latest first.
    pub fn sources(&self) -> Vec<WrongSource> {
        let mut sources = self.sources.lock().clone();
        sources.sort_by_key(|source| std::cmp::Reverse(source.last));
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: BlobId = BlobId([1; 32]);
    const ONE: NodeId = NodeId([1; 16]);
    const OTHER: NodeId = NodeId([2; 16]);

    fn wrong() -> FetchError {
        let [expected, got] = [b"a", b"b"].map(|text| Box::new(Digest::sha256(text)));
        FetchError::WrongDigest { expected, got, from: "reg.example".into(), reader: None }
    }

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn content_that_was_wrong_is_remembered_longer_than_its_reader_is_left_out_until_it_comes_right() {
        let (setbacks, now) = (Setbacks::default(), Moment::ZERO + Duration::from_secs(10));
        assert!(!setbacks.has(BLOB, now));
        setbacks.note(BLOB, ONE, None, &wrong(), now);
        let later = now + MIN_PAUSE;
        assert!(setbacks.refusal(BLOB, ONE, later).is_none() && setbacks.has(BLOB, later));
        assert!(!setbacks.has(BLOB, later + REMEMBER_FOR) && !setbacks.has(BlobId([9; 32]), now));
        setbacks.clear(BLOB);
        assert!(!setbacks.has(BLOB, now));
    }

    #[test]
    fn another_reader_may_try_at_once_and_the_same_one_after_a_pause_that_grows() {
        let setbacks = Setbacks::default();
        let refused = |reader, seconds| setbacks.refusal(BLOB, reader, at(seconds)).is_some();
        assert!(!refused(ONE, 100));
        setbacks.note(BLOB, ONE, None, &wrong(), at(100));
        setbacks.note(BLOB, ONE, None, &wrong(), at(100));
        assert!(refused(ONE, 100) && !refused(OTHER, 100));
        assert!(!refused(ONE, 105), "told twice, but it failed once");
        let mut now = 105;
        for pause in [10, 20, 40, 80, 160, 300, 300] {
            setbacks.note(BLOB, ONE, None, &wrong(), at(now));
            assert!(refused(ONE, now + pause - 1) && !refused(ONE, now + pause), "{pause}");
            now += pause;
        }
        setbacks.note(BLOB, OTHER, None, &wrong(), at(now));
        assert!(!refused(ONE, now), "its own failure is over");
        for third in [ONE, NodeId([3; 16])] {
            setbacks.note(BLOB, third, None, &wrong(), at(now));
        }
        assert!(refused(NodeId([4; 16]), now), "three are enough");
        setbacks.clear(BLOB);
        assert!(!refused(OTHER, now));
    }

    #[test]
    fn who_was_deceived_may_read_and_who_blames_others_is_heeded_once() {
        let setbacks = Setbacks::default();
        let refused = |reader| setbacks.refusal(BLOB, reader, at(100)).is_some();
        let (deceived, liar) = (NodeId([3; 16]), NodeId([4; 16]));
        assert!(setbacks.note(BLOB, ONE, Some(deceived), &wrong(), at(100)));
        assert!(refused(ONE) && !refused(deceived));
        for reader in 10..20 {
            setbacks.note(BLOB, NodeId([reader; 16]), Some(liar), &wrong(), at(100));
        }
        assert!(
            refused(NodeId([10; 16])) && !refused(NodeId([11; 16])) && !refused(OTHER),
            "it keeps nobody else from it"
        );
        assert!(setbacks.note(BLOB, liar, None, &wrong(), at(100)));
        assert!(!refused(OTHER), "nor if it says so of itself, too");
        let setback = setbacks.refusal(BLOB, ONE, at(100));
        assert!(matches!(setback, Some(FetchError::WrongDigest { reader: Some(ONE), .. })), "{setback:?}");
    }

    #[test]
    fn parts_that_come_to_the_same_whole_twice_are_the_origins_content() {
        let setbacks = Setbacks::default();
        let came = |key, text: &[u8], seconds| setbacks.came_to_the_same(key, Digest::sha256(text), at(seconds));
        assert!(!came(BLOB, b"one", 100) && !came(BLOB, b"two", 101), "parts of versions that change");
        assert!(!came(BlobId([2; 32]), b"two", 101), "of another source");
        assert!(came(BLOB, b"two", 102) && came(BLOB, b"two", 103));
        assert!(!came(BLOB, b"two", 104 + REMEMBER_FOR.as_secs()), "a while ago");
        setbacks.clear(BLOB);
        assert!(!came(BLOB, b"two", 105 + REMEMBER_FOR.as_secs()), "it was right since");
    }

    #[test]
    fn the_tables_are_bounded() {
        let setbacks = Setbacks::default();
        for number in 0..2 * MAX_SETBACKS as u32 {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            setbacks.note(BlobId(id), ONE, None, &wrong(), at(u64::from(number)));
            setbacks.blame(&number.to_string(), BlobId(id), number.into());
            setbacks.came_to_the_same(BlobId(id), Digest::sha256(b""), at(0));
        }
        assert!(setbacks.keys.lock().len() <= MAX_SETBACKS && setbacks.came_to.lock().len() <= MAX_SETBACKS);
        let sources = setbacks.sources();
        assert_eq!((sources.len(), sources[0].last), (MAX_SOURCES, 2 * MAX_SETBACKS as u64 - 1));
        setbacks.blame("7", BLOB, 9999);
        setbacks.blame("7", BLOB, 9999);
        assert_eq!((setbacks.sources()[0].times, setbacks.sources()[0].blob), (2, BLOB));
    }
}
