//! A program that a laboratory started: its output in files, its end by its own pid.
//!
//! Invariant: whatever was started here is dead once its [`Process`] is dropped. Nothing is ever ended by name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use darter_core::{Clock, SystemClock};
use rustix::process::{Pid, Signal, kill_process};

/// How often a state is looked at while waiting for it.
const GLANCE: Duration = Duration::from_millis(20);
/// How much of an output is shown when its program fails, in bytes.
const SHOWN_OUTPUT: usize = 4096;

/// A running or ended program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    errors: PathBuf,
}

impl Process {
    /// Starts `command` with its standard output in `NAME.out` and its standard error in `NAME.err` below `logs`.
    pub fn spawn(command: &mut Command, name: &str, logs: &Path) -> Result<Self> {
        let file = |suffix: &str| -> Result<(PathBuf, File)> {
            let path = logs.join(format!("{name}.{suffix}"));
            let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
            Ok((path, file))
        };
        let (output, out) = file("out")?;
        let (errors, err) = file("err")?;
        Self::begin(command, name, (output, out), (errors, err))
    }

    /// Starts `command` with its standard output in a file of just this name in another directory.
    pub fn spawn_into(command: &mut Command, name: &str, directory: &Path, logs: &Path) -> Result<Self> {
        let create = |path: PathBuf| -> Result<(PathBuf, File)> {
            let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
            Ok((path, file))
        };
        let errors = create(logs.join(format!("{name}.err")))?;
        Self::begin(command, name, create(directory.join(name))?, errors)
    }

    fn begin(
        command: &mut Command,
        name: &str,
        (output, out): (PathBuf, File),
        (errors, err): (PathBuf, File),
    ) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, output, errors })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// True if it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its standard output so far.
    pub fn output(&self) -> Result<String> {
        fs::read_to_string(&self.output).with_context(|| format!("read {}", self.output.display()))
    }

    /// Its standard error so far.
    pub fn errors(&self) -> Result<String> {
        fs::read_to_string(&self.errors).with_context(|| format!("read {}", self.errors.display()))
    }

    /// Waits until the process accepts connections on `port` of any address in its network namespace.
    pub fn wait_for_port(&mut self, port: u16, patience: Duration) -> Result<()> {
        let sockets = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", self.id()));
        wait_until(&format!("{} to listen on port {port}", self.name), patience, || {
            if !self.is_running() {
                bail!("{} ended before it listened on port {port}\n{}", self.name, self.tail());
            }
            Ok(sockets.iter().any(|table| listens(&fs::read_to_string(table).unwrap_or_default(), port)))
        })
        .with_context(|| self.tail())
    }

    /// Waits until the process ends; gives its standard output, or an error when it failed or took longer than
    /// `patience`.
    pub fn finish(&mut self, patience: Duration) -> Result<String> {
        let status = self.wait(patience)?;
        ensure!(status.success(), "{} failed: {status}\n{}", self.name, self.tail());
        self.output()
    }

    /// Waits until the process ends by itself.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_until(&format!("{name} to end"), patience, || Ok(!self.is_running())).with_context(|| self.tail())?;
        self.child.wait().with_context(|| format!("wait for {name}"))
    }

    /// Ends the process at once, as a crash or a power cut would.
    pub fn kill(&mut self) {
        // An error says that it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks the process to end (SIGTERM), and waits until it has.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        if self.is_running() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)
                .with_context(|| format!("ask {} to end", self.name))?;
        }
        self.wait(patience)
    }

    /// The last of both outputs, for messages of failure.
    pub fn tail(&self) -> String {
        let mut text = String::new();
        for path in [&self.output, &self.errors] {
            let content = fs::read(path).unwrap_or_default();
            let shown = String::from_utf8_lossy(&content[content.len().saturating_sub(SHOWN_OUTPUT)..]);
            if !shown.trim().is_empty() {
                text.push_str(&format!("--- {}\n{}\n", path.display(), shown.trim_end()));
            }
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Looks at `state` again and again until it is true; an error when that takes longer than `patience`, or `state` fails.
pub fn wait_until(what: &str, patience: Duration, mut state: impl FnMut() -> Result<bool>) -> Result<()> {
    let clock = SystemClock::start();
    let start = clock.now();
    while !state()? {
        ensure!(clock.now().since(start) < patience, "waited {} s for {what}", patience.as_secs());
        thread::sleep(GLANCE);
    }
    Ok(())
}

/// True if the kernel's table of TCP sockets has one listening on `port`.
fn listens(table: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().and_then(|address| address.rsplit_once(':'));
        let state = fields.nth(1);
        local.is_some_and(|(_, digits)| u16::from_str_radix(digits, 16) == Ok(port)) && state == Some(LISTEN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_told_from_a_connected_one() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                     0: 0100007F:1CE9 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:1CEA 0100007F:1CE9 01 00000000:00000000\n";
        assert!(listens(table, 7401));
        assert!(!listens(table, 7402));
        assert!(!listens(table, 80));
    }

    #[test]
    fn a_failure_shows_what_the_program_said() {
        let logs = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo some; echo trouble >&2; exit 3"]);
        let mut process = Process::spawn(&mut command, "sh", logs.path()).unwrap();
        let message = format!("{:#}", process.finish(Duration::from_secs(20)).unwrap_err());
        assert!(message.contains("trouble") && message.contains("exit status: 3"), "{message}");
    }

    #[test]
    fn a_dropped_process_is_dead() {
        let logs = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Process::spawn(&mut command, "sleep", logs.path()).unwrap();
        let proc = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
    }
}
