//! Request headers and logins from other sources than the command line, which every user of the host can read: files
//! (`-H @FILE`, `--netrc`) and the environment (`DARTER_HEADER`).
//!
//! A given `Authorization` header takes precedence over the user in a URL, which takes precedence over a netrc file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::cli::CredentialArgs;
use crate::cli::values::{self, HeaderArg};
use crate::failure::Failure;

/// The variable with headers, one per line.
const VARIABLE: &str = "DARTER_HEADER";

/// The headers for all URLs, and the logins by host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Senders {
    headers: Vec<(String, String)>,
    netrc: Vec<Machine>,
}

impl Senders {
    /// Gathers the credentials of arguments, files and the environment.
    pub(crate) fn gather(args: &CredentialArgs) -> anyhow::Result<Self> {
        let mut headers = Vec::new();
        for header in &args.header {
            match header {
                HeaderArg::One(name, value) => headers.push((name.clone(), value.clone())),
                HeaderArg::File(path) => {
                    let text = read(path, "headers (-H @FILE)")?;
                    headers.extend(header_lines(&text, &path.display().to_string())?);
                }
            }
        }
        if let Some(lines) = std::env::var_os(VARIABLE) {
            let lines = lines.into_string().map_err(|_| {
                Failure::Usage(format!("{VARIABLE} is not UTF-8: give the headers in a file (-H @FILE)"))
            })?;
            let mut more = header_lines(&lines, VARIABLE)?;
            more.retain(|(name, _)| !headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)));
            headers.extend(more);
        }
        let netrc = match (&args.netrc_file, args.netrc) {
            (Some(path), _) => parsed(&read(path, "logins (--netrc-file)")?),
            (None, true) => {
                let path = home_netrc().ok_or_else(|| {
                    Failure::Usage("there is no home directory to find .netrc in; give --netrc-file FILE".to_owned())
                })?;
                parsed(&read(&path, "logins (--netrc)")?)
            }
            (None, false) => Vec::new(),
        };
        Ok(Self { headers, netrc })
    }

    /// Only the logins, each for its host. For URLs that come from somewhere else: they must not get this user's headers.
    pub(crate) fn logins(&self) -> Self {
        Self { headers: Vec::new(), netrc: self.netrc.clone() }
    }

    /// The headers for one URL.
    pub(crate) fn of(&self, url: &Url) -> Vec<(String, String)> {
        let mut headers = self.headers.clone();
        let authorised = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let wanted = Some(url.username()).filter(|user| !user.is_empty());
        if !authorised
            && url.password().is_none()
            && let Some(login) = url.host_str().and_then(|host| login(&self.netrc, host, wanted))
        {
            let pair = format!("{}:{}", login.user, login.password);
            headers.push(("authorization".to_owned(), format!("Basic {}", BASE64.encode(pair))));
        }
        headers
    }
}

fn header_lines(text: &str, from: &str) -> Result<Vec<(String, String)>, Failure> {
    let lines = text
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            // The error does not repeat the line, which may be a secret.
            values::header_pair(line).map_err(|reason| Failure::Usage(format!("{from}: {reason}")))
        })
        .collect()
}

/// Reads the file at `path`, which holds `what`.
fn read(path: &Path, what: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map(|_| text).with_context(|| format!("can't read the {what} in {}", path.display()))
}

fn home_netrc() -> Option<PathBuf> {
    let given = std::env::var_os("NETRC").filter(|path| !path.is_empty()).map(PathBuf::from);
    given.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".netrc")))
}

/// One entry of a netrc file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    /// `None` for `default`.
    host: Option<String>,
    user: String,
    password: String,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.user, self.host.as_deref().unwrap_or("default"))
    }
}

/// The first entry for a host, and for the user if `user` is given; `default` matches every host.
fn login<'a>(machines: &'a [Machine], host: &str, user: Option<&str>) -> Option<&'a Machine> {
    machines.iter().find(|machine| {
        machine.host.as_deref().is_none_or(|name| name.eq_ignore_ascii_case(host))
            && user.is_none_or(|user| machine.user == user)
    })
}

/// The entries of a netrc file: words, except macros, which end at an empty line. A quoted word may contain spaces.
fn parsed(text: &str) -> Vec<Machine> {
    let mut machines: Vec<Machine> = Vec::new();
    let mut lines = text.lines();
    let mut wanted: Option<String> = None;
    while let Some(line) = lines.next() {
        for word in words(line) {
            match (wanted.take().as_deref(), word.as_str()) {
                (Some("machine"), _) => machines.push(machine(Some(word))),
                (Some("login"), _) => set(&mut machines, |machine| machine.user = word),
                (Some("password"), _) => set(&mut machines, |machine| machine.password = word),
                (Some(_), _) => {}
                (None, "default") => machines.push(machine(None)),
                (None, "machine" | "login" | "password" | "account") => wanted = Some(word),
                (None, "macdef") => {
                    for line in lines.by_ref() {
                        if line.trim().is_empty() {
                            break;
                        }
                    }
                    break;
                }
                (None, _) => {}
            }
        }
    }
    machines
}

fn machine(host: Option<String>) -> Machine {
    Machine { host, user: String::new(), password: String::new() }
}

fn set(machines: &mut [Machine], change: impl FnOnce(&mut Machine)) {
    if let Some(machine) = machines.last_mut() {
        change(machine);
    }
}

/// The words of a line, up to a comment. Spaces in quotes belong to a word; a backslash escapes the next character.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut letters = line.chars().peekable();
    while let Some(&letter) = letters.peek() {
        if letter.is_whitespace() {
            letters.next();
            continue;
        }
        if letter == '#' {
            break;
        }
        let quoted = letter == '"';
        if quoted {
            letters.next();
        }
        let mut word = String::new();
        while let Some(letter) = letters.next_if(|letter| if quoted { *letter != '"' } else { !letter.is_whitespace() })
        {
            let escaped = if quoted && letter == '\\' { letters.next() } else { None };
            word.push(escaped.unwrap_or(letter));
        }
        if quoted {
            letters.next();
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETRC: &str = "\
# who am I
machine a.example login ann password \"two words\"
machine b.example
  login bob
  password b#ob\\1
macdef init
  cd /pub
  machine not.one login x password y

machine a.example login second password 2
default login anonymous password me@home
";

    #[test]
    fn a_netrc_file_is_read_as_ftp_and_curl_read_it() {
        let machines = parsed(NETRC);
        let of = |host, user| {
            let found = login(&machines, host, user)?;
            Some((found.user.as_str(), found.password.as_str()))
        };
        assert_eq!(of("a.example", None), Some(("ann", "two words")));
        assert_eq!(of("A.Example", Some("second")), Some(("second", "2")));
        assert_eq!(of("b.example", None), Some(("bob", "b#ob\\1")));
        assert_eq!(of("not.one", None), Some(("anonymous", "me@home")));
        assert_eq!(login(&parsed("machine x login y"), "z", None), None);
        assert_eq!(parsed("machine"), []);
    }

    #[test]
    fn a_given_authorization_counts_before_netrc() {
        let url: Url = "https://a.example/x".parse().unwrap();
        let mut senders = Senders { headers: Vec::new(), netrc: parsed(NETRC) };
        let basic = format!("Basic {}", BASE64.encode("ann:two words"));
        assert_eq!(senders.of(&url), [("authorization".to_owned(), basic)]);
        let given = ("Authorization".to_owned(), "Bearer t".to_owned());
        senders.headers.push(given.clone());
        assert_eq!(senders.of(&url), [given]);
        senders.headers.clear();
        assert_eq!(senders.of(&"https://u:p@a.example/x".parse().unwrap()), [], "the URL's own login counts");
    }

    #[test]
    fn lines_of_headers_never_show_in_what_is_said_of_them() {
        let lines = header_lines("\u{feff}# a comment\n\nAuthorization: Bearer secret\nX-Other: 1\r\n", "f").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], ("X-Other".to_owned(), "1".to_owned()));
        assert!(header_lines("range: bytes=0-3", "f").unwrap_err().to_string().contains("leave it out"));
        let told = header_lines("secret without colon", "f").unwrap_err().to_string();
        assert!(told.starts_with("f: ") && !told.contains("secret"), "{told}");
    }
}
