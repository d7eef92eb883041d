//! Origins that break off, or change, while they are read: reading starts over by itself, and the hashes that are known
//! tell whether it is the same content.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, FetchError, Options};
use darter_core::{Digest, Source};
use darter_origin::ErrorKind;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::seed;
use crate::web::{Reply, Seen, Web};

/// Six pieces.
fn content() -> Vec<u8> {
    (0..1_500_000_u32).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// As long, and the same up to the third piece.
fn next_version() -> Vec<u8> {
    let mut bytes = content();
    bytes[600_000..].iter_mut().for_each(|byte| *byte = !*byte);
    bytes
}

struct Fleet {
    _seed: Agent,
    nodes: [Agent; 2],
    _dirs: [TempDir; 3],
}

impl Fleet {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(configure: impl FnOnce(&mut Options)) -> Self {
        let dirs = [(); 3].map(|()| TempDir::new().unwrap());
        let mut options = Options { role: Role::Seed, ..seed::node(dirs[0].path(), Vec::new()) };
        configure(&mut options);
        let seed = Agent::start(options).await.unwrap();
        let join = || vec![seed.status().listen.unwrap()];
        let first = Agent::start(seed::node(dirs[1].path(), join())).await.unwrap();
        let second = Agent::start(seed::node(dirs[2].path(), join())).await.unwrap();
        Self { _seed: seed, nodes: [first, second], _dirs: dirs }
    }
}

pub(crate) async fn get(agent: &Agent, url: &str, digest: Option<Digest>) -> Result<Vec<u8>, FetchError> {
    let (source, credentials) = Source::from_url(url.parse().unwrap(), &[], digest);
    let download = agent.open(source, credentials).await?;
    let mut stream = download.stream(None);
    let mut read = Vec::new();
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes?);
    }
    Ok(read)
}

/// True if a request reads, rather than asks for one byte.
fn is_read(seen: &Seen) -> bool {
    seen.is_get() && seen.header("range") != Some("bytes=0-0")
}

/// The first two answers break off; nobody who reads meanwhile need know.
async fn goes_on(name: &str, shape: fn(Reply, usize) -> Reply) {
    for digest in [None, Some(Digest::sha256(&content()))] {
        let (reads, answers) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let web = Web::start(move |seen| {
            let answer = answers.fetch_add(1, Ordering::Relaxed);
            let reply = shape(Reply::ok(&content()), answer);
            match is_read(seen).then(|| counted.fetch_add(1, Ordering::Relaxed)) {
                Some(0) => reply.cut(700_000),
                Some(1) => reply.cut(1_100_000),
                _ => reply,
            }
        })
        .await;
        let fleet = Fleet::start().await;
        let url = web.url("/x");
        let (first, second) = tokio::join!(get(&fleet.nodes[0], &url, digest), get(&fleet.nodes[1], &url, digest));
        assert!(first.unwrap() == content() && second.unwrap() == content(), "{name} {digest:?}");
        assert!(reads.load(Ordering::Relaxed) >= 2, "{name}: nothing broke off");
    }
}

#[tokio::test]
async fn without_validators() {
    goes_on("with ranges", |reply, _| reply).await;
    goes_on("without ranges", |reply, _| reply.without_ranges()).await;
}

#[tokio::test]
async fn with_a_weak_tag() {
    goes_on("weak", |reply, _| reply.with("etag", "W/\"1\"")).await;
}

#[tokio::test]
async fn with_a_range_ignored() {
    goes_on("strong", |reply, _| reply.with("etag", "\"1\"").without_ranges()).await;
}

#[tokio::test]
async fn a_version_that_changes_half_way_is_found_and_the_next_one_is_another_blob() {
    for digest in [None, Some(Digest::sha256(&next_version()))] {
        for tags in [[None, None], [Some("\"1\""), Some("\"2\"")], [Some("\"1\""), Some("\"1\"")]] {
            if digest.is_none() && tags == [Some("\"1\""); 2] {
                // Without a digest, an origin that gives two versions one strong tag is believed.
                continue;
            }
            let reads = AtomicUsize::new(0);
            let web = Web::start(move |seen| {
                let is_first = is_read(seen) && reads.fetch_add(1, Ordering::Relaxed) == 0;
                let (bytes, tag) = if is_first { (content(), tags[0]) } else { (next_version(), tags[1]) };
                let reply = tag.into_iter().fold(Reply::ok(&bytes), |reply, tag| reply.with("etag", tag));
                if is_first { reply.cut(900_000) } else { reply }
            })
            .await;
            let fleet = Fleet::start().await;
            let url = web.url("/x");
            for node in &fleet.nodes {
                let mut read = get(node, &url, digest).await;
                if let Err(FetchError::Origin(failure)) = &read {
                    // The bytes given are of the former version: their reader asks again.
                    assert_eq!(failure.kind, ErrorKind::Changed);
                    read = get(node, &url, digest).await;
                }
                assert!(read.unwrap() == next_version(), "{tags:?} {digest:?}");
            }
        }
    }
}

/// Put together of parts, it may be of two versions, and is read anew; when it comes to the same once more, it is what the origin has.
#[tokio::test]
async fn content_that_is_not_what_its_digest_says_is_called_wrong_though_it_came_in_parts() {
    let web = Web::start(|seen| {
        let reply = Reply::ok(&content()).with("etag", "\"1\"");
        let begins = seen.header("range").is_none_or(|range| range.starts_with("bytes=0-"));
        if is_read(seen) && begins { reply.cut(700_000) } else { reply }
    })
    .await;
    let fleet = Fleet::start().await;
    let error = get(&fleet.nodes[0], &web.url("/x"), Some(Digest::sha256(&next_version()))).await.unwrap_err();
    assert!(matches!(error, FetchError::WrongDigest { .. }), "{error:?}");
}

// Two servers behind one name, each with tags of its own for the same file.
#[tokio::test]
async fn with_a_tag_for_each_replica() {
    let reads = AtomicUsize::new(0);
    let web = Web::start(move |seen| {
        let read = if is_read(seen) { reads.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let reply = Reply::ok(&content()).with("etag", format!("\"replica {}\"", read % 2));
        if read == 0 { reply.cut(700_000) } else { reply }
    })
    .await;
    let fleet = Fleet::start().await;
    for digest in [None, Some(Digest::sha256(&content()))] {
        assert!(get(&fleet.nodes[0], &web.url("/x"), digest).await.unwrap() == content());
    }
}

#[tokio::test]
async fn without_a_length() {
    let reads = AtomicUsize::new(0);
    let web = Web::start(move |seen| {
        let reply = Reply::ok(&content());
        if is_read(seen) && reads.fetch_add(1, Ordering::Relaxed) == 0 {
            reply.cut(700_000)
        } else {
            reply.without_length()
        }
    })
    .await;
    let fleet = Fleet::start().await;
    assert!(get(&fleet.nodes[0], &web.url("/x"), None).await.unwrap() == content());
}

/// An origin's answer to a range instead of the range.
fn instead_of_a_range(kind: &str, seen: &Seen) -> Reply {
    let (from, _) = seen.range().unwrap();
    let bytes = content();
    let part = |first: usize, body: &[u8]| {
        let range = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
        Reply::ok(body).under_status(206).with("content-range", range)
    };
    match kind {
        "earlier" => part(from / 65_536 * 65_536, &bytes[from / 65_536 * 65_536..]),
        "later" => part(from + 1, &bytes[from + 1..]),
        "unnamed" => Reply::ok(&bytes[from..]).under_status(206),
        "several" => {
            Reply::ok(&bytes[from..]).under_status(206).with("content-type", "multipart/byteranges; boundary=x")
        }
        "the whole" => part(from, &bytes),
        "the whole, chunked" => part(from, &bytes).without_length(),
        status => Reply::status(status.parse().unwrap()),
    }
}

// evanmiller/mod_zip#117, owncloud/client#2280 (416 to whoever resumes), xroche/httrack#428 (a part that begins earlier).
#[tokio::test]
async fn an_origin_that_gives_the_whole_and_no_part() {
    let reads = Mutex::new(HashSet::new());
    let web = Web::start(move |seen| {
        let reply = Reply::ok(&content()).with("etag", "\"1\"").without_ranges();
        if !is_read(seen) {
            return reply;
        }
        let is_first = reads.lock().insert(seen.path.clone());
        match seen.range() {
            _ if is_first => reply.cut(700_000),
            Some(_) => instead_of_a_range(&seen.path[1..].replace('-', " "), seen).with("etag", "\"1\""),
            None => reply,
        }
    })
    .await;
    let fleet = Fleet::start().await;
    for kind in [
        "earlier",
        "later",
        "unnamed",
        "several",
        "the whole",
        "the whole, chunked",
        "400",
        "403",
        "404",
        "405",
        "412",
        "416",
        "500",
        "501",
        "503",
    ] {
        let path = format!("/{}", kind.replace(' ', "-"));
        let url = web.url(&path);
        let (first, second) = tokio::join!(get(&fleet.nodes[0], &url, None), get(&fleet.nodes[1], &url, None));
        for (node, read) in fleet.nodes.iter().zip([first, second]) {
            match read {
                Ok(read) => assert!(read == content(), "{kind}"),
                // The wrong bytes were found too late, and taken back.
                Err(FetchError::Origin(failure)) if kind == "the whole, chunked" => {
                    assert_eq!(failure.kind, ErrorKind::Changed);
                    assert!(get(node, &url, None).await.unwrap() == content());
                }
                Err(error) => panic!("{kind}: {error}"),
            }
        }
        let ranges =
            web.seen().iter().filter(|seen| seen.path == path && is_read(seen) && seen.range().is_some()).count();
        assert!((1..=3).contains(&ranges) && web.reads(&path) <= 5, "{kind}: {} reads", web.reads(&path));
    }
}

// One that was away is no origin without ranges: all of a large blob again would cost it much.
#[tokio::test]
async fn an_origin_that_was_away_is_read_on_by_range() {
    let reads = AtomicUsize::new(0);
    let web = Web::start(move |seen| {
        let reply = Reply::ok(&content()).with("etag", "\"1\"");
        match is_read(seen).then(|| reads.fetch_add(1, Ordering::Relaxed)) {
            Some(0) => reply.cut(700_000),
            Some(1..=3) => Reply::status(503),
            _ => reply,
        }
    })
    .await;
    // A machine that is busy takes longer for three tries.
    let fleet = Fleet::start_with(|seed| seed.origin_patience = Duration::from_secs(60)).await;
    assert!(get(&fleet.nodes[0], &web.url("/x"), None).await.unwrap() == content());
    let from: Vec<_> = web.seen().iter().filter(|seen| is_read(seen)).map(|seen| seen.range().map(|it| it.0)).collect();
    assert_eq!(from.last(), Some(&Some(700_000)), "{from:?}");
}

// A log file: each answer is longer than the one before.
#[tokio::test]
async fn content_that_grows_has_the_length_that_was_told_or_is_asked_for_again() {
    let reads = AtomicUsize::new(0);
    let web = Web::start(move |seen| {
        let read = if is_read(seen) { reads.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let reply = Reply::ok(&content()[..1_000_000 + read * 1000]);
        if read == 0 { reply.cut(300_000) } else { reply }
    })
    .await;
    let fleet = Fleet::start().await;
    let (source, credentials) = Source::from_url(web.url("/x").parse().unwrap(), &[], None);
    for node in &fleet.nodes {
        let download = node.open(source.clone(), credentials.clone()).await.unwrap();
        let (told, mut read) = (download.length(), Vec::new());
        let mut stream = download.stream(None);
        while let Some(bytes) = stream.next().await {
            match bytes {
                Ok(bytes) => read.extend_from_slice(&bytes),
                Err(FetchError::Origin(failure)) if failure.kind == ErrorKind::Changed => {
                    read.clear();
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(read.is_empty() || (told == Some(read.len() as u64) && content().starts_with(&read)));
    }
}

#[tokio::test]
async fn whether_head_or_a_byte_can_be_had_the_whole_is_asked_for() {
    let web = Web::start(|seen| match is_read(seen) {
        true => Reply::ok(&content()).with("etag", "\"1\""),
        false => Reply::status(503).with("retry-after", "100"),
    })
    .await;
    let fleet = Fleet::start().await;
    for _ in 0..2 {
        assert!(get(&fleet.nodes[0], &web.url("/x"), None).await.unwrap() == content());
    }
}
