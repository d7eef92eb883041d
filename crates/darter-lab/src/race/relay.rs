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

use super::content::Content;

/// Before so much has come there is no use in waking up, in bytes; Darter has the same mark.
const LOW_WATER: u32 = 256 * 1024;
/// How often is tried to reach the relay before, which may start later.
const RETRY: Duration = Duration::from_millis(5);
/// How many times, so that a race that went wrong ends.
const RETRIES: u32 = 6000;

/// Files and what their pieces must be.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cargo {
    files: Vec<(String, Manifest)>,
}

impl Cargo {
    /// Reads and hashes the content, in pieces as Darter would choose them.
    pub(crate) fn of(content: &Content) -> Result<Self> {
        let mut cargo = Self { files: Vec::new() };
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
            cargo.files.push((name.clone(), manifest));
        }
        Ok(cargo)
    }

    /// All pieces, in the order in which they travel.
    fn pieces(&self) -> impl Iterator<Item = (usize, &Manifest, PieceIndex)> {
        self.files.iter().enumerate().flat_map(|(file, (_, manifest))| {
            (0..manifest.known()).map(move |number| (file, manifest, PieceIndex(number)))
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

/// What a relay is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Relay {
    /// What is carried, as the laboratory wrote it down
    #[arg(long)]
    list: PathBuf,
    /// Where the files are, or are to be
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
        let cargo: Cargo = serde_json::from_slice(&list).context("understand the list")?;
        let files = Arc::new(cargo.open(&self.directory, self.from.is_some())?);
        let cargo = Arc::new(cargo);
        let (held, ready) = sync_channel(cargo.pieces().count());
        let sending = match self.listen {
            Some(address) => {
                let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
                let (cargo, files) = (Arc::clone(&cargo), Arc::clone(&files));
                Some(thread::spawn(move || pass_on(&cargo, &files, &listener, &ready)))
            }
            None => None,
        };
        // When this fails, the process ends, and whoever waits behind it sees that.
        match self.from {
            Some(from) => receive(&cargo, &files, from, &held)?,
            None => cargo.pieces().for_each(|_| say(&held)),
        }
        sending.map_or(Ok(()), |sending| sending.join().expect("passing on does not panic"))
    }
}

fn receive(cargo: &Cargo, files: &[File], from: SocketAddr, held: &SyncSender<()>) -> Result<()> {
    let mut stream = connect(from)?;
    let mut mark = 0;
    let mut buffer = Vec::new();
    for (file, manifest, piece) in cargo.pieces() {
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
        let only = manifest.known() == 1;
        ensure!(manifest.hash(piece) == Some(hash_piece(pieces, piece, &buffer, only)), "piece {piece} is wrong");
        files[file].write_all_at(&buffer, range.start()).context("write a piece")?;
        say(held);
    }
    Ok(())
}

/// One piece more can be passed on. Where nobody is passed on to, nobody listens.
fn say(held: &SyncSender<()>) {
    let _ = held.send(());
}

fn connect(from: SocketAddr) -> Result<TcpStream> {
    for _ in 0..RETRIES {
        if let Ok(stream) = TcpStream::connect(from) {
            return Ok(stream);
        }
        thread::sleep(RETRY);
    }
    bail!("nobody listens on {from}")
}

fn pass_on(cargo: &Cargo, files: &[File], listener: &TcpListener, ready: &Receiver<()>) -> Result<()> {
    let (stream, _) = listener.accept().context("accept")?;
    stream.set_nodelay(true)?;
    for ((file, manifest, piece), ()) in cargo.pieces().zip(ready) {
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

    /// A free address of this host, for a listener that starts in a moment.
    fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    /// Two files of this size, in three pieces each, with their list, and the source and the last relay of a chain of three.
    fn carry(size: u64, damage: impl FnOnce(&Path)) -> (tempfile::TempDir, Content, Result<()>) {
        let place = tempfile::tempdir().unwrap();
        let content = Content::generate(2, size).unwrap();
        let list = place.path().join("list");
        fs::write(&list, serde_json::to_vec(&Cargo::of(&content).unwrap()).unwrap()).unwrap();
        damage(content.directory());
        let (first, second) = (free(), free());
        let relay = |name: &str, from, listen| {
            let directory = place.path().join(name);
            fs::create_dir_all(&directory).unwrap();
            Relay { list: list.clone(), directory, from, listen }
        };
        let source = Relay { directory: content.directory().to_owned(), ..relay("source", None, Some(first)) };
        let middle = relay("middle", Some(first), Some(second));
        let last = relay("last", Some(second), None);
        // Detached: where the middle one fails, the last would wait for it.
        thread::spawn(move || source.run());
        thread::spawn(move || last.run());
        let result = middle.run();
        (place, content, result)
    }

    #[test]
    fn a_chain_carries_everything() {
        let (place, content, result) = carry(300_000, |_| {});
        result.unwrap();
        for (name, digest) in &content.files {
            assert_eq!(crate::oci::digest_of(&place.path().join("middle").join(name)).unwrap(), *digest);
        }
    }

    #[test]
    fn a_wrong_piece_is_refused() {
        let (_place, _content, result) = carry(300_001, |directory| {
            let file = OpenOptions::new().write(true).open(directory.join("blob-01")).unwrap();
            file.write_all_at(&[1, 2, 3], 200_000).unwrap();
        });
        assert_eq!(result.unwrap_err().to_string(), "piece 1 is wrong");
    }
}
