//! A daemon's life: start, say where it is, wait for a signal, drain. A second signal ends the wait for transfers.

use std::io::IsTerminal as _;

use darter_node::options::Role;
use darter_node::{Agent, Options};

use crate::failure::Failure;
use crate::signals::Signals;

/// Runs an agent until it is told to stop.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    let role = options.role;
    let agent = tokio::select! {
        started = Agent::start(options) => started?,
        () = signals.next() => return Err(Failure::Interrupted.into()),
    };
    if std::io::stderr().is_terminal() {
        anstream::eprint!("{}", summary(role, &agent.status()));
    }
    signals.next().await;
    tracing::info!("shutting down: waiting for running transfers; a second signal ends them now");
    tokio::select! {
        () = agent.drain() => Ok(()),
        () = signals.next() => Err(Failure::Interrupted.into()),
    }
}

/// What somebody who has just started an agent by hand wants to know.
fn summary(role: Role, status: &darter_node::api::Status) -> String {
    let local = status.local.as_deref().unwrap_or("127.0.0.1:7401");
    let listen = status.listen.as_deref().unwrap_or("0.0.0.0:7400");
    let port = listen.rsplit_once(':').map_or("7400", |(_, port)| port);
    let next = match role {
        Role::Seed => format!("  more hosts  darter node --join THIS-HOST:{port}\n"),
        Role::Node | Role::Embedded => String::new(),
    };
    format!(
        "darter {} is up as {}, peers reach it at {listen}\n\
        \x20 data        {}\n\
        {next}\
        \x20 containerd  in /etc/containerd/certs.d/_default/hosts.toml:\n\
        \x20             [host.\"http://{local}\"]\n\
        \x20               capabilities = [\"pull\", \"resolve\"]\n\
        \x20 files       darter get URL\n\
        \x20 look        darter status, http://{local}/metrics\n\
        Stop it with Ctrl-C.\n",
        status.version,
        match role {
            Role::Seed => "a seed",
            Role::Node => "a node",
            Role::Embedded => "an embedded agent",
        },
        status.data_dir,
    )
}
