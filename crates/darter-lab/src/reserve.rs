//! Memory that is at hand when a measurement writes it.
//!
//! The host of a virtual machine may take back what is free, and gives it again when it is touched, a page at a time: the first write to
//! such memory was seen to cost three times the CPU of all that Darter does with the same bytes, and not in every run. So as much as
//! a measurement writes is touched before, and freed again while it runs, somewhat ahead of when it is needed: long before it might
//! be taken back once more.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// Bytes that are freed at a time.
const CHUNK: usize = 64 << 20;
/// The part that is freed at once.
const AHEAD: usize = 4;

/// Touched memory.
#[derive(Debug)]
pub(crate) struct Reserve {
    chunks: Vec<Vec<u8>>,
}

impl Reserve {
    /// Touches as much memory as `bytes`, or half of what the machine has left if that is less.
    pub(crate) fn gather(bytes: u64) -> Result<Self> {
        let bytes = usize::try_from(bytes.min(available()? / 2)).context("count memory")?;
        Ok(Self { chunks: (0..bytes.div_ceil(CHUNK)).map(|_| vec![1; CHUNK]).collect() })
    }

    /// Frees a part now and the rest bit by bit within this time, on a thread of its own.
    pub(crate) fn free_within(mut self, time: Duration) {
        self.chunks.truncate(self.chunks.len() - self.chunks.len() / AHEAD);
        let pause = time / u32::try_from(self.chunks.len().max(1)).unwrap_or(u32::MAX);
        thread::spawn(move || {
            while self.chunks.pop().is_some() {
                thread::sleep(pause);
            }
        });
    }
}

/// Bytes that the machine could still give to processes.
fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).context("find MemAvailable")?;
    Ok(kilobytes.trim().parse::<u64>().context("read MemAvailable")? * 1024)
}
