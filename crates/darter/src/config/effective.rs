//! The effective configuration: each setting's value, and where that came from.
//!
//! Invariant: no secret is printed, and the printed text can be used as a configuration file. In place of a secret from a flag, a variable
//! or the file, the name of a file is printed, and the secret is among the [`Secret`]s that `--write-secrets` writes into such files.

use std::fmt::{self, Write as _};
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use serde_json::json;

use super::ConfigFile;
use crate::cli;
use crate::cli::upstream::{Secret, secret_file, without_secrets};

/// All settings of a command, in the order of its help.
#[derive(Debug)]
pub(crate) struct Effective {
    pub(crate) settings: Vec<Setting>,
    /// Secrets, and the files that are printed in their place.
    pub(crate) secrets: Vec<Secret>,
}

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The long flag, which is also the key in the file.
    pub(crate) key: String,
    /// The heading in the help under which the flag stands.
    heading: String,
    /// The values as one would type them, with files in place of secrets. Empty if the setting is not set.
    pub(crate) values: Vec<String>,
    /// The source of these values.
    pub(crate) origin: SettingOrigin,
    repeats: bool,
    truth: bool,
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SettingOrigin {
    /// The command line.
    Flag,
    /// This environment variable.
    Environment(String),
    /// `FILE:LINE`.
    File(String),
    /// Built in.
    Default,
    /// There is no value.
    NotSet,
    /// The inner source, but file names stand in place of secrets.
    Withheld(Box<SettingOrigin>),
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(variable) => write!(f, "env {variable}"),
            Self::File(place) => f.write_str(place),
            Self::Default => f.write_str("default"),
            Self::NotSet => f.write_str("not set"),
            Self::Withheld(origin) => {
                write!(f, "{origin}; secrets belong into files, which --write-secrets writes")
            }
        }
    }
}

impl Effective {
    /// Secrets are printed as names of files in `directory` (if that is `None`, in the directory of the configuration file).
    pub(super) fn new(matches: &ArgMatches, file: Option<&ConfigFile>, directory: Option<&Path>) -> Self {
        let mut effective = Self { settings: Vec::new(), secrets: Vec::new() };
        let definition = cli::definition();
        let Some((name, given)) = matches.subcommand() else { return effective };
        let command = definition.find_subcommand(name).expect("clap only matches commands that exist");
        // An argument with an environment variable is a setting. `--config` is none: it only names a source of settings.
        effective.settings = command
            .get_arguments()
            .filter(|arg| arg.get_env().is_some() && arg.get_id() != "config")
            .filter_map(|arg| Setting::new(arg, given, file))
            .collect();
        let beside = file.and_then(|file| file.path().parent()).unwrap_or(Path::new("/etc/darter"));
        let directory = directory.unwrap_or(beside);
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        effective.refer_to_passwords(&directory);
        effective.refer_to_upstreams_secrets(&directory);
        effective
    }

    /// Replaces the headers of upstreams, and the logins in their addresses, by files.
    fn refer_to_upstreams_secrets(&mut self, directory: &Path) {
        let Some(upstreams) = self.settings.iter_mut().find(|setting| setting.key == "upstream") else { return };
        let mut secrets = Vec::new();
        for upstream in &mut upstreams.values {
            let (known, mut found) = without_secrets(upstream, directory);
            *upstream = known;
            secrets.append(&mut found);
        }
        if !secrets.is_empty() {
            upstreams.origin = SettingOrigin::Withheld(Box::new(upstreams.origin.clone()));
        }
        self.secrets.append(&mut secrets);
    }

    /// Replaces the passwords of `--login` by files.
    fn refer_to_passwords(&mut self, directory: &Path) {
        let Some(logins) = self.settings.iter_mut().find(|setting| setting.key == "login") else { return };
        let (mut files, mut secrets) = (Vec::new(), Vec::new());
        for login in &mut logins.values {
            let Some((registry, user, password)) = parts_of_login(login) else { continue };
            let file = secret_file(directory, registry, "password");
            files.push(format!("{registry}={}", file.display()));
            secrets.push(Secret { file, line: password.to_owned() });
            *login = format!("{registry}={user}");
        }
        if files.is_empty() {
            return;
        }
        if let Some(setting) = self.settings.iter_mut().find(|setting| setting.key == "password-file") {
            setting.values.extend(files);
            setting.origin = SettingOrigin::Withheld(Box::new(setting.origin.clone()));
        }
        self.secrets.append(&mut secrets);
    }

    /// The settings as a configuration file, each with a comment that says where it came from.
    pub(crate) fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut heading = "";
        for setting in &self.settings {
            if setting.heading != heading {
                heading = &setting.heading;
                let gap = if text.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}# {heading}");
            }
            let line = match setting.values.as_slice() {
                [] => format!("# {} = …", setting.key),
                _ => format!("{} = {}", setting.key, setting.toml_value()),
            };
            let _ = writeln!(text, "{line:<48} # {}", setting.origin);
        }
        text
    }

    /// The settings as a JSON object: each key with its value and the source of the value.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let entry = |setting: &Setting| {
            (setting.key.clone(), json!({ "value": setting.json_value(), "from": setting.origin.to_string() }))
        };
        serde_json::Value::Object(self.settings.iter().map(entry).collect())
    }
}

impl Setting {
    fn new(arg: &clap::Arg, given: &ArgMatches, file: Option<&ConfigFile>) -> Option<Self> {
        let key = arg.get_long()?;
        let id = arg.get_id().as_str();
        let raw: Vec<String> =
            given.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect();
        let origin = match given.value_source(id) {
            None => SettingOrigin::NotSet,
            Some(ValueSource::CommandLine) => SettingOrigin::Flag,
            Some(ValueSource::EnvVariable) => {
                SettingOrigin::Environment(arg.get_env().unwrap_or_default().to_string_lossy().into_owned())
            }
            Some(_) => match file.and_then(|file| Some((file, file.line_of(key)?))) {
                Some((file, line)) => SettingOrigin::File(format!("{}:{line}", file.path().display())),
                None => SettingOrigin::Default,
            },
        };
        let truth = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
        Some(Self {
            key: key.to_owned(),
            heading: arg.get_help_heading().unwrap_or("Options").to_owned(),
            values: raw,
            origin,
            repeats: matches!(arg.get_action(), ArgAction::Append),
            truth,
        })
    }

    fn toml_value(&self) -> String {
        let quoted = |value: &String| toml::Value::String(value.clone()).to_string();
        match self.values.as_slice() {
            values if self.repeats => format!("[{}]", values.iter().map(quoted).collect::<Vec<_>>().join(", ")),
            [value] if self.truth => is_true(value).to_string(),
            values => values.last().map(quoted).unwrap_or_default(),
        }
    }

    fn json_value(&self) -> serde_json::Value {
        match self.values.as_slice() {
            values if self.repeats => json!(values),
            [value] if self.truth => json!(is_true(value)),
            values => json!(values.last()),
        }
    }
}

/// The words that clap's boolish parser reads as true.
fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "y" | "yes" | "t" | "true" | "on" | "1")
}

/// Registry, user and password of a login; `None` if it has no password.
fn parts_of_login(login: &str) -> Option<(&str, &str, &str)> {
    let (registry, rest) = login.split_once('=')?;
    let (user, password) = rest.split_once(':').filter(|(_, password)| !password.is_empty())?;
    Some((registry, user, password))
}
