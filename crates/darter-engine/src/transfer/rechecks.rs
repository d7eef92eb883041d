//! How many checks that other agents can cause run at a time. What is checked is in `doubts` and `naming`.

use tokio::sync::Semaphore;

/// Limits checks, since any agent can cause them: of all blobs, one doubted piece is checked at a time, and one whole is hashed at a time. The metadata of
/// one layer at a time is read, which any agent may request, and which has to be in memory for that (`naming`).
pub struct Rechecks {
    pub(super) pieces: Semaphore,
    pub(super) wholes: Semaphore,
    pub(super) metadata: Semaphore,
    /// Expanded layers are made once more one at a time, whoever doubts them: each may take what a large tree takes.
    pub(super) layers: Semaphore,
}

impl Default for Rechecks {
    fn default() -> Self {
        let one = || Semaphore::new(1);
        Self { pieces: one(), wholes: one(), metadata: one(), layers: one() }
    }
}
