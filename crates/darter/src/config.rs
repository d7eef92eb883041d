//! Configuration: flags, environment, file and defaults, in that order, from the one definition in [`crate::cli`].
//!
//! The file's keys are the long flags. Its values become the *defaults* of those flags, so that clap itself applies
//! the precedence, checks every value with the flag's own parser, and remembers where each value came from. Nothing here
//! knows any single setting.
//!
//! | file | what lives there |
//! |---|---|
//! | `config/file.rs` | reads a TOML file and reports what is wrong with it, by line |
//! | `config/effective.rs` | the resulting settings, and where each value came from |
//! | `config/secrets.rs` | writes secrets into the files that are printed in their place |
//!
//! Invariant: a file that any agent accepts is accepted by every command; a command ignores keys for which it has no flag,
//! so that one file serves `darter seed`, `darter get` and `darter ls`.

mod effective;
mod file;
mod secrets;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, FromArgMatches as _};
use darter_origin::settings;

pub(crate) use self::effective::Effective;
pub(crate) use self::file::{ConfigFile, FileError};
pub(crate) use self::secrets::{not_there, write};
use crate::cli::hidden::without_logins;
use crate::cli::{self, Cli};

/// A parsed command line with its sources.
#[derive(Debug)]
pub(crate) struct Configured {
    /// The command line as it was given.
    pub(crate) arguments: Vec<OsString>,
    /// The command, with the values of the highest precedence.
    pub(crate) cli: Cli,
    /// The sources of these values: flags, environment, defaults.
    matches: ArgMatches,
    file: Option<ConfigFile>,
}

/// Why no command runs: clap has a text to print (such as help), or the file is bad.
#[derive(Debug)]
pub(crate) enum NotConfigured {
    Clap(Box<clap::Error>),
    File(FileError),
}

impl From<clap::Error> for NotConfigured {
    fn from(error: clap::Error) -> Self {
        Self::Clap(Box::new(error))
    }
}

impl Configured {
    /// Parses a command line, its environment and the configuration file that either of them names.
    ///
    /// Parses twice: first to find the file, and to refuse a wrong command line before the file is read; then with the file's
    /// values as defaults.
    pub(crate) fn from_arguments(arguments: &[OsString]) -> Result<Self, NotConfigured> {
        let first = definition().try_get_matches_from(arguments).map_err(without_secrets)?;
        let (names, given) = innermost(&first);
        let Some(subcommand) = names.first().copied() else {
            unreachable!("clap refuses a command line without a subcommand");
        };
        let file = match given.try_get_one::<PathBuf>("config") {
            // An empty name means no file.
            Ok(Some(path)) if path.as_os_str().is_empty() => None,
            Ok(Some(path)) => Some(ConfigFile::read(path).map_err(NotConfigured::File)?),
            Ok(None) => system_file(subcommand)?,
            // The command has no such flag (`man`, `completions`).
            Err(_) => None,
        };
        let command = within(definition(), &names, |command| {
            let command = with_data_dir(command);
            match &file {
                Some(file) => file.as_defaults(command),
                None => command,
            }
        });
        let matches = command.try_get_matches_from(arguments).map_err(without_secrets)?;
        let cli = Cli::from_arg_matches(&matches)?;
        Ok(Self { arguments: arguments.to_vec(), cli, matches, file })
    }

    /// The configuration file that was read, if one was.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(ConfigFile::path)
    }

    /// Every setting of the command with its value and the source of the value. Secrets are printed as names of files in `secrets`
    /// (if that is `None`, in the directory of the configuration file).
    pub(crate) fn effective(&self, secrets: Option<&Path>) -> Effective {
        Effective::new(&self.matches, self.file.as_ref(), secrets)
    }
}

/// The command line, without environment variables that are set and empty: templates (a chart's value, an optional key of a map, the
/// downward API) leave them so if a host has no value. An empty `DARTER_CONFIG` means no file.
fn definition() -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let without = |arg: clap::Arg| if arg.get_id() != "config" && is_empty(&arg) { arg.env(None::<&str>) } else { arg };
    // Some commands have subcommands of their own.
    cli::definition()
        .mut_subcommands(|command| command.mut_args(without).mut_subcommands(|command| command.mut_args(without)))
}

/// The names of the command and its subcommands that were given (`image profile`), and the arguments of the innermost one.
fn innermost(matches: &ArgMatches) -> (Vec<&str>, &ArgMatches) {
    let (mut names, mut given) = (Vec::new(), matches);
    while let Some((name, inside)) = given.subcommand() {
        names.push(name);
        given = inside;
    }
    (names, given)
}

/// Changes the command with these names, each a subcommand of the one before it.
fn within(
    command: clap::Command,
    names: &[&str],
    change: impl FnOnce(clap::Command) -> clap::Command,
) -> clap::Command {
    match names.split_first() {
        Some((first, rest)) => command.mut_subcommand(first, |command| within(command, rest, change)),
        None => change(command),
    }
}

/// clap's error about a wrong command line, without the values of flags that hold secrets.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    const SECRETIVE: [&str; 3] = ["--login", "--upstream", "--header"];
    let of_flag = |flag: &str| SECRETIVE.iter().any(|secretive| flag.starts_with(secretive));
    let is_secret = matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(flag)) if of_flag(flag));
    if is_secret {
        error.insert(ContextKind::InvalidValue, ContextValue::String("…".to_owned()));
    }
    error
}

/// clap's error as text for a terminal. Logins are hidden, since the wrong value of any flag may be an address with a password.
pub(crate) fn text_of(error: &clap::Error) -> String {
    let text = error.render().ansi().to_string();
    if error.use_stderr() { without_logins(&text) } else { text }
}

/// Gives `--data-dir` the default of this user. The definition does not have it, because help and manual
/// pages must not depend on the user who prints them.
fn with_data_dir(command: clap::Command) -> clap::Command {
    match own_data_dir() {
        Some(dir) if command.get_arguments().any(|arg| arg.get_id() == "data_dir") => {
            command.mut_arg("data_dir", |arg| arg.default_value(dir.into_os_string()))
        }
        _ => command,
    }
}

/// The system's configuration file.
const SYSTEM_FILE: &str = "/etc/darter/darter.toml";

/// The system's configuration file, for agents and root's commands. Other users' commands do not read it, since it names the
/// service's data directory, which they can't use.
fn system_file(subcommand: &str) -> Result<Option<ConfigFile>, NotConfigured> {
    let agent = matches!(subcommand, "up" | "seed" | "node" | "config");
    if !(agent || rustix::process::geteuid().is_root()) || subcommand == "demo" {
        return Ok(None);
    }
    let path = Path::new(SYSTEM_FILE);
    match settings::read(path).map_err(|error| error.kind()) {
        Err(ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        // The user may run an agent of their own without this file; or the file of a service has the wrong owner.
        Err(ErrorKind::PermissionDenied) => {
            crate::stderr::complain(&format!(
                "note: {SYSTEM_FILE} can't be read by this user and is not used; pass --config \"\" to use no file"
            ));
            Ok(None)
        }
        Ok(_) | Err(_) => ConfigFile::read(path).map(Some).map_err(NotConfigured::File),
    }
}

/// The default data directory of root and of a service.
pub(crate) const SYSTEM_DATA_DIR: &str = "/var/lib/darter";

/// The default data directory of this user.
pub(crate) fn own_data_dir() -> Option<PathBuf> {
    default_data_dir(rustix::process::geteuid().is_root(), |name| std::env::var_os(name))
}

fn default_data_dir(root: bool, environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // systemd's StateDirectory=; several directories are separated by colons.
    let state = environment("STATE_DIRECTORY").and_then(|dirs| Some(dirs.to_str()?.split(':').next()?.to_owned()));
    if let Some(dir) = state.map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        return Some(dir);
    }
    if root {
        return Some(PathBuf::from(SYSTEM_DATA_DIR));
    }
    // The XDG specification says to ignore relative paths.
    let absolute = |name| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join(Path::new("darter")))
}
