//! One file, read in order and in blocks of 4 KiB in no order, each from page caches that have nothing of it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::{Clock as _, SystemClock};
use rustix::fs::{Advice, fadvise};

use crate::made::drawn;

/// Bytes that a program reads at a time that reads in order.
const STEP: usize = 128 << 10;
const BLOCK: usize = 4096;
/// Blocks of a round.
const BLOCKS: u64 = 400;

/// A file, and all files whose pages have something of it, from the reader's down to the disk's.
#[derive(Clone, Debug)]
pub struct TimedReader {
    /// The file that is read.
    pub file: PathBuf,
    /// The files below it, whose pages are dropped, too.
    pub below: Vec<Arc<File>>,
    /// Bytes from the file's beginning that are read.
    pub length: u64,
}

/// A round's result.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Bytes per second, in order.
    pub speed: f64,
    /// The median time of a block.
    pub latency: Duration,
}

impl TimedReader {
    /// Reads it; another `number` gives other blocks.
    pub fn round(&self, number: u64) -> Result<Round> {
        self.forget()?;
        let file = self.open(Advice::Sequential)?;
        let (clock, mut buffer) = (SystemClock::start(), vec![0; STEP]);
        let start = clock.now();
        for at in (0..self.length).step_by(STEP) {
            file.read_exact_at(&mut buffer, at).with_context(|| format!("read {}", self.file.display()))?;
        }
        let speed = self.length as f64 / clock.now().since(start).as_secs_f64();
        self.forget()?;
        let file = self.open(Advice::Random)?;
        let mut times = Vec::new();
        for block in 0..BLOCKS {
            let at = drawn(number << 32 | block) % (self.length / BLOCK as u64) * BLOCK as u64;
            let start = clock.now();
            file.read_exact_at(&mut buffer[..BLOCK], at).with_context(|| format!("read {}", self.file.display()))?;
            times.push(clock.now().since(start));
        }
        times.sort_unstable();
        Ok(Round { speed, latency: times[times.len() / 2] })
    }

    /// Reads it in order once, whatever it takes.
    pub fn touch(&self) -> Result<()> {
        let (file, mut buffer) = (self.open(Advice::Sequential)?, vec![0; STEP]);
        for at in (0..self.length).step_by(STEP) {
            file.read_exact_at(&mut buffer, at).with_context(|| format!("read {}", self.file.display()))?;
        }
        Ok(())
    }

    fn open(&self, advice: Advice) -> Result<File> {
        let file = File::open(&self.file).with_context(|| format!("open {}", self.file.display()))?;
        fadvise(&file, 0, None, advice).context("say how a file is read")?;
        Ok(file)
    }

    /// Lets every page cache forget the file, the reader's first: it would keep pages of those below.
    pub(super) fn forget(&self) -> Result<()> {
        let top = File::open(&self.file).with_context(|| format!("open {}", self.file.display()))?;
        forget_pages(&top)?;
        self.below.iter().try_for_each(|file| forget_pages(file))
    }
}

/// Lets the page cache forget a file.
pub(crate) fn forget_pages(file: &File) -> Result<()> {
    // Pages that are not on the disk yet would stay. A file that nobody may write to has none such.
    let _ = file.sync_data();
    fadvise(file, 0, None, Advice::DontNeed).context("let pages of a file go")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_reads_all_of_it_and_fails_where_there_is_less() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        crate::made::noise(&file, 1, 1 << 20).unwrap();
        let reader = TimedReader { file, below: Vec::new(), length: 1 << 20 };
        let round = reader.round(1).unwrap();
        assert!(round.speed > 0.0 && round.latency > Duration::ZERO);
        assert!(TimedReader { length: 2 << 20, ..reader }.round(1).is_err());
    }
}
