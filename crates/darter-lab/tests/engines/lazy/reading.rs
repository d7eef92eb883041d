//! Reads every byte of files that may not have come yet, in no order, and compares each with what is known: by reads, by mappings, or both at once.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use darter_core::{Clock as _, SystemClock};
use darter_lab::made::drawn;
use darter_lab::process::wait_until;
use rustix::io::Errno;

use super::mapped::Mapper;

/// Bytes that are read at a time.
const BLOCK: u64 = 128 << 10;
/// Programs that read at a time.
const READERS: usize = 2;
/// Before a block is read again that could not be read.
const PAUSE: Duration = Duration::from_millis(50);

/// How reads fail that can't have their bytes.
pub(super) const UNREAD: [Errno; 3] = [Errno::IO, Errno::NOTCONN, Errno::CONNABORTED];

/// A container's files as this process sees them. They are there as long as this value is: the container's program comes out of the same layers,
/// and may end when these can't be had.
#[derive(Clone)]
pub(super) struct Seen(Arc<File>);

impl Seen {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let opened = File::open(directory).with_context(|| format!("open {}", directory.display()))?;
        Ok(Self(Arc::new(opened)))
    }

    fn path(&self) -> PathBuf {
        // Programs that this one starts read there, too.
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()))
    }
}

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// By reads alone.
    Read,
    /// Half of the programs map them.
    Both,
}

/// A part of a file.
#[derive(Clone, Debug)]
struct Block {
    file: PathBuf,
    at: u64,
    length: usize,
}

/// The outcome of all readers so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Blocks that were read and are right.
    pub(super) right: usize,
    /// Reads that failed.
    pub(super) errors: usize,
}

#[derive(Default)]
struct Shared {
    left: Mutex<Vec<Block>>,
    outcome: Mutex<Outcome>,
    wrong: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Readers at work. They end when all was read, or with this value.
pub(super) struct Reading {
    blocks: usize,
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

impl Reading {
    /// Starts reading the files in `seen` that are below `truth`; another `number` gives another order.
    pub(super) fn begin(truth: &Path, seen: &Seen, number: u64) -> Result<Self> {
        Self::begin_by(How::Read, truth, seen, number)
    }

    /// The same in one way or another.
    pub(super) fn begin_by(how: How, truth: &Path, seen: &Seen, number: u64) -> Result<Self> {
        let mut blocks = Vec::new();
        list(truth, Path::new(""), &mut blocks)?;
        let count = blocks.len();
        ensure!(count > 0, "there is nothing to read");
        for place in (1..count).rev() {
            blocks.swap(place, (drawn(number << 32 | place as u64) % (place as u64 + 1)) as usize);
        }
        let shared = Arc::new(Shared { left: Mutex::new(blocks), ..Shared::default() });
        let reader = |reader: usize| {
            let (shared, truth, seen) = (Arc::clone(&shared), truth.to_owned(), seen.clone());
            let mapper = (how == How::Both && reader % 2 == 1).then(Mapper::default);
            thread::spawn(move || read_all(&shared, &truth, &seen.path(), mapper))
        };
        let readers = (0..READERS).map(reader).collect();
        Ok(Self { blocks: count, shared, readers })
    }

    /// The outcome so far; an error if anything was wrong.
    pub(super) fn outcome(&self) -> Result<Outcome> {
        let wrong = self.shared.wrong.lock().expect("no reader panics");
        if let Some(first) = wrong.first() {
            bail!("{} reads gave wrong bytes, such as {first}", wrong.len());
        }
        Ok(*self.shared.outcome.lock().expect("no reader panics"))
    }

    /// Waits until everything was read.
    pub(super) fn finish(&self, patience: Duration) -> Result<Outcome> {
        wait_until("everything to be read", patience, || Ok(self.outcome()?.right == self.blocks)).with_context(
            || format!("of {} blocks, {:?}", self.blocks, *self.shared.outcome.lock().expect("no reader panics")),
        )?;
        self.outcome()
    }

    /// Ends it before everything was read; an error if a read never ends.
    pub(super) fn end(self, patience: Duration) -> Result<Outcome> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let ended = wait_until("reads that can't have their bytes to end", patience, || {
            Ok(self.readers.iter().all(JoinHandle::is_finished))
        });
        let outcome = self.outcome();
        if ended.is_err() {
            // They would be waited for.
            std::mem::forget(self);
        }
        ended.and(outcome)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for reader in self.readers.drain(..) {
            // One that panicked has said so.
            let _ = reader.join();
        }
    }
}

/// Reads everything once, without an error.
pub(super) fn read_everything(truth: &Path, seen: &Seen, number: u64, patience: Duration) -> Result<()> {
    read_everything_by(How::Read, truth, seen, number, patience)
}

/// The same in one way or another.
pub(super) fn read_everything_by(how: How, truth: &Path, seen: &Seen, number: u64, patience: Duration) -> Result<()> {
    let outcome = Reading::begin_by(how, truth, seen, number)?.finish(patience)?;
    ensure!(outcome.errors == 0, "{} reads failed", outcome.errors);
    Ok(())
}

/// Reads a part of a file and compares it; how long that took, and `false` if it could not be read.
pub(super) fn read_one(truth: &Path, seen: &Seen, file: &str, at: u64, length: usize) -> Result<(bool, Duration)> {
    let clock = SystemClock::start();
    let start = clock.now();
    let block = Block { file: file.into(), at, length };
    let read = block.read(&seen.path());
    let took = clock.now().since(start);
    let Some(read) = read? else { return Ok((false, took)) };
    ensure!(Some(read) == block.read(truth)?, "wrong bytes in {block:?}");
    Ok((true, took))
}

impl Block {
    /// `None`: EIO, or what the kernel says of a mount whose keeper is gone. Any other failure is an error.
    fn read(&self, below: &Path) -> Result<Option<Vec<u8>>> {
        let path = below.join(&self.file);
        let mut bytes = vec![0; self.length];
        match File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, self.at)) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if UNREAD.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {} at {}", path.display(), self.at)),
        }
    }
}

fn read_all(shared: &Shared, truth: &Path, seen: &Path, mut mapper: Option<Mapper>) {
    while !shared.stop.load(Ordering::SeqCst) {
        let Some(block) = shared.left.lock().expect("no reader panics").pop() else { return };
        let expected = block.read(truth).ok().flatten().expect("the truth can be read");
        let read = match &mut mapper {
            None => block.read(seen),
            Some(mapper) => mapper.read(&seen.join(&block.file), block.at, block.length),
        };
        match read {
            Ok(Some(bytes)) if bytes == expected => shared.outcome.lock().expect("no reader panics").right += 1,
            Ok(None) => {
                shared.outcome.lock().expect("no reader panics").errors += 1;
                shared.left.lock().expect("no reader panics").insert(0, block);
                thread::sleep(PAUSE);
            }
            Ok(Some(bytes)) => {
                let zeros = bytes.iter().zip(&expected).filter(|(is, should)| **is == 0 && **should != 0).count();
                let said = format!("{block:?} ({zeros} bytes are zeros that should not be)");
                shared.wrong.lock().expect("no reader panics").push(said);
            }
            Err(error) => shared.wrong.lock().expect("no reader panics").push(format!("{error:#}")),
        }
    }
}

fn list(root: &Path, below: &Path, blocks: &mut Vec<Block>) -> Result<()> {
    let directory = root.join(below);
    let mut entries: Vec<_> = fs::read_dir(&directory)
        .with_context(|| format!("list {}", directory.display()))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for name in entries {
        let file = below.join(name);
        let data = root.join(&file).metadata().with_context(|| format!("look at {}", file.display()))?;
        if data.is_dir() {
            list(root, &file, blocks)?;
            continue;
        }
        for at in (0..data.len()).step_by(BLOCK as usize) {
            let length = BLOCK.min(data.len() - at) as usize;
            blocks.push(Block { file: file.clone(), at, length });
        }
    }
    Ok(())
}
