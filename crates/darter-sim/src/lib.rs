//! A fleet in memory and virtual time that runs the very decisions of darter-swarm.
