//! A registry's `hosts.toml`: the hosts that containerd asks, in the order of their tables in the file, and then the registry itself
//! (`server`). No I/O.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::document::{Document, Wrong, checked, header, quoted};

/// A comment above what this command writes: a later run recognises it, whatever address is below.
const MARK: &str = "# Darter's mirror is asked first (`darter setup containerd --undo` takes it away)";

/// The mirror's capabilities. Pushes go to the registry.
const CAPABILITIES: [&str; 2] = ["pull", "resolve"];

/// The mirror's URL for programs on this host.
pub(crate) fn mirror_address(local: SocketAddr) -> String {
    let mut local = local;
    match local {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => local.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => local.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("http://{local}")
}

/// The registry itself, which a new file names after the mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    /// The registry's address, if it is not `https://NAME`.
    pub(crate) url: Option<String>,
    /// Files with certificates of authorities that the client trusts.
    pub(crate) ca: Vec<String>,
    /// Files with client certificates, and with their keys if these are separate.
    pub(crate) client: Vec<(String, Option<String>)>,
    /// True if any server certificate is accepted.
    pub(crate) skip_verify: bool,
}

/// The mirror's position in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// First, and able to pull and to resolve tags.
    First,
    /// First, but without all of its capabilities.
    Narrowed,
    /// After another host.
    Later,
    Absent,
}

/// The text of a new file.
pub(crate) fn fresh(mirror: &str, server: &Server) -> String {
    let mut text = String::new();
    let list = |names: &[String]| format!("[{}]", names.iter().map(|n| quoted(n)).collect::<Vec<_>>().join(", "));
    if let Some(url) = &server.url {
        text += &format!("server = {}\n", quoted(url));
    }
    if !server.ca.is_empty() {
        text += &format!("ca = {}\n", list(&server.ca));
    }
    if !server.client.is_empty() {
        let pair = |(cert, key): &(String, Option<String>)| match key {
            Some(key) => format!("[{}, {}]", quoted(cert), quoted(key)),
            None => quoted(cert),
        };
        text += &format!("client = [{}]\n", server.client.iter().map(pair).collect::<Vec<_>>().join(", "));
    }
    if server.skip_verify {
        text += "skip_verify = true\n";
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text + &block(mirror)
}

/// The file's text with the mirror before all other hosts; the same text if it is there already.
pub(crate) fn in_front(text: &str, mirror: &str) -> Result<String, Wrong> {
    let mut document = Document::parse(text)?;
    if let Some((at, form)) = odd_form(&document) {
        return Err(Wrong {
            line: document.line(at),
            message: format!("{form}; write each host as a table of its own: [host.\"https://…\"]"),
        });
    }
    document = without_former(document, mirror)?;
    match standing(&document, mirror) {
        Standing::First | Standing::Narrowed => return Ok(document.text().to_owned()),
        Standing::Later => return moved_to_front(&document, mirror),
        Standing::Absent => {}
    }
    let new = match first_host(&document) {
        Some(at) => document.with(at..at, &format!("{}\n", block(mirror))),
        None => document.with_at_end(&block(mirror)),
    };
    let ours = toml::Table::from_iter([("capabilities".to_owned(), CAPABILITIES.to_vec().into())]);
    let new = checked(&document, &new, |wanted| {
        super::document::set(wanted, &["host", mirror], toml::Value::Table(ours));
    })?;
    Ok(new.text().to_owned())
}

/// The position of `mirror` among the hosts of `document`.
pub(crate) fn standing(document: &Document, mirror: &str) -> Standing {
    let hosts = document.get(&["host"]).map(|hosts| hosts.entries()).unwrap_or_default();
    let Some(place) = hosts.iter().position(|(url, _)| is_same(url, mirror)) else { return Standing::Absent };
    if place > 0 {
        return Standing::Later;
    }
    let given = hosts[place].1.get("capabilities").map(|given| given.items()).unwrap_or_default();
    let can = |what: &str| given.iter().any(|one| one.text().is_some_and(|one| one.eq_ignore_ascii_case(what)));
    // An empty list means all capabilities.
    if given.is_empty() || CAPABILITIES.into_iter().all(can) { Standing::First } else { Standing::Narrowed }
}

fn block(mirror: &str) -> String {
    let capabilities = CAPABILITIES.map(quoted).join(", ");
    format!("{MARK}\n[{}]\n  capabilities = [{capabilities}]\n", header(&["host", mirror], '"'))
}

/// True if containerd takes two addresses for the same host.
fn is_same(one: &str, other: &str) -> bool {
    let plain = |url: &str| {
        let url = url.trim_end_matches('/').trim_end_matches("/v2").to_ascii_lowercase();
        if url.starts_with("http") { url } else { format!("https://{url}") }
    };
    plain(one) == plain(other)
}

/// Hosts that containerd does not recognise, or to which no table can be added.
fn odd_form(document: &Document) -> Option<(usize, &'static str)> {
    let hosts = document.get(&["host"])?;
    if document.text()[hosts.at.start..].starts_with('{') {
        return Some((hosts.at.start, "`host` is written as one inline table, of which containerd 2 reads no host"));
    }
    let odd = hosts.entries().into_iter().find(|(_, host)| {
        // A host that only has a header for a table below it, `[host."…".header]`, is recognised, too.
        let below = host.entries().iter().any(|(_, inner)| document.has_header(inner));
        !document.has_header(host) && !below
    });
    odd.map(|(_, host)| (host.at.start, "a host is written in dotted keys or inline, which containerd 2 does not read"))
}

/// The byte offset at which the first host's table begins, including its comment.
fn first_host(document: &Document) -> Option<usize> {
    let hosts = document.get(&["host"])?;
    let starts = hosts.entries().into_iter().flat_map(|(_, host)| host_headers(document, host)).min();
    let start = starts.or_else(|| document.has_header(hosts).then_some(hosts.at.start))?;
    Some(document.block_start(start))
}

/// The headers of a host's tables.
fn host_headers(document: &Document, host: &super::document::Node) -> Vec<usize> {
    let own = document.has_header(host).then_some(host.at.start);
    let below = host.entries().into_iter().filter(|(_, inner)| document.has_header(inner));
    own.into_iter().chain(below.map(|(_, inner)| inner.at.start)).collect()
}

/// The byte ranges of a host's tables.
fn stretches(document: &Document, host: &super::document::Node) -> Vec<std::ops::Range<usize>> {
    let headers = document.headers();
    let end = |start: usize| {
        let next = headers.iter().copied().find(|header| *header > start);
        next.map_or(document.text().len(), |next| document.block_start(next))
    };
    let mut found: Vec<_> =
        host_headers(document, host).into_iter().map(|header| document.block_start(header)..end(header)).collect();
    found.sort_by_key(|stretch| stretch.start);
    found
}

/// Removes a host's tables from the text. Returns the rest, and the tables.
fn without(document: &Document, url: &str) -> (String, String) {
    let (mut text, mut taken) = (document.text().to_owned(), String::new());
    if let Some(host) = document.get(&["host", url]) {
        for stretch in stretches(document, host).into_iter().rev() {
            taken.insert_str(0, &document.text()[stretch.clone()]);
            text.replace_range(stretch, "");
        }
    }
    (text, taken)
}

/// The text without the table that this command wrote when the mirror had another address.
fn without_former(document: Document, mirror: &str) -> Result<Document, Wrong> {
    let is_ours = |(url, host): &(&str, &super::document::Node)| {
        let above = &document.text()[document.block_start(host.at.start)..host.at.start];
        !is_same(url, mirror) && above.contains(MARK)
    };
    let hosts = document.get(&["host"]).map(|hosts| hosts.entries()).unwrap_or_default();
    let Some((url, _)) = hosts.into_iter().find(is_ours) else { return Ok(document) };
    let (text, _) = without(&document, url);
    checked(&document, &text, |wanted| {
        let hosts = wanted.get_mut("host").and_then(toml::Value::as_table_mut);
        let is_empty = hosts.is_some_and(|hosts| hosts.remove(url).is_some() && hosts.is_empty());
        if is_empty {
            wanted.remove("host");
        }
    })
}

/// The text with the mirror's tables, unchanged, before those of the other hosts.
fn moved_to_front(document: &Document, mirror: &str) -> Result<String, Wrong> {
    let hosts = document.get(&["host"]).map(|hosts| hosts.entries()).unwrap_or_default();
    let url = hosts.into_iter().map(|(url, _)| url).find(|url| is_same(url, mirror)).unwrap_or_default();
    let (text, mut taken) = without(document, url);
    if !taken.ends_with('\n') {
        taken.push('\n');
    }
    let rest = Document::parse(&text)?;
    let at = first_host(&rest).unwrap_or(text.len());
    let gap = if taken.ends_with("\n\n") || taken.ends_with("\n\r\n") { "" } else { "\n" };
    let new = format!("{}{taken}{gap}{}", &text[..at], &text[at..]);
    let new = checked(document, &new, |_| {})?;
    Ok(new.text().to_owned())
}
