//! Directories that have entries in an expanded layer's tar, but no entry of their own. In the unpacked image such a directory has the attributes from the layers below, so it has
//! to be compared with those before the layer is mounted; most tars have entries for all directories.
//!
//! The layer's metadata shows whether there are any, but a node rarely has the metadata when it needs the answer. So a lead that has all of the
//! layer checks once and tells the result: its members as soon as the layer is expanded, and later members after `Joined`. So a pull of an image
//! with many layers does not wait for the metadata. An agent that is not told reads the metadata and checks for itself.
//!
//! Invariants: only the lead that is followed is believed. Unlike hashes, this is never proved later: so a node that leads is
//! not believed if it says that a layer names all its directories, since the mounted image could then differ from the unpacked one.

use std::sync::Arc;

use darter_core::NodeId;
use darter_image::{LayerDirectories, TAR_START, metadata_at};
use darter_wire::Message;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Lead, Transfer};

/// Most bytes of metadata that a lead reads for others.
const MAX_LOOKED_THROUGH: u64 = 64 << 20;

/// See the module's documentation.
pub(super) struct Naming {
    /// `None` until it is known.
    names_all: watch::Sender<Option<bool>>,
    /// True once a check has begun.
    looked: Mutex<bool>,
}

impl Default for Naming {
    fn default() -> Self {
        Self { names_all: watch::channel(None).0, looked: Mutex::default() }
    }
}

impl Transfer {
    /// Waits until it is known, and returns true if the tar has entries for all directories. Does not start a check.
    pub async fn names_all(&self) -> bool {
        let mut known = self.naming.names_all.subscribe();
        match known.wait_for(Option::is_some).await.map(|known| *known) {
            Ok(Some(names_all)) => names_all,
            // The sender can't be dropped: it belongs to this transfer.
            _ => std::future::pending().await,
        }
    }

    /// Notes the result of a check here.
    pub fn found_naming(&self, names_all: bool) {
        self.naming.names_all.send_replace(Some(names_all));
    }

    /// The lead says whether the tar names all directories.
    pub(super) fn hear_naming(&self, from: NodeId, names_all: bool) {
        let is_believed = !names_all || self.fleet.is_seed(from);
        if is_believed && self.is_expanded() && self.lead() == Lead::Node(from) {
            self.naming.names_all.send_if_modified(|known| {
                let is_news = known.is_none();
                *known = known.or(Some(names_all));
                is_news
            });
        }
    }

    /// Tells members that were let in just now, at once or after a check.
    pub(super) fn tell_naming(self: &Arc<Self>, members: &[NodeId]) {
        if !self.is_expanded() {
            return;
        }
        let known = *self.naming.names_all.borrow();
        if let Some(names_all) = known {
            return self.say_naming(members, names_all);
        }
        if !self.is_complete() {
            return;
        }
        self.check_naming();
    }

    /// This agent has made all of the layer: tells the members that were let in before, whose images wait for it.
    pub(super) fn made_naming(self: &Arc<Self>) {
        if self.is_expanded() && self.has_read_all() {
            self.check_naming();
        }
    }

    /// Checks, once, and tells all members the result.
    fn check_naming(self: &Arc<Self>) {
        if std::mem::replace(&mut *self.naming.looked.lock(), true) {
            return;
        }
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            if let Some(names_all) = transfer.look_for_naming().await {
                transfer.found_naming(names_all);
                let members = transfer.state().session.member_nodes();
                transfer.say_naming(&members, names_all);
            }
        });
    }

    fn say_naming(&self, members: &[NodeId], names_all: bool) {
        let others: Vec<_> = members.iter().copied().filter(|member| *member != self.context.me).collect();
        self.fleet.tell(&others, &Message::Naming { blob: self.blob, names_all });
    }

    /// Checks the metadata, which is here.
    async fn look_for_naming(&self) -> Option<bool> {
        let (stored, length) = (Arc::clone(&self.stored), self.stored.length()?);
        let _turn = self.context.rechecks.metadata.acquire().await.ok()?;
        let look = move || {
            let mut beginning = vec![0; usize::try_from(TAR_START).ok()?];
            stored.read_at(0, &mut beginning).ok()?;
            let at = metadata_at(&beginning)?;
            let bytes = length.checked_sub(at).filter(|bytes| *bytes <= MAX_LOOKED_THROUGH)?;
            let mut metadata = vec![0; usize::try_from(bytes).ok()?];
            stored.read_at(at, &mut metadata).ok()?;
            let directories = LayerDirectories::new(&beginning, metadata).ok()?;
            directories.maybe_unnamed().ok().map(|unnamed| unnamed.is_empty())
        };
        self.context.disk.run(look).await
    }
}
