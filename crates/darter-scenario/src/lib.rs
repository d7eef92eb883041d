//! What a race is about, as a file: hosts, links, content, arrivals and deaths; the bound that follows from it; and what is aimed at.
//!
//! The laboratory plays it with real agents on shaped links, the simulator in virtual time. Neither needs the other.
//!
//! | file | what lives there |
//! |---|---|
//! | [`race`] | [`Scenario`]: hosts, links, content and events of a race, and its bound T* |
//! | [`files`] | where they lie, and how one is found by its name |
//! | [`goal`] | [`Goal`]: what it aims at, in numbers |
//!
//! Non-goals: the laboratory's measurements of what one host does, which lie beside the races; how anything is played.

pub mod files;
pub mod goal;
pub mod race;

pub use files::{directory, is_bench, read};
pub use goal::Goal;
pub use race::{Link, Scenario};
