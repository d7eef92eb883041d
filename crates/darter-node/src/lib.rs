//! The agent: joins store, origin, wire and swarm; registry mirror and administration.
