//! An agent with its ports and sockets, as its options say.
//!
//! Order: ports are bound before anybody hears of the agent, so that one that is taken is an error before anything is promised; they are
//! served before its seeds are reached, for a seed that does not answer keeps nobody of this host waiting.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use darter_agent::{Agent, Options, StartError};
use darter_api::socket_path;
use tokio::net::TcpListener;

use crate::admin;
use crate::mirror::{Mirror, MirrorOptions};
use crate::server::LocalPort;

/// Starts an agent and everything that its options open to its host: the local port, the metrics port and the administration
/// sockets. Ready when it returns.
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
    if let Some(listener) = local {
        serve_local(agent, listener)?;
    }
    if let Some(listener) = observed {
        serve_metrics(agent, listener)?;
    }
    if options.role.is_daemon() {
        let own = socket_path(&options.data_dir);
        for path in options.sockets.iter().filter(|path| **path != own).chain([&own]) {
            serve_admin(agent, path, options.socket_group)?;
        }
    }
    agent.reach_seeds().await
}

async fn bind(addr: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|error| StartError::cannot_listen(addr, flag, error))
}

/// Serves the local port (registry mirror, metrics, health) until the agent drains. An agent that lives for one download
/// has no mirror, and serves nothing.
///
/// # Errors
/// When the listener has no address.
pub fn serve_local(agent: &Agent, listener: TcpListener) -> Result<(), StartError> {
    let Some(registries) = agent.registries() else { return Ok(()) };
    let options = MirrorOptions::from(agent.options());
    let mirror = Mirror::new(options, registries, Arc::new(agent.clone()), agent.metrics(), agent.clock());
    let address = attach(agent, listener, Some(mirror), "local port")?;
    agent.tell_local_address(address);
    Ok(())
}

/// Serves metrics and health, for Prometheus elsewhere, until the agent drains.
///
/// # Errors
/// When the listener has no address.
pub fn serve_metrics(agent: &Agent, listener: TcpListener) -> Result<(), StartError> {
    attach(agent, listener, None, "metrics port").map(drop)
}

/// Makes an administration socket and serves it until the agent drains. `group` may use it, too.
///
/// # Errors
/// When another agent answers there, or the system refuses.
pub fn serve_admin(agent: &Agent, path: &Path, group: Option<u32>) -> Result<(), StartError> {
    let listener = admin::bind(path, group)?;
    agent.background(admin::serve(agent.clone(), listener, path.to_owned()));
    Ok(())
}

fn attach(agent: &Agent, listener: TcpListener, mirror: Option<Mirror>, name: &str) -> Result<SocketAddr, StartError> {
    let names = agent.options().local_names.clone();
    let port = LocalPort::serve(listener, mirror.map(Arc::new), agent.metrics(), names, agent.phases());
    let port = port.map_err(|error| StartError::cannot_use(name.to_owned(), error))?;
    let address = port.address();
    agent.attach(port.until_closed());
    Ok(address)
}
