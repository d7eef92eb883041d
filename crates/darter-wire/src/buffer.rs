//! Memory for received pieces, until they are hashed and on disk. A fresh allocation of a piece's size costs a page fault for every 4 KiB, so buffers are used
//! again; a pool keeps a limited number of unused bytes, so that an idle agent takes little memory.
//!
//! Invariant: received bytes begin at a multiple of 4 KiB (`ALIGNMENT`). A sender's kernel sends whole pages of the piece's file, and between agents on one machine
//! the receiver's kernel copies from these very pages. Some processors (AMD's Zen 3) copy at less than half their speed if the destination lies 1 to 31 bytes behind the source modulo 4 KiB,
//! and the C library's large allocations begin 16 bytes behind a page ([measured](../../../docs/notes/pull-cpu.md)).

use std::ops::Deref;
use std::sync::Arc;
use std::vec::Drain;

use parking_lot::Mutex;

/// Received bytes begin at an address that is a multiple of this.
const ALIGNMENT: usize = 4096;

/// A pool of buffers for received pieces. Cheap to clone: all clones are the same pool.
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
        let fitting = idle.buffers.iter().rposition(|buffer| buffer.capacity() >= begin(buffer) + length);
        let mut data = match fitting {
            Some(at) => {
                let buffer = idle.buffers.swap_remove(at);
                idle.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(length + ALIGNMENT),
        };
        drop(idle);
        let start = begin(&data);
        data.resize(start, 0);
        PooledBuffer { data, start, pool: self.clone() }
    }

    /// A buffer with these bytes.
    pub fn filled(&self, bytes: &[u8]) -> PooledBuffer {
        let mut buffer = self.take(bytes.len());
        buffer.behind().extend_from_slice(bytes);
        buffer
    }

    /// How many bytes of unused buffers the pool keeps now.
    pub fn idle_bytes(&self) -> usize {
        self.0.idle.lock().bytes
    }

    /// Gives all unused buffers back to the system.
    pub fn trim(&self) {
        *self.0.idle.lock() = Idle::default();
    }

    fn give_back(&self, buffer: Vec<u8>) {
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

/// Received bytes. When they are dropped, their memory goes back to the pool. `bytes::Bytes::from_owner` makes `Bytes` of them without copying.
#[derive(Debug)]
pub struct PooledBuffer {
    /// Unused bytes up to `start`, then the received bytes.
    data: Vec<u8>,
    start: usize,
    pool: BufferPool,
}

impl PooledBuffer {
    /// The memory to which received bytes are appended.
    pub(crate) const fn behind(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    /// Removes and returns the bytes from `from` on.
    pub(crate) fn take_off(&mut self, from: usize) -> Drain<'_, u8> {
        self.data.drain(self.start + from..)
    }

    /// The whole memory, emptied, for bytes that are computed rather than received.
    pub(crate) fn emptied(&mut self) -> &mut Vec<u8> {
        self.start = 0;
        self.data.clear();
        &mut self.data
    }
}

/// The first place in a buffer's memory for received bytes.
fn begin(buffer: &[u8]) -> usize {
    buffer.as_ptr().addr().wrapping_neg() % ALIGNMENT
}

impl Deref for PooledBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.data[self.start..]
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        self.data.truncate(self.start);
        self.pool.give_back(std::mem::take(&mut self.data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_bytes_begin_at_a_page_in_new_memory_and_in_used_memory() {
        let pool = BufferPool::default();
        for length in [1, 5000, 1 << 17, 5000, 1 << 20] {
            // The second of each length gets the first one's memory.
            for byte in [1, 2] {
                let bytes = vec![byte; length];
                let buffer = pool.filled(&bytes);
                assert_eq!(&*buffer, bytes);
                assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0, "{length} bytes");
            }
        }
    }

    #[test]
    fn memory_in_which_something_was_computed_is_used_again_for_received_bytes() {
        let pool = BufferPool::default();
        let mut buffer = pool.filled(&[1; 100]);
        buffer.emptied().extend_from_slice(&[2; 3000]);
        assert_eq!(&*buffer, [2; 3000]);
        drop(buffer);
        assert!(pool.idle_bytes() > 0);
        let mut buffer = pool.filled(&[3; 50]);
        assert_eq!((pool.idle_bytes(), buffer.as_ptr().addr() % ALIGNMENT), (0, 0));
        assert_eq!(buffer.take_off(40).as_slice(), [3; 10]);
        assert_eq!(&*buffer, [3; 40]);
    }
}
