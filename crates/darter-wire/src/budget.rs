//! The hook through which bytes are metered. Channels ask it before each chunk that they send or read; the token
//! bucket behind it, and who shares it, is the node's affair.

use async_trait::async_trait;

/// Meters bytes: [`take`](Budget::take) returns once the bytes may pass.
#[async_trait]
pub trait Budget: Send + Sync + 'static {
    /// Waits until `bytes` more may pass. Dropping the future gives up the wait.
    async fn take(&self, bytes: u32);

    /// The most bytes that are taken at once: small where the rate binds, so that it is smooth and shared fairly.
    fn grain(&self) -> u32 {
        64 * 1024
    }
}

/// No limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unlimited;

#[async_trait]
impl Budget for Unlimited {
    async fn take(&self, _bytes: u32) {}

    fn grain(&self) -> u32 {
        1024 * 1024
    }
}
