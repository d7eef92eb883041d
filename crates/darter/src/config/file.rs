//! Reads a configuration file. The command line's definition says which keys and values are valid: a line of the
//! file is checked as if it had been typed as a flag of `darter node`, the command that has every setting.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use clap::ArgAction;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use darter_origin::settings;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::cli;
use crate::cli::hidden::without_logins;

/// Flags that are no keys of a file: `config`, since a file can't name itself, and flags that are not settings.
const NOT_KEYS: [&str; 4] = ["config", "help", "version", "verbose"];

/// An error in a configuration file: `FILE:LINE: MESSAGE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileError {
    path: PathBuf,
    line: Option<usize>,
    message: String,
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for FileError {}

/// A configuration file whose keys and values have all been checked.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    entries: Vec<FileSetting>,
}

#[derive(Debug)]
struct FileSetting {
    /// The long flag.
    key: String,
    /// The values as one would type them after the flag.
    values: Vec<String>,
    line: usize,
}

impl ConfigFile {
    /// Reads and checks a file.
    pub(crate) fn read(path: &Path) -> Result<Self, FileError> {
        let text = settings::read_text(path).map_err(|error| FileError {
            path: path.to_owned(),
            line: None,
            message: format!("can't read the configuration file: {error}"),
        })?;
        Self::parse(path, &text)
    }

    /// Checks a file's text.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, FileError> {
        let line_of =
            |offset: usize| text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1;
        let wrong = |offset: Option<usize>, message: String| FileError {
            path: path.to_owned(),
            line: offset.map(line_of),
            // The message may quote the file's text.
            message: without_logins(&message),
        };
        let table =
            DeTable::parse(text).map_err(|error| wrong(error.span().map(|span| span.start), syntax(&error, text)))?;
        let keys = keys();
        let mut entries = Vec::new();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            let key_at = key.span().start;
            check_key(&keys, name).map_err(|message| wrong(Some(key_at), message))?;
            let values = flag_values(&keys, name, value).map_err(|(at, message)| wrong(Some(at), message))?;
            for (at, value) in &values {
                check_value(&keys, name, value).map_err(|message| wrong(Some(*at), message))?;
            }
            let values = values.into_iter().map(|(_, value)| value).collect();
            entries.push(FileSetting { key: name.to_owned(), values, line: line_of(key_at) });
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Makes the file's values the defaults of the subcommand's flags of the same name.
    pub(crate) fn as_defaults(&self, mut command: clap::Command) -> clap::Command {
        for entry in &self.entries {
            let id =
                command.get_arguments().find(|arg| arg.get_long() == Some(&entry.key)).map(|arg| arg.get_id().clone());
            if let Some(id) = id {
                command = command.mut_arg(id, |arg| arg.default_values(entry.values.clone()));
            }
        }
        command
    }

    /// The line where a key is set.
    pub(crate) fn line_of(&self, key: &str) -> Option<usize> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.line)
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The command whose flags are the keys, without environment variables: a wrong value there is not an error in the file.
fn keys() -> clap::Command {
    let mut definition = cli::definition();
    let node = definition.find_subcommand_mut("node").expect("there is a node command");
    std::mem::take(node).no_binary_name(true).mut_args(|arg| arg.env(None::<&str>))
}

fn check_key(keys: &clap::Command, key: &str) -> Result<(), String> {
    let known = keys.get_arguments().any(|arg| arg.get_long() == Some(key)) && !NOT_KEYS.contains(&key);
    if known {
        return Ok(());
    }
    let suggestion = match keys.clone().try_get_matches_from([format!("--{key}=")]) {
        Err(error) => match error.get(ContextKind::SuggestedArg) {
            Some(ContextValue::String(flag)) => Some(flag.trim_start_matches('-').to_owned()),
            _ => None,
        },
        Ok(_) => None,
    };
    match suggestion.filter(|flag| !NOT_KEYS.contains(&flag.as_str())) {
        Some(flag) => Err(format!("unknown key {key:?}; did you mean {flag:?}?")),
        None => Err(format!("unknown key {key:?}; the keys are the long flags of `darter node --help`")),
    }
}

fn check_value(keys: &clap::Command, key: &str, value: &str) -> Result<(), String> {
    let Err(error) = keys.clone().try_get_matches_from([format!("--{key}={value}")]) else { return Ok(()) };
    if let Some(reason) = error.source() {
        return Err(format!("{key}: {reason}"));
    }
    match (error.kind(), error.get(ContextKind::ValidValue)) {
        (ErrorKind::InvalidValue, Some(ContextValue::Strings(valid))) if !valid.is_empty() => {
            Err(format!("{key}: not one of {}: {value:?}", valid.join(", ")))
        }
        (ErrorKind::InvalidValue, _) => Err(format!("{key}: a value is missing")),
        _ => Err(format!("{key}: {}", one_line(&error.to_string()))),
    }
}

/// A TOML value as the text that one would type after the flag, or several, each with its offset in the file.
fn flag_values(
    keys: &clap::Command,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> Result<Vec<(usize, String)>, (usize, String)> {
    let arg = keys.get_arguments().find(|arg| arg.get_long() == Some(key)).expect("the key was checked");
    let repeats = matches!(arg.get_action(), ArgAction::Append);
    let named = |part: &str| arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.contains(part)));
    let (pairs, tables) = (named("="), named("TABLE"));
    let at = value.span().start;
    match value.get_ref() {
        DeValue::Array(items) if repeats => {
            items.iter().map(|item| Ok((item.span().start, scalar(key, item)?))).collect()
        }
        DeValue::Table(table) if repeats && pairs => table
            .iter()
            .map(|(name, value)| {
                let value = match value.get_ref() {
                    DeValue::Table(_) if tables => plain(key, value)?.to_string(),
                    _ => scalar(key, value)?,
                };
                Ok((name.span().start, format!("{}={value}", name.get_ref())))
            })
            .collect(),
        DeValue::Array(_) => Err((at, format!("{key}: takes one value, not an array"))),
        DeValue::Table(_) if repeats => Err((at, format!("{key}: takes a string or an array of strings, not a table"))),
        DeValue::Table(_) => Err((at, format!("{key}: takes one value, not a table"))),
        _ => Ok(vec![(at, scalar(key, value)?)]),
    }
}

fn scalar(key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, (usize, String)> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Ok(truth.to_string()),
        other => {
            Err((value.span().start, format!("{key}: takes a string, not {} {}", article(other), other.type_str())))
        }
    }
}

/// The value without its offsets in the text.
fn plain(key: &str, value: &Spanned<DeValue<'_>>) -> Result<toml::Value, (usize, String)> {
    Ok(match value.get_ref() {
        DeValue::Array(items) => {
            toml::Value::Array(items.iter().map(|item| plain(key, item)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let entry = |(name, value): (&Spanned<_>, _)| Ok((ToString::to_string(name.get_ref()), plain(key, value)?));
            toml::Value::Table(table.iter().map(entry).collect::<Result<_, _>>()?)
        }
        DeValue::Boolean(truth) => toml::Value::Boolean(*truth),
        _ => toml::Value::String(scalar(key, value)?),
    })
}

fn article(value: &DeValue<'_>) -> &'static str {
    if value.type_str().starts_with(['a', 'i']) { "an" } else { "a" }
}

/// The message about a text that is not valid TOML. For a duplicate key, the message names the key.
fn syntax(error: &toml::de::Error, text: &str) -> String {
    let said = one_line(error.message());
    match error.span().and_then(|span| text.get(span)) {
        Some(key) if said == "duplicate key" => format!("{said} {key:?}: leave out one of them"),
        _ => said,
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
