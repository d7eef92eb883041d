//! Content that one caller's credentials opened, and another caller asks for: the origin's answer to the other decides.

use std::path::Path;

use darter_agent::options::Role;
use darter_agent::{Agent, FetchError, Options};
use darter_core::source::Credentials;
use darter_core::{Digest, Source};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::seed;
use crate::web::{Reply, Seen, Web};

const OLD: &str = "Sat, 21 Nov 2015 10:00:00 GMT";
const NOW: &str = "Sat, 21 Nov 2026 10:00:00 GMT";

/// The secret of whoever brings `Authorization: alice`, and what everybody else is shown at the same address.
fn secret() -> Vec<u8> {
    (0..300_000_u32).map(|at| (at * 7 + at / 253) as u8).collect()
}

fn page() -> Vec<u8> {
    secret().into_iter().map(|byte| !byte).collect()
}

fn is_alice(seen: &Seen) -> bool {
    seen.header("authorization").is_some_and(|value| value.starts_with("alice"))
}

fn shown_to(seen: &Seen) -> Reply {
    Reply::ok(&if is_alice(seen) { secret() } else { page() })
}

/// A copy of the directory that an agent that ended would find; one that was dropped in this process may still have it
/// locked.
pub(crate) fn copied(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    let mut dirs = vec![dir.to_owned()];
    while let Some(from) = dirs.pop() {
        let to = copy.path().join(from.strip_prefix(dir).unwrap());
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(&from).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() && entry.file_name() != "lock" {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    copy
}

/// A seed, and a node that joined it.
struct Fleet {
    seed: Agent,
    node: Agent,
    dirs: [TempDir; 2],
}

fn seed_in(dir: &Path) -> Options {
    Options { role: Role::Seed, ..seed::node(dir, Vec::new()) }
}

impl Fleet {
    async fn start() -> Self {
        Self::start_in([TempDir::new().unwrap(), TempDir::new().unwrap()]).await
    }

    async fn start_in(dirs: [TempDir; 2]) -> Self {
        let seed = Agent::start(seed_in(dirs[0].path())).await.unwrap();
        let join = vec![seed.status().listen.unwrap()];
        let node = Agent::start(seed::node(dirs[1].path(), join)).await.unwrap();
        Self { seed, node, dirs }
    }

    /// Both as after a restart.
    async fn restarted(self) -> Self {
        self.node.drain().await;
        self.seed.drain().await;
        Self::start_in(self.dirs.each_ref().map(|dir| copied(dir.path()))).await
    }
}

/// A caller's request.
#[derive(Clone)]
struct Ask {
    source: Source,
    credentials: Credentials,
}

fn ask(url: &str, user: &str) -> Ask {
    ask_sealed(url, user, None)
}

fn ask_sealed(url: &str, user: &str, digest: Option<Digest>) -> Ask {
    let header = ("Authorization".to_owned(), user.to_owned());
    let headers = if user.is_empty() { Vec::new() } else { vec![header] };
    let (source, credentials) = Source::from_url(url.parse().unwrap(), &headers, digest);
    Ask { source, credentials }
}

async fn get(agent: &Agent, ask: Ask) -> Result<Vec<u8>, FetchError> {
    let download = agent.open(ask.source, ask.credentials).await?;
    let mut stream = download.stream(None);
    let mut read = Vec::new();
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes?);
    }
    Ok(read)
}

/// Alice reads, then Bob, on the seed's host and on the node's, before and after a restart: nobody is given what the
/// origin does not show to them.
async fn is_kept_apart(handler: fn(&Seen) -> Reply) {
    let web = Web::start(handler).await;
    let (alice, bob) = (ask(&web.url("/x"), "alice"), ask(&web.url("/x"), "bob"));
    let fleet = Fleet::start().await;
    assert!(get(&fleet.node, alice.clone()).await.unwrap() == secret());
    for agent in [&fleet.node, &fleet.seed] {
        assert!(get(agent, bob.clone()).await.unwrap() == page());
    }
    let fleet = fleet.restarted().await;
    for agent in [&fleet.node, &fleet.seed] {
        assert!(get(agent, bob.clone()).await.unwrap() == page());
        assert!(get(agent, alice.clone()).await.unwrap() == secret());
    }
}

#[tokio::test]
async fn content_without_validators_is_kept_apart() {
    is_kept_apart(shown_to).await;
}

// nginx#824: 304 to whoever asks for something newer.
#[tokio::test]
async fn a_304_by_date_opens_nothing() {
    is_kept_apart(|seen| {
        let asks = seen.header("if-modified-since").is_some() || seen.header("if-none-match").is_some();
        let reply = if asks { Reply::status(304) } else { shown_to(seen) };
        reply.with("last-modified", NOW).with("date", NOW)
    })
    .await;
}

#[tokio::test]
async fn a_login_page_by_redirect_opens_nothing() {
    is_kept_apart(|seen| {
        let reply = match seen.path.as_str() {
            "/x" if !is_alice(seen) => return Reply::status(302).with("location", "/login"),
            _ => shown_to(seen),
        };
        reply.with("etag", "\"1\"").with("last-modified", OLD).with("date", NOW)
    })
    .await;
}

// jonbaldie/varnish#38
#[tokio::test]
async fn what_is_private_is_kept_apart() {
    is_kept_apart(|seen| shown_to(seen).with("etag", "\"1\"").with("cache-control", "private")).await;
}

#[tokio::test]
async fn what_varies_by_who_asks_is_kept_apart() {
    is_kept_apart(|seen| shown_to(seen).with("etag", "\"1\"").with("vary", "Accept-Encoding, authorization")).await;
}

#[tokio::test]
async fn pages_with_a_session_are_kept_apart() {
    is_kept_apart(|seen| shown_to(seen).with("etag", "\"1\"").with("set-cookie", "session=1")).await;
}

#[tokio::test]
async fn what_is_not_to_be_stored_is_kept_apart() {
    is_kept_apart(|seen| shown_to(seen).with("etag", "\"1\"").with("cache-control", "No-Store")).await;
}

#[tokio::test]
async fn a_weak_tag_opens_nothing() {
    is_kept_apart(|seen| shown_to(seen).with("etag", "W/\"1\"")).await;
}

#[tokio::test]
async fn a_date_of_just_now_opens_nothing() {
    is_kept_apart(|seen| shown_to(seen).with("last-modified", NOW).with("date", NOW)).await;
}

#[tokio::test]
async fn the_same_tag_of_two_resources_opens_nothing() {
    is_kept_apart(|seen| {
        let place = if is_alice(seen) { "/alices" } else { "/bobs" };
        if seen.path == "/x" {
            return Reply::status(307).with("location", place);
        }
        shown_to(seen).with("etag", "\"1\"")
    })
    .await;
}

#[tokio::test]
async fn content_under_way_is_kept_apart() {
    for validators in [&[][..], &[("etag", "W/\"1\"")], &[("last-modified", OLD)]] {
        let (open, gate) = watch::channel(false);
        let web = Web::start(move |seen| {
            let reply = validators.iter().fold(shown_to(seen), |reply, (name, value)| reply.with(name, *value));
            if is_alice(seen) { reply.gated(100_000, &gate) } else { reply }
        })
        .await;
        let fleet = Fleet::start().await;
        let (alice, bob) = (ask(&web.url("/x"), "alice"), ask(&web.url("/x"), "bob"));
        let first = fleet.node.open(alice.source, alice.credentials).await.unwrap();
        for agent in [&fleet.node, &fleet.seed] {
            assert!(get(agent, bob.clone()).await.unwrap() == page(), "{validators:?}");
        }
        open.send_replace(true);
        let mut stream = first.stream(None);
        let mut read = Vec::new();
        while let Some(bytes) = stream.next().await {
            read.extend_from_slice(&bytes.unwrap());
        }
        assert!(read == secret());
    }
}

#[tokio::test]
async fn a_digest_opens_nothing_and_a_wrong_one_takes_nothing_from_others() {
    let digest = Some(Digest::sha256(&secret()));
    for tag in [None, Some("\"1\"")] {
        let web = Web::start(move |seen| {
            let reply = shown_to(seen).with("cache-control", "private");
            tag.into_iter().fold(reply, |reply, tag| reply.with("etag", tag))
        })
        .await;
        let fleet = Fleet::start().await;
        let alice = ask_sealed(&web.url("/x"), "alice", digest);
        assert!(get(&fleet.node, alice.clone()).await.unwrap() == secret());
        for agent in [&fleet.node, &fleet.seed] {
            let refused = get(agent, ask_sealed(&web.url("/x"), "bob", digest)).await.unwrap_err();
            assert!(refused.to_string().contains("wrong content"), "{refused}");
        }
        let reads = web.reads("/x");
        assert!(get(&fleet.node, alice).await.unwrap() == secret());
        assert_eq!(web.reads("/x"), reads, "hers is still there");
    }
}

// A server of one's own that says yes to everything is no key to what came from elsewhere.
#[tokio::test]
async fn another_address_that_says_yes_does_not_open_a_digest() {
    let web = Web::start(|seen| shown_to(seen).with("etag", "\"1\"")).await;
    let made_up = Web::start(|seen| match seen.is_get() {
        true => Reply::status(500).with("etag", "\"1\""),
        false => Reply::ok(&secret()).with("etag", "\"1\""),
    })
    .await;
    let fleet = Fleet::start().await;
    let digest = Some(Digest::sha256(&secret()));
    assert!(get(&fleet.node, ask_sealed(&web.url("/x"), "alice", digest)).await.unwrap() == secret());
    for agent in [&fleet.node, &fleet.seed] {
        assert!(get(agent, ask_sealed(&made_up.url("/x"), "", digest)).await.is_err());
    }
}

#[tokio::test]
async fn equal_credentials_share_what_is_private_and_all_share_what_shows_to_be_the_same() {
    let web = Web::start(|seen| match seen.path.as_str() {
        "/private" => Reply::ok(&secret()).with("etag", "\"1\"").with("cache-control", "private"),
        "/dated" => Reply::ok(&secret()).with("last-modified", OLD).with("date", NOW),
        _ => Reply::ok(&secret()).with("etag", "\"1\"").with("vary", "Accept-Encoding"),
    })
    .await;
    for sealed in [None, Some(Digest::sha256(&secret()))] {
        // What is held without a digest would be given for a request with it.
        let fleet = Fleet::start().await;
        for (path, users) in [("/private", ["alice", "alice"]), ("/dated", ["alice", "bob"]), ("/x", ["alice", ""])] {
            let before = web.reads(path);
            for agent in [&fleet.node, &fleet.seed] {
                for user in users {
                    assert!(get(agent, ask_sealed(&web.url(path), user, sealed)).await.unwrap() == secret());
                }
            }
            assert_eq!(web.reads(path) - before, 1, "{path}");
        }
    }
}

/// Bob, and a caller without credentials, are told nothing of what Alice read.
async fn is_refused(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
    let web = Web::start(handler).await;
    let fleet = Fleet::start().await;
    assert!(get(&fleet.node, ask(&web.url("/x"), "alice")).await.unwrap() == secret());
    for agent in [&fleet.node, &fleet.seed] {
        for user in ["bob", ""] {
            let error = get(agent, ask(&web.url("/x"), user)).await.unwrap_err();
            assert!(error.to_string().contains("HTTP 40"), "{error}");
        }
        assert!(get(agent, ask(&web.url("/x"), "alice")).await.unwrap() == secret());
    }
    assert_eq!(web.reads("/x") - 4, 1, "she pays for none of that");
}

#[tokio::test]
async fn a_head_that_is_open_to_everybody_opens_nothing() {
    for validators in [&[("etag", "\"1\"")][..], &[("last-modified", OLD), ("date", NOW)]] {
        is_refused(move |seen| {
            let reply = match seen.is_get() && !is_alice(seen) {
                true => Reply::status(if seen.header("authorization").is_some() { 403 } else { 401 }),
                false => Reply::ok(&secret()),
            };
            validators.iter().fold(reply, |reply, (name, value)| reply.with(name, *value))
        })
        .await;
    }
}

#[tokio::test]
async fn a_first_byte_that_is_open_to_everybody_opens_nothing() {
    is_refused(|seen| match (seen.is_get(), seen.header("range")) {
        (true, Some("bytes=0-0")) => Reply::ok(&secret()).with("etag", "\"1\""),
        (true, _) if is_alice(seen) => Reply::ok(&secret()).with("etag", "\"1\""),
        (true, _) => Reply::status(403),
        (false, _) => Reply::status(405),
    })
    .await;
}

// A tag of the size alone, or of the release, on a login page that is as long.
#[tokio::test]
async fn one_tag_for_what_differs_opens_nothing() {
    is_kept_apart(|seen| shown_to(seen).with("etag", "\"1\"")).await;
    is_kept_apart(|seen| shown_to(seen).with("etag", "\"1\"").without_ranges()).await;
    is_kept_apart(|seen| shown_to(seen).with("last-modified", OLD).with("date", NOW)).await;
    is_kept_apart(|seen| if seen.is_get() { shown_to(seen).with("etag", "\"1\"") } else { Reply::status(405) }).await;
}

#[tokio::test]
async fn one_tag_for_what_differs_opens_nothing_of_what_is_under_way() {
    let (open, gate) = watch::channel(false);
    let web = Web::start(move |seen| {
        let reply = shown_to(seen).with("etag", "\"1\"");
        if is_alice(seen) { reply.gated(270_000, &gate) } else { reply }
    })
    .await;
    let fleet = Fleet::start().await;
    let (alice, bob) = (ask(&web.url("/x"), "alice"), ask(&web.url("/x"), "bob"));
    let first = fleet.node.open(alice.source.clone(), alice.credentials.clone()).await.unwrap();
    assert!(get(&fleet.node, bob).await.unwrap() == page());
    open.send_replace(true);
    assert!(get(&fleet.seed, alice).await.unwrap() == secret());
    drop(first);
}

// stargz-snapshotter#155, pub-dev#1246, huggingface_hub#3312
#[tokio::test]
async fn whatever_head_says_get_decides() {
    let web = Web::start(|seen| {
        let asked = seen.path[1..].parse().unwrap_or(0);
        match (seen.is_get(), asked) {
            (false, 0) => Reply::hanging(),
            (false, status) => Reply::status(status),
            (true, _) => Reply::ok(&page()).with("etag", "\"1\""),
        }
    })
    .await;
    let fleet = Fleet::start().await;
    for path in ["/400", "/401", "/403", "/404", "/405", "/406", "/429", "/500", "/501", "/503", "/204", "/hang"] {
        for agent in [&fleet.node, &fleet.seed] {
            assert!(get(agent, ask(&web.url(path), "")).await.unwrap() == page(), "{path}");
        }
        assert_eq!(web.reads(path), 1, "{path}");
    }
}

#[tokio::test]
async fn a_head_that_tells_less_than_get_costs_no_second_copy() {
    let web = Web::start(|seen| match seen.is_get() {
        true => Reply::ok(&page()).with("etag", "\"1\""),
        false => Reply::ok(b""),
    })
    .await;
    let fleet = Fleet::start().await;
    for agent in [&fleet.node, &fleet.seed] {
        assert!(get(agent, ask(&web.url("/x"), "")).await.unwrap() == page());
    }
    let blobs = fleet.seed.list().await.unwrap();
    assert_eq!(blobs.len(), 1, "the second answer showed the same, and was left");
}

// SUSE/rmt#366: "not modified since" is no answer to "the same?".
#[tokio::test]
async fn a_file_that_was_rolled_back_is_noticed() {
    let (rolled_back, state) = watch::channel(false);
    let web = Web::start(move |seen| {
        let (body, date) = if *state.borrow() { (page(), OLD) } else { (secret(), "Mon, 21 Nov 2016 10:00:00 GMT") };
        if seen.header("if-modified-since").is_some_and(|since| since >= date || *state.borrow()) {
            return Reply::status(304);
        }
        Reply::ok(&body).with("last-modified", date).with("date", NOW)
    })
    .await;
    let fleet = Fleet::start().await;
    assert!(get(&fleet.node, ask(&web.url("/x"), "")).await.unwrap() == secret());
    rolled_back.send_replace(true);
    assert!(get(&fleet.node, ask(&web.url("/x"), "")).await.unwrap() == page());
    assert!(web.seen().iter().all(|seen| seen.header("if-modified-since").is_none()));
}

/// A 304 need not repeat `Vary`: it must not make of one caller's representation everybody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_304_that_says_less_than_the_answer_before_opens_nothing() {
    let web = Web::start(|seen| {
        if is_alice(seen) && seen.header("if-none-match").is_some() {
            return Reply::status(304).with("etag", "\"1\"");
        }
        shown_to(seen).with("etag", "\"1\"").with("vary", "authorization")
    })
    .await;
    let fleet = Fleet::start().await;
    let url = web.url("/file");
    for agent in [&fleet.seed, &fleet.node, &fleet.seed, &fleet.node] {
        assert!(get(agent, ask(&url, "alice")).await.unwrap() == secret());
    }
    // He brings nothing that the answer varies by, and is shown the same tag.
    for agent in [&fleet.seed, &fleet.node] {
        assert!(get(agent, ask(&url, "")).await.unwrap() == page(), "his own download");
    }
}

/// An agent that has not seen what another one holds names what it reads as that one does.
#[tokio::test(flavor = "multi_thread")]
async fn one_tag_for_what_differs_opens_nothing_of_what_another_agent_reads() {
    let web = Web::start(|seen| shown_to(seen).with("etag", "\"1\"")).await;
    let (alice, bob) = (ask(&web.url("/x"), "alice"), ask(&web.url("/x"), "bob"));
    let fleet = Fleet::start().await;
    assert!(get(&fleet.node, alice.clone()).await.unwrap() == secret());
    fleet.node.drain().await;
    fleet.seed.drain().await;
    // The seed's disk is lost.
    let fleet = Fleet::start_in([TempDir::new().unwrap(), copied(fleet.dirs[1].path())]).await;
    assert!(get(&fleet.node, bob.clone()).await.unwrap() == page());
    assert!(get(&fleet.node, alice).await.unwrap() == secret());
    assert!(get(&fleet.seed, bob).await.unwrap() == page());
}

/// The seed was given something else than the digest says, and another node, which has not seen the right content, is asked.
#[tokio::test(flavor = "multi_thread")]
async fn another_try_by_another_node_opens_nothing() {
    let web = Web::start(|seen| shown_to(seen).with("etag", "\"1\"")).await;
    let fleet = Fleet::start().await;
    let dir = TempDir::new().unwrap();
    let _other = Agent::start(seed::node(dir.path(), vec![fleet.seed.status().listen.unwrap()])).await.unwrap();
    let digest = Some(Digest::sha256(&secret()));
    // For one in two of them the other node comes first.
    for place in 0..8 {
        let url = web.url(&format!("/{place}"));
        assert!(get(&fleet.node, ask_sealed(&url, "alice", digest)).await.unwrap() == secret());
        assert!(get(&fleet.node, ask_sealed(&url, "bob", digest)).await.is_err(), "{place}");
        assert!(get(&fleet.node, ask_sealed(&url, "alice", digest)).await.unwrap() == secret());
    }
}
