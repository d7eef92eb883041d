//! Hosts in network namespaces: end-to-end tests with real registries and container engines, and the ground that
//! performance laboratories stand on.
//!
//! | file | what lives there |
//! |---|---|
//! | [`needs`] | what a scenario needs of the machine (root, programs), and what of it is lacking |
//! | [`place`] | the cache and run directories, and the `darter` binary that belongs to this build |
//! | [`netns`] | [`Network`]: a switch and [`Host`]s, each a network namespace with an address of its own |
//! | [`link`] | [`Link`]: shaped rates of a host's cable, and its byte counters |
//! | `reserve` | memory that is at hand when a measurement writes it |
//! | [`process`] | [`Process`]: a program with its output in files, ended by its own pid |
//! | [`oci`] | an OCI image layout, written layer by layer |
//! | [`rootfs`] | a real Debian root file system, and layers of really installed software |
//! | [`image`] | the laboratory's images, built once and cached as a registry's storage |
//! | [`made`] | small images made for one scenario: programs of this machine, files of which every byte is known |
//! | `storage` | a registry's storage that is filled without pushing |
//! | [`registry`] | Debian's `docker-registry`, and its access log |
//! | [`hub`] | a registry that behaves as Docker Hub does: tokens, redirects to another host |
//! | [`limited`] | a registry that gives each connection no more than a rate |
//! | [`engine`] | containerd (the distribution's, and one built from source), Docker, podman and skopeo, each with directories of its own |
//! | [`cluster`] | Darter's agents on hosts, and what they say of themselves |
//! | [`snapshotter`] | `darter snapshotter` on a host |
//! | `socket` | their administration sockets, asked by `darter-api`'s client |
//! | [`getter`] | what gets over HTTP on a host: keep-alive, nothing but GET |
//! | [`plan`] | what `cargo lab` can be asked for: the files in `scenarios` |
//! | [`bench`](mod@bench) | `cargo lab`: what one host does, measured beside nginx: local hits, tiny files, a pair |
//! | [`lazy`](mod@lazy) | `cargo lab`: how long a container takes from the pull to its first useful output, with and without lazy start |
//! | [`read`](mod@read) | `cargo lab`: how fast a container reads what is on its host, at every stage of a lazy layer |
//! | [`race`] | `cargo lab`: Darter and others bring the same bytes over the same links, measured alike |
//!
//! Every process starts inside a namespace that has no way out of the machine. Guards end what they started, also when a
//! scenario panics; what an earlier run left behind when it was killed is swept by the next one.
//!
//! Non-goals: other systems than Linux; engines that need a running systemd.

pub mod bench;
pub mod cluster;
pub mod engine;
pub mod getter;
pub mod hub;
pub mod image;
pub mod lazy;
pub mod limited;
pub mod link;
pub mod made;
pub mod needs;
pub mod netns;
pub mod oci;
pub mod place;
pub mod plan;
pub mod process;
pub mod race;
pub mod read;
pub mod registry;
mod reserve;
pub mod rootfs;
pub mod snapshotter;
mod socket;
mod storage;
mod table;

pub use cluster::Agent;
pub use hub::Hub;
pub use image::{Image, Images};
pub use limited::Limited;
pub use link::Link;
pub use netns::{Host, Network, Rack};
pub use process::Process;
pub use registry::Registry;
pub use snapshotter::Snapshotter;
