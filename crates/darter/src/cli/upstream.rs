//! How a registry and its settings are written: `NAME=URL`, or `NAME={ … }` with a table of settings in
//! TOML. A table `[upstream."NAME"]` of the configuration file is read in the same way.
//!
//! A setting that may be secret has two forms, the value itself and a file whose first line is the value:
//!
//! | value | file |
//! |---|---|
//! | `headers = { NAME = "…" }` | `headers = { NAME = { file = "…" } }` |
//! | `url = "https://USER:PASSWORD@HOST"` | `login-file` |
//! | `proxy = "http://USER:PASSWORD@HOST"` | `proxy-login-file` |
//!
//! [`without_secrets`] turns the first form into the second. A login in an address is taken out of the address at once: otherwise it
//! would be part of the registry's name on disk, on the wire and in messages.

mod secrets;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use darter_agent::options::UpstreamOption;
use url::Url;

pub(crate) use self::secrets::{Login, Secret, secret_file, without_secrets};
use self::table::{TextOrFile, UpstreamTable, ValueFile, address, items, table};
use super::hidden::without_logins;
use super::values;

/// The registries that one flag, one line of the file or one variable names, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamList(pub(crate) Vec<Upstream>);

/// A registry as it is written. The files that it names have not been read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// The settings without those that are in files, and without the login of the addresses.
    pub(crate) option: UpstreamOption,
    /// Headers by name, and the files whose first line is their value.
    pub(crate) header_files: Vec<(String, PathBuf)>,
    /// The user and password that the addresses contain.
    pub(crate) login: Option<Login>,
    /// The file whose first line is the user and password.
    pub(crate) login_file: Option<PathBuf>,
    /// The file whose first line is the user and password for the proxy.
    pub(crate) proxy_login_file: Option<PathBuf>,
}

/// Registries by name: `NAME=URL` or `NAME={ url = "…", ca = "…" }`, separated by commas.
pub(crate) fn upstreams(text: &str) -> Result<UpstreamList, String> {
    let given = items(text).into_iter().map(str::trim).filter(|item| !item.is_empty());
    given.map(upstream).collect::<Result<_, _>>().map(UpstreamList)
}

/// Checks a request header. Errors do not repeat the value, which may be a secret.
pub(crate) fn header(name: &str, value: &str) -> Result<(String, String), String> {
    // The mask may follow a scheme: `Bearer ***`.
    let last = value.rsplit(|letter: char| letter.is_whitespace() || letter == '=').next().unwrap_or_default();
    if last.len() >= 3 && values::is_mask(last) {
        return Err(format!(
            "headers: {name}: *** stands for a value that was not printed; write the value, or {{ file = \"FILE\" }}"
        ));
    }
    values::header_pair(&format!("{name}: {value}"))
        .map_err(|_| format!("headers: {name:?} and its value can't stand in a request"))
}

fn upstream(text: &str) -> Result<Upstream, String> {
    let wrong = || {
        // Text that can't be parsed as a table may have secrets anywhere.
        let shown = text.split_once('{').map_or_else(|| without_logins(text), |(name, _)| format!("{name}{{ … }}"));
        format!("not NAME=URL: {shown:?} (write for example docker.io=https://mirror.example.org)")
    };
    let (name, rest) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
    values::registry_name(name)?;
    if rest.starts_with('{') {
        return table(rest).and_then(|table| table.upstream(name)).map_err(|reason| format!("{name}: {reason}"));
    }
    if address(rest).is_none() {
        return Err(wrong());
    }
    let table = UpstreamTable { url: vec![rest.to_owned()], ..UpstreamTable::default() };
    table.upstream(name).map_err(|reason| format!("{name}: {reason}"))
}

impl UpstreamTable {
    fn upstream(self, name: &str) -> Result<Upstream, String> {
        let (urls, login) = addresses(&self.url).map_err(|reason| format!("url: {reason}"))?;
        if login.is_some() && self.login_file.is_some() {
            return Err("login-file: url has a login already; leave out one of them".to_owned());
        }
        let time = |key: &str, text: Option<String>| -> Result<Option<Duration>, String> {
            text.map(|text| values::duration(&text).map_err(|reason| format!("{key}: {reason}"))).transpose()
        };
        let proxy = |text: String| {
            let is_http = |url: &Url| url.has_host() && matches!(url.scheme(), "http" | "https");
            let proxy: Option<Url> = text.parse().ok().filter(is_http);
            proxy.ok_or_else(|| {
                "proxy: not an address of an HTTP proxy (write for example http://proxy.example.org:3128)".to_owned()
            })
        };
        let proxy = self.proxy.map(proxy).transpose()?;
        let of_proxy = proxy.clone().map(|mut proxy| Login::take(&mut proxy)).transpose();
        let of_proxy = of_proxy.map_err(|reason| format!("proxy: {reason}, or a proxy-login-file"))?.flatten();
        match (&proxy, &self.proxy_login_file) {
            (None, Some(_)) => return Err("proxy-login-file: this needs a proxy: write proxy too".to_owned()),
            (_, Some(_)) if of_proxy.is_some() => {
                return Err("proxy-login-file: proxy has a login already; leave out one of them".to_owned());
            }
            _ => {}
        }
        if self.client_key.is_some() && self.client_cert.is_none() {
            return Err("client-key: this needs a certificate: write client-cert too".to_owned());
        }
        let (mut headers, mut header_files) = (Vec::new(), Vec::new());
        for (name, value) in self.headers {
            match value {
                TextOrFile::Text(value) => headers.push(header(&name, &value)?),
                TextOrFile::File(ValueFile { file }) => header_files.push((header(&name, "")?.0, file)),
            }
        }
        let option = UpstreamOption {
            name: name.to_owned(),
            urls,
            ca: self.ca,
            client_cert: self.client_cert,
            client_key: self.client_key,
            skip_verify: self.skip_verify,
            connect_timeout: time("connect-timeout", self.connect_timeout)?,
            first_byte_timeout: time("first-byte-timeout", self.first_byte_timeout)?,
            proxy,
            headers,
            prefix: self.prefix,
            rewrite: self.rewrite.into_iter().collect(),
        };
        let (login_file, proxy_login_file) = (self.login_file, self.proxy_login_file);
        Ok(Upstream { option, header_files, login, login_file, proxy_login_file })
    }
}

/// The base addresses of a registry, and the login that they contained.
fn addresses(texts: &[String]) -> Result<(Vec<Url>, Option<Login>), String> {
    let (mut urls, mut login) = (Vec::new(), None);
    for text in texts {
        let wrong = || format!("not an address: {:?} (write https://HOST or http://HOST)", without_logins(text));
        let mut url = address(text).ok_or_else(wrong)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err("an address ends with its path; use a header or a login to authorise requests".to_owned());
        }
        let own = Login::take(&mut url).map_err(|reason| format!("{reason}, or a login-file"))?;
        if own.is_some() && login.is_some() && own != login {
            return Err("the addresses have different logins: write one".to_owned());
        }
        login = own.or(login);
        urls.push(url);
    }
    Ok((urls, login))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn one(text: &str) -> UpstreamOption {
        let UpstreamList(mut all) = upstreams(text).unwrap_or_else(|reason| panic!("{text}: {reason}"));
        assert_eq!(all.len(), 1);
        all.remove(0).option
    }

    #[test]
    fn a_registry_is_an_address_or_a_table() {
        let plain = one("10.0.0.1:5000=http://10.0.0.1:5000");
        assert_eq!((plain.name.as_str(), plain.urls[0].as_str()), ("10.0.0.1:5000", "http://10.0.0.1:5000/"));
        let full = one(concat!(
            r#"reg={ url = ["https://a", "https://b:1"], ca = "/ca.pem", client-cert = "/c", client-key = "/k", "#,
            r#"skip-verify = true, connect-timeout = "2s", first-byte-timeout = "1m", proxy = "http://p:3128", "#,
            r#"headers = { X-Team = "a, b" }, prefix = "hub", rewrite = { "team/" = "squad/" } }"#
        ));
        assert_eq!(full.urls.iter().map(Url::as_str).collect::<Vec<_>>(), ["https://a/", "https://b:1/"]);
        assert_eq!(
            (full.ca, full.client_cert, full.client_key),
            (Some("/ca.pem".into()), Some("/c".into()), Some("/k".into()))
        );
        assert_eq!(
            (full.connect_timeout, full.first_byte_timeout),
            (Some(Duration::from_secs(2)), Some(Duration::from_secs(60)))
        );
        assert_eq!(full.headers, [("X-Team".to_owned(), "a, b".to_owned())]);
        assert_eq!((full.prefix.as_deref(), full.rewrite.len()), (Some("hub"), 1));
        assert!(full.skip_verify && full.proxy.is_some());
        assert_eq!(one(r#"ghcr.io={ ca = "/ca.pem" }"#).urls, []);
    }

    #[test]
    fn a_download_without_a_daemon_knows_them_too() {
        use clap::Parser as _;
        let line = ["darter", "get", "https://a/x", "--data-dir", "/d", "--upstream", r#"a={ ca = "/ca.pem" }"#];
        let crate::cli::Command::Get(args) = crate::cli::Cli::parse_from(line).command else { panic!() };
        assert_eq!(args.embedded_options("/d".into()).unwrap().upstreams[0].ca, Some("/ca.pem".into()));
    }

    #[test]
    fn several_stand_in_one_list() {
        let UpstreamList(all) =
            upstreams(r#"a=http://a,b={ url = ["http://b", "http://c"], headers = { X = 'y, "z' } },c=http://c"#)
                .unwrap();
        assert_eq!(all.iter().map(|it| it.option.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(all[1].option.headers[0].1, "y, \"z");
    }

    #[test]
    fn the_value_of_a_header_may_be_in_a_file() {
        let UpstreamList(all) =
            upstreams(r#"a={ headers = { Authorization = { file = "/etc/darter/token" }, X-Team = "infra" } }"#)
                .unwrap();
        assert_eq!(all[0].header_files, [("Authorization".to_owned(), PathBuf::from("/etc/darter/token"))]);
        assert_eq!(all[0].option.headers, [("X-Team".to_owned(), "infra".to_owned())]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("docker.io", "not NAME=URL"),
            ("=http://x", "not NAME=URL"),
            ("a=ftp://b", "not NAME=URL"),
            ("a={ url = \"b\" }", "a: url: not an address"),
            ("a={ uri = \"http://b\" }", "a: unknown field `uri`"),
            ("a={ client-key = \"/k\" }", "a: client-key: this needs a certificate"),
            ("a={ connect-timeout = \"soon\" }", "a: connect-timeout: not a time"),
            ("a={ proxy = \"p\" }", "a: proxy: not an address"),
            ("a={ proxy = \"socks5://me:secret@p:1080\" }", "a: proxy: not an address of an HTTP proxy"),
            ("a={ headers = { \"b c\" = \"d\" } }", "a: headers: \"b c\""),
            ("a=http://me:***@b", "a: url: *** stands for"),
            ("a={ proxy = \"http://me:***@b\" }", "a: proxy: *** stands for"),
            ("a={ url = [\"http://me:x@b\", \"http://me:y@c\"] }", "a: url: the addresses have different logins"),
            ("a={ url = \"http://b?token=x\" }", "a: url: an address ends with its path"),
            ("a={ url = \"http://me:x@b\", login-file = \"/f\" }", "a: login-file: url has a login already"),
            ("a={ proxy = \"http://me:x@b\", proxy-login-file = \"/f\" }", "a: proxy-login-file: proxy has a login"),
            ("a={ proxy-login-file = \"/f\" }", "a: proxy-login-file: this needs a proxy"),
            ("me:secret@a=http://b", "a name contains no login"),
            ("a=ftp://me:secret@b", "not NAME=URL: \"a=ftp://…@b\""),
            ("a { headers = { B = \"secret\" } }", "not NAME=URL: \"a { … }\""),
            ("a={ url = \"ftp://me:secret@b\" }", "a: url: not an address: \"ftp://…@b\""),
            ("a={ headers = { B = \"***\" } }", "a: headers: B: *** stands for"),
            ("a={ headers = { B = \"********\" } }", "a: headers: B: *** stands for"),
            ("a={ headers = { Authorization = \"Bearer ***\" } }", "a: headers: Authorization: *** stands for"),
            ("a={ headers = { Authorization = \"Basic  ******\" } }", "a: headers: Authorization: *** stands for"),
            ("a={ headers = { Cookie = \"session=***\" } }", "a: headers: Cookie: *** stands for"),
            ("a={ headers = { \"b c\" = { file = \"/d\" } } }", "a: headers: \"b c\""),
            ("a={ headers = { B = { path = \"/d\" } } }", "a: a header's value is a string, or { file"),
            ("a={ headers = { B = 1 } }", "a: a header's value is a string, or { file"),
        ];
        for (text, told) in cases {
            let reason = upstreams(text).unwrap_err();
            assert!(reason.contains(told) && !reason.contains("secret"), "{text}: {reason}");
        }
    }

    #[test]
    fn what_may_be_secret_is_not_printed() {
        let text = concat!(
            r#"a=http://a,b={ url = "http://b", headers = { Authorization = "Bearer secret", C = { file = "/d" } } },"#,
            "c/d=https://me:se%40cret@c/x"
        );
        let (shown, secrets) = without_secrets(text, Path::new("/etc/darter"));
        assert!(shown.starts_with("a=http://a,b={") && !shown.contains("cret"), "{shown}");
        let UpstreamList(all) = upstreams(&shown).unwrap();
        assert_eq!(
            all[1].header_files,
            [
                ("Authorization".to_owned(), PathBuf::from("/etc/darter/b.Authorization.header")),
                ("C".to_owned(), PathBuf::from("/d"))
            ]
        );
        assert_eq!(all[2].option.urls[0].as_str(), "https://c/x");
        assert_eq!(all[2].login_file.as_deref(), Some(Path::new("/etc/darter/c_d.login")));
        assert_eq!(secrets[1].line, "me:se@cret");
        assert_eq!(without_secrets(&shown, Path::new("/etc")), (shown.clone(), vec![]));
        assert_eq!(without_secrets("not a list", Path::new("/etc")), ("not a list".to_owned(), vec![]));
    }

    #[test]
    fn a_login_in_an_address_is_none_of_the_address() {
        let UpstreamList(all) =
            upstreams(r#"a=https://me:p%3Aw@a/x,b={ url = ["https://u:p@b", "https://c"] }"#).unwrap();
        assert_eq!(all[0].option.urls[0].as_str(), "https://a/x");
        assert_eq!(all[0].login, Login::parse("me:p:w").ok());
        assert_eq!(all[1].option.urls.iter().map(Url::as_str).collect::<Vec<_>>(), ["https://b/", "https://c/"]);
        let debug = format!("{all:?}");
        assert!(!debug.contains("p:w") && !debug.contains("u:p"), "{debug}");

        let mut proxy: Url = "http://p:3128".parse().unwrap();
        let login = Login::parse("m@e:50%25 / w:x").unwrap();
        login.put_into(&mut proxy);
        assert_eq!(Login::take(&mut proxy), Ok(Some(login)));
        assert_eq!(proxy.as_str(), "http://p:3128/");
    }
}
