//! What attaches to a running agent: ports and sockets for the programs of its host.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpListener;

use super::Agent;
use super::build::file_error;
use crate::admin;
use crate::error::StartError;
use crate::local::LocalPort;
use crate::mirror::{Mirror, MirrorOptions};

impl Agent {
    /// Serves the local port (registry mirror, metrics, health) until the agent drains. An agent that lives for one download
    /// has no mirror, and serves nothing.
    ///
    /// # Errors
    /// When the listener has no address.
    pub async fn serve_local(&self, listener: TcpListener) -> Result<(), StartError> {
        let inner = &self.inner;
        let Some(registries) = &inner.registries else { return Ok(()) };
        let (context, blobs) = (&inner.context, Arc::new(self.clone()));
        let options = MirrorOptions::from(&context.options);
        let (metrics, clock) = (Arc::clone(&context.metrics), Arc::clone(&context.clock));
        let mirror = Mirror::new(options, Arc::clone(registries), blobs, metrics, clock);
        let port = self.attach(listener, Some(mirror), "local port").await?;
        // The first one is the one that is told of.
        let _ = inner.local_address.set(port);
        Ok(())
    }

    /// Serves metrics and health, for Prometheus elsewhere, until the agent drains.
    ///
    /// # Errors
    /// When the listener has no address.
    pub async fn serve_metrics(&self, listener: TcpListener) -> Result<(), StartError> {
        self.attach(listener, None, "metrics port").await.map(drop)
    }

    /// Makes an administration socket and serves it until the agent drains. `group` may use it, too.
    ///
    /// # Errors
    /// When another agent answers there, or the system refuses.
    pub fn serve_admin(&self, path: &Path, group: Option<u32>) -> Result<(), StartError> {
        let listener = admin::bind(path, group)?;
        self.inner.sockets.lock().push(path.to_owned());
        self.inner.tasks.spawn(admin::serve(self.clone(), listener, self.inner.stop.subscribe()));
        Ok(())
    }

    /// Waits until every seed was tried, though not for long; from then on the ports say that the agent is ready.
    pub(super) async fn reach_seeds(&self) -> Result<(), StartError> {
        self.inner.seeds.first_attempts().await?;
        let ports = self.inner.ports.lock().await;
        self.inner.ready.store(true, Ordering::Relaxed);
        ports.iter().for_each(LocalPort::announce_ready);
        Ok(())
    }

    async fn attach(&self, listener: TcpListener, mirror: Option<Mirror>, name: &str) -> Result<String, StartError> {
        let (metrics, names) =
            (Arc::clone(&self.inner.context.metrics), self.inner.context.options.local_names.clone());
        let port = LocalPort::serve(listener, mirror.map(Arc::new), metrics, names);
        let port = port.map_err(file_error(name.to_owned()))?;
        let address = port.address().to_string();
        let mut ports = self.inner.ports.lock().await;
        if self.inner.ready.load(Ordering::Relaxed) {
            port.announce_ready();
        }
        ports.push(port);
        Ok(address)
    }
}
