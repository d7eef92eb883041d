//! A fleet in memory and virtual time that runs the same decisions, those of `darter-swarm`.
//!
//! A discrete-event simulator: pieces and messages take the time that rates and latencies give them, nothing runs
//! outside the one queue of events, and all randomness comes from one seed, so that a run can be repeated exactly.
//! It checks the rules of the swarm on cables and sockets that share and fill as real ones do; disks, processors and lost
//! packets are not simulated.
//!
//! | file | what lives there |
//! |---|---|
//! | [`scenario`] | [`Scenario`]: nodes, rates, constants |
//! | `events` | what the events of a scenario do to a fleet: cuts, kills, flipped bits, clocks |
//! | [`fleet`] | [`Fleet`]: the engine, one event after the other |
//! | `links` | pieces on their way: what a cable is busy with, what arrives |
//! | `hashes` | how hashes get about |
//! | `uploads` | slots, sockets, and whose turn it is |
//! | `starters` | nodes that read pieces here and there, as whoever starts something does |
//! | `liars` | nodes that don't give what they say they hold |
//! | `leading` | what happens at a node that leads: whom it lets in, what it reads |
//! | `letters` | what nodes say to each other, and whom they can reach |
//! | `electing` | how nodes find another lead |
//! | `node` | one simulated node |
//! | `queue` | the queue of events |
//! | [`options`] | the command line's words for a fleet |
//! | [`lab`] | scenarios of `cargo lab` |
//! | [`plot`] | completion curves, and how time grows, as SVG |
//! | [`report`] | [`Report`]: what a run showed |

mod electing;
mod events;
pub mod fleet;
mod hashes;
pub mod lab;
mod leading;
mod letters;
mod liars;
mod links;
mod node;
pub mod options;
pub mod plot;
mod queue;
pub mod report;
pub mod scenario;
mod starters;
mod uploads;

pub use darter_scenario::{Clock, Event, Lie, SEED};
pub use fleet::Fleet;
pub use node::{BLOB, id_of};
pub use report::Report;
pub use scenario::{Network, NodeSpec, Scenario, SharedLink, Starts};
