//! An origin that declares a hash of what it sends, and sends something else: nothing of it is kept or given as right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use darter_agent::Agent;
use darter_core::Source;
use futures_util::StreamExt as _;
use tempfile::TempDir;

use crate::seed;
use crate::web::{Reply, Web};

const LENGTH: usize = 1_000_000;
/// Of as many times `a`.
const MD5: &str = "dwfWrk4CfHDuoqk1wilvIQ==";
const SHA256_HEX: &str = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

/// An origin that breaks off once, after what may be wrong, and then sends the rest, right: what is put together is what nobody
/// declared.
async fn breaks_off(
    wrong: bool,
    first: &'static [(&'static str, String)],
    rest: &'static [(&'static str, String)],
) -> Web {
    let reads = AtomicUsize::new(0);
    Web::start(move |seen| {
        let at = if seen.is_get() && seen.header("range") != Some("bytes=0-0") {
            reads.fetch_add(1, Ordering::Relaxed)
        } else {
            1
        };
        let mut bytes = vec![b'a'; LENGTH];
        if at == 0 && wrong {
            bytes[1_000] = b'b';
        }
        let declared = if at == 0 { first } else { rest };
        let reply = declared
            .iter()
            .fold(Reply::ok(&bytes).with("etag", "\"1\""), |reply, (name, value)| reply.with(name, value));
        if at == 0 { reply.cut(600_000) } else { reply }
    })
    .await
}

async fn read(agent: &Agent, web: &Web) -> Result<Vec<u8>, String> {
    let (source, credentials) = Source::from_url(web.url("/x").parse().unwrap(), &[], None);
    let download = agent.open(source, credentials).await.map_err(|error| error.to_string())?;
    let parts: Vec<_> = download.stream(None).collect().await;
    parts.into_iter().collect::<Result<Vec<_>, _>>().map(|parts| parts.concat()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn bytes_that_contradict_what_their_origin_declares_are_refused_and_read_again() {
    let right = vec![b'a'; 1_000_000];
    let reads = AtomicUsize::new(0);
    let web = Web::start(move |_| {
        let mut bytes = right.clone();
        if reads.fetch_add(1, Ordering::Relaxed) == 0 {
            bytes[500_000] = b'b';
        }
        Reply::ok(&bytes).with("etag", "\"1\"").with("content-md5", "dwfWrk4CfHDuoqk1wilvIQ==")
    })
    .await;
    let dir = TempDir::new().unwrap();
    let agent = Agent::start(seed::node(dir.path(), Vec::new())).await.unwrap();
    let (source, credentials) = Source::from_url(web.url("/x").parse().unwrap(), &[], None);
    let mut results = Vec::new();
    for _ in 0..2 {
        let parts: Vec<_> = agent.open(source.clone(), credentials.clone()).await.unwrap().stream(None).collect().await;
        results.push(parts.into_iter().collect::<Result<Vec<_>, _>>());
    }
    let refused = results[0].as_ref().unwrap_err().to_string();
    assert!(refused.contains("contradict the md5") && refused.contains("content-md5"), "{refused}");
    assert!(results[1].as_ref().unwrap().concat() == vec![b'a'; 1_000_000]);
}

#[tokio::test]
async fn what_an_answer_that_breaks_off_declared_is_checked_over_those_that_follow() {
    // The rest comes wrong, or right; and from an origin that gives no parts.
    for (is_wrong, has_ranges) in [(true, true), (false, true), (true, false)] {
        let reads = AtomicUsize::new(0);
        let web = Web::start(move |_| {
            let read = reads.fetch_add(1, Ordering::Relaxed);
            let mut bytes = vec![b'a'; 1_000_000];
            if is_wrong && read == 1 {
                bytes[990_000] = b'b';
            }
            let reply = Reply::ok(&bytes).with("etag", "\"1\"");
            let reply = if has_ranges { reply } else { reply.without_ranges() };
            // Of a part, nothing is declared.
            let reply = if read == 1 { reply } else { reply.with("content-md5", "dwfWrk4CfHDuoqk1wilvIQ==") };
            if read == 0 { reply.cut(600_000) } else { reply }
        })
        .await;
        let dir = TempDir::new().unwrap();
        let agent = Agent::start(seed::node(dir.path(), Vec::new())).await.unwrap();
        let (source, credentials) = Source::from_url(web.url("/x").parse().unwrap(), &[], None);
        let parts: Vec<_> = agent.open(source, credentials).await.unwrap().stream(None).collect().await;
        let read = parts.into_iter().collect::<Result<Vec<_>, _>>();
        match is_wrong {
            true => assert!(read.unwrap_err().to_string().contains("contradict the md5")),
            false => assert!(read.unwrap().concat() == vec![b'a'; 1_000_000]),
        }
    }
}

#[tokio::test]
async fn an_empty_body_that_contradicts_what_is_declared_is_refused() {
    for tells_length in [true, false] {
        let web = Web::start(move |_| {
            let reply = Reply::ok(b"").with("etag", "\"1\"").with("content-md5", "dwfWrk4CfHDuoqk1wilvIQ==");
            if tells_length { reply } else { reply.without_length() }
        })
        .await;
        let dir = TempDir::new().unwrap();
        let agent = Agent::start(seed::node(dir.path(), Vec::new())).await.unwrap();
        let (source, credentials) = Source::from_url(web.url("/x").parse().unwrap(), &[], None);
        let read = match agent.open(source, credentials).await {
            Ok(download) => download.stream(None).collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>(),
            Err(error) => Err(error),
        };
        assert!(read.unwrap_err().to_string().contains("contradict the md5"), "{tells_length}");
    }
}

fn leaked(pairs: &[(&'static str, &str)]) -> &'static [(&'static str, String)] {
    pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>().leak()
}

#[tokio::test]
async fn what_is_declared_of_the_whole_is_checked_however_many_answers_it_came_in() {
    let whole = format!("sha-256={SHA256_HEX}");
    for (first, rest) in [
        (&[("content-md5", MD5)][..], &[][..]),
        (&[("digest", whole.as_str())], &[]),
        (&[], &[("digest", whole.as_str())]),
        (&[], &[("x-linked-etag", SHA256_HEX)]),
        (&[("x-amz-checksum-sha256", SHA256_HEX), ("x-amz-checksum-type", "FULL_OBJECT")], &[]),
        // Some servers say the whole's of each part.
        (&[("content-md5", MD5)], &[("content-md5", MD5)]),
    ] {
        let dir = TempDir::new().unwrap();
        let agent = Agent::start(seed::node(dir.path(), Vec::new())).await.unwrap();
        let web = breaks_off(true, leaked(first), leaked(rest)).await;
        let refused = read(&agent, &web).await.map(drop).unwrap_err();
        assert!(refused.contains("contradict the "), "{first:?} {rest:?}: {refused}");
        assert!(read(&agent, &web).await.unwrap() == vec![b'a'; LENGTH], "{first:?} {rest:?}");
        // Right content is not refused.
        let web = breaks_off(false, leaked(first), leaked(rest)).await;
        assert!(read(&agent, &web).await.unwrap() == vec![b'a'; LENGTH], "{first:?} {rest:?}");
        assert!(web.reads("/x") > 1, "it came in parts");
    }
}

#[tokio::test]
async fn what_was_kept_of_an_earlier_reading_is_checked_by_what_a_later_one_declares() {
    for (wrong, right) in [(b'b', false), (b'a', true)] {
        let (reads, is_back) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
        let comes_back = Arc::clone(&is_back);
        let web = Web::start(move |_| {
            let mut bytes = vec![b'a'; LENGTH];
            if is_back.load(Ordering::Relaxed) {
                return Reply::ok(&bytes).with("etag", "\"1\"").with("digest", format!("sha-256={SHA256_HEX}"));
            }
            bytes[1_000] = wrong;
            match reads.fetch_add(1, Ordering::Relaxed) {
                0 => Reply::ok(&bytes).with("etag", "\"1\"").cut(600_000),
                _ => Reply::status(403),
            }
        })
        .await;
        let dir = TempDir::new().unwrap();
        let agent = Agent::start(seed::node(dir.path(), Vec::new())).await.unwrap();
        read(&agent, &web).await.map(drop).unwrap_err();
        let before = web.seen().len();
        comes_back.store(true, Ordering::Relaxed);
        let result = read(&agent, &web).await.map(|bytes| assert!(bytes == vec![b'a'; LENGTH]));
        let went_on = web.seen().into_iter().skip(before).filter_map(|seen| seen.range()).any(|(from, _)| from > 1);
        assert!(went_on, "what was kept is not read again");
        assert_eq!(result.is_ok(), right, "{result:?}");
        assert!(result.err().is_none_or(|refused| refused.contains("contradict the sha256")));
    }
}

#[tokio::test]
async fn a_part_that_contradicts_its_own_hash_is_refused() {
    let dir = TempDir::new().unwrap();
    let agent = Agent::start(seed::node(dir.path(), Vec::new())).await.unwrap();
    let web = breaks_off(false, &[], leaked(&[("content-digest", "md5=:AAAAAAAAAAAAAAAAAAAAAA==:")])).await;
    let refused = read(&agent, &web).await.map(drop).unwrap_err();
    assert!(refused.contains("contradict the md5") && refused.contains("content-digest"), "{refused}");
}

#[tokio::test]
async fn an_answer_that_declares_another_whole_than_the_one_before_is_of_another_version() {
    let dir = TempDir::new().unwrap();
    let agent = Agent::start(seed::node(dir.path(), Vec::new())).await.unwrap();
    let other = leaked(&[("repr-digest", "md5=:AAAAAAAAAAAAAAAAAAAAAA==:")]);
    let web = breaks_off(false, leaked(&[("repr-digest", "md5=:dwfWrk4CfHDuoqk1wilvIQ==:")]), other).await;
    // It is read from its first byte on, and compared; then it is wrong by its own word.
    let refused = read(&agent, &web).await.map(drop).unwrap_err();
    assert!(refused.contains("contradict the md5") && refused.contains("repr-digest"), "{refused}");
}

// The shape of the Hugging Face hub: a redirect with the hash and the size, then an object store.
#[tokio::test]
async fn a_hub_that_names_another_size_than_its_store_has_is_refused() {
    for (size, right) in [("1000000", true), ("999999", false)] {
        let dir = TempDir::new().unwrap();
        let agent = Agent::start(seed::node(dir.path(), Vec::new())).await.unwrap();
        let web = Web::start(move |seen| match seen.path.as_str() {
            "/x" => Reply::status(302)
                .with("location", "/store")
                .with("x-linked-etag", format!("\"{SHA256_HEX}\""))
                .with("x-linked-size", size),
            _ => Reply::ok(&vec![b'a'; LENGTH]).with("etag", "\"1\""),
        })
        .await;
        let result = read(&agent, &web).await;
        assert_eq!(result.is_ok(), right, "{size}");
        if let Err(refused) = result {
            assert!(refused.contains("x-linked-size"), "{refused}");
        }
    }
}
