//! A change of the number of connections, with its reason.

/// That the number of connections changed, and why. Rates are in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Widening {
    /// `tried` connections got `rate` together, fewer had got `before`: `connections` read from now on.
    Wider {
        /// How many read now.
        connections: u8,
        /// How many were measured.
        tried: u8,
        /// The rate of this many connections, in bytes per second.
        rate: u64,
        /// The rate of fewer connections, in bytes per second.
        before: u64,
    },
    /// `tried` connections got `rate` together, hardly more than `before`: `connections` read from now on, as before.
    Back {
        /// How many read now.
        connections: u8,
        /// How many were measured.
        tried: u8,
        /// The rate of this many connections, in bytes per second.
        rate: u64,
        /// The rate of fewer connections, in bytes per second.
        before: u64,
    },
    /// `tried` connections got `rate` together, so much more than one got `before` that this was not limited: one reads from now on.
    NoLimit {
        /// How many were measured.
        tried: u8,
        /// The rate of this many connections, in bytes per second.
        rate: u64,
        /// The rate of one connection, in bytes per second.
        before: u64,
    },
}
