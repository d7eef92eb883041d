//! A daemon's life: start, print the addresses, read the configuration again on SIGHUP, drain on SIGINT or SIGTERM. A second such signal
//! ends the wait for transfers. systemd is notified of each step.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options, StartError};
use darter_core::in_full;
use darter_store::threads;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::cli::{Command, LazyArgs};
use crate::config::{Configured, NotConfigured};
use crate::failure::Failure;
use crate::get::rooms;
use crate::logging;
use crate::notify::Manager;
use crate::signals::Signals;

/// How often systemd gets the status, if no watchdog needs it more often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Runs an agent until a signal stops it.
pub(crate) async fn run(configured: &Configured) -> anyhow::Result<()> {
    let options = options_of(&configured.cli.command)?;
    if let Some(dir) = lazy_of(&configured.cli.command).and_then(|lazy| lazy.lazy_dir.as_ref()) {
        let (dir, data) = (dir.clone(), options.data_dir.clone());
        threads::run(move || check_lazy_dir(&dir, &data)).await?;
    }
    let mut manager = Manager::from_environment();
    let mut signals = Signals::catch()?;
    let mut reloads = signal(SignalKind::hangup())?;
    let (role, drain_timeout) = (options.role, options.drain_timeout);
    let started = tokio::select! {
        started = darter_gateway::start(options) => started,
        () = signals.next() => return Err(Failure::Interrupted.into()),
    };
    let agent = started.map_err(|error| match error {
        StartError::Options(text) => anyhow::Error::from(Failure::Usage(text)),
        StartError::Origins(error) => Failure::Usage(in_full(&error).to_string()).into(),
        other => other.into(),
    })?;
    rooms::remove_guests(&agent).await;
    if let Some((dir, lazy)) = lazy_of(&configured.cli.command).and_then(|lazy| Some((lazy.lazy_dir.as_ref()?, lazy))) {
        let socket = darter_api::socket_path(&agent.options().data_dir);
        let socket = std::path::absolute(&socket).unwrap_or(socket);
        let arguments = [vec!["--socket".into(), socket.into()], lazy.for_keeper()].concat();
        tokio::spawn(crate::lazy::attend(dir.clone(), arguments));
    }
    if std::io::stderr().is_terminal() {
        crate::output::complain(summary(role, &agent.status()).trim_end());
    }
    manager.ready(&at_a_glance(&agent));
    let every = manager.alive_every().map_or(TELL_EVERY, |span| span.min(TELL_EVERY));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = signals.next() => break,
            () = manager.behind() => manager.catch_up(),
            _ = reloads.recv() => {
                manager.reloading();
                reload(configured, &agent).await;
                manager.ready(&at_a_glance(&agent));
            }
            _ = ticks.tick(), if manager.listens() => {
                manager.alive();
                manager.status(&at_a_glance(&agent));
            }
        }
    }
    tracing::info!(
        "shutting down: waiting up to {} for running transfers; a second signal ends the wait",
        humantime::format_duration(drain_timeout)
    );
    manager.stopping("waiting for running transfers");
    let drained = agent.drain();
    tokio::pin!(drained);
    loop {
        tokio::select! {
            () = &mut drained => return Ok(()),
            () = manager.behind() => manager.catch_up(),
            () = signals.next() => return Err(Failure::Interrupted.into()),
            _ = ticks.tick(), if manager.listens() => manager.alive(),
        }
    }
}

/// The options of an agent's command.
fn options_of(command: &Command) -> Result<Options, Failure> {
    match command {
        Command::Up(args) => args.options_alone(),
        Command::Seed(args) => args.options(Role::Seed, &[]),
        Command::Node(args) => args.options(),
        _ => unreachable!("only agents run as daemons"),
    }
}

/// The lazy-start flags of an agent's command.
const fn lazy_of(command: &Command) -> Option<&LazyArgs> {
    match command {
        Command::Up(args) | Command::Seed(args) => Some(&args.lazy),
        Command::Node(args) => Some(&args.agent.lazy),
        _ => None,
    }
}

/// Refuses a directory of layers that contains the data directory or lies in it: mounting would hide files. Blocking.
fn check_lazy_dir(dir: &Path, data: &Path) -> Result<(), Failure> {
    // The last component is not resolved: it may be a mount whose process hangs.
    let absolute = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
        parent.zip(path.file_name()).map_or_else(|| path.clone(), |(parent, name)| parent.join(name))
    };
    let (lazy, own) = (absolute(dir), absolute(data));
    if !lazy.starts_with(&own) && !own.starts_with(&lazy) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--lazy-dir {} and the data directory {} may not contain each other, since layers are mounted there: choose another directory, such as /run/darter/layers",
        dir.display(),
        data.display()
    )))
}

/// Reads the configuration again and applies the settings that can change while the agent runs. An invalid configuration changes nothing.
async fn reload(configured: &Configured, agent: &Agent) {
    let fresh = match Configured::from_arguments(&configured.arguments) {
        Ok(fresh) => fresh,
        Err(NotConfigured::Clap(error)) => {
            let text = anstream::adapter::strip_str(&crate::config::text_of(&error)).to_string();
            return tracing::error!(reason = text.trim(), "the configuration is invalid; the old one stays in force");
        }
        Err(NotConfigured::File(error)) => {
            return tracing::error!(reason = %in_full(&error), "the configuration is invalid; the old one stays in force");
        }
    };
    // The system's file is optional, but if it was read at the start, its settings are in force: a file that is gone is an error.
    if let (Some(lost), None) = (configured.file(), fresh.file()) {
        let reason = format!("{} does not exist any more, or can't be read", lost.display());
        return tracing::error!(reason, "the configuration is invalid; the old one stays in force");
    }
    let options = match options_of(&fresh.cli.command) {
        Ok(options) => options,
        Err(error) => {
            return tracing::error!(reason = %in_full(&error), "the configuration is invalid; the old one stays in force");
        }
    };
    let mut reloaded = match agent.reload(options).await {
        Ok(reloaded) => reloaded,
        Err(error) => {
            return tracing::error!(reason = %in_full(&error), "the configuration is invalid; the old one stays in force");
        }
    };
    if logging::reload(&fresh.cli.command) {
        reloaded.taken.push("log");
    }
    if !reloaded.restart.is_empty() {
        let keys = reloaded.restart.join(", ");
        tracing::warn!(settings = keys, "changed settings that take effect after a restart");
    }
    tracing::info!(settings = reloaded.taken.join(", "), "the configuration was read again");
}

/// The status line for `systemctl status`.
fn at_a_glance(agent: &Agent) -> String {
    let status = agent.status();
    let moving = status.swarms.iter().filter(|swarm| !swarm.progress.complete).count();
    format!("{} peers, {moving} transfers, {} stored", status.peers.len(), crate::units::size(status.store.used))
}

/// The summary that is printed when a user starts an agent by hand.
fn summary(role: Role, status: &darter_api::Status) -> String {
    let local = status.local.as_deref().unwrap_or("127.0.0.1:7401");
    let listen = status.listen.as_deref().unwrap_or("0.0.0.0:7400");
    let port = listen.rsplit_once(':').map_or("7400", |(_, port)| port);
    let loopback = listen.parse().is_ok_and(|addr: std::net::SocketAddr| addr.ip().to_canonical().is_loopback());
    let at = if local == "127.0.0.1:7401" { String::new() } else { format!(" --local {local}") };
    let next = match role {
        Role::Seed if loopback => {
            "  more hosts  not yet: peers are not encrypted, so --insecure is needed to let them in\n".to_owned()
        }
        Role::Seed => format!("  more hosts  darter node --join THIS-HOST:{port} --insecure\n"),
        Role::Node | Role::Embedded => String::new(),
    };
    format!(
        "darter {} is up as {}, peers reach it at {listen}\n\
        \x20 data        {}\n\
        {next}\
        \x20 containerd  darter setup containerd{at}\n\
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
