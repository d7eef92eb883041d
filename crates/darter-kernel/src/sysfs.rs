//! The name of a mounted file system in sysfs: `FS_IOC_GETFSSYSFSPATH`, of Linux 6.9 and later. Of one without a device nothing else tells.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// `struct fs_sysfs_path`.
#[repr(C)]
struct Answer {
    length: u8,
    name: [u8; 128],
}

/// `_IOR(0x15, 1, struct fs_sysfs_path)`, on machines that number such calls as most do.
const GET_SYSFS_PATH: u64 = 2 << 30 | (size_of::<Answer>() as u64) << 16 | 0x15 << 8 | 1;

/// The name of the file system of an open file or directory below `/sys/fs`: its type, a slash, its name.
///
/// # Errors
/// Where the kernel does not know the call, or the file system has no name there.
pub fn name(file: &File) -> io::Result<String> {
    if cfg!(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut answer = Answer { length: 0, name: [0; 128] };
    // SAFETY: the kernel writes one `struct fs_sysfs_path`, which this is, and keeps no pointer to it. The descriptor is open for as long as `file` is borrowed.
    let failed = unsafe { libc::ioctl(file.as_raw_fd(), GET_SYSFS_PATH as libc::Ioctl, &raw mut answer) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    let name = answer.name.get(..answer.length.into()).unwrap_or_default();
    String::from_utf8(name.to_vec()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_found_by_the_name_that_it_tells() {
        let told = ["/", "/tmp", "/dev/shm", "/proc"].map(|place| name(&File::open(place).unwrap()).ok());
        for name in told.iter().flatten() {
            let path = std::path::Path::new("/sys/fs").join(name);
            assert!(name.contains('/') && path.exists(), "{}", path.display());
        }
        assert_eq!(told[3], None, "procfs has none");
    }
}
