//! An address on loopback or link-local means the host of whoever asks: an agent of another host neither is asked for it, nor
//! answers.

use std::path::Path;
use std::time::Duration;

use darter_agent::options::{Role, UpstreamOption};
use darter_agent::{Agent, Options};
use darter_core::source::Credentials;
use darter_core::{Digest, NodeId, Place, Source};
use darter_wire::control::{self, ControlConfig, ControlReceiver, ControlSender};
use darter_wire::{ConnectionKind, FailureKind, Hello, Message, RegistryQuestion, TcpTransport, preface};

use crate::seed;
use crate::web::{Reply, Web};

static CONTENT: [u8; 300_000] = [7; 300_000];

/// An agent that says that it is on this host.
async fn agent_on(host: &str, options: Options) -> Agent {
    Agent::start(Options { labels: [("host".to_owned(), host.to_owned())].into(), ..options }).await.unwrap()
}

async fn seed_on(host: &str, dir: &Path) -> Agent {
    agent_on(host, Options { role: Role::Seed, ..seed::node(dir, Vec::new()) }).await
}

async fn read(agent: &Agent, url: &str) -> Vec<u8> {
    let (source, _) = Source::from_url(url.parse().unwrap(), &[], None);
    crate::origin::read(agent, &source).await.unwrap()
}

/// Else `darter get http://169.254.169.254/` would show the credentials of the seed's machine.
#[tokio::test]
async fn what_is_on_a_nodes_own_host_is_read_there_and_by_no_seed_of_another() {
    let web = Web::start(|_| Reply::ok(&CONTENT)).await;
    for (host, with_seed) in [("a", false), ("b", true)] {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let seed = seed_on("b", dirs[0].path()).await;
        let join = vec![seed.status().listen.unwrap()];
        let node = agent_on(host, seed::node(dirs[1].path(), join)).await;
        let port = web.url("/").rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
        let mut ways =
            vec![web.url("/x"), format!("http://localhost:{port}/x"), format!("http://[::ffff:127.0.0.1]:{port}/x")];
        ways.extend(own_name().map(|name| format!("http://{name}:{port}/x")));
        for by in ways {
            assert!(read(&node, &by).await == CONTENT, "{by}");
        }
        let by_seed = seed.status().traffic.from_origin;
        assert_eq!(by_seed > 0, with_seed, "a seed on {host} read {by_seed} bytes");
    }
}

/// A name, other than `localhost`, that leads to this host's loopback, where there is one.
fn own_name() -> Option<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").ok()?;
    let lines = hosts.lines().filter_map(|line| line.split('#').next()?.trim().strip_prefix("127.0.0.1"));
    let name = lines.flat_map(str::split_whitespace).find(|name| !name.contains("localhost")).map(str::to_owned);
    if name.is_none() {
        eprintln!("skipped: no name in /etc/hosts leads to 127.0.0.1");
    }
    name
}

async fn member_on(host: &str, seed: &Agent) -> (ControlSender, ControlReceiver) {
    let node = NodeId([9; 16]);
    let place = Place { host: host.to_owned(), ..Place::default() };
    let me = Hello { place, ..seed::hello(node, darter_wire::Role::Node, "127.0.0.1:1") };
    let address = seed.status().listen.unwrap();
    let greeted = preface::open(&TcpTransport::default(), &address, ConnectionKind::Control, &me).await.unwrap();
    control::start(greeted.stream, &ControlConfig::default())
}

#[tokio::test]
async fn a_seed_reads_nothing_of_its_own_host_for_a_member_on_another() {
    let web = Web::start(|_| Reply::ok(&CONTENT)).await;
    let dir = tempfile::tempdir().unwrap();
    let seed = seed_on("b", dir.path()).await;
    let (sender, mut receiver) = member_on("a", &seed).await;
    let of_url = Source::from_url(web.url("/x").parse().unwrap(), &[], None).0;
    let registry = web.url("/").parse().unwrap();
    let of_registry = Source::Registry { registry, repository: "lab/app".into(), digest: Digest::sha256(&CONTENT) };
    for (request, source) in [(1, of_url), (2, of_registry)] {
        let (credentials, held) = (Credentials::none(), None);
        sender.send(&Message::Join { request, source, credentials, held, wants: true, size: None }).await.unwrap();
    }
    let question = RegistryQuestion {
        registry: web.url("/"),
        configured: true,
        head: false,
        path: "/v2/lab/app/tags/list".into(),
        headers: Vec::new(),
        credentials: Credentials::none(),
    };
    sender.send(&Message::AskRegistry { request: 3, question }).await.unwrap();
    let mut refused = Vec::new();
    while refused.len() < 3 {
        let received = tokio::time::timeout(Duration::from_secs(60), receiver.recv()).await.expect("no answer");
        match received.unwrap().expect("the seed hung up") {
            Message::Rejected { request, failure } | Message::RegistryIs { request, answer: Err(failure) } => {
                // Not the origin's word: the member is to read by itself.
                assert_eq!(failure.kind, FailureKind::Other, "{}", failure.text);
                refused.push(request);
            }
            Message::Joined { request, .. } | Message::RegistryIs { request, .. } => panic!("{request} was answered"),
            _ => {}
        }
    }
    refused.sort_unstable();
    assert_eq!(refused, [1, 2, 3]);
    assert!(web.seen().is_empty(), "{:?}", web.seen());
}

/// The same by a name that leads there, and by a redirect of a server that may be read.
#[tokio::test]
async fn no_name_and_no_redirect_leads_a_member_on_another_host_to_the_seeds_own() {
    let Some(name) = own_name() else { return };
    let own = Web::start(|_| Reply::ok(&CONTENT)).await;
    let port = |web: &Web| web.url("").rsplit(':').next().unwrap().to_owned();
    let by_name = |web: &Web, path: &str| format!("http://{name}:{}{path}", port(web));
    let target = own.url("/x");
    let leads_on = Web::start(move |_| Reply::status(302).with("Location", target.as_str())).await;
    let dir = tempfile::tempdir().unwrap();
    let configured = format!("{name}:{}", port(&leads_on));
    let upstream = UpstreamOption {
        urls: vec![format!("http://{configured}").parse().unwrap()],
        name: configured,
        ..UpstreamOption::default()
    };
    let options = Options { role: Role::Seed, upstreams: vec![upstream], ..seed::node(dir.path(), Vec::new()) };
    let seed = agent_on("b", options).await;
    let (sender, mut receiver) = member_on("a", &seed).await;
    let url = |url: String| Source::from_url(url.parse().unwrap(), &[], None).0;
    let sources = [
        url(by_name(&own, "/x")),
        url(by_name(&leads_on, "/x")),
        Source::Registry {
            registry: by_name(&own, "/").parse().unwrap(),
            repository: "lab/app".into(),
            digest: Digest::sha256(&CONTENT),
        },
    ];
    for (request, source) in (1..).zip(sources) {
        let (credentials, held) = (Credentials::none(), None);
        sender.send(&Message::Join { request, source, credentials, held, wants: true, size: None }).await.unwrap();
    }
    let question = RegistryQuestion {
        registry: by_name(&own, "/"),
        configured: true,
        head: false,
        path: "/v2/lab/app/tags/list".into(),
        headers: Vec::new(),
        credentials: Credentials::none(),
    };
    sender.send(&Message::AskRegistry { request: 4, question }).await.unwrap();
    let mut refused = Vec::new();
    while refused.len() < 4 {
        let received = tokio::time::timeout(Duration::from_secs(60), receiver.recv()).await.expect("no answer");
        match received.unwrap().expect("the seed hung up") {
            Message::Rejected { request, failure } | Message::RegistryIs { request, answer: Err(failure) } => {
                // The member is to read by itself.
                assert_eq!(failure.kind, FailureKind::OutOfReach, "{}", failure.text);
                assert!(failure.text.contains("--upstream"), "{}", failure.text);
                refused.push(request);
            }
            Message::Joined { request, .. } | Message::RegistryIs { request, .. } => panic!("{request} was answered"),
            _ => {}
        }
    }
    refused.sort_unstable();
    assert_eq!(refused, [1, 2, 3, 4]);
    assert!(own.seen().is_empty(), "{:?}", own.seen());
    assert!(!leads_on.seen().is_empty(), "what is configured is read");
}
