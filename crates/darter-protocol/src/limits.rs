//! Bounds of the protocol, so that no agent computes or allocates with numbers that no honest agent sends.

/// The most pieces a blob may have on the wire: bounds what a set of pieces can cost its receiver (512 KiB).
pub const MAX_PIECES: u32 = 1 << 22;

/// The longest blob on the wire, in bytes: with the shortest pieces, its pieces still count in 32 bits.
pub const MAX_BLOB_LENGTH: u64 = 1 << 45;

/// The longest piece on the wire, in bytes.
pub const MAX_PIECE_LENGTH: u32 = 1 << 24;

/// The longest message on the wire, in bytes: 8 MiB.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// The longest introduction in a preface, in bytes.
pub const MAX_HELLO: usize = 4096;

/// The most requests that one data channel may have unanswered.
pub const MAX_UNANSWERED: usize = 256;

/// Nodes that one message tells of, at most.
pub const MAX_PEERS_TOLD: usize = 256;

/// Bytes of a path and query that a registry is asked for.
pub const MAX_REGISTRY_PATH: usize = 8 * 1024;

/// Headers of a question to a registry, and of its answer.
pub const MAX_REGISTRY_HEADERS: usize = 256;

/// Wishes that one message tells of, at most.
pub const MAX_WISHES: usize = 64;

/// Runs of pieces that one message about first touches tells of, at most.
pub const MAX_STRETCHES: usize = 1024;

/// Memory in bytes that the lists of the smallest message may take: as much as the largest set of pieces, whose words may take a byte each
/// on the wire.
const MIN_MEMORY: usize = (MAX_PIECES / 8) as usize;

/// The bytes that the lists of a message of `message` bytes may take in memory. A list of pieces takes a third more than on the wire, or
/// twice as much while their numbers are small.
pub const fn memory_for(message: usize) -> usize {
    message * 2 + MIN_MEMORY
}
