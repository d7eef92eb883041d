//! Starts of layers that are whole here: what the first one after the keeper's own start reads is told to the agent, as the touches of layers are that come.
//!
//! An engine mounts a whole layer past Darter. What of it is in memory is looked at a few times in the first minute: each look has no order in itself. Layers of which
//! one look can't be had are left.

use std::sync::Arc;
use std::time::Duration;

use darter_api::GetRequest;
use darter_core::Digest;
use darter_mount::resident::MountedLayer;
use darter_mount::touches::Touches;
use darter_store::threads;

use super::layers::AgentLayers;
use crate::mount::daemon::Daemon;

/// Before each look: at 2, 8, 25 and 60 seconds.
const LOOKS: [Duration; 4] =
    [Duration::from_secs(2), Duration::from_secs(6), Duration::from_secs(17), Duration::from_secs(35)];

impl AgentLayers {
    /// Notes what is read of a layer that was just mounted whole.
    pub(super) async fn note_start(&self, layer: Digest, mounted: MountedLayer) {
        let Some((client, found)) = self.found(layer).await else { return };
        let daemon = Daemon::new(client, GetRequest::of_layer(found.layer, found.headers));
        // Nothing is started by it: what others touched first is not fetched.
        let (content, supply) = match daemon.connect(true).await {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(%layer, reason = error.brief(), "a start is not noted"),
        };
        let (mounted, began) = (Arc::new(mounted), self.now());
        let mut touches = Touches::new(content.pieces, content.length, began);
        for pause in LOOKS {
            tokio::time::sleep(pause).await;
            let (seen, pieces) = (Arc::clone(&mounted), content.pieces);
            match threads::run(move || seen.read_parts(pieces)).await {
                Ok(parts) => parts.iter().for_each(|part| touches.read(*part, began)),
                Err(error) => return tracing::debug!(%layer, %error, "a start is not noted"),
            }
            if let Some(touched) = touches.take(true, self.now()) {
                supply.touched(&touched).await;
            }
        }
    }
}
