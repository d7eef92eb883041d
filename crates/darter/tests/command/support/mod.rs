//! Rooms and processes.

pub(crate) mod hub;
pub(crate) mod web;

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How often to look whether something has happened, and how often at most: a minute in all.
const PAUSE_AND_LOOKS: (Duration, u32) = (Duration::from_millis(20), 3000);

/// Waits until `happened`; panics with `what` when it does not.
pub(crate) fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..PAUSE_AND_LOOKS.1 {
        if happened() {
            return;
        }
        thread::sleep(PAUSE_AND_LOOKS.0);
    }
    panic!("waited in vain: {what}");
}

/// A directory of a test's own, with a data directory in it.
pub(crate) struct Room(TempDir);

impl Room {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// One in this directory.
    pub(crate) fn new_in(parent: &Path) -> Self {
        Self(TempDir::new_in(parent).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// `darter` in this room: the words of `line`, and the data directory by its variable.
    pub(crate) fn darter(&self, line: &str) -> Command {
        let mut command = Command::new("env");
        // A test may run in the background of a script, which ignores SIGINT.
        command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_darter")]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DARTER_")) {
            command.env_remove(name);
        }
        std::fs::create_dir_all(self.path("out")).unwrap();
        // The system's own configuration is none of a test's business.
        command.args(line.split_whitespace()).env("DARTER_DATA_DIR", self.data_dir()).env("DARTER_CONFIG", "");
        // However full the disk is that tests run on.
        command.env("DARTER_RESERVE", "0");
        // Tests count the bytes of their origins exactly: another connection's trial may be read twice.
        command.env("DARTER_ORIGIN_CONNECTIONS", "1");
        // An origin that is down in these tests stays down.
        command.env("DARTER_ORIGIN_PATIENCE", "1s");
        command.current_dir(self.path("out")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The same as the last arguments of another program.
    pub(crate) fn darter_by(&self, program: &[&str], line: &str) -> Command {
        let darter = self.darter(line);
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(darter.get_args().skip(1)).current_dir(self.path("out"));
        for (name, value) in darter.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, line: &str) -> Outcome {
        Outcome::of(self.darter(line).output().unwrap())
    }

    /// Everything in the directory that commands run in.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.path("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path("out").join(name)).unwrap()
    }
}

/// A command's output and exit code.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    /// The signal that it died of.
    pub(crate) signal: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        let signal = output.status.signal();
        Self { code: output.status.code(), signal, out: output.stdout, err: String::from_utf8(output.stderr).unwrap() }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{} {}", self.err, self.text());
        self
    }

    /// Checks the exit code, and that one line was said which has all of `parts`.
    #[track_caller]
    pub(crate) fn failed_with(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{} {}", self.err, self.text());
        assert_eq!(self.err.trim_end().lines().count(), 1, "one line: {}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in {:?}", self.err);
        }
        self
    }
}

/// A process that is killed when the test is done with it.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_raw(self.child().id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Signals what this process started.
    pub(crate) fn signal_child(&mut self, signal: Signal) {
        let id = self.child().id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        kill_process(Pid::from_raw(children.trim().parse().unwrap()).unwrap(), signal).unwrap();
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child().try_wait().unwrap().is_none()
    }

    /// Takes its standard output away: what is written there finds nobody.
    pub(crate) fn close_stdout(&mut self) {
        drop(self.child().stdout.take());
    }

    /// Reads its standard output up to `length` bytes.
    pub(crate) fn read_stdout(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.child().stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn end(mut self) -> Outcome {
        Outcome::of(self.0.take().unwrap().wait_with_output().unwrap())
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.child().wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An agent in a room, up and answering.
pub(crate) struct Daemon {
    pub(crate) process: Running,
    pub(crate) listen: String,
}

impl Daemon {
    pub(crate) fn start(room: &Room, more: &str) -> Self {
        Self::listening_on(&free_address(), room, &format!("seed {more}"))
    }

    /// A node that joins a seed.
    pub(crate) fn node(room: &Room, seed: &str, more: &str) -> Self {
        Self::listening_on(&free_address(), room, &format!("node --join {seed} {more}"))
    }

    /// An agent at a peer address of the test's choice.
    pub(crate) fn listening_on(listen: &str, room: &Room, line: &str) -> Self {
        Self::listening_with(listen, room, line, &[])
    }

    /// The same with variables of its own.
    pub(crate) fn listening_with(listen: &str, room: &Room, line: &str, variables: &[(&str, &str)]) -> Self {
        let (listen, local) = (listen.to_owned(), free_address());
        let mut command = room.darter(&format!("{line} --listen {listen} --local {local} --insecure"));
        command.envs(variables.iter().copied());
        command.stderr(std::fs::File::create(room.path("seed.log")).unwrap());
        let mut process = Running::start(command);
        wait_until("the daemon answers", || {
            assert!(process.runs(), "{}", std::fs::read_to_string(room.path("seed.log")).unwrap());
            room.run("status").code == Some(0)
        });
        Self { process, listen }
    }
}

/// An address that nobody listens on, and nobody else comes to: of a loopback network of this process's own, since a port of
/// 127.0.0.1 may be taken by any connection meanwhile, even by one that is made to that very port.
pub(crate) fn free_address() -> String {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    // The kernel gives ids below 2^22.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    format!("127.{}.{middle}.{low}:{}", 64 + high, PORT.fetch_add(1, Ordering::Relaxed))
}

/// How many bytes of content a data directory would still have if its process were killed: those of pieces that a sidecar
/// says are held, whose layout `darter-store` tells.
pub(crate) fn saved(data_dir: &Path) -> u64 {
    let sidecars = files_below(data_dir).into_iter().filter(|path| path.extension().is_some_and(|it| it == "piece"));
    let mut saved = 0;
    for bytes in sidecars.filter_map(|path| std::fs::read(path).ok()) {
        let words = u32::from_le_bytes(bytes[60..64].try_into().unwrap()) as usize;
        let held = &bytes[bytes.len() - 32 - 8 * words..bytes.len() - 32];
        saved += held.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>() << bytes[10];
    }
    saved
}

/// All files in a directory and those below it.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}

/// Bytes that look like nothing, the same each time.
pub(crate) fn content(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    darter_core::Digest::sha256(bytes).to_string()
}
