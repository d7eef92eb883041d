//! Checks whether the thread that waits for a read was killed.
//!
//! A read past the page cache that is not asynchronous ([`layers`](crate::layers)) is one request of the reading thread, and the kernel lets that thread end only after the
//! answer. The kernel reports
//! signals, but all of them, and the FUSE library does not pass the reports on. So the thread is checked while its read waits.
//!
//! Invariant: only a thread that was killed, and waits in the kernel, counts as killed. If it can't be seen (another PID namespace, no `/proc`), it counts as
//! not killed.

use std::time::Duration;

/// How often to check.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The bit of `SIGKILL` in the masks of `/proc/PID/status`. Any other signal that ends a process reaches each of its threads as this one.
const KILLED: u64 = 1 << (9 - 1);

/// A thread, as the kernel names it to the process that mounted the file system; 0 if that process can't see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker(pub(crate) u32);

impl Asker {
    /// Returns when the thread has been killed.
    pub(crate) async fn killed(self) {
        if self.0 == 0 {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let path = format!("/proc/{}/status", self.0);
            let status = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
            if matches!(status, Ok(Ok(status)) if is_killed(&status)) {
                return;
            }
        }
    }
}

/// True if `status`, a thread's `/proc/PID/status`, says that it was killed and waits in the kernel.
fn is_killed(status: &str) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let has =
        |name| field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & KILLED != 0);
    field("State:").is_some_and(|state| state.starts_with('D')) && (has("SigPnd:") || has("ShdPnd:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_in_the_kernel_and_was_killed_is_told_from_all_others() {
        let status = |state: &str, own: &str, shared: &str| {
            format!(
                "Name:\tSigPnd:\nState:\t{state}\nTgid:\t7\nSigQ:\t0/100\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t0000000000000100\n"
            )
        };
        let (none, kill, others) = ("0000000000000000", "0000000000000100", "fffffffffffffeff");
        assert!(is_killed(&status("D (disk sleep)", kill, none)) && is_killed(&status("D (disk sleep)", none, kill)));
        assert!(!is_killed(&status("D (disk sleep)", others, others)), "it may go on");
        assert!(!is_killed(&status("R (running)", kill, none)), "another thread by now");
        assert!(!is_killed("") && !is_killed("State:\tD\nSigPnd:\tx\n"));
        assert!(!is_killed(&std::fs::read_to_string("/proc/self/status").unwrap()));
    }
}
