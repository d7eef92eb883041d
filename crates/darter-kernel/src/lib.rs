//! Calls of the Linux kernel that no safe crate wraps. The only crate of the workspace with `unsafe` code: each file wraps one call or one
//! kind of object, and every `unsafe` block says why it is sound. Nothing here decides anything.
//!
//! | file | what lives there |
//! |---|---|
//! | [`cached`] | how much of a file is in memory |
//! | [`extents`] | where the bytes of a file are on its disk |
//! | [`signal`] | dying of a signal |
//! | [`socket`] | low-water marks of TCP sockets |
//! | [`sysfs`] | what a mounted file system is called in sysfs |

#[allow(unsafe_code)]
pub mod cached;
#[allow(unsafe_code)]
pub mod extents;
#[allow(unsafe_code)]
pub mod signal;
#[allow(unsafe_code)]
pub mod socket;
#[allow(unsafe_code)]
pub mod sysfs;
