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

/// Ignores SIGXFSZ from now on: a write past the limit of file sizes (`ulimit -f`) then fails with an error, and does not end the
/// process.
pub fn ignore_file_size_limit() {
    // SAFETY: ignoring is a valid disposition for this signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// True if this process ignores a signal, as `nohup` lets it ignore SIGHUP: the program that started it wants it to
/// live on.
pub fn is_ignored(signal: i32) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks only, and writes a whole `sigaction` where it succeeds.
    if unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call has succeeded.
    unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_told() {
        assert!(is_ignored(libc::SIGPIPE), "the standard library ignores it");
        assert!(!is_ignored(libc::SIGWINCH));
        assert!(!is_ignored(1000));
    }

    #[test]
    fn a_write_past_the_limit_of_file_sizes_is_an_error() {
        ignore_file_size_limit();
        assert!(is_ignored(libc::SIGXFSZ));
    }

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
