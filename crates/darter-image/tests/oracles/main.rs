//! Expanded layers, as the kernel, containerd, GNU tar and erofs-utils read them. Things that are missing on this host (root, EROFS, Go, a program)
//! are named on standard error, and the tests that need them are left out.
//!
//! | file | what it shows |
//! |---|---|
//! | `containerd.rs` | mounted by the kernel, and read by containerd's own reader, a layer is what containerd unpacks, and what it refuses is refused |
//! | `stacks.rs` | layers above others: where a directory that no member names is otherwise than its layer's file says, that is known |
//! | `programs.rs` | tars that GNU tar, bsdtar and Python write of one directory are all that directory |
//! | `utilities.rs` | erofs-utils finds nothing wrong |
//! | `layers.rs` | the layers |
//! | `hosts.rs` | what this host has |
//! | `oracle.go` | containerd's side |

#![allow(missing_docs)]

mod containerd;
mod hosts;
mod layers;
mod programs;
mod stacks;
#[path = "../support/mod.rs"]
mod support;
mod utilities;
