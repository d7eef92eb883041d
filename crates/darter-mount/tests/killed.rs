//! A process that keeps a mount is killed while the kernel forgets pages of a file, one of which is being read: the read ends all the same.
//!
//! On hosts without FUSE this test says so and does nothing.

#![allow(missing_docs)]

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use darter_core::{BlobId, ByteRange, PieceHash, PieceLength, SystemClock};
use darter_mount::supply::{Content, End, Given, Refusal, Supply};
use darter_mount::{Fill, MountOptions, Mounted, MountedFile, Pages, Settings};

/// The variable with the mount point, for the process that keeps the mount.
const DIRECTORY: &str = "DARTER_TEST_MOUNT";
const LENGTH: u64 = 1 << 20;
const PAGE: usize = 4096;
/// How long anything may take that nothing is in the way of.
const WITHIN: Duration = Duration::from_secs(60);

fn said(word: &str) {
    println!("{word}");
    io::stdout().flush().unwrap();
}

/// Gives the first half, and nothing else ever.
struct Half;

#[async_trait]
impl Supply for Half {
    async fn read(&self, range: ByteRange, _: Duration) -> Result<Given, Refusal> {
        if range.start() >= LENGTH / 2 {
            said("waiting");
            std::future::pending::<()>().await;
        }
        Ok(Given::Bytes(Bytes::from(vec![7; range.len() as usize])))
    }

    async fn fetch(&self, _: ByteRange, _: Duration) -> Result<Vec<PieceHash>, Refusal> {
        Err(Refusal::Late)
    }

    async fn everything(&self) {}

    async fn touched(&self, _: &[ByteRange]) {}

    async fn progress(&self) -> Option<(u64, bool)> {
        None
    }

    async fn ended(&self) -> End {
        std::future::pending().await
    }
}

fn opened(files: &[PathBuf]) -> io::Result<()> {
    said("forgetting");
    Command::new("cat").args(files).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().map(drop)
}

/// The process that is killed; nothing to any other.
#[test]
fn keeper() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let content =
        Content { blob: BlobId([7; 32]), length: LENGTH, pieces: PieceLength::from_log2(17).unwrap(), modified: None };
    let settings =
        Settings { limit: WITHIN * 60, fill: Fill::Never, fill_rate: None, has_digest: true, pages: Pages::Mounted };
    let file = {
        let _inside = runtime.enter();
        MountedFile::new(content, Arc::new(Half), settings, Arc::new(SystemClock::start()))
    };
    let options = MountOptions { name: "file".into(), modified: SystemTime::UNIX_EPOCH, others: false };
    let mounted = Mounted::mount(file, dir.as_ref(), options, opened, runtime.handle().clone());
    let Ok((_mounted, cache)) = mounted else { return said("unmounted") };
    said("mounted");
    // Told so when a read waits.
    io::stdin().read_line(&mut String::new()).unwrap();
    let _ = cache.forget();
    said("forgotten");
    std::thread::sleep(WITHIN * 60);
}

#[test]
fn a_read_ends_though_its_keeper_is_killed_while_the_kernel_forgets_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "keeper", "--nocapture"]).env(DIRECTORY, dir.path());
    let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(keeper.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut until = |word: &str| lines.find(|line| line.ends_with(word) || line.ends_with("unmounted")).unwrap();
    if until("mounted").ends_with("unmounted") {
        eprintln!("skipped: nothing can be mounted here");
        keeper.wait().unwrap();
        return;
    }
    let (tell, told) = channel();
    let path = dir.path().join("file");
    let reader = std::thread::spawn(move || {
        let (file, mut page) = (File::open(path).unwrap(), vec![0; PAGE]);
        file.read_exact_at(&mut page, 0).unwrap();
        assert!(page.iter().all(|byte| *byte == 7));
        let _ = tell.send(file.read_exact_at(&mut page, LENGTH - PAGE as u64));
    });
    until("waiting");
    keeper.stdin.take().unwrap().write_all(b"forget\n").unwrap();
    until("forgetting");
    // The process that forgets pages comes to the one that is read; the sooner it is killed, the less is shown.
    std::thread::sleep(Duration::from_millis(300));
    keeper.kill().unwrap();
    let read = told.recv_timeout(WITHIN);
    let root = rustix::process::geteuid().is_root();
    let how: &[&str] = if root { &["umount", "--force", "--lazy"] } else { &["fusermount3", "-u", "-z"] };
    let _ = Command::new(how[0]).args(&how[1..]).arg(dir.path()).stderr(Stdio::null()).status();
    assert!(read.expect("a read waits for a process that was killed").is_err());
    reader.join().unwrap();
    keeper.wait().unwrap();
}
