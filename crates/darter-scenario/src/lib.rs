//! Races as files: hosts, links, content, arrivals and deaths; the bound that follows from them; and the goals.
//!
//! The laboratory plays it with real agents on shaped links, the simulator and the agent's tests in virtual time: the simulator with the
//! swarm's decisions, the tests with agents as they are over a network, stores and an origin in memory. None needs the other.
//!
//! Races of the laboratory are in `crates/darter-lab/scenarios`. Events that it can't bring about on real hosts (a bit that flips, a disk
//! that fills, a clock that jumps) are in `crates/darter-scenario/fleets`; simulator and tests play all of those and come to the same end.
//!
//! | file | what lives there |
//! |---|---|
//! | [`race`] | [`Scenario`]: hosts, links, content and events of a race, and its bound T* |
//! | [`events`] | [`Event`]: what happens to a fleet, and when |
//! | [`files`] | where they lie, and how one is found by its name |
//! | [`goal`] | [`Goal`]: what it aims at, in numbers |
//!
//! Non-goals: the laboratory's measurements of what one host does, which lie beside the races; how anything is played.

pub mod events;
pub mod files;
pub mod goal;
pub mod race;

pub use events::{At, Clock, Event, Lie, SEED, When, percent};
pub use files::{directory, fleets, is_bench, read};
pub use goal::Goal;
pub use race::{Link, Scenario};
