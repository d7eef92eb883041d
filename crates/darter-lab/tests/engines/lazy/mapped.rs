//! Files that are mapped: a page that can't be had ends the program that touches it, so another program does that.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::reading::UNREAD;

/// Answers each line `OFFSET LENGTH PATH` with bytes of a mapping, behind a line that says how many, or with the number of an error. Mappings stay.
const PROGRAM: &str = r#"
import mmap, sys
mappings = {}
for line in sys.stdin:
    at, length, path = line.rstrip("\n").split(" ", 2)
    at, length = int(at), int(length)
    try:
        if path not in mappings:
            with open(path, "rb") as file:
                mappings[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = mappings[path][at:at + length]
        answer = b"%d\n" % len(data) + data
    except OSError as error:
        answer = b"-%d\n" % error.errno
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
"#;

/// A program that maps files; another one when it ended.
#[derive(Default)]
pub(super) struct Mapper(Option<Running>);

struct Running {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Running {
    fn start() -> Result<Self> {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start python3, which maps files")?;
        let (questions, answers) = (child.stdin.take(), child.stdout.take());
        let (questions, answers) = (questions.context("it is asked")?, answers.context("it answers")?);
        Ok(Self { child, questions, answers: BufReader::new(answers) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Mapper {
    /// Bytes of a file. `None`: it can't be opened, or a page of it can't be had (SIGBUS). Any other failure is an error.
    pub(super) fn read(&mut self, path: &Path, at: u64, length: usize) -> Result<Option<Vec<u8>>> {
        let running = match &mut self.0 {
            Some(running) => running,
            none => none.insert(Running::start()?),
        };
        writeln!(running.questions, "{at} {length} {}", path.display()).context("ask the program that maps files")?;
        let mut line = String::new();
        running.answers.read_line(&mut line).context("hear the program that maps files")?;
        if line.is_empty() {
            let status = running.child.wait().context("wait for the program that maps files")?;
            self.0 = None;
            if status.signal() == Some(Signal::BUS.as_raw()) {
                return Ok(None);
            }
            bail!("the program that maps {} ended with {status}", path.display());
        }
        let count: i64 = line.trim().parse().with_context(|| format!("the program that maps files said {line:?}"))?;
        if let Ok(count) = usize::try_from(count) {
            let mut bytes = vec![0; count];
            running.answers.read_exact(&mut bytes).context("hear the program that maps files")?;
            return Ok(Some(bytes));
        }
        if UNREAD.iter().any(|errno| i64::from(errno.raw_os_error()) == -count) {
            return Ok(None);
        }
        bail!("mapping {}: error {}", path.display(), -count)
    }
}
