//! Questions to a registry and its answers, and how both travel between agents.
//!
//! An answer is read whole before it is passed on, so that one can be given to many who asked the same. Blobs are the
//! exception: their bytes come by way of the swarm, and here only the headers of an answer about one count.

use std::time::Duration;

use bytes::Bytes;
use darter_core::source::Credentials;
use darter_core::{Digest, DigestHasher};
use darter_oci::manifest::DOCKER_CONTENT_DIGEST;
use darter_oci::name::Reference;
use darter_oci::route::{self, Route};
use darter_origin::{Upstream, Upstreams};
use darter_wire::{MAX_REGISTRY_HEADERS, RegistryAnswer, RegistryQuestion, StaleAnswer};
use http::header::{ACCEPT, ACCEPT_ENCODING, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use darter_metrics::MirrorKind;

/// Headers of a request that choose or shorten its answer; others are not passed on.
const OF_A_QUESTION: [HeaderName; 4] = [ACCEPT, ACCEPT_ENCODING, IF_NONE_MATCH, RANGE];

/// Headers that belong to one connection (RFC 9110, section 7.6.1), or to one browser.
const OF_A_CONNECTION: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A GET or HEAD for a registry.
#[derive(Clone, Debug)]
pub struct Question {
    /// The registry.
    pub upstream: Upstream,
    /// GET or HEAD.
    pub method: Method,
    /// Path and query, from `/v2/` on.
    pub path: String,
    /// `Accept` and the like.
    pub headers: HeaderMap,
    /// The caller's credentials.
    pub credentials: Credentials,
}

/// The subject of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About<'a> {
    /// A manifest by tag.
    Tag(&'a str),
    /// A manifest by digest.
    Manifest(Digest),
    /// A blob.
    Blob(Digest),
    /// A list, or the registry itself.
    Other,
}

/// A registry's answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, without those of one connection.
    pub headers: HeaderMap,
    /// The body; empty for HEAD and for blobs.
    pub body: Bytes,
    /// How long ago the registry said so.
    pub age: Duration,
    /// Set when the registry did not say so now.
    pub stale: Option<Stale>,
}

/// The note on an answer that the registry could not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// Since when the registry has not confirmed it.
    pub age: Duration,
    /// Why the registry did not answer.
    pub reason: String,
}

impl Question {
    /// The registry's base address.
    pub const fn base(&self) -> &Url {
        self.upstream.base()
    }

    /// The repository that the question is about, and what of it.
    pub fn about(&self) -> (&str, About<'_>) {
        let path = self.path.split('?').next().unwrap_or_default();
        match route::parse(path) {
            Some(Route::Manifest { name, reference }) => match Reference::parse(reference) {
                Ok(Reference::Tag(tag)) => (name, About::Tag(tag)),
                Ok(Reference::Digest(digest)) => (name, About::Manifest(digest)),
                Err(_) => (name, About::Other),
            },
            Some(Route::Blob { name, digest }) => (name, digest.parse().map_or(About::Other, About::Blob)),
            Some(Route::Tags { name } | Route::Referrers { name, .. }) => (name, About::Other),
            Some(Route::Ping) | None => ("", About::Other),
        }
    }

    /// The kind, for metrics.
    pub fn kind(&self) -> MirrorKind {
        route::parse(self.path.split('?').next().unwrap_or_default()).map_or(MirrorKind::Other, MirrorKind::of)
    }

    /// True if the question brings nothing that authorises: an answer to it is open to all that bring nothing either.
    pub fn is_open(&self) -> bool {
        self.credentials.headers.is_empty()
    }

    /// Questions of the same key have the same answer.
    pub(crate) fn key(&self) -> Digest {
        let mut hasher = DigestHasher::sha256();
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        add(self.base().as_str().as_bytes());
        add(&[u8::from(self.upstream.is_configured())]);
        add(self.method.as_str().as_bytes());
        add(self.path.as_bytes());
        add(&self.credentials.fingerprint());
        for name in &OF_A_QUESTION {
            for value in self.headers.get_all(name) {
                add(name.as_str().as_bytes());
                add(value.as_bytes());
            }
        }
        hasher.finish()
    }

    /// The key of a question that is answered from this host, not by way of other agents: to wait for the other one's answer might be to
    /// wait for oneself.
    pub(crate) fn key_here(&self) -> Digest {
        let mut hasher = DigestHasher::sha256();
        hasher.update(b"here");
        hasher.update(self.key().value());
        hasher.finish()
    }

    /// As it goes to a seed or another node.
    pub(super) fn to_wire(&self) -> RegistryQuestion {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let headers = OF_A_QUESTION.iter().flat_map(|name| {
            let values = self.headers.get_all(name).iter().filter_map(text);
            values.map(|value| (name.as_str().to_owned(), value))
        });
        RegistryQuestion {
            registry: self.base().to_string(),
            configured: self.upstream.is_configured(),
            head: self.method == Method::HEAD,
            path: self.path.clone(),
            headers: headers.take(MAX_REGISTRY_HEADERS).collect(),
            credentials: self.credentials.clone(),
        }
    }

    /// As it came from a node; `None` if it makes no sense.
    pub(super) fn from_wire(question: RegistryQuestion, known: &Upstreams) -> Option<Self> {
        let base: Url = question.registry.parse().ok().filter(|url: &Url| matches!(url.scheme(), "http" | "https"))?;
        // As a client's own: the seed's logins are for what its mirror asks, and for nothing else of a registry. A page of a
        // list that is elsewhere is the node's own to ask for, which saw its link.
        if !is_of_the_api(&question.path) {
            return None;
        }
        let mut headers = HeaderMap::new();
        for (name, value) in question.headers {
            let name: HeaderName = name.parse().ok()?;
            if OF_A_QUESTION.contains(&name) {
                headers.append(name, value.parse().ok()?);
            }
        }
        let repository = repository_of(&question.path);
        let upstream = match question.configured {
            true => known.at_of(&base, repository),
            false => known.at_named(&base, repository),
        };
        let method = if question.head { Method::HEAD } else { Method::GET };
        Some(Self { upstream, method, path: question.path, headers, credentials: question.credentials })
    }
}

/// The repository that a path and query of the API is about.
fn repository_of(path_and_query: &str) -> Option<&str> {
    let path = path_and_query.split_once('?').map_or(path_and_query, |(path, _)| path);
    route::parse(path)?.repository()
}

/// True if a path and query is one that a client may ask for.
fn is_of_the_api(path_and_query: &str) -> bool {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let is_named = match route::parse(path) {
        Some(Route::Ping) => true,
        Some(_) => path.trim_start_matches('/').split('/').all(route::is_plain),
        None => false,
    };
    is_named && query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

impl Reply {
    /// The digest that the registry names.
    pub fn digest(&self) -> Option<Digest> {
        self.headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
    }

    /// As it goes to a node.
    pub(super) fn to_wire(&self) -> RegistryAnswer {
        let headers = self.headers.iter().take(MAX_REGISTRY_HEADERS);
        RegistryAnswer {
            status: self.status.as_u16(),
            headers: headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect(),
            body: self.body.to_vec(),
            age_ms: u32::try_from(self.age.as_millis()).unwrap_or(u32::MAX),
            stale: self.stale.as_ref().map(Stale::to_wire),
        }
    }

    /// As a seed gave it; `None` if it makes no sense.
    pub(super) fn from_wire(answer: RegistryAnswer) -> Option<Self> {
        let mut headers = HeaderMap::new();
        for (name, value) in answer.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(&value).ok()?);
        }
        Some(Self {
            status: StatusCode::from_u16(answer.status).ok()?,
            headers: without_the_connections(headers),
            body: answer.body.into(),
            age: Duration::from_millis(answer.age_ms.into()),
            stale: answer.stale.map(Stale::from_wire),
        })
    }
}

impl Stale {
    fn to_wire(&self) -> StaleAnswer {
        StaleAnswer { age_s: self.age.as_secs(), reason: self.reason.clone() }
    }

    fn from_wire(stale: StaleAnswer) -> Self {
        Self { age: Duration::from_secs(stale.age_s), reason: stale.reason }
    }
}

/// Headers without those of one connection.
pub(super) fn without_the_connections(mut headers: HeaderMap) -> HeaderMap {
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
mod tests {
    use darter_origin::RegistryConfig;

    use super::*;

    fn known() -> Upstreams {
        Upstreams::new(&RegistryConfig::default())
    }

    fn question(path: &str) -> Question {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("a/b"))]);
        let upstream = known().resolve("registry.lab").unwrap();
        Question { upstream, method: Method::GET, path: path.into(), headers, credentials: Credentials::none() }
    }

    #[test]
    fn a_question_knows_what_it_is_about() {
        let digest = Digest::sha256(b"x");
        assert_eq!(question("/v2/a/b/manifests/1").about(), ("a/b", About::Tag("1")));
        let path = format!("/v2/a/manifests/{digest}");
        assert_eq!(question(&path).about(), ("a", About::Manifest(digest)));
        let path = format!("/v2/a/blobs/{digest}");
        assert_eq!(question(&path).about(), ("a", About::Blob(digest)));
        assert_eq!(question("/v2/a/tags/list?n=2").about(), ("a", About::Other));
        assert_eq!(question("/v2/").about(), ("", About::Other));
    }

    #[test]
    fn questions_are_equal_only_if_their_answers_must_be() {
        let one = question("/v2/a/manifests/1");
        assert_eq!(one.key(), question("/v2/a/manifests/1").key());
        let mut others = vec![question("/v2/a/manifests/2"), one.clone(), one.clone(), one.clone(), one.clone()];
        others[1].method = Method::HEAD;
        others[2].headers.append(ACCEPT, HeaderValue::from_static("c/d"));
        others[3].credentials.headers.push(("authorization".into(), "Bearer x".into()));
        others[4].upstream = known().resolve("other.lab").unwrap();
        for other in others {
            assert_ne!(one.key(), other.key(), "{other:?}");
        }
    }

    #[test]
    fn questions_and_replies_survive_the_trip_without_what_belongs_to_a_connection() {
        let mut asked = question("/v2/a/manifests/1");
        asked.headers.insert("x-other", HeaderValue::from_static("1"));
        let came = Question::from_wire(asked.to_wire(), &known()).unwrap();
        assert_eq!(came.key(), asked.key());
        assert!(!came.headers.contains_key("x-other"));
        let mut headers = HeaderMap::new();
        headers.insert("docker-content-digest", Digest::sha256(b"x").to_string().parse().unwrap());
        headers.insert("set-cookie", HeaderValue::from_static("session=1"));
        let stale = Some(Stale { age: Duration::from_secs(9), reason: "gone".into() });
        let reply = Reply { status: StatusCode::OK, headers, body: "{}".into(), age: Duration::from_secs(1), stale };
        let came = Reply::from_wire(reply.to_wire()).unwrap();
        assert_eq!((came.status, came.digest(), came.age), (reply.status, reply.digest(), reply.age));
        assert_eq!((came.body, came.stale), (reply.body, reply.stale));
        assert!(!came.headers.contains_key("set-cookie"));
        let mut wrong = asked.to_wire();
        wrong.registry = "file:///etc/".into();
        assert!(Question::from_wire(wrong, &known()).is_none());
    }

    #[test]
    fn a_node_asks_for_what_a_client_may_ask_for() {
        let digest = Digest::sha256(b"x");
        let takes = |path: &str| {
            let mut asked = question("/v2/a/manifests/1").to_wire();
            asked.path = path.to_owned();
            Question::from_wire(asked, &known()).is_some()
        };
        for right in ["/v2/", "/v2/a/b/manifests/1", "/v2/a/tags/list?n=2&last=x"] {
            assert!(takes(right), "{right}");
        }
        assert!(takes(&format!("/v2/a/blobs/{digest}")) && takes(&format!("/v2/a/referrers/{digest}?artifactType=x")));
        for wrong in [
            "",
            "/",
            "v2/a/manifests/1",
            "/v1/a/manifests/1",
            "/admin/delete",
            "/v2/_catalog",
            "/v2/a/uploads/1",
            "/v2/../admin/manifests/1",
            "/v2/a/../../admin/manifests/1",
            "/v2/%2e%2e/%2e%2e/manifests/1",
            "//other.example/v2/a/manifests/1",
            "http://other.example/v2/a/manifests/1",
            "/v2/a/manifests/1\r\nX-Other: 1",
            "/v2/a/manifests/1#/v2/b",
        ] {
            assert!(!takes(wrong), "{wrong}");
        }
    }
}
