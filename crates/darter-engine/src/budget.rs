//! Byte budgets in real time: waits for the token bucket of `darter-swarm`.

use std::sync::Arc;

use async_trait::async_trait;
use darter_core::{Clock, Rate};
use darter_swarm::TokenBucket;
use darter_wire::Budget;
use parking_lot::Mutex;

/// How many bytes a limited budget lets pass at once after idle time, and takes at once under load: few enough that
/// the rate is smooth, enough that waiting costs little.
const GRAIN: u32 = 64 * 1024;

/// A budget of bytes per second, shared by everything that moves bytes in one direction.
pub struct ByteBudget {
    bucket: Mutex<Option<TokenBucket>>,
    clock: Arc<dyn Clock>,
}

impl ByteBudget {
    /// A budget of `rate`; if it is `None`, nothing ever waits.
    pub fn new(rate: Option<Rate>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { bucket: Mutex::new(bucket_of(rate)), clock })
    }

    /// Takes these bytes as soon as the budget allows it. Returns true if they had to wait.
    pub(crate) async fn take_saying(&self, bytes: u32) -> bool {
        let wait = match &mut *self.bucket.lock() {
            Some(bucket) => bucket.take(u64::from(bytes), self.clock.now()),
            None => return false,
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        !wait.is_zero()
    }

    /// Sets another rate. Readers that wait already still wait as long as the old rate required.
    pub fn set_rate(&self, rate: Option<Rate>) {
        *self.bucket.lock() = bucket_of(rate);
    }
}

fn bucket_of(rate: Option<Rate>) -> Option<TokenBucket> {
    rate.map(|rate| TokenBucket::new(Some(rate), u64::from(GRAIN)))
}

#[async_trait]
impl Budget for ByteBudget {
    async fn take(&self, bytes: u32) {
        self.take_saying(bytes).await;
    }

    fn grain(&self) -> u32 {
        if self.bucket.lock().is_some() { GRAIN } else { 1 << 20 }
    }
}
