//! Standard error: messages for people. Nobody need take them: that is no reason to fail.

use std::io::Write as _;

/// Prints a line on standard error. Colours in it are dropped when that is not a terminal.
pub(crate) fn complain(line: &str) {
    // It may be full, or its terminal closed: then there is nobody to tell.
    let _ = writeln!(anstream::stderr(), "{line}");
}
