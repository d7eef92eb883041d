//! [`Budget`]: limits the rate of channels. A channel asks it before each chunk that it sends or reads. What the limit is and which connections share it is
//! decided by the implementation, which is the agent's.

use async_trait::async_trait;

/// Meters bytes: [`take`](Budget::take) returns once the bytes may pass.
#[async_trait]
pub trait Budget: Send + Sync + 'static {
    /// Waits until `bytes` more may pass. Dropping the future gives up the wait.
    async fn take(&self, bytes: u32);

    /// Most bytes that a channel takes at once: few if there is a limit, so that bytes flow evenly and connections get equal shares.
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
