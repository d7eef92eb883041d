//! Logs on standard error, as text or JSON.

mod lines;

use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use self::lines::Lines;
use crate::cli::{Command, LogArgs, LogFormat};

/// The log's filter, which can be changed while the process runs.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// The queue of log lines of an agent.
static LINES: OnceLock<Lines> = OnceLock::new();

/// How long an agent that ends waits until its last lines are written.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts logging as the command's flags say. Commands that start no agent log nothing.
pub(crate) fn start(command: &Command) {
    let Some(args) = command.log() else { return };
    let talk = match command {
        Command::Get(args) if args.quiet => Talk::Nothing,
        Command::Get(_) | Command::Mount(_) => Talk::Itself,
        _ => Talk::Log,
    };
    // The flag's parser has checked the filter.
    let filter = EnvFilter::new(args.log.as_deref().unwrap_or_else(|| default_filter(talk, args)));
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let (filter, handle) = reload::Layer::new(filter);
    // Only the first start counts: a process has one log.
    let _ = FILTER.set(handle);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer(command)).with_ansi(colour);
    let registry = tracing_subscriber::registry().with(filter);
    match args.log_format {
        LogFormat::Text => registry.with(layer).init(),
        LogFormat::Json => registry.with(layer.json()).init(),
    }
}

/// The log's writer. An agent does not wait for standard error unless the writing thread can't be started; other commands do.
fn writer(command: &Command) -> BoxMakeWriter {
    let is_agent = matches!(command, Command::Up(_) | Command::Seed(_) | Command::Node(_));
    let tell_lost = |lines| tracing::warn!(lines, "log lines were lost: standard error accepted no more");
    match is_agent.then(|| Lines::start(std::io::stderr(), tell_lost)) {
        Some(Ok(lines)) => BoxMakeWriter::new(LINES.get_or_init(|| lines).clone()),
        _ => BoxMakeWriter::new(std::io::stderr),
    }
}

/// Waits, for a bounded time, until all lines are written.
pub(crate) fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES_TIMEOUT);
    }
}

/// Applies the log filter of `command` from now on. False if that fails.
pub(crate) fn reload(command: &Command) -> bool {
    let (Some(args), Some(handle)) = (command.log(), FILTER.get()) else { return false };
    let filter = args.log.as_deref().unwrap_or_else(|| default_filter(Talk::Log, args));
    handle.reload(EnvFilter::new(filter)).is_ok()
}

/// How a command reports what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Talk {
    /// Through its log, as a daemon.
    Log,
    /// By its own output, such as a progress bar and a closing line; the log only says why it waits for an origin.
    Itself,
    /// Not at all.
    Nothing,
}

const fn default_filter(talk: Talk, args: &LogArgs) -> &'static str {
    match (talk, args.verbose) {
        (Talk::Nothing, 0) => "off",
        (Talk::Itself, 0) => "off,darter_origin::retry=warn",
        (Talk::Nothing | Talk::Itself, 1) => "warn",
        (Talk::Nothing | Talk::Itself, 2) | (Talk::Log, 0) => "info",
        (Talk::Nothing | Talk::Itself, _) | (Talk::Log, 1) => "info,darter=debug",
        (Talk::Log, _) => "info,darter=trace",
    }
}
