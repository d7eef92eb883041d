//! Standard output, which is only for data. If its reader closes it early (`darter ls | head -1`), the command ends
//! successfully. Messages to the user go to standard error ([`complain`]).

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;
pub(crate) use crate::stderr::complain;

/// Prints text. Colours in it are dropped if standard output is not a terminal.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(stdout_error)
}

/// Prints a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string_pretty(value)?;
    line.push('\n');
    text(&line)
}

/// Prints a value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    text(&(serde_json::to_string(value)? + "\n"))
}

/// The error for a failed write; a reader that closed standard output is told apart.
pub(crate) fn stdout_error(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::OutputClosed.into()
    } else {
        anyhow::Error::new(error).context("can't write to standard output")
    }
}
