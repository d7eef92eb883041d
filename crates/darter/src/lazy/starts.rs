//! Reports to the agent what the first container after the keeper's start reads of a complete layer. (Reads of an incomplete layer pass through the keeper, which reports them as they come.)
//!
//! An engine mounts a complete layer without the keeper. So the keeper examines a few times in the first minute which parts of the layer the kernel has in memory; parts that are new
//! in the same look have no order among them. A layer is given up after the first look that fails. For an agent that keeps no profiles (`--lazy-profiles=false`) no layer is examined:
//! each look opens every file of the layer.

use std::sync::Arc;
use std::time::Duration;

use darter_api::GetRequest;
use darter_core::Digest;
use darter_mount::resident::MountedLayer;
use darter_mount::supply::{Content, Supply};
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
        let Some((content, supply)) = self.open_to_note(layer).await else { return };
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

    /// Opens a connection for reports of the layer's touches; `None` if the agent wants no such reports, or does not open the layer.
    pub(super) async fn open_to_note(&self, layer: Digest) -> Option<(Content, Arc<dyn Supply>)> {
        let (client, found) = self.found(layer).await?;
        let daemon = Daemon::new(client, GetRequest::of_layer(found.layer, found.headers));
        // `again`: opening the layer does not make the agent prefetch its profile.
        let opened = daemon.connect(true).await;
        let opened = opened.inspect_err(|error| {
            tracing::debug!(%layer, reason = error.brief(), "a start is not noted");
        });
        opened.ok().filter(|(_, supply)| supply.takes_touches())
    }
}
