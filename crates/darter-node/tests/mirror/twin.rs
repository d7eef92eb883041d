//! A twin of the agent: holds blobs in memory, keeps an account of what was opened, fails on demand.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Digest, Source};
use darter_node::FetchError;
use darter_node::mirror::{Blob, Blobs};
use darter_origin::{ErrorKind, OriginFailure};
use futures_util::stream::{BoxStream, StreamExt};
use parking_lot::Mutex;

/// Bytes to a chunk.
pub(crate) const CHUNK: u64 = 1000;

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
    /// Bytes given.
    pub(crate) given: Arc<AtomicU64>,
}

struct Held {
    bytes: Bytes,
    fault_at: Option<(u64, Option<FetchError>)>,
    hide_length: bool,
    gate: Option<(u64, Arc<tokio::sync::Notify>)>,
    given: Arc<AtomicU64>,
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
    async fn open(&self, source: Source, credentials: Credentials) -> Result<Box<dyn Blob>, FetchError> {
        let mut state = self.0.lock();
        let digest = source.digest().unwrap();
        state.opened.push((source, credentials));
        if let Some(fault) = state.open_fault.clone() {
            return Err(fault);
        }
        let Some(bytes) = state.held.get(&digest).cloned() else {
            let text = "the twin has no such blob".into();
            return Err(FetchError::Origin(OriginFailure { kind: ErrorKind::NotFound, status: Some(404), text }));
        };
        Ok(Box::new(Held {
            bytes,
            fault_at: state.fault_at.clone(),
            hide_length: state.hide_length,
            gate: state.gate.clone(),
            given: Arc::clone(&state.given),
        }))
    }
}

impl Blob for Held {
    fn length(&self) -> Option<u64> {
        (!self.hide_length).then_some(self.bytes.len() as u64)
    }

    fn stream(&self, range: Option<ByteRange>) -> BoxStream<'static, Result<Bytes, FetchError>> {
        let range = range.unwrap_or(ByteRange::new(0, self.bytes.len() as u64));
        let (bytes, fault_at, gate, given) =
            (self.bytes.clone(), self.fault_at.clone(), self.gate.clone(), Arc::clone(&self.given));
        futures_util::stream::unfold(Some(range.start()), move |at| {
            let (bytes, fault_at, gate, given) = (bytes.clone(), fault_at.clone(), gate.clone(), Arc::clone(&given));
            async move {
                let at = at?;
                let stop = fault_at.as_ref().map_or(range.end(), |(offset, _)| (*offset).min(range.end()));
                let end = (at + CHUNK).min(stop);
                if let Some((offset, gate)) = gate.filter(|(offset, _)| at <= *offset && *offset < end) {
                    let _ = offset;
                    gate.notified().await;
                }
                if end > at {
                    given.fetch_add(end - at, Ordering::Relaxed);
                    return Some((Ok(bytes.slice(at as usize..end as usize)), Some(end)));
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
