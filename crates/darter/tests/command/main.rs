//! Scenarios with the real program as users and scripts run it: a web server in the test, `darter` in processes.
//!
//! | file | what it shows |
//! |---|---|
//! | `words.rs` | help, exit codes, configuration, completions, manual pages |
//! | `get.rs` | one download without a daemon: right bytes or none, resuming, interruptions |
//! | `ranges.rs` | a part of some content: progress, no seed, no daemon, a lead that dies |
//! | `daemon.rs` | a daemon's life, and the commands that talk to it |
//! | `swarm.rs` | a seed and nodes: who reads the origin, who gives what, who dies |
//! | `no_seed.rs` | nodes without a seed, and fleets in which something is amiss: versions, ids, names, agents that stand still |
//! | `amiss.rs` | seeds that can't do what they are asked, strangers at addresses to join, nodes that find nobody |
//! | `errors.rs` | what users and programs read of a failure: the status, the causes, whose fault it is, whether asking again helps |
//! | `quota.rs` | a full store, file descriptors that run out, a disk that hangs |
//! | `shares.rs` | files that share the store's blocks, on XFS and btrfs; a tmpfs that fills up |
//! | `top.rs` | the live view: what it measures of a real swarm, and the terminal given back |
//! | `image.rs` | layers made mountable |
//! | `setup.rs` | the files of a host before and after `darter setup`, and what `darter doctor` says of them |
//! | `mount.rs` | files that are opened before they have come, by real FUSE mounts |
//! | `mount_image.rs` | an image's root, by the kernel's EROFS and overlayfs |
//! | `mount_tree.rs` | archives, lists, directories and artifacts as directories of files |
//! | `json.rs` | that docs/api.md names every field of every `--json` |
//! | `demo.rs` | the demonstration |
//! | `support/` | rooms, processes and the web server |

#![allow(missing_docs)]

mod amiss;
mod daemon;
mod demo;
mod errors;
mod get;
mod image;
mod json;
mod mount;
mod mount_image;
mod mount_tree;
mod no_seed;
mod quota;
mod ranges;
mod service;
mod setup;
mod shares;
mod support;
mod swarm;
#[path = "../../../darter-image/tests/support/tar.rs"]
mod tar;
mod top;
mod words;
