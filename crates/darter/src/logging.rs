//! Logs, for people and for collectors, on standard error.

use tracing_subscriber::EnvFilter;

use crate::cli::{Command, LogArgs, LogFormat};

/// Starts logging as the command wants it. Commands that start no agent log nothing.
pub(crate) fn start(command: &Command) {
    let Some(args) = command.log() else { return };
    let quiet = matches!(command, Command::Get(_));
    let silent = matches!(command, Command::Get(args) if args.quiet);
    // The flag's parser has checked the filter.
    let filter = EnvFilter::new(args.log.as_deref().unwrap_or_else(|| default_filter(quiet, silent, args)));
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    match args.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// One download speaks through its bar and its last line, and says why it waits for an origin; a daemon through its log.
const fn default_filter(quiet: bool, silent: bool, args: &LogArgs) -> &'static str {
    match (quiet, args.verbose) {
        (true, 0) if silent => "off",
        (true, 0) => "off,darter_origin::retry=warn",
        (true, 1) => "warn",
        (true, 2) | (false, 0) => "info",
        (true, _) | (false, 1) => "info,darter=debug",
        (false, _) => "info,darter=trace",
    }
}
