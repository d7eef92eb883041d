//! What the daemon knows, for people or as JSON: `status`, `ls`, `rm`, `pin`, `unpin`, `explain`.
//!
//! | file | what lives there |
//! |---|---|
//! | `show/status.rs` | one agent at a glance |
//! | `show/blobs.rs` | the store's blobs: list, remove, pin |
//! | `show/explain.rs` | where a blob's bytes came from |
//! | `show/image.rs` | the same for each part of an image |

mod blobs;
mod explain;
mod image;
mod status;

#[cfg(test)]
mod tests;

pub(crate) use self::blobs::{list, pin, remove};
pub(crate) use self::explain::explain;
pub(crate) use self::status::{received, status};
