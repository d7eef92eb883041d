//! Opens layers' own blobs for [`Expansions`](crate::expanding::Expansions), which makes their expanded form.
//!
//! A copy that nobody else wants is [lent](crate::expanding::blob): its transfer ends with its reader, and it is removed some time later.

use std::sync::{Arc, Weak};

use darter_api::CheckedBy;
use darter_core::source::Credentials;
use darter_core::{BlobId, Source, in_full};
use darter_origin::Requester;
use futures_util::StreamExt as _;

use super::Swarms;
use crate::error::FetchError;
use crate::expanding::blob::LayerBytes;
use crate::transfer::stream::Giving;
use crate::transfer::{Lead, Transfer};

impl Swarms {
    /// Sets the function that opens layers' blobs for expanding.
    pub(super) fn lends(swarms: &Arc<Self>) {
        let lends = Arc::downgrade(swarms);
        swarms.house.context.expansions.opens_layers(Box::new(move |source, credentials, requester| {
            let lends = Weak::clone(&lends);
            Box::pin(async move {
                let swarms = lends.upgrade().ok_or(FetchError::Draining)?;
                swarms.open_layer(source, credentials, requester).await
            })
        }));
    }

    async fn open_layer(
        self: &Arc<Self>,
        source: Source,
        credentials: Credentials,
        requester: Requester,
    ) -> Result<LayerBytes, FetchError> {
        let Some(blob) = source.own_blob() else { return Err(FetchError::Unproven { name: source.to_string() }) };
        let lent = &self.house.context.expansions.lent;
        let is_new = self.get(blob).is_none() && self.stored(blob).await?.is_none();
        if is_new || lent.is_lent(blob) {
            lent.lend(blob, self.house.context.now());
        }
        let transfer = self.open_unclaimed(requester, source, credentials.clone(), true).await?;
        // If the copy's digest was checked only by another agent, its reader hashes it.
        let is_hashed = transfer.lead() == Lead::Me && !transfer.is_on_trust();
        let giving = Giving { files: false, lone: false, own: true };
        let parts = self.read(&transfer, (requester, credentials), None, giving).boxed();
        let (checked, ends) = (Arc::clone(&transfer), Arc::downgrade(self));
        let mut bytes = LayerBytes::new(parts, move || {
            if let Some(swarms) = ends.upgrade() {
                swarms.lent_is_read(blob);
            }
        });
        (bytes.length, bytes.is_hashed) = (transfer.stored.length(), is_hashed);
        bytes.was_checked = Box::new(move || checked.checked().iter().any(|checked| checked.by == CheckedBy::Here));
        Ok(bytes)
    }

    /// The layer is no longer being expanded: stops fetching a copy that is only lent.
    fn lent_is_read(&self, blob: BlobId) {
        let lent = &self.house.context.expansions.lent;
        if lent.is_lent(blob) {
            lent.lend(blob, self.house.context.now());
            if self.get(blob).is_some_and(|transfer| !transfer.is_complete()) {
                self.put_away(blob);
            }
        }
    }

    /// No program of this host waits for a blob any more: stops fetching it for this agent alone, unless a program has it open. The bytes so far are kept, and
    /// an agent that leads goes on.
    pub fn let_go(&self, blob: BlobId) {
        let is_unused = |transfer: &Transfer| {
            let is_led_elsewhere = matches!(transfer.lead(), Lead::Node(_));
            is_led_elsewhere && !transfer.is_complete() && !transfer.is_held() && !transfer.has_readers()
        };
        if self.get(blob).is_some_and(|transfer| is_unused(&transfer)) {
            self.put_away(blob);
        }
    }

    /// Somebody wants a blob for itself, so it is no longer only lent.
    pub(super) fn claim(&self, source: &Source) {
        if let Some(blob) = source.own_blob() {
            self.house.context.expansions.lent.claim(blob);
        }
    }

    /// Removes the lent copies that were not wanted since.
    pub(super) fn take_lent_back(&self) {
        for blob in self.house.context.expansions.lent.due(self.house.context.now()) {
            if !self.put_away(blob) {
                continue;
            }
            let disk = self.house.context.disk.clone();
            self.house.tasks.spawn(async move {
                // It stays if it is in use again, or pinned.
                if let Err(error) = disk.on_store(move |store| store.remove(blob)).await {
                    tracing::debug!(blob = %blob.short(), error = %in_full(&error), "a layer's copy stays");
                }
            });
        }
    }
}
