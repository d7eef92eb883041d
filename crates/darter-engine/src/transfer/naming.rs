//! Directories that an expanded layer's tar has entries in, but does not name. Unpacked, such a directory is as the layers below have it, so it has
//! to be compared with those before the layer is mounted; most tars name all.
//!
//! It follows from the layer's metadata, which a node hardly has when it is asked. A lead that has all of the layer looks once, and says so behind
//! `Joined`: so a pull of an image of many layers waits for none of them. An agent that is not told reads the metadata and looks for itself.
//!
//! Invariants: only the word of the lead that is followed counts. Unlike hashes, this word is never proved later: so the word of a node that leads does
//! not count when it says that a layer names all, since an image would be mounted with other directories than unpacked.

use std::sync::Arc;

use darter_core::NodeId;
use darter_image::{LayerDirectories, TAR_START, metadata_at};
use darter_wire::Message;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Lead, Transfer};

/// The longest metadata that a lead looks through for others.
const MAX_LOOKED_THROUGH: u64 = 64 << 20;

/// See the module's text.
pub(super) struct Naming {
    /// `None` until it is known.
    names_all: watch::Sender<Option<bool>>,
    /// True if somebody looks, or did.
    looked: Mutex<bool>,
}

impl Default for Naming {
    fn default() -> Self {
        Self { names_all: watch::channel(None).0, looked: Mutex::default() }
    }
}

impl Transfer {
    /// Waits until it is known, and gives true if the tar names all directories that it has entries in. Starts nothing that would find out.
    pub async fn names_all(&self) -> bool {
        let mut known = self.naming.names_all.subscribe();
        match known.wait_for(Option::is_some).await.map(|known| *known) {
            Ok(Some(names_all)) => names_all,
            // It is kept by this very transfer.
            _ => std::future::pending().await,
        }
    }

    /// It was looked at here.
    pub fn found_naming(&self, names_all: bool) {
        self.naming.names_all.send_replace(Some(names_all));
    }

    /// The lead says it.
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

    /// Tells members that were let in, now or after a look.
    pub(super) fn tell_naming(self: &Arc<Self>, members: &[NodeId]) {
        if !self.is_expanded() || !self.is_complete() {
            return;
        }
        let known = *self.naming.names_all.borrow();
        if let Some(names_all) = known {
            return self.say_naming(members, names_all);
        }
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

    /// Looks through the metadata, which is here.
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
