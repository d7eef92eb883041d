//! Periodic cleaning while an agent runs, and its end. A part of `impl Agent`.

use std::sync::Arc;
use std::time::Duration;

use darter_core::in_full;
use darter_engine::transfer::Outcome;
use tokio::sync::watch;

use super::{Agent, LAST_SAVE, LAST_TASKS, Phase, TIDY_EVERY};

impl Agent {
    /// Stores no further blob, also not one that is being opened: after this, [`Agent::list`] tells of all that there will be. For whoever
    /// removes what was fetched before the agent ends, since an opening completes even if its caller goes away.
    pub async fn store_no_more(&self) {
        self.inner.swarms.create_no_more().await;
    }

    /// Accepts no new work, lets running transfers end (up to the drain timeout), and saves everything.
    pub async fn drain(&self) {
        let inner = &*self.inner;
        inner.swarms.drain();
        let patience = inner.options.drain_timeout;
        let context = &inner.context;
        let until = context.now() + patience;
        self.enter(Phase::Draining);
        let busy = || inner.swarms.all().iter().any(|transfer| transfer.has_readers());
        while busy() && context.now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.enter(Phase::Closing(until.since(context.now())));
        inner.ports.close();
        inner.ports.wait().await;
        self.enter(Phase::Stopped);
        inner.swarms.give_up_openings();
        let moving = inner.swarms.all();
        for transfer in &moving {
            transfer.close();
        }
        inner.fleet.close();
        inner.tasks.close();
        if tokio::time::timeout(LAST_TASKS, inner.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = inner.tasks.len(), "not everything ended in time");
        }
        let (disk, archive) = (&inner.context.disk, inner.context.archive.clone());
        let told: Vec<_> = moving.iter().filter(|it| it.has_history()).map(|transfer| transfer.explain()).collect();
        let written = disk.on_store(move |store| {
            for explanation in &told {
                if let Err(error) = archive.keep(explanation) {
                    tracing::warn!(error = %in_full(&error), "an explanation could not be written down");
                }
            }
            store.flush()
        });
        match tokio::time::timeout(LAST_SAVE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %in_full(&error), "can't save all of the store"),
            Err(_) => {
                tracing::error!(waited = ?LAST_SAVE, "the disk did not save all of the store in time: what is not saved is fetched again");
            }
        }
        // So that the next agent in this directory finds it unlocked.
        if tokio::time::timeout(LAST_TASKS, disk.settled()).await.is_err() {
            tracing::warn!(running = disk.running(), "the disk did not end all its work in time");
        }
    }

    /// Removes the explanations and profiles of blobs that are gone, including evicted ones.
    async fn forget_what_is_gone(&self) {
        let (archive, profiles) = (self.inner.context.archive.clone(), self.inner.context.profiles.clone());
        let swarms = Arc::clone(&self.inner.swarms);
        let forgetting = self.inner.context.disk.on_store(move |store| {
            // Blobs that a newer version wrote are there, too.
            let newer = || store.set_aside().blobs;
            let stored = || store.list().into_iter().map(|row| row.id).chain(newer());
            // Blobs that pass through are not in the store.
            archive.forget_gone(|| stored().chain(swarms.all().iter().map(|transfer| transfer.blob)).collect())?;
            profiles.forget_gone(|| stored().collect())
        });
        if let Err(error) = forgetting.await {
            tracing::warn!(%error, "explanations and profiles of blobs that were evicted could not be removed");
        }
    }

    /// Closes idle transfers and sets the gauges, until the agent drains.
    pub(super) async fn tidy(self, mut phases: watch::Receiver<Phase>) {
        let mut evicted = 0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(TIDY_EVERY) => {}
                _ = phases.wait_for(|phase| *phase == Phase::Stopped) => return,
            }
            self.inner.swarms.retire();
            let gone = self.inner.context.disk.usage().evicted_blobs;
            if std::mem::replace(&mut evicted, gone) != gone {
                self.forget_what_is_gone().await;
            }
            let metrics = &self.inner.context.metrics;
            let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            let open = self.inner.swarms.all();
            for transfer in &open {
                transfer.forget_quiet_peers();
            }
            let active = open.iter().filter(|transfer| matches!(transfer.outcome(), Outcome::Open)).count();
            metrics.swarms_active.set(gauge(active as u64));
            if active == 0 {
                self.inner.fleet.trim();
                self.inner.context.packed.trim();
            }
        }
    }
}
