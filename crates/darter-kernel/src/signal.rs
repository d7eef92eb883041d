//! Ending as a signal ends a process that does not catch it: see signal(7).

use std::io;

/// Takes the signal's default action, which for SIGINT, SIGTERM and SIGHUP is the end of the process: its parent then sees
/// that it died of the signal, and a shell ends the loop that it ran in. Returns only when the signal is blocked or has
/// another default.
///
/// # Errors
/// For a number that is no signal, or one that can't be caught.
pub fn end_by(signal: i32) -> io::Result<()> {
    // SAFETY: the default action is a valid disposition; the kernel refuses numbers that are no signals.
    if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes a number, touches no memory.
    if unsafe { libc::raise(signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_signal_is_refused() {
        assert!(end_by(0).is_err());
        assert!(end_by(1000).is_err());
        assert!(end_by(libc::SIGKILL).is_err(), "it can't be caught, so there is no default to restore");
    }

    #[test]
    fn a_signal_without_effect_by_default_comes_back() {
        end_by(libc::SIGWINCH).unwrap();
    }
}
