//! One registry, one mirror in front of it, and a client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_agent::options::StaleTags;
use darter_agent::{ANSWER_TIMEOUT, Phase};
use darter_core::{Clock, Moment, SystemClock};
use darter_gateway::mirror::{Mirror, MirrorOptions, Rewrites};
use darter_gateway::server::LocalPort;
use darter_metrics::Metrics;
use darter_origin::{HttpClient, HttpConfig, RegistryClient, RegistryConfig};
use darter_registries::{Registries, RegistriesOptions};
use http::{HeaderMap, Method, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::registry::Registry;
use crate::twin::Twin;

/// Time that passes when told to.
#[derive(Clone, Default)]
pub(crate) struct HandClock(Arc<AtomicU64>);

impl HandClock {
    pub(crate) fn pass(&self, span: Duration) {
        self.0.fetch_add(span.as_micros() as u64, Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Moment {
        Moment::from_micros(self.0.load(Ordering::Relaxed))
    }

    fn unix(&self) -> u64 {
        self.0.load(Ordering::Relaxed) / 1_000_000
    }
}

pub(crate) const GRANT_TTL: Duration = Duration::from_secs(300);

pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) agent: Twin,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: HandClock,
    pub(crate) mirror: Arc<Mirror>,
    pub(crate) port: LocalPort,
    /// The phase that the agent says it is in.
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) client: reqwest::Client,
    pub(crate) dir: tempfile::TempDir,
    stale_tags: StaleTags,
    answer_timeout: Duration,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A registry, with a mirror that has it as default upstream.
pub(crate) async fn world() -> World {
    world_with(|_, _| {}).await
}

/// The same, with its options changed first.
pub(crate) async fn world_with(change: impl FnOnce(&mut MirrorOptions, &mut RegistryConfig)) -> World {
    world_of(StaleTags::default(), change).await
}

/// The same, with tags that may go stale at these times.
pub(crate) async fn world_of(
    stale_tags: StaleTags,
    change: impl FnOnce(&mut MirrorOptions, &mut RegistryConfig),
) -> World {
    let registry = Registry::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut options = MirrorOptions {
        upstreams: Vec::new(),
        rewrites: Rewrites::default(),
        default_upstream: Some(registry.name()),
        ask_login: false,
        grant_ttl: GRANT_TTL,
        answer_timeout: ANSWER_TIMEOUT,
        stall_timeout: Duration::from_secs(30),
        lazy: None,
    };
    let mut config = RegistryConfig::default();
    change(&mut options, &mut config);
    let (agent, metrics, clock) = (Twin::default(), Metrics::new(7), HandClock::default());
    let answer_timeout = options.answer_timeout;
    let data_dir = dir.path().join("data");
    let kept = RegistriesOptions { data_dir, grant_ttl: GRANT_TTL, stale_tags, answer_timeout };
    let phase = watch::channel(Phase::Starting).0;
    let (mirror, port) = open_port(options, kept, &config, &agent, &metrics, &clock, &phase).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    World { registry, agent, metrics, clock, mirror, port, phase, client, dir, stale_tags, answer_timeout }
}

async fn open_port(
    options: MirrorOptions,
    kept: RegistriesOptions,
    config: &RegistryConfig,
    agent: &Twin,
    metrics: &Arc<Metrics>,
    clock: &HandClock,
    phase: &watch::Sender<Phase>,
) -> (Arc<Mirror>, LocalPort) {
    let http = HttpClient::new(&HttpConfig { proxy_from_environment: false, ..HttpConfig::default() }).unwrap();
    let client = RegistryClient::new(http, config, Arc::new(SystemClock::start()));
    let (agent, clock) = (Arc::new(agent.clone()), Arc::new(clock.clone()));
    let opened = {
        let (metrics, clock) = (Arc::clone(metrics), clock.clone());
        darter_store::threads::run(move || Registries::open(kept, client, metrics, clock))
    };
    let registries = opened.await.unwrap();
    let mirror = Mirror::new(options, Arc::new(registries), agent, Arc::clone(metrics), clock);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mirror, names) = (Arc::new(mirror), vec!["darter.corp".into()]);
    let served = Some(Arc::clone(&mirror));
    let port = LocalPort::serve(listener, served, Arc::clone(metrics), names, phase.subscribe()).unwrap();
    (mirror, port)
}

impl World {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port.address())
    }

    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Got {
        let mut request = self.client.request(method, self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Got { status, headers, body: response.bytes().await.unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Got {
        self.send(Method::GET, path, &[]).await
    }

    pub(crate) async fn head(&self, path: &str) -> Got {
        self.send(Method::HEAD, path, &[]).await
    }

    /// GET as the bearer of this `Authorization`.
    pub(crate) async fn get_as(&self, authorization: &str, path: &str) -> Got {
        self.send(Method::GET, path, &[("authorization", authorization)]).await
    }

    /// Replaces the mirror by a new one on the same directory, as a restart does.
    pub(crate) async fn restart(&mut self) {
        let registry = self.registry.name();
        self.restart_before(&registry).await;
    }

    /// The same, with this default upstream.
    pub(crate) async fn restart_before(&mut self, registry: &str) {
        self.port.drain(Duration::from_secs(5)).await;
        let options = MirrorOptions {
            upstreams: Vec::new(),
            rewrites: Rewrites::default(),
            default_upstream: Some(registry.to_owned()),
            ask_login: false,
            grant_ttl: GRANT_TTL,
            answer_timeout: self.answer_timeout,
            stall_timeout: Duration::from_secs(30),
            lazy: None,
        };
        let (data_dir, stale_tags) = (self.dir.path().join("data"), self.stale_tags);
        let answer_timeout = self.answer_timeout;
        let kept = RegistriesOptions { data_dir, grant_ttl: GRANT_TTL, stale_tags, answer_timeout };
        let (config, phase) = (RegistryConfig::default(), &self.phase);
        (self.mirror, self.port) =
            open_port(options, kept, &config, &self.agent, &self.metrics, &self.clock, phase).await;
    }

    /// True if `/metrics` has this line.
    pub(crate) fn counted(&self, line: &str) -> bool {
        self.metrics.encode().lines().any(|have| have == line)
    }
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Status and code of an error in the specification's form.
    pub(crate) fn error(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/json");
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let first = &body["errors"][0];
        assert!(first["message"].is_string(), "{body}");
        (self.status.as_u16(), first["code"].as_str().unwrap().to_owned())
    }
}

/// Bytes that differ from offset to offset.
pub(crate) fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}
