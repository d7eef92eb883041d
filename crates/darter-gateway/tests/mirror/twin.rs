//! A twin of the agent: holds blobs in memory, keeps an account of what was opened, fails on demand.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use darter_agent::FetchError;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Digest, Source};
use darter_gateway::mirror::{Blob, Blobs, Nearness, Part};
use darter_origin::{ErrorKind, OriginFailure};
use darter_store::PieceFile;
use futures_util::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;

/// Bytes to a chunk in memory, and to a part of a file.
pub(crate) const CHUNK: u64 = 1000;
const FILE_CHUNK: u64 = 1_300_017;

#[derive(Clone, Default)]
pub(crate) struct Twin(pub(crate) Arc<Mutex<TwinState>>);

#[derive(Default)]
pub(crate) struct TwinState {
    pub(crate) held: HashMap<Digest, Bytes>,
    pub(crate) opened: Vec<(Source, Credentials)>,
    /// Fails to open.
    pub(crate) open_fault: Option<FetchError>,
    /// Fails at this offset, or ends there without an error.
    pub(crate) fault_at: Option<(u64, Option<FetchError>)>,
    /// Does not tell lengths.
    pub(crate) hide_length: bool,
    /// Stops before this offset until told to go on.
    pub(crate) gate: Option<(u64, Arc<tokio::sync::Notify>)>,
    /// From this offset on nothing comes for this reader, while it gets other parts of the blob.
    pub(crate) keeps_from: Option<u64>,
    /// Gives parts of files.
    pub(crate) as_files: bool,
    /// Cuts its files off here.
    pub(crate) cut_files_at: Option<u64>,
    /// Contents that the agent holds whole.
    pub(crate) whole: HashSet<Digest>,
    /// Sources that nothing shows to have what is held.
    pub(crate) unproven: HashSet<Source>,
    /// Up to which offset it knows hashes; of all if `None`.
    pub(crate) known: Option<u64>,
    /// Fails so long after it stopped.
    pub(crate) stalls_after: Option<Duration>,
    /// Does not open until told to.
    pub(crate) shut: bool,
    /// Bytes given.
    pub(crate) given: Arc<AtomicU64>,
    /// How often it was asked for bytes.
    pub(crate) asked: Arc<AtomicU64>,
}

struct Held {
    bytes: Bytes,
    file: Option<Arc<File>>,
    fault_at: Option<(u64, Option<FetchError>)>,
    hide_length: bool,
    gate: Option<(u64, Arc<tokio::sync::Notify>)>,
    known: Option<u64>,
    stalls_after: Option<Duration>,
    given: Arc<AtomicU64>,
    keeps_from: Option<u64>,
    asked: Arc<AtomicU64>,
    /// How often somebody looked how much it has.
    looks: AtomicU64,
}

impl Twin {
    pub(crate) fn hold(&self, content: impl Into<Bytes>) -> Digest {
        let content = content.into();
        let digest = Digest::sha256(&content);
        self.0.lock().held.insert(digest, content);
        digest
    }

    pub(crate) fn opens(&self) -> usize {
        self.0.lock().opened.len()
    }
}

#[async_trait]
impl Blobs for Twin {
    async fn is_proven(&self, source: &Source) -> bool {
        !self.0.lock().unproven.contains(source)
    }

    fn proven(&self, source: &Source) {
        self.0.lock().unproven.remove(source);
    }

    async fn is_whole(&self, source: &Source) -> bool {
        source.digest().is_some_and(|digest| self.0.lock().whole.contains(&digest))
    }

    async fn open(&self, source: Source, credentials: Credentials, _: bool) -> Result<Box<dyn Blob>, FetchError> {
        while self.0.lock().shut {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut state = self.0.lock();
        let digest = source.digest().unwrap();
        if state.unproven.contains(&source) {
            return Err(FetchError::Unproven { name: source.to_string() });
        }
        state.opened.push((source, credentials));
        if let Some(fault) = state.open_fault.clone() {
            return Err(fault);
        }
        let Some(bytes) = state.held.get(&digest).cloned() else {
            let text = "the twin has no such blob";
            return Err(FetchError::Origin(OriginFailure::new(ErrorKind::NotFound, text)));
        };
        let file = state.as_files.then(|| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            if let Some(length) = state.cut_files_at {
                file.set_len(length).unwrap();
            }
            Arc::new(file)
        });
        Ok(Box::new(Held {
            bytes,
            file,
            fault_at: state.fault_at.clone(),
            hide_length: state.hide_length,
            gate: state.gate.clone(),
            known: state.known,
            stalls_after: state.stalls_after,
            given: Arc::clone(&state.given),
            keeps_from: state.keeps_from,
            asked: Arc::clone(&state.asked),
            looks: AtomicU64::new(0),
        }))
    }
}

impl Blob for Held {
    fn length(&self) -> Option<u64> {
        (!self.hide_length).then_some(self.bytes.len() as u64)
    }

    fn held(&self) -> u64 {
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        self.keeps_from.map_or(0, |_| looks)
    }

    fn excused(&self) -> Duration {
        Duration::ZERO
    }

    fn nearness(&self, at: u64, _lone: bool) -> Nearness {
        self.known
            .map_or(Nearness::Held, |known| if at < known { Nearness::Within } else { Nearness::After(at - known) })
    }

    fn lone_parts(&self, range: ByteRange) -> BoxStream<'static, Result<Part, FetchError>> {
        self.parts(Some(range))
    }

    fn parts(&self, range: Option<ByteRange>) -> BoxStream<'static, Result<Part, FetchError>> {
        let range = range.unwrap_or(ByteRange::new(0, self.bytes.len() as u64));
        let (bytes, fault_at, gate, given) =
            (self.bytes.clone(), self.fault_at.clone(), self.gate.clone(), Arc::clone(&self.given));
        self.asked.fetch_add(1, Ordering::Relaxed);
        let keeps_from = self.keeps_from.unwrap_or(u64::MAX);
        let stalls_after = self.stalls_after.unwrap_or(Duration::MAX);
        let (file, chunk) = (self.file.clone(), if self.file.is_some() { FILE_CHUNK } else { CHUNK });
        futures_util::stream::unfold(Some(range.start()), move |at| {
            let (bytes, fault_at, gate, given) = (bytes.clone(), fault_at.clone(), gate.clone(), Arc::clone(&given));
            let file = file.clone();
            async move {
                let at = at?;
                if at >= keeps_from {
                    std::future::pending::<()>().await;
                }
                let stop = fault_at.as_ref().map_or(range.end(), |(offset, _)| (*offset).min(range.end()));
                let end = (at + chunk).min(stop);
                if let Some((offset, gate)) = gate.filter(|(offset, _)| at <= *offset && *offset < end) {
                    let _ = offset;
                    if tokio::time::timeout(stalls_after, gate.notified()).await.is_err() {
                        let (waited, what) = (stalls_after, "the gate".into());
                        return Some((Err(FetchError::Stalled { waited, what }), None));
                    }
                }
                if end > at {
                    given.fetch_add(end - at, Ordering::Relaxed);
                    let part = match file {
                        Some(file) => Part::File(PieceFile { file, range: ByteRange::new(at, end) }),
                        None => Part::Bytes(bytes.slice(at as usize..end as usize)),
                    };
                    return Some((Ok(part), Some(end)));
                }
                match fault_at {
                    Some((offset, Some(error))) if offset <= at => Some((Err(error), None)),
                    _ => None,
                }
            }
        })
        .boxed()
    }
}
