//! Judges whether the kernel mounts layers, which are EROFS. No I/O.

use super::facts::Kernel;
use super::findings::{Finding, Findings};
use crate::setup::containerd::Release;

const AREA: &str = "lazy start";
/// From this release on, Linux mounts EROFS with 512-byte blocks over a loop device.
const FIRST_LOOP: Release = (6, 4);
/// From this release on, it mounts EROFS from a file, too.
const FIRST_FILE: Release = (6, 12);

/// Judges whether the kernel can mount a layer.
pub(super) fn of_kernel(kernel: &Kernel) -> Vec<Finding> {
    let mut found = Findings::about(AREA);
    let erofs = kernel.filesystems.iter().any(|name| name == "erofs") || kernel.modules.contains(&"erofs");
    if !erofs {
        found.problem("erofs", "the kernel has no EROFS", "modprobe erofs, or a kernel with CONFIG_EROFS_FS");
    } else if kernel.release < FIRST_LOOP {
        found.problem(
            "erofs",
            format!("Linux {} reads no EROFS with blocks of 512 bytes, which layers have", kernel.name),
            "Linux 6.4 or later; from 6.12 on without loop devices",
        );
    } else if kernel.release < FIRST_FILE || kernel.file_backed == Some(false) {
        found.warning(
            "erofs",
            "EROFS, but not from files: containerd makes a loop device for each layer",
            "Linux 6.12 or later with CONFIG_EROFS_FS_BACKED_BY_FILE",
        );
    } else {
        found.ok("erofs", "EROFS, mounted from files");
        if !reads_all_or_nothing(&kernel.name) {
            found.warning(
                "short reads",
                format!(
                    "Linux {} may take a short read for the end of a file, and return zeros for the rest, if a program is killed while it reads",
                    kernel.name
                ),
                "a kernel with \"erofs: set fileio bio failed in short read case\" (in 7.0, 6.18.44, Debian's 6.12.117); until then leave read_ahead_kb as it is",
            );
        }
    }
    found.found
}

/// True if a kernel fails a read of EROFS if the file below returned only a part of it. These releases have the fix; earlier ones of the same series may have it, too.
fn reads_all_or_nothing(name: &str) -> bool {
    let mut numbers = name.split(|letter: char| !letter.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0_u32);
    match (next(), next(), next()) {
        (6, 12, patch) => patch >= 117,
        (6, 18, patch) => patch >= 44,
        (major, ..) => major >= 7,
    }
}
