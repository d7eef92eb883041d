//! Docker's `config.json`, and the helper programs that it names.
//!
//! A helper is run as `docker-credential-NAME get`. It gets the server's name on standard input, and writes JSON to standard output.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use darter_oci::name::{DOCKER_HUB, canonical};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::registry::config::Login;
use crate::settings;

/// Docker's name for Docker Hub in `config.json` and for helpers.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";
/// How long a helper may take before it is killed.
const HELPER_TIME: Duration = Duration::from_secs(5);
/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Docker's configuration, in which logins are searched.
pub(super) struct Config {
    path: PathBuf,
    helper_directories: Vec<PathBuf>,
}

/// Why it is unknown whether there is a login.
#[derive(Debug, thiserror::Error)]
pub(super) enum DockerConfigError {
    #[error("cannot read {path}: check that it exists and is readable")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not what docker login writes: log in again")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot run {program}: check that it is installed")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} does not answer: try `{program} get` by hand")]
    Hangs { program: String },
    #[error("{program} answers something else than credentials: log in again")]
    Answer {
        program: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{0:?} is not the name of a credential helper: check credsStore and credHelpers")]
    HelperName(String),
}

impl DockerConfigError {
    /// The cause, for the log.
    pub(super) fn source_text(&self) -> String {
        self.source().map(ToString::to_string).unwrap_or_default()
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: HashMap<String, DockerAuth>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl Config {
    pub(super) const fn new(path: PathBuf, helper_directories: Vec<PathBuf>) -> Self {
        Self { path, helper_directories }
    }

    /// The login for a registry: from its own helper, otherwise from the common one, otherwise from the file itself.
    pub(super) async fn login(&self, registry: &str) -> Result<Option<Login>, DockerConfigError> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || settings::read(&path)).await.map_err(io::Error::other);
        let path = &self.path;
        let text = read.flatten().map_err(|source| DockerConfigError::Read { path: path.clone(), source })?;
        let file: File =
            serde_json::from_slice(&text).map_err(|source| DockerConfigError::Parse { path: path.clone(), source })?;
        let own = file.cred_helpers.iter().find(|(server, _)| registry_of(server).as_deref() == Some(registry));
        let helper = own.map(|(_, helper)| helper).or(file.creds_store.as_ref()).filter(|helper| !helper.is_empty());
        if let Some(helper) = helper
            && let Some(login) = self.ask_helper(helper, registry).await?
        {
            return Ok(Some(login));
        }
        let entry = file.auths.iter().find(|(server, _)| registry_of(server).as_deref() == Some(registry));
        Ok(entry.and_then(|(_, entry)| entry.login()))
    }

    async fn ask_helper(&self, helper: &str, registry: &str) -> Result<Option<Login>, DockerConfigError> {
        if helper.contains('/') {
            return Err(DockerConfigError::HelperName(helper.to_owned()));
        }
        let program = format!("docker-credential-{helper}");
        let here = self.helper_directories.iter().map(|directory| directory.join(&program)).find(|path| path.exists());
        let path = here.unwrap_or_else(|| PathBuf::from(&program));
        let server = if registry == DOCKER_HUB { DOCKER_HUB_SERVER } else { registry };
        let output = tokio::time::timeout(HELPER_TIME, run(&path, server))
            .await
            .map_err(|_| DockerConfigError::Hangs { program: program.clone() })?
            .map_err(|source| DockerConfigError::Run { program: program.clone(), source })?;
        // Helpers fail when they have nothing for this server; what else may be wrong they don't tell apart.
        let Some(output) = output else { return Ok(None) };
        let Helped { username, secret } =
            serde_json::from_slice(&output).map_err(|source| DockerConfigError::Answer { program, source })?;
        Ok(match (username.as_str(), secret.is_empty()) {
            (_, true) => None,
            (TOKEN_USER, false) => Some(Login::IdentityToken(secret)),
            (_, false) => Some(Login::Password { user: username, password: secret }),
        })
    }
}

/// The output of a helper for this server; `None` if it fails.
async fn run(program: &Path, server: &str) -> io::Result<Option<Vec<u8>>> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its input may have gone already; its exit status tells.
        let _ = input.write_all(server.as_bytes()).await;
    }
    let output = child.wait_with_output().await?;
    Ok(output.status.success().then_some(output.stdout))
}

impl DockerAuth {
    fn login(&self) -> Option<Login> {
        if !self.registrytoken.is_empty() {
            return Some(Login::RegistryToken(self.registrytoken.clone()));
        }
        if !self.identitytoken.is_empty() {
            return Some(Login::IdentityToken(self.identitytoken.clone()));
        }
        let (user, password) = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            let text = String::from_utf8(BASE64_STANDARD.decode(self.auth.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            // Old versions of Docker padded the text with zeros before they encoded it.
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        (!user.is_empty()).then_some(Login::Password { user, password })
    }
}

/// The registry of a key in `auths`, which is a host name, or an address of the API. `None` for a key that names only
/// a part of a registry.
fn registry_of(server: &str) -> Option<String> {
    let bare = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    matches!(path.trim_end_matches('/'), "" | "v1" | "v2").then(|| canonical(host))
}
