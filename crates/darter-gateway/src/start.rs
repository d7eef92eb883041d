//! Starts an agent with its ports and sockets, according to its options.
//!
//! Order: ports are bound before other agents learn of this one, so that a port that is in use is an error before anything is promised. They are
//! served before the seeds are reached, since a seed that does not answer must not keep programs of this host waiting.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use darter_agent::{Agent, Options, Phase, StartError};
use darter_api::socket_path;
use darter_registries::Registries;
use darter_store::{Dir, threads};
use tokio::net::TcpListener;

use crate::admin;
use crate::mirror::{GivenLayers, LazyOptions, Mirror, MirrorOptions};
use crate::server::LocalPort;

/// Starts an agent and everything that its options open to its host: the local port, the metrics port and the administration
/// sockets. All are ready when it returns.
///
/// # Errors
/// [`StartError`], each with what to do about it.
pub async fn start(options: Options) -> Result<Agent, StartError> {
    let prepared = Agent::builder(options.clone()).prepare().await?;
    let local = match options.local {
        Some(addr) => Some(bind(addr, "--local").await?),
        None => None,
    };
    let observed = match options.metrics {
        Some(addr) => Some(bind(addr, "--metrics").await?),
        None => None,
    };
    let agent = prepared.begin();
    if let Err(error) = serve(&agent, &options, local, observed).await {
        agent.drain().await;
        return Err(error);
    }
    Ok(agent)
}

async fn serve(
    agent: &Agent,
    options: &Options,
    local: Option<TcpListener>,
    observed: Option<TcpListener>,
) -> Result<(), StartError> {
    let mirror = mirror_of(agent).await?;
    if let Some(listener) = local {
        serve_mirror(agent, listener, mirror.clone())?;
    }
    if let Some(listener) = observed {
        serve_metrics(agent, listener)?;
    }
    if options.role.is_daemon() {
        let own = socket_path(&options.data_dir);
        for path in options.sockets.iter().filter(|path| **path != own).chain([&own]) {
            let listener = admin::bind(path, options.socket_group).await?;
            agent.background(admin::serve(agent.clone(), mirror.clone(), listener, path.clone()));
        }
    }
    agent.reach_seeds().await
}

async fn bind(addr: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|error| StartError::cannot_listen(addr, flag, error))
}

/// Serves the local port (registry mirror, metrics, health) until the agent drains. An agent that runs for one download
/// has no mirror, and serves nothing.
///
/// # Errors
/// The listener has no address.
pub fn serve_local(agent: &Agent, listener: TcpListener) -> Result<(), StartError> {
    let mirror = agent.registries().map(|registries| mirror(agent, registries, None));
    serve_mirror(agent, listener, mirror)
}

fn serve_mirror(agent: &Agent, listener: TcpListener, mirror: Option<Arc<Mirror>>) -> Result<(), StartError> {
    let Some(mirror) = mirror else { return Ok(()) };
    let address = attach(agent, listener, Some(mirror), "local port")?;
    agent.tell_local_address(address);
    Ok(())
}

/// The mirror of an agent. From here on, layers that its engines mount are protected from eviction.
async fn mirror_of(agent: &Agent) -> Result<Option<Arc<Mirror>>, StartError> {
    let Some(registries) = agent.registries() else { return Ok(None) };
    let options = agent.options();
    let (data_dir, keep) = (options.data_dir.clone(), options.lazy.map_or(Duration::MAX, |lazy| lazy.keep));
    let opened = threads::run(move || Dir::open(&data_dir).map(|dir| GivenLayers::open(dir, keep))).await;
    let given = opened.map_err(StartError::Store)?;
    agent.metrics().set_aside("layers", usize::from(given.is_set_aside()));
    given.spare(agent).await;
    let lazy = options.lazy.map(|lazy| LazyOptions { layers: Arc::new(agent.clone()), wait: lazy.wait, given });
    let mirror = mirror(agent, registries, lazy);
    if mirror.has_layers() {
        agent.background(tell_failures(agent.clone(), Arc::clone(&mirror)));
    }
    Ok(Some(mirror))
}

/// Notifies clients that cache answers about layers when one of these layers can't be had any more, until the agent drains.
async fn tell_failures(agent: Agent, mirror: Arc<Mirror>) {
    let (mut failing, mut phases) = (agent.layers_failing(), agent.phases());
    let over = async { drop(phases.wait_for(|phase| !matches!(phase, Phase::Starting | Phase::Ready)).await) };
    let mut over = std::pin::pin!(over);
    loop {
        tokio::select! {
            failed = failing.changed() => match failed {
                Ok(()) => mirror.layers_changed(),
                Err(_) => return,
            },
            () = &mut over => return,
        }
    }
}

fn mirror(agent: &Agent, registries: Arc<Registries>, lazy: Option<LazyOptions>) -> Arc<Mirror> {
    let options = MirrorOptions { lazy, ..MirrorOptions::from(agent.options()) };
    Arc::new(Mirror::new(options, registries, Arc::new(agent.clone()), agent.metrics(), agent.clock()))
}

/// Serves metrics and health on another port, until the agent drains.
///
/// # Errors
/// The listener has no address.
pub fn serve_metrics(agent: &Agent, listener: TcpListener) -> Result<(), StartError> {
    attach(agent, listener, None, "metrics port").map(drop)
}

/// Creates an administration socket and serves it until the agent drains. The members of `group` may use it, too.
///
/// # Errors
/// Another agent answers there, or the system refuses.
pub async fn serve_admin(agent: &Agent, path: &Path, group: Option<u32>) -> Result<(), StartError> {
    let listener = admin::bind(path, group).await?;
    agent.background(admin::serve(agent.clone(), None, listener, path.to_owned()));
    Ok(())
}

fn attach(
    agent: &Agent,
    listener: TcpListener,
    mirror: Option<Arc<Mirror>>,
    name: &str,
) -> Result<SocketAddr, StartError> {
    let names = agent.options().local_names.clone();
    let port = LocalPort::serve(listener, mirror, agent.metrics(), names, agent.phases());
    let port = port.map_err(|error| StartError::cannot_use(name.to_owned(), error))?;
    let address = port.address();
    agent.attach(port.until_closed());
    Ok(address)
}
