//! An agent among peers that the test plays over real connections, for moments that no real fleet brings about at will; and a fleet
//! too large for the lead to tell everybody everything. Two agents and a web server, for who may have whose bytes. Fleets in
//! memory and virtual time, and whatever can happen to them (`stories`).

mod another_user;
mod apart;
mod connections;
mod control_lost;
mod damaged;
mod decisions;
mod declared;
mod digests;
mod doubted;
mod drained;
mod eager;
mod expanded;
mod expired;
mod false_leads;
mod false_seeds;
mod faults;
mod first_touches;
mod handed;
mod images;
mod in_memory;
mod large;
mod lazy;
mod liars;
mod memory;
mod met_early;
mod mounting;
mod never_read;
mod no_seed;
mod on_trust;
mod origin;
mod other_blob;
mod packed;
mod passed_on;
mod patience;
mod ranges;
mod refused;
mod registries;
#[allow(dead_code, reason = "the mirror's tests use all of it")]
mod registry;
mod releases;
mod reopened;
mod seed;
mod silent_leads;
mod slow;
mod slow_check;
mod slow_origin;
mod start_over;
mod starters;
mod stories;
#[path = "../../../darter-image/tests/support/tar.rs"]
mod tar;
mod this_host;
mod turns;
mod two_seeds;
mod unreached;
mod unreadable;
mod web;
mod wrong;
