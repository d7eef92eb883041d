//! Memory for received pieces, until they are hashed and on disk. A fresh allocation of a piece's size costs a page
//! fault for every 4 KiB, so buffers are used again; a pool keeps a limited number of bytes idle, so that a quiet node
//! is small.

use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;

/// Buffers to receive pieces in; cheap to clone, all clones are one pool.
#[derive(Clone, Debug)]
pub struct BufferPool(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    keep: usize,
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    bytes: usize,
    buffers: Vec<Vec<u8>>,
}

impl BufferPool {
    /// A pool that keeps at most `keep` bytes of unused buffers.
    pub fn new(keep: usize) -> Self {
        Self(Arc::new(Pool { keep, idle: Mutex::default() }))
    }

    /// An empty buffer with room for `length` bytes.
    pub(crate) fn take(&self, length: usize) -> PooledBuffer {
        let mut idle = self.0.idle.lock();
        let fitting = idle.buffers.iter().rposition(|buffer| buffer.capacity() >= length);
        let data = match fitting {
            Some(at) => {
                let buffer = idle.buffers.swap_remove(at);
                idle.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(length),
        };
        PooledBuffer { data, pool: self.clone() }
    }

    /// A buffer with these bytes.
    pub fn filled(&self, bytes: &[u8]) -> PooledBuffer {
        let mut buffer = self.take(bytes.len());
        buffer.data_mut().extend_from_slice(bytes);
        buffer
    }

    /// Bytes of unused buffers that the pool keeps.
    pub fn idle_bytes(&self) -> usize {
        self.0.idle.lock().bytes
    }

    /// Gives all unused buffers back to the system.
    pub fn trim(&self) {
        *self.0.idle.lock() = Idle::default();
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut idle = self.0.idle.lock();
        if buffer.capacity() > 0 && idle.bytes + buffer.capacity() <= self.0.keep {
            idle.bytes += buffer.capacity();
            idle.buffers.push(buffer);
        }
    }
}

impl Default for BufferPool {
    /// Keeps 8 MiB.
    fn default() -> Self {
        Self::new(8 * 1024 * 1024)
    }
}

/// Received bytes. Dropped, its room goes back to the pool. `bytes::Bytes::from_owner` makes `Bytes` of it for free.
#[derive(Debug)]
pub struct PooledBuffer {
    data: Vec<u8>,
    pool: BufferPool,
}

impl PooledBuffer {
    pub(crate) const fn data_mut(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.data));
    }
}
