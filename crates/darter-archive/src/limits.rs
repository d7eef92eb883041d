//! Limits of one archive.

/// The most bytes of memory that the members of an archive may take, as far as they are counted: more than a million files' worth.
pub const MAX_HELD: usize = 512 << 20;

/// The longest path of a member, and the longest target of a symbolic link: what Linux takes in one system call.
pub const MAX_PATH: usize = 4095;

/// The longest name of a file.
pub const MAX_NAME: usize = 255;

/// How many times its compressed length data can be that deflate has made.
pub const MAX_DEFLATE: u64 = 1032;

/// How many members that can't be read are named.
pub const MAX_NAMED: usize = 5;
