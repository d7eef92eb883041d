//! An [`Origin`] in memory, for tests, which records what is read from it.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Shown, Source, Version};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;

use crate::body;
use crate::error::{ErrorKind, OriginError};
use crate::origin::{Origin, Reading, Stat};
use crate::validators::{settle, surely_same};

/// How many bytes a chunk of a body has.
const CHUNK: usize = 64 << 10;

/// An origin in memory. Clones share their content and their records.
#[derive(Clone, Debug, Default)]
pub struct MemOrigin(Arc<Mutex<MemContents>>);

#[derive(Debug, Default)]
struct MemContents {
    contents: HashMap<Source, Content>,
    refuse_ranges: bool,
    hide_length: bool,
    readings: Vec<(Source, ByteRange)>,
}

#[derive(Clone, Debug)]
struct Content {
    bytes: Bytes,
    generation: u64,
}

impl MemOrigin {
    /// An origin without content.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores `bytes` as the content of `source`, in a new version if there was one.
    pub fn put(&self, source: &Source, bytes: impl Into<Bytes>) {
        let mut state = self.0.lock();
        let generation = state.contents.get(source).map_or(1, |content| content.generation + 1);
        state.contents.insert(source.clone(), Content { bytes: bytes.into(), generation });
    }

    /// Answers every request for a range with the whole.
    pub fn refuse_ranges(&self, refuse: bool) {
        self.0.lock().refuse_ranges = refuse;
    }

    /// Answers without lengths.
    pub fn hide_length(&self, hide: bool) {
        self.0.lock().hide_length = hide;
    }

    /// The ranges of `source` that were read, chunk by chunk, in the order of the reads.
    pub fn read_ranges(&self, source: &Source) -> Vec<ByteRange> {
        let state = self.0.lock();
        state.readings.iter().filter(|(of, _)| of == source).map(|(_, range)| *range).collect()
    }

    /// How many bytes of `source` were read.
    pub fn bytes_read(&self, source: &Source) -> u64 {
        self.read_ranges(source).into_iter().map(ByteRange::len).sum()
    }
}

impl MemContents {
    fn content(&self, source: &Source) -> Result<Content, OriginError> {
        let missing = || OriginError::new(ErrorKind::NotFound, format!("{source} is not in memory"));
        self.contents.get(source).cloned().ok_or_else(missing)
    }

    fn version(&self, content: &Content) -> Version {
        let length = (!self.hide_length).then_some(content.bytes.len() as u64);
        Version { etag: Some(format!("\"{}\"", content.generation)), last_modified: None, length, nonce: None }
    }
}

#[async_trait]
impl Origin for MemOrigin {
    async fn stat(&self, source: &Source, _: &Credentials, known: Option<&Version>) -> Result<Stat, OriginError> {
        let state = self.0.lock();
        let content = state.content(source)?;
        let current = state.version(&content);
        let ranges = !state.refuse_ranges;
        let unchanged = known.is_some_and(|known| surely_same(known, &current));
        Ok(Stat { version: current, shown: Shown::default(), unchanged, ranges })
    }

    async fn read(
        &self,
        source: &Source,
        _: &Credentials,
        range: Option<ByteRange>,
        expect: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        let state = self.0.lock();
        let content = state.content(source)?;
        let whole = ByteRange::new(0, content.bytes.len() as u64);
        let asked = range.unwrap_or(whole);
        let version = settle(expect, state.version(&content), asked.start(), source.digest().is_some(), source)?;
        if asked.start() > 0 && asked.start() >= whole.end() {
            let text = format!("{source} is shorter than the range asked for");
            return Err(OriginError::new(ErrorKind::RangeNotSatisfiable, text));
        }
        let sent = if state.refuse_ranges { whole } else { asked.clamp_to(whole.end()) };
        let account = (self.clone(), source.clone(), content.bytes);
        let chunks = stream::unfold((sent, account), |(left, account)| async move {
            let range = ByteRange::new(left.start(), left.start() + CHUNK as u64).clamp_to(left.end());
            let (this, source, bytes) = &account;
            if range.is_empty() {
                return None;
            }
            let chunk = bytes.slice(position(range.start())..position(range.end()));
            this.0.lock().readings.push((source.clone(), range));
            Some((Ok(chunk), (ByteRange::new(range.end(), left.end()), account)))
        });
        let body = body::checked(chunks.boxed(), Some(sent.len()), source.to_string());
        let is_part = sent.len() < whole.len();
        let length = (!state.hide_length).then_some(whole.end());
        Ok(Reading { version, shown: Shown::default(), start: sent.start(), is_part, length, witness: None, body })
    }
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).expect("bytes in memory have offsets that fit")
}
