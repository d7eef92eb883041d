//! A registry in memory that keeps an account of what it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_core::Digest;
use futures_util::{StreamExt as _, future, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Method, path and query.
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
}

#[derive(Clone, Default)]
pub(crate) struct Repository {
    pub(crate) manifests: BTreeMap<Digest, (String, Bytes)>,
    /// Digests by tag; the one whose media type the request accepts, else the last, is the answer.
    pub(crate) tags: BTreeMap<String, Vec<Digest>>,
    pub(crate) blobs: BTreeMap<Digest, Bytes>,
}

/// The registry's behaviour, and what it has seen.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) repositories: BTreeMap<String, Repository>,
    /// Repositories by `Authorization` value that may read them; without any entry, everybody reads everything.
    pub(crate) rights: BTreeMap<String, BTreeSet<String>>,
    pub(crate) seen: Vec<Seen>,
    /// Of whom its token service was asked for tokens, as `Authorization` values.
    pub(crate) tokens: Vec<String>,
    /// Address of the token service; with it, challenges are of the Bearer kind.
    pub(crate) realm: Option<String>,
    /// Sends manifests with a byte changed.
    pub(crate) lies: bool,
    /// Ignores ranges.
    pub(crate) no_ranges: bool,
    /// Leaves `Docker-Content-Digest` out.
    pub(crate) no_digest_header: bool,
    /// Answers those who may not read with a status of success and this (media type, body), as gateways do.
    pub(crate) gateway: Option<(&'static str, Bytes)>,
    /// Answers HEAD with this status, whatever GET would give.
    pub(crate) no_head: Option<u16>,
    /// Takes requests and never answers.
    pub(crate) hangs: bool,
    /// How long the answer to a GET of a blob takes to begin.
    pub(crate) slow_blobs: Duration,
    /// How long the answer to a HEAD takes.
    pub(crate) slow_heads: Duration,
    /// The answer to a GET of a blob stands still at this byte of the blob, until all answers that stand still are told to go on.
    pub(crate) blobs_stop_after: Option<usize>,
    go_on: watch::Sender<()>,
    /// Says yes to every HEAD of a blob or a manifest, whether it has it or not.
    pub(crate) says_yes: bool,
    /// Answers everything with this status.
    pub(crate) broken: Option<StatusCode>,
    /// Answers every HEAD with this status.
    pub(crate) no_head_at_all: Option<StatusCode>,
    /// Headers of every answer besides.
    pub(crate) besides: Vec<(&'static str, String)>,
    /// A page that stands in for everything.
    pub(crate) portal: Option<&'static str>,
}

pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<Mutex<State>>,
    server: tokio::task::JoinHandle<()>,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(own_address()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, server }
    }

    /// Answers that stand still go on, and no later one stands still.
    #[allow(dead_code, reason = "one of the programs that this is part of lets nothing go on")]
    pub(crate) fn go_on(&self) {
        let mut state = self.state.lock();
        state.blobs_stop_after = None;
        state.go_on.send_replace(());
    }

    /// Its name in requests.
    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn put_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::sha256(content);
        self.put_blob_as(repository, digest, content);
        digest
    }

    /// A blob under a digest that may be none of its bytes.
    pub(crate) fn put_blob_as(&self, repository: &str, digest: Digest, content: &[u8]) {
        let bytes = Bytes::copy_from_slice(content);
        self.with(repository, |repository| repository.blobs.insert(digest, bytes));
    }

    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        media_type: &str,
        content: String,
        tag: Option<&str>,
    ) -> Digest {
        let digest = Digest::sha256(content.as_bytes());
        self.with(repository, |repository| {
            repository.manifests.insert(digest, (media_type.to_owned(), content.into()));
            if let Some(tag) = tag {
                repository.tags.insert(tag.to_owned(), vec![digest]);
            }
        });
        digest
    }

    /// A manifest whose digest is not that of its bytes.
    pub(crate) fn put_signed(&self, repository: &str, media_type: &str, digest: Digest, content: String, tag: &str) {
        self.with(repository, |repository| {
            repository.manifests.insert(digest, (media_type.to_owned(), content.into()));
            repository.tags.insert(tag.to_owned(), vec![digest]);
        });
    }

    /// An image of one configuration and one layer; returns the manifest's digest and both blobs'.
    pub(crate) fn put_image(&self, repository: &str, tag: Option<&str>, layer: &[u8]) -> (Digest, [Digest; 2]) {
        let config = self.put_blob(repository, format!("configuration for {} bytes", layer.len()).as_bytes());
        let config_size = format!("configuration for {} bytes", layer.len()).len();
        let layer_digest = self.put_blob(repository, layer);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": "application/json", "digest": config, "size": config_size },
            "layers": [{ "mediaType": "application/x-tar", "digest": layer_digest, "size": layer.len() }],
        });
        (self.put_manifest(repository, MANIFEST, manifest.to_string(), tag), [config, layer_digest])
    }

    pub(crate) fn put_index(&self, repository: &str, tag: &str, manifests: &[Digest]) -> Digest {
        let manifests: Vec<_> = manifests.iter().map(|digest| serde_json::json!({ "digest": digest })).collect();
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.put_manifest(repository, INDEX, index.to_string(), Some(tag))
    }

    /// Lets the bearer of this `Authorization` read a repository, and nobody without rights anything.
    pub(crate) fn allow(&self, authorization: &str, repository: &str) {
        let mut state = self.state.lock();
        state.rights.entry(authorization.to_owned()).or_default().insert(repository.to_owned());
    }

    /// The requests since the last call, as method, path and query.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.lock().seen.drain(..).map(|seen| seen.line).collect()
    }

    /// Goes away: connections are refused from now on.
    pub(crate) async fn stop(mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }

    fn with<T>(&self, repository: &str, change: impl FnOnce(&mut Repository) -> T) -> T {
        change(self.state.lock().repositories.entry(repository.to_owned()).or_default())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An address of a loopback network of this process's own: a port of 127.0.0.1 might be another's as soon as a registry has
/// stopped.
fn own_address() -> SocketAddr {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    // The kernel gives ids below 2^22.
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    ([127, 64 + high, middle, low], PORT.fetch_add(1, Ordering::Relaxed)).into()
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Connections end with the server, so that a stopped registry is really gone.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let is_of_blob = request.method() == Method::GET && request.uri().path().contains("/blobs/");
                let is_head = request.method() == Method::HEAD;
                let (response, hangs, slow, stops, go_on) = {
                    let mut state = state.lock();
                    let stops = state.blobs_stop_after.filter(|_| is_of_blob);
                    let slow = if is_head { state.slow_heads } else { state.slow_blobs };
                    (state.answer_with_all(&request), state.hangs, slow, stops, state.go_on.subscribe())
                };
                async move {
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    if is_of_blob || is_head {
                        tokio::time::sleep(slow).await;
                    }
                    Ok::<_, Infallible>(sent(response, stops, go_on).await)
                }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// Where in its blob an answer begins.
fn first_byte(headers: &http::HeaderMap) -> usize {
    let range = headers.get("content-range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes "));
    range.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or_default()
}

/// A reply on its way, of which nothing comes from this byte of the blob on before it is told to go on.
async fn sent(
    reply: Reply,
    stops: Option<usize>,
    mut go_on: watch::Receiver<()>,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let Some(at) = stops else { return reply.map(BodyExt::boxed_unsync) };
    let (mut head, body) = reply.into_parts();
    let Ok(body) = body.collect().await;
    let bytes = body.to_bytes();
    head.headers.insert("content-length", bytes.len().into());
    let at = at.saturating_sub(first_byte(&head.headers));
    let rest = bytes.slice(at.min(bytes.len())..);
    let first = stream::once(future::ready(Ok(Frame::data(bytes.slice(..at.min(bytes.len()))))));
    let rest = stream::once(async move {
        // Told since the request came, or later.
        let _ = go_on.changed().await;
        Ok(Frame::data(rest))
    });
    Response::from_parts(head, StreamBody::new(first.chain(rest)).boxed_unsync())
}

type Reply = Response<Full<Bytes>>;

fn reply(status: u16, headers: &[(&str, String)], body: Bytes) -> Reply {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Full::new(body)).unwrap()
}

fn error(status: u16, code: &str, headers: &[(&str, String)]) -> Reply {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": "in the registry's own words" }] });
    reply(status, headers, body.to_string().into())
}

/// All of these bytes, or the range of them that was asked for.
fn part(bytes: &Bytes, besides: &[(&str, String)], headers: &HeaderMap, no_ranges: bool) -> Reply {
    let range = headers.get("range").map(|value| value.to_str().unwrap().strip_prefix("bytes=").unwrap());
    let Some((start, last)) = range.and_then(|range| range.split_once('-')).filter(|_| !no_ranges) else {
        return reply(200, besides, bytes.clone());
    };
    let start: usize = start.parse().unwrap();
    let end = last.parse().map_or(bytes.len(), |last: usize| (last + 1).min(bytes.len()));
    if start >= end {
        return error(416, "UNSUPPORTED", &[("content-range", format!("bytes */{}", bytes.len()))]);
    }
    let content_range = [("content-range", format!("bytes {start}-{}/{}", end - 1, bytes.len()))];
    reply(206, &[besides, &content_range[..]].concat(), bytes.slice(start..end))
}

impl State {
    fn answer_with_all(&mut self, request: &Request<Incoming>) -> Reply {
        let mut response = self.answer(request);
        for (name, value) in &self.besides {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        response
    }

    fn answer(&mut self, request: &Request<Incoming>) -> Reply {
        let uri = request.uri();
        let authorization = request.headers().get("authorization").map_or("", |value| value.to_str().unwrap());
        if uri.path() == "/token" {
            self.tokens.push(authorization.to_owned());
            let token = authorization.strip_prefix("Basic ").unwrap_or("nobody");
            return reply(200, &[], serde_json::json!({ "token": token }).to_string().into());
        }
        self.seen.push(Seen { line: format!("{} {uri}", request.method()), headers: request.headers().clone() });
        if let Some(page) = self.portal {
            return reply(200, &[("content-type", "text/html".into())], page.into());
        }
        if let Some(status) = self.no_head_at_all.filter(|_| request.method() == Method::HEAD) {
            return error(status.as_u16(), "UNSUPPORTED", &[]);
        }
        if let Some(status) = self.broken {
            return error(status.as_u16(), "TOOMANYREQUESTS", &[("retry-after", "7".into())]);
        }
        if let Some(status) = self.no_head.filter(|_| request.method() == Method::HEAD) {
            return error(status, "UNSUPPORTED", &[]);
        }
        // The path before it is a part of the repository's name here: several registries behind one host.
        let (base, path) = uri.path().split_once("/v2/").unwrap();
        let mut parts: Vec<_> = path.rsplitn(3, '/').collect();
        parts.reverse();
        let name = if path.is_empty() { String::new() } else { format!("{base}/{}", parts[0]) };
        let name = name.trim_start_matches('/');
        if !self.rights.is_empty() {
            let rights = self.rights.get(authorization);
            if rights.is_none_or(|rights| !name.is_empty() && !rights.contains(name)) {
                if let Some((media_type, page)) = &self.gateway {
                    return part(page, &[("content-type", (*media_type).to_owned())], request.headers(), false);
                }
                let challenge = match &self.realm {
                    Some(realm) => format!(r#"Bearer realm="{realm}",service="lab",scope="repository:{name}:pull""#),
                    None => r#"Basic realm="lab""#.into(),
                };
                return error(401, "UNAUTHORIZED", &[("www-authenticate", challenge)]);
            }
        }
        if self.says_yes && request.method() == Method::HEAD {
            return reply(200, &[("docker-content-digest", parts.last().unwrap().to_string())], Bytes::new());
        }
        if path.is_empty() {
            return reply(200, &[], "{}".into());
        }
        let Some(repository) = self.repositories.get(name) else { return error(404, "NAME_UNKNOWN", &[]) };
        match parts[1] {
            "manifests" => self.manifest(repository, parts[2], request),
            "blobs" => self.blob(repository, parts[2], request.headers()),
            "tags" => Self::tags(repository, name, uri.query().unwrap_or_default()),
            "referrers" => {
                let headers = [("content-type", INDEX.into()), ("oci-filters-applied", "artifactType".into())];
                reply(200, &headers, format!("referrers {}", uri.query().unwrap_or_default()).into())
            }
            _ => error(404, "UNSUPPORTED", &[]),
        }
    }

    fn manifest(&self, repository: &Repository, reference: &str, request: &Request<Incoming>) -> Reply {
        let accept = request.headers().get("accept").map_or("", |value| value.to_str().unwrap());
        let accepted =
            |digest: &&Digest| repository.manifests.get(*digest).is_some_and(|found| accept.contains(&found.0));
        let tagged = || repository.tags.get(reference).and_then(|all| all.iter().find(accepted).or(all.last()));
        let digest = reference.parse().ok().or_else(|| tagged().copied());
        let Some((digest, (media_type, bytes))) =
            digest.and_then(|digest| Some((digest, repository.manifests.get(&digest)?)))
        else {
            return error(404, "MANIFEST_UNKNOWN", &[]);
        };
        let mut headers = vec![("content-type", media_type.clone())];
        if !self.no_digest_header {
            headers.push(("docker-content-digest", digest.to_string()));
        }
        let bytes = if self.lies { [bytes.as_ref(), b" "].concat().into() } else { bytes.clone() };
        reply(200, &headers, bytes)
    }

    fn blob(&self, repository: &Repository, digest: &str, headers: &HeaderMap) -> Reply {
        let Some(bytes) = digest.parse().ok().and_then(|digest: Digest| repository.blobs.get(&digest)) else {
            return error(404, "BLOB_UNKNOWN", &[]);
        };
        let named = [("docker-content-digest", digest.to_owned())];
        part(bytes, if self.no_digest_header { &[] } else { &named[..] }, headers, self.no_ranges)
    }

    /// Two tags to a page, unless `n` says otherwise.
    fn tags(repository: &Repository, name: &str, query: &str) -> Reply {
        let value = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)).unwrap_or_default();
        let (count, last) = (value("n=").parse().unwrap_or(2), value("last="));
        let mut page: Vec<_> = repository.tags.keys().filter(|tag| tag.as_str() > last).collect();
        let more = page.len() > count;
        page.truncate(count);
        let body = serde_json::json!({ "name": name, "tags": page }).to_string();
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if more {
            let next = page.last().unwrap();
            headers.push(("link", format!(r#"</v2/{name}/tags/list?n={count}&last={next}>; rel="next""#)));
        }
        reply(200, &headers, body.into())
    }
}
