//! A fleet in memory and virtual time that runs the very decisions of `darter-swarm`.
//!
//! A discrete-event simulator: pieces and messages take the time that rates and latencies give them, nothing runs
//! outside the one queue of events, and all randomness comes from one seed, so that a run can be repeated exactly.
//! It checks the rules of the swarm, not sockets or disks: transfers never lose bytes by themselves, and a node's
//! control messages arrive in order.
//!
//! | file | what lives there |
//! |---|---|
//! | [`scenario`] | [`Scenario`]: nodes, rates, and the operations that happen to them |
//! | [`fleet`] | [`Fleet`]: the engine, one event after the other |
//! | `links` | transfers: serial links, what a piece takes |
//! | `uploads` | slots, and whose turn it is |
//! | `leading` | what happens at the node that leads: tracker, origin, elections |
//! | `node` | one simulated node |
//! | `queue` | the queue of events |
//! | [`plot`] | a run's completion curve as SVG |
//! | [`report`] | [`Report`]: what a run showed |

pub mod fleet;
mod leading;
mod links;
mod node;
pub mod plot;
mod queue;
pub mod report;
pub mod scenario;
mod uploads;

pub use fleet::Fleet;
pub use report::Report;
pub use scenario::{NodeSpec, Operation, Scenario};
