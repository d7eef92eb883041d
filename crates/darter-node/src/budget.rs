//! Byte budgets in real time: the token bucket of `darter-swarm`, waited for.

use std::sync::Arc;

use async_trait::async_trait;
use darter_core::{Clock as _, Rate, SystemClock};
use darter_swarm::TokenBucket;
use darter_wire::Budget;
use parking_lot::Mutex;

/// Bytes that a limited budget lets pass at once after idle time, and takes at once under load: small enough that
/// the rate is smooth, large enough that waiting costs little.
const GRAIN: u32 = 64 * 1024;

/// A budget of bytes per second, shared by all that move bytes one way.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    bucket: Option<Mutex<TokenBucket>>,
    clock: SystemClock,
}

impl ByteBudget {
    /// A budget of `rate`; without one, nobody ever waits.
    pub(crate) fn new(rate: Option<Rate>, clock: SystemClock) -> Arc<Self> {
        let bucket = rate.map(|rate| Mutex::new(TokenBucket::new(Some(rate), u64::from(GRAIN))));
        Arc::new(Self { bucket, clock })
    }
}

#[async_trait]
impl Budget for ByteBudget {
    async fn take(&self, bytes: u32) {
        let Some(bucket) = &self.bucket else { return };
        let wait = bucket.lock().take(u64::from(bytes), self.clock.now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn grain(&self) -> u32 {
        if self.bucket.is_some() { GRAIN } else { 1 << 20 }
    }
}
