//! Reads the files that a configuration names: the configuration itself, secrets, certificates and certificate authorities.
//!
//! Only regular files are read. A pipe, a socket or a terminal may never send anything, and a device may have no end: an agent that starts or reloads its configuration would wait for it. `/dev/null` counts as
//! an empty file.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{OFlags, major, minor};

/// The maximum size of such a file, in bytes.
const MAX_LENGTH: u64 = 16 << 20;

/// The bytes of a file that a configuration names. Blocking, but only as long as the disk takes.
///
/// # Errors
/// It can't be read, or is not a regular file, which the error says.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened, since that alone does something to some devices.
    check(&std::fs::metadata(path)?)?;
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    // Another file may have taken its place.
    check(&file.metadata()?)?;
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_LENGTH {
        return Err(unfit("it is larger than 16 MiB"));
    }
    Ok(bytes)
}

/// The text of a file that a configuration names.
///
/// # Errors
/// As of [`read`], and if it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|_| unfit("it is not text in UTF-8"))
}

fn check(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_char_device() && is_null(found.rdev()) => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(unfit(&format!("it is {what}, not a file")))
}

fn is_null(device: u64) -> bool {
    (major(device), minor(device)) == (1, 3)
}

fn unfit(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_plain_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, socket) = (dir.path().join("pipe"), dir.path().join("socket"));
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        let cases = [
            (pipe.as_path(), "it is a pipe, not a file"),
            (&socket, "it is a socket, not a file"),
            (dir.path(), "it is a directory, not a file"),
            (Path::new("/dev/zero"), "it is a device, not a file"),
            (Path::new("/dev/tty"), "it is a device, not a file"),
        ];
        for (path, why) in cases {
            assert_eq!(read(path).unwrap_err().to_string(), why, "{}", path.display());
        }
        let missing = read(&dir.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn files_are_read_wherever_links_lead_and_null_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "secret\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_text(&link).unwrap(), "secret\n");
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
        std::fs::write(&file, b"\xff").unwrap();
        assert!(read_text(&file).unwrap_err().to_string().contains("UTF-8"));
        File::options().write(true).open(&file).unwrap().set_len(MAX_LENGTH + 1).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("larger than 16 MiB"));
    }
}
