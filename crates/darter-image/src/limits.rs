//! Limits of one layer. Beyond it, a layer is pulled and unpacked the ordinary way.
//!
//! Memory: a tree takes about 250 bytes for each member and its name, twice that while metadata is written. A layer of 100,000 members
//! stays far below 100 MB, and no layer takes much more than [`MAX_HELD`] for its tree and as much again for its metadata.

/// The longest path of a member, and of what it resolves to: what Linux takes in one system call.
pub const MAX_PATH: usize = 4095;

/// The longest name of a file.
pub const MAX_NAME: usize = 255;

/// The longest name of an extended attribute.
pub const MAX_XATTR_NAME: usize = 255;

/// The longest value of an extended attribute: its length has 16 bits in EROFS.
pub const MAX_XATTR_VALUE: usize = 65_535;

/// The most bytes of extended attributes of one inode: their count of four bytes has 16 bits in EROFS.
pub const MAX_XATTRS: usize = 4 * (u16::MAX as usize - 1);

/// The most bytes of an extended header (PAX records, a long name), and of a map of a sparse file: Go's limit, and so containerd's.
pub const MAX_SPECIAL: u64 = 1 << 20;

/// The most bytes that a tree may take in memory, as far as they are counted; and the most that its metadata may.
pub const MAX_HELD: usize = 512 << 20;

/// The most bytes of sparse files that are copied behind the tar, since no inode could point at them.
pub const MAX_COPIED: u64 = 32 << 20;

/// The most entries in a sparse file's map.
pub const MAX_CHUNKS: u64 = 4 << 20;

/// How many symbolic links one path may pass.
pub const MAX_LINKS: u32 = 255;

/// How many names all paths of a layer together may pass again because of symbolic links: seconds of work.
pub const MAX_LINK_STEPS: u64 = 100_000_000;

/// The longest tar, decompressed.
pub const MAX_TAR: u64 = 256 << 30;

/// How many times its compressed length a tar may be, once it is longer than [`MIN_BOMB`]. Gzip does not reach that.
pub const MAX_RATIO: u64 = 2048;

/// A tar that is no longer than this is no bomb, however small it was.
pub const MIN_BOMB: u64 = 1 << 30;

/// The largest window of a zstd frame, as a power of two: what `zstd --ultra -22` writes, 128 MiB.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 27;
