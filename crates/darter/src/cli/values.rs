//! How values are written on the command line, in the environment and in the configuration file. Every error says
//! what is wrong and shows a valid value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use darter_agent::options::{Amount, LoginOption};
use darter_mount::Fill;
use http::{HeaderName, HeaderValue};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::hidden::{has_login, without_logins};

/// Where containerd listens unless its configuration says otherwise.
pub(crate) const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// The values of `--fill`: `always`, `idle`, `never`.
pub(crate) fn fill() -> impl TypedValueParser<Value = Fill> {
    PossibleValuesParser::new(Fill::ALL.map(|(_, name)| name)).try_map(|name| name.parse::<Fill>())
}

/// A number of bytes: `500MB`, `20GiB`, `1048576`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("not a size: {text:?} (write for example 500MB, 20GiB or 1048576)");
    text.trim().parse::<ByteSize>().map(|size| size.as_u64()).map_err(|_| wrong())
}

/// A number of bytes, or a share of a file system: `200GB`, `80%`.
pub(crate) fn amount(text: &str) -> Result<Amount, String> {
    let wrong = || format!("not a size or a share: {text:?} (write for example 200GB, 20GiB or 80%)");
    let Some(share) = text.trim().strip_suffix('%') else { return size(text).map(Amount::Bytes).map_err(|_| wrong()) };
    let share = share.trim().parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share));
    share.map(Amount::Percent).ok_or_else(wrong)
}

/// A span of time: `30s`, `5m`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("not a time: {text:?} (write for example 30s, 5m or 1h30m)"))
}

/// An interval between looks at something. A lower limit keeps it cheap.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let span = duration(text)?;
    if span < Duration::from_millis(100) {
        return Err(format!("too short: {text:?} (the minimum is 100ms)"));
    }
    Ok(span)
}

/// A local address to listen on.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("not an address: {text:?} (write ADDR:PORT, for example 0.0.0.0:7400 or [::]:7400)"))
}

/// Another agent's address, by name or number, as an item of a list. An item that a template left empty stays empty.
pub(crate) fn endpoint_or_nothing(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Ok(String::new()) } else { endpoint(text.trim()) }
}

/// A query parameter's name, in lower case for comparison. An item that a template left empty stays empty.
pub(crate) fn parameter(text: &str) -> Result<String, String> {
    let name = text.trim().to_ascii_lowercase();
    if name.contains(['=', '&', '?', '#', ' ']) {
        return Err(format!("not the name of a query parameter: {text:?} (write for example token)"));
    }
    Ok(name)
}

/// A group of this host, by name or number.
pub(crate) fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    // A line is NAME:PASSWORD:NUMBER:MEMBERS. getent also knows groups that are not in the file, such as those of a directory service.
    let number = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    let file = std::fs::read_to_string("/etc/group").unwrap_or_default();
    if let Some(found) = file.lines().find_map(number) {
        return Ok(found);
    }
    let asked = std::process::Command::new("getent").args(["group", "--", text]).output();
    let told = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    told.lines().find_map(number).ok_or_else(|| format!("there is no group {text:?} on this host"))
}

/// Another agent's address, by name or number.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    let wrong = || format!("not HOST:PORT: {:?} (write for example seed-1:7400)", without_logins(text));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if host.is_empty() || host.contains(['/', ' ', '@']) || bare_ipv6 || port == 0 {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

/// Most bytes of a label. An agent sends all labels when it connects, within one message.
const MAX_LABEL: usize = 512;

/// `KEY=VALUE`. A label without a value, and an item that a template left empty (also `=`), count as no label: the
/// value stays empty.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        None if text.trim().is_empty() => Ok(Default::default()),
        Some((key, value)) if key.trim().is_empty() && value.trim().is_empty() => Ok(Default::default()),
        _ if has_login(text) => Err("labels are sent to every peer: leave out the login".to_owned()),
        _ if text.len() > MAX_LABEL => {
            Err(format!("a label may have at most {MAX_LABEL} bytes, since it is sent to every peer"))
        }
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("not KEY=VALUE: {text:?} (write for example rack=17)")),
    }
}

/// A request header, or a file of headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderArg {
    /// Name and value.
    One(String, String),
    /// A file with one header per line; `-` for standard input.
    File(PathBuf),
}

/// A request header as curl takes it: `Name: value`, or `@FILE`.
pub(crate) fn header(text: &str) -> Result<HeaderArg, String> {
    match text.strip_prefix('@') {
        Some("") => Err("@ names no file (write @FILE, or @- for standard input)".to_owned()),
        Some(file) => Ok(HeaderArg::File(PathBuf::from(file))),
        None => header_pair(text).map(|(name, value)| HeaderArg::One(name, value)),
    }
}

/// `Name: value`. Errors do not repeat the text, which may be a secret.
pub(crate) fn header_pair(text: &str) -> Result<(String, String), String> {
    let wrong = || "not a header (write 'Name: value', for example 'Accept: text/plain')".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let (name, value) = (name.trim(), value.trim());
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
    HeaderValue::from_str(value).map_err(|_| wrong())?;
    if darter_agent::is_own_header(name) {
        return Err(format!("darter sets {name} itself, since it chooses which bytes are sent and how: leave it out"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// A host name under which programs reach a port.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err("not a host name (write for example mirror.example.org)".to_owned());
    }
    Ok(text.to_owned())
}

/// A registry's name, without a login.
pub(crate) fn registry_name(text: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err("not a registry: a name contains no login (write HOST or HOST:PORT; for logins there is --login)"
            .to_owned());
    }
    Ok(text.to_owned())
}

/// The registry of one of containerd's directories, or `_default`: one component of a path.
pub(crate) fn setup_registry(text: &str) -> Result<String, String> {
    let host = text.split_once("://").map_or(text, |(_, host)| host).trim_end_matches('/');
    let name = registry_name(host)?;
    if name.is_empty() || name.contains('/') || name.starts_with('.') || name.contains(char::is_whitespace) {
        return Err(format!("not a registry: {text:?} (write HOST or HOST:PORT, as images name it, or _default)"));
    }
    // containerd names Docker Hub's directory as images name the registry.
    let is_hub = matches!(name.as_str(), "registry-1.docker.io" | "index.docker.io");
    Ok(if is_hub { "docker.io".to_owned() } else { name })
}

/// A path that begins at the root directory.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("not an absolute path: {text:?}")) }
}

/// The first two numbers of `1.7.24`, `v2.4.2-rc.1`, `1.6.20~ds1`.
pub(crate) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    let number = |part: &str| {
        let digits = part.find(|letter: char| !letter.is_ascii_digit()).map_or(part, |end| &part[..end]);
        digits.parse().ok()
    };
    let major = parts.next()?.parse().ok()?;
    Some((major, number(parts.next()?)?))
}

/// The first two numbers of an engine's version.
pub(crate) fn engine_version(text: &str) -> Result<(u32, u32), String> {
    version(text).ok_or_else(|| format!("not a version: {text:?} (write for example 2.4.2)"))
}

/// `REGISTRY=FILE`.
pub(crate) fn password_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        // An item that a template left empty.
        None if text.trim().is_empty() => Ok(Default::default()),
        Some((registry, file)) if !registry.is_empty() && !file.is_empty() => {
            Ok((registry_name(registry)?, PathBuf::from(file)))
        }
        _ => Err("not REGISTRY=FILE (write for example ghcr.io=/etc/darter/ghcr.io.password)".to_owned()),
    }
}

/// True if `password` is the text that is printed in place of a password.
pub(crate) fn is_mask(password: &str) -> bool {
    !password.is_empty() && password.bytes().all(|byte| byte == b'*')
}

/// `REGISTRY=USER:PASSWORD`, or `REGISTRY=USER` with an empty password. Errors do not repeat the text, which may hold a
/// password.
pub(crate) fn login(text: &str) -> Result<LoginOption, String> {
    let parts = text.split_once('=').map(|(registry, login)| (registry, login.split_once(':').unwrap_or((login, ""))));
    match parts {
        Some((_, (_, password))) if is_mask(password) => {
            Err("*** stands for a password that was not printed; leave it out and name its file with --password-file"
                .to_owned())
        }
        Some((registry, (username, password))) if !registry.is_empty() && !username.is_empty() => Ok(LoginOption {
            registry: registry_name(registry)?,
            username: username.to_owned(),
            password: password.to_owned(),
        }),
        _ => Err("not REGISTRY=USER:PASSWORD (write for example ghcr.io=robot:TOKEN)".to_owned()),
    }
}

/// Parses a URL that `darter get` can read.
pub(crate) fn source_url(text: &str) -> Result<Url, String> {
    let url: Url = text
        .parse()
        .map_err(|_| format!("not a URL: {:?} (write for example https://example.org/file)", without_logins(text)))?;
    match url.scheme() {
        "http" | "https" | "file" => Ok(url),
        other => Err(format!("can't read {other}: URLs (only http, https and file)")),
    }
}

/// The name of a file in a directory.
pub(crate) fn plain_name(text: &str) -> Result<String, String> {
    match text {
        "" | "." | ".." => Err(format!("not a name for a file: {text:?}")),
        _ if text.contains('/') || text.len() > 255 => Err("a name has no slash and at most 255 bytes".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// A time longer than zero.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("the time must be longer than 0s (write for example 60s)".to_owned()),
        time => Ok(time),
    }
}

/// A log level, or a filter by target.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    let wrong = || format!("not a level or filter: {text:?} (write for example debug, or info,darter_wire=debug)");
    EnvFilter::try_new(text).map_err(|_| wrong())?;
    Ok(text.to_owned())
}
