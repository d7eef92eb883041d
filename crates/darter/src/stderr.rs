//! Standard error: messages to the user. A failure to write them is ignored.

use std::io::Write as _;

/// Prints a line on standard error. Colours in it are dropped if that is not a terminal.
pub(crate) fn complain(line: &str) {
    // The disk may be full, or the terminal closed: then the message is lost.
    let _ = writeln!(anstream::stderr(), "{line}");
}
