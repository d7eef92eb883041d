//! An agent among peers that the test plays over real connections, for moments that no real fleet brings about at will.

mod control_lost;
mod met_early;
mod seed;
