//! Secrets among a registry's settings, and what is printed in their place: the name of a file.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use super::table::{TextOrFile, UpstreamTable, ValueFile, address, items, table};
use crate::cli::values;

/// A user and a password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

/// A secret from the configuration, and the file that it should be moved to.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    pub(crate) file: PathBuf,
    /// The first line of the file.
    pub(crate) line: String,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret(for {})", self.file.display())
    }
}

/// Returns `text` with file names in place of its secrets, and these secrets, each with its file in `directory`. Returns `text`
/// unchanged if it is not a valid list.
pub(crate) fn without_secrets(text: &str, directory: &Path) -> (String, Vec<Secret>) {
    let mut secrets = Vec::new();
    let known = items(text).into_iter().map(|item| {
        let known = item_without_secrets(item, directory, &mut secrets);
        known.unwrap_or_else(|| item.to_owned())
    });
    let text = known.collect::<Vec<_>>().join(",");
    (text, secrets)
}

/// `None` if the item has no secret.
fn item_without_secrets(item: &str, directory: &Path, secrets: &mut Vec<Secret>) -> Option<String> {
    let (name, rest) = item.split_once('=')?;
    let mut table = if rest.starts_with('{') {
        table(rest).ok()?
    } else {
        UpstreamTable { url: vec![rest.to_owned()], ..UpstreamTable::default() }
    };
    let before = secrets.len();
    // Header values are valid TOML strings, hence UTF-8.
    let mut put = |kind: &str, line: String| {
        let file = PathBuf::from(secret_file(directory, name, kind).to_string_lossy().into_owned());
        secrets.push(Secret { file: file.clone(), line });
        file
    };
    for (header, value) in &mut table.headers {
        if let TextOrFile::Text(text) = value {
            let file = put(&format!("{header}.header"), std::mem::take(text));
            *value = TextOrFile::File(ValueFile { file });
        }
    }
    let mut of_addresses = None;
    for text in &mut table.url {
        let mut url = address(text)?;
        if let Some(login) = Login::take(&mut url).ok()? {
            of_addresses = Some(login);
            *text = url.into();
        }
    }
    if let Some(login) = of_addresses {
        table.login_file = Some(put("login", login.to_line()));
    }
    if let Some(text) = &mut table.proxy {
        let mut url: Url = text.parse().ok()?;
        if let Some(login) = Login::take(&mut url).ok()? {
            *text = url.into();
            table.proxy_login_file = Some(put("proxy-login", login.to_line()));
        }
    }
    if secrets.len() == before {
        return None;
    }
    Some(format!("{name}={}", toml::Value::try_from(&table).ok()?))
}

/// The file for a secret of a registry.
pub(crate) fn secret_file(directory: &Path, registry: &str, kind: &str) -> PathBuf {
    // A registry's name may have slashes; a file's name can't.
    directory.join(format!("{}.{kind}", registry.replace('/', "_")))
}

impl Login {
    /// `USER:PASSWORD`.
    pub(crate) fn parse(line: &str) -> Result<Self, String> {
        let (user, password) = line.split_once(':').ok_or("write USER:PASSWORD into its first line")?;
        Self::new(user, password)
    }

    fn new(user: &str, password: &str) -> Result<Self, String> {
        if values::is_mask(password) {
            return Err("*** stands for a password that was not printed; write the password".to_owned());
        }
        if user.contains(':') || user.chars().chain(password.chars()).any(char::is_control) {
            return Err("the user or the password has a character that can't be sent".to_owned());
        }
        Ok(Self { user: user.to_owned(), password: password.to_owned() })
    }

    fn to_line(&self) -> String {
        format!("{}:{}", self.user, self.password)
    }

    /// The address with this login in it.
    pub(crate) fn put_into(&self, url: &mut Url) {
        // `Url` does not escape again. It refuses only addresses without a host, which never get here.
        let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let _ = url.set_username(&escaped(&self.user));
        let _ = url.set_password(Some(&escaped(&self.password)));
    }
    /// Takes the login out of an address.
    pub(super) fn take(url: &mut Url) -> Result<Option<Self>, String> {
        if url.username().is_empty() && url.password().is_none() {
            return Ok(None);
        }
        let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let login = Self::new(&plain(url.username()), &plain(url.password().unwrap_or_default()))?;
        // `Url` refuses only addresses without a host, which have no user.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Some(login))
    }
}
