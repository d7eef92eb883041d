//! One link of a [`chain`](super::chain): a process with a thread that receives, checks and writes, and one that passes on.
//!
//! Bytes go over a plain TCP connection in the order of the files and of their pieces, without any frames: all know the list.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use darter_core::manifest::hash_piece;
use darter_core::{Manifest, PieceIndex, PieceLength};
use darter_kernel::socket::set_receive_low_water;
use rustix::fs::sendfile;
use serde::{Deserialize, Serialize};

use crate::race::content::Content;

/// Bytes that have to come before it is worth waking up; Darter has the same mark.
const LOW_WATER: u32 = 256 * 1024;
/// How often is tried to reach the relay before, which may start later.
const RETRY: Duration = Duration::from_millis(5);
/// How many times, so that a race that went wrong ends.
const RETRIES: u32 = 6000;

/// Files and what their pieces must be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    files: Vec<(String, Manifest)>,
}

impl Load {
    /// Reads and hashes the content, in pieces as Darter would choose them.
    pub(crate) fn of(content: &Content) -> Result<Self> {
        let mut load = Self { files: Vec::new() };
        for (name, _) in &content.files {
            let path = content.directory().join(name);
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let pieces = PieceLength::for_blob(content.size);
            let mut manifest = Manifest::new(pieces, Some(content.size));
            for number in 0..pieces.count(content.size) {
                let piece = PieceIndex(number);
                let range = pieces.range(piece, content.size);
                let data = &bytes[usize::try_from(range.start())?..usize::try_from(range.end())?];
                manifest.extend(number, &[hash_piece(pieces, piece, data, pieces.count(content.size) == 1)])?;
            }
            load.files.push((name.clone(), manifest));
        }
        Ok(load)
    }

    /// All pieces, in the order in which they travel.
    fn pieces(&self) -> impl Iterator<Item = (usize, &Manifest, PieceIndex)> {
        self.files.iter().enumerate().flat_map(|(file, (_, manifest))| {
            (0..manifest.prefix()).map(move |number| (file, manifest, PieceIndex(number)))
        })
    }

    fn open(&self, directory: &Path, writable: bool) -> Result<Vec<File>> {
        let open = |(name, _): &(String, Manifest)| {
            let path = directory.join(name);
            let file = OpenOptions::new().read(true).write(writable).create(writable).truncate(writable).open(&path);
            file.with_context(|| format!("open {}", path.display()))
        };
        self.files.iter().map(open).collect()
    }
}

/// A relay's settings.
#[derive(Clone, Debug, clap::Args)]
pub struct Relay {
    /// The content, as the laboratory wrote it down
    #[arg(long)]
    list: PathBuf,
    /// Directory of the files, which are there or are received
    #[arg(long)]
    directory: PathBuf,
    /// Receive from here; without, the files are there already
    #[arg(long)]
    from: Option<SocketAddr>,
    /// Pass on to whoever connects here; without, to nobody
    #[arg(long)]
    listen: Option<SocketAddr>,
}

impl Relay {
    /// Carries everything once.
    ///
    /// # Errors
    /// A connection that breaks, a piece that is wrong, files that can't be read or written.
    pub fn run(&self) -> Result<()> {
        let list = fs::read(&self.list).with_context(|| format!("read {}", self.list.display()))?;
        let load = serde_json::from_slice(&list).context("understand the list")?;
        let bind = |address| TcpListener::bind(address).with_context(|| format!("listen on {address}"));
        carry(load, &self.directory, self.from, self.listen.map(bind).transpose()?)
    }
}

fn carry(load: Load, directory: &Path, from: Option<SocketAddr>, listener: Option<TcpListener>) -> Result<()> {
    let files = Arc::new(load.open(directory, from.is_some())?);
    let load = Arc::new(load);
    let (held, ready) = sync_channel(load.pieces().count());
    let sending = listener.map(|listener| {
        let (load, files) = (Arc::clone(&load), Arc::clone(&files));
        thread::spawn(move || pass_on(&load, &files, &listener, &ready))
    });
    // When this fails there is no more to pass on, and the relay behind sees that.
    match from {
        Some(from) => receive(&load, &files, from, &held)?,
        None => load.pieces().for_each(|_| say(&held)),
    }
    sending.map_or(Ok(()), |sending| sending.join().expect("passing on does not panic"))
}

fn receive(load: &Load, files: &[File], from: SocketAddr, held: &SyncSender<()>) -> Result<()> {
    let mut stream = connect(from)?;
    let mut mark = 0;
    let mut buffer = Vec::new();
    for (file, manifest, piece) in load.pieces() {
        let pieces = manifest.piece_length();
        let range = pieces.range(piece, manifest.length().context("the list names lengths")?);
        buffer.resize(usize::try_from(range.len())?, 0);
        let mut filled = 0;
        while filled < buffer.len() {
            let expected = u32::try_from(buffer.len() - filled)?.min(LOW_WATER);
            if expected != mark {
                set_receive_low_water(&stream, expected)?;
                mark = expected;
            }
            match stream.read(&mut buffer[filled..])? {
                0 => bail!("the relay before went away"),
                read => filled += read,
            }
        }
        let right = manifest.hash(piece) == Some(hash_piece(pieces, piece, &buffer, manifest.prefix() == 1));
        ensure!(right, "piece {piece} of {} is wrong", load.files[file].0);
        files[file].write_all_at(&buffer, range.start()).context("write a piece")?;
        say(held);
    }
    Ok(())
}

/// One piece more can be passed on. If nothing is passed on, nobody listens.
fn say(held: &SyncSender<()>) {
    let _ = held.send(());
}

fn connect(from: SocketAddr) -> Result<TcpStream> {
    let mut tries = 0;
    loop {
        match TcpStream::connect(from) {
            Ok(stream) => return Ok(stream),
            Err(refusal) if tries == RETRIES => return Err(refusal).with_context(|| format!("connect to {from}")),
            Err(_) => tries += 1,
        }
        thread::sleep(RETRY);
    }
}

fn pass_on(load: &Load, files: &[File], listener: &TcpListener, ready: &Receiver<()>) -> Result<()> {
    let (stream, _) = listener.accept().context("accept")?;
    stream.set_nodelay(true)?;
    for ((file, manifest, piece), ()) in load.pieces().zip(ready) {
        let range = manifest.piece_length().range(piece, manifest.length().context("the list names lengths")?);
        let mut offset = range.start();
        while offset < range.end() {
            let rest = usize::try_from(range.end() - offset)?;
            ensure!(sendfile(&stream, &files[file], Some(&mut offset), rest)? > 0, "a file ends too soon");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Carries two files of three pieces each from a source by a middle relay to a last one, after `damage` was done to the source's
    /// files; whether the last one's are right, and what the two relays said.
    fn chain(damage: impl FnOnce(&Path)) -> (bool, Result<()>, Result<()>) {
        let place = tempfile::tempdir().unwrap();
        let content = Content::generate_below(place.path(), 2, 300_000).unwrap();
        let list = serde_json::to_vec(&Load::of(&content).unwrap()).unwrap();
        damage(content.directory());
        let bound = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            (listener.local_addr().unwrap(), Some(listener))
        };
        let ((first, source_listens), (second, middle_listens)) = (bound(), bound());
        let relay = |name: &str, from, listener| {
            let directory = place.path().join(name);
            fs::create_dir_all(&directory).unwrap();
            carry(serde_json::from_slice(&list).unwrap(), &directory, Some(from), listener)
        };
        let (middle, last) = thread::scope(|scope| {
            // It fails when the middle one goes away, which is said by that one.
            scope.spawn(|| carry(serde_json::from_slice(&list).unwrap(), content.directory(), None, source_listens));
            let last = scope.spawn(|| relay("last", second, None));
            (relay("middle", first, middle_listens), last.join().unwrap())
        });
        let right = |(name, digest): &(String, _)| {
            crate::oci::digest_of(&place.path().join("last").join(name)).is_ok_and(|found| found == *digest)
        };
        (content.files.iter().all(right), middle, last)
    }

    #[test]
    fn everything_comes_to_the_end_of_the_chain() {
        let (right, middle, last) = chain(|_| {});
        middle.unwrap();
        last.unwrap();
        assert!(right);
    }

    #[test]
    fn a_wrong_piece_is_not_passed_on() {
        let (right, middle, last) = chain(|directory| {
            let file = OpenOptions::new().write(true).open(directory.join("blob-01")).unwrap();
            file.write_all_at(&[1, 2, 3], 200_000).unwrap();
        });
        assert_eq!(middle.unwrap_err().to_string(), "piece 1 of blob-01 is wrong");
        assert_eq!(last.unwrap_err().to_string(), "the relay before went away");
        assert!(!right);
    }
}
