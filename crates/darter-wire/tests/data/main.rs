//! Data channels in use. `world` has the holder that these scenarios script, and the connections to it.

mod holder;
mod requester;
mod world;
