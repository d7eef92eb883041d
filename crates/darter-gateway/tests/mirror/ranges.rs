//! Several ranges of one blob at a time, as containerd from 2.1 on asks for them (`concurrent_layer_fetch_buffer`), and
//! single ones far ahead, as lazy snapshotters do. Engines wait 30 s for headers, and give a whole pull up when one
//! range of it fails.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::sync::Notify;

use crate::world::{GRANT_TTL, Got, World, content, world};

const LENGTH: usize = 2_000_000;

/// A blob of which the agent knows the hashes of the first `known` bytes, and gives what lies at `gate` only when told to.
async fn with_blob(known: u64, gate: u64) -> (World, Vec<u8>, String, Arc<Notify>) {
    let world = world().await;
    let bytes = content(LENGTH);
    let digest = world.registry.put_blob("app", &bytes);
    world.agent.hold(bytes.clone());
    let notify = Arc::new(Notify::new());
    {
        let mut agent = world.agent.0.lock();
        agent.known = Some(known);
        agent.gate = Some((gate, Arc::clone(&notify)));
    }
    (world, bytes, format!("/v2/app/blobs/{digest}"), notify)
}

async fn range(world: &World, path: &str, range: &str) -> Got {
    world.send(Method::GET, path, &[("range", range)]).await
}

fn reads(world: &World) -> usize {
    world.registry.asked().iter().filter(|line| line.starts_with("GET")).count()
}

#[tokio::test]
async fn headers_go_out_before_the_bytes_are_there() {
    let (world, bytes, path, gate) = with_blob(1_000_000, 1_000_000).await;
    assert_eq!(range(&world, &path, "bytes=0-999999").await.status, 206);
    let asked = world.client.get(world.url(&path)).header("range", "bytes=1000000-1999999");
    let response = asked.send().await.unwrap();
    assert_eq!(response.status(), 206);
    assert_eq!(response.headers()["content-range"], format!("bytes 1000000-1999999/{LENGTH}"));
    // Only now the bytes come, and they come from the agent: the range is part of a sweep.
    gate.notify_one();
    assert!(response.bytes().await.unwrap() == bytes[1_000_000..]);
    assert_eq!(reads(&world), 0);
}

#[tokio::test]
async fn a_range_far_ahead_of_all_hashes_comes_from_the_upstream_at_once() {
    // The gate never opens: the agent would give nothing.
    let (world, bytes, path, _gate) = with_blob(1000, LENGTH as u64 - 51).await;
    assert_eq!(range(&world, &path, "bytes=0-0").await.body, &bytes[..1]);
    let footer = range(&world, &path, "bytes=-51").await;
    assert_eq!((footer.status, &footer.body[..]), (StatusCode::PARTIAL_CONTENT, &bytes[LENGTH - 51..]));
    assert_eq!(footer.header("content-range"), format!("bytes {}-{}/{LENGTH}", LENGTH - 51, LENGTH - 1));
    assert_eq!(reads(&world), 1);
    assert!(world.counted(r#"darter_mirror_fallbacks_total{result="ahead"} 1"#));
}

/// containerd 2.4 asks for all from each of its steps on: of a layer of 144 MiB and 25 kB, the last step is those.
#[tokio::test]
async fn the_short_rest_of_an_engines_steps_does_not_cost_the_upstream_a_request_of_each_host() {
    let rest = LENGTH - 100;
    let (world, bytes, path, gate) = with_blob(1000, rest as u64).await;
    let ask = |start| world.client.get(world.url(&path)).header("range", format!("bytes={start}-")).send();
    for start in [0, 1_000_000] {
        drop(ask(start).await.unwrap());
    }
    while world.metrics.local_requests_active.get() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let response = ask(rest).await.unwrap();
    gate.notify_one();
    assert!(response.bytes().await.unwrap() == bytes[rest..]);
    assert_eq!(reads(&world), 0);
}

/// Its first request has no range at all, and its last step may be the first of the others to arrive; or the first of all.
#[tokio::test]
async fn the_short_rest_of_an_engines_steps_may_arrive_in_any_order() {
    let rest = LENGTH - 100;
    for rest_is_first in [false, true] {
        let (world, bytes, path, gate) = with_blob(1000, rest as u64).await;
        let ask_for_rest = || world.client.get(world.url(&path)).header("range", format!("bytes={rest}-")).send();
        let ask_for_all = || world.client.get(world.url(&path)).send();
        let (all, response) = if rest_is_first {
            // Nothing is known of the blob before both are there.
            world.registry.state.lock().slow_heads = Duration::from_millis(500);
            let later = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                ask_for_all().await.unwrap()
            };
            let (response, all) = tokio::join!(ask_for_rest(), later);
            (all, response.unwrap())
        } else {
            let all = ask_for_all().await.unwrap();
            (all, ask_for_rest().await.unwrap())
        };
        assert_eq!((all.status(), response.status()), (StatusCode::OK, StatusCode::PARTIAL_CONTENT));
        drop(all);
        let open_gate = async {
            loop {
                gate.notify_one();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let given: Bytes = tokio::select! {
            given = response.bytes() => given.unwrap(),
            () = open_gate => unreachable!("it goes on for ever"),
        };
        assert!(given == bytes[rest..]);
        assert_eq!(reads(&world), 0, "the rest is first: {rest_is_first}");
    }
}

#[tokio::test]
async fn where_the_upstream_gives_no_range_a_range_far_ahead_waits_for_the_agent() {
    let (world, bytes, path, gate) = with_blob(1000, LENGTH as u64 - 51).await;
    world.registry.state.lock().no_ranges = true;
    gate.notify_one();
    assert_eq!(&range(&world, &path, "bytes=-51").await.body[..], &bytes[LENGTH - 51..]);
}

#[tokio::test]
async fn a_pull_that_has_begun_goes_on_while_the_registry_is_in_trouble() {
    let (world, bytes, path, gate) = with_blob(LENGTH as u64, 0).await;
    gate.notify_one();
    assert_eq!(range(&world, &path, "bytes=0-9").await.status, 206);
    world.clock.pass(GRANT_TTL);
    for trouble in [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS] {
        world.registry.state.lock().broken = Some(trouble);
        let got = range(&world, &path, "bytes=1000-1999").await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (206, &bytes[1000..2000]), "{trouble}");
    }
    // A refusal is none.
    world.registry.state.lock().broken = Some(StatusCode::FORBIDDEN);
    assert_eq!(range(&world, &path, "bytes=1000-1999").await.status, 403);
}

/// The counters show an operator, who looks for why pulls fail, which answers engines did not wait for.
#[tokio::test]
async fn a_caller_that_gives_up_before_the_answer_or_in_its_middle_is_counted() {
    let (world, _, path, _gate) = with_blob(LENGTH as u64, 1000).await;
    let give_up = async |path: &str, headers: bool| {
        let mut asked = world.client.get(world.url(path));
        if headers {
            asked = asked.header("range", "bytes=0-9999");
        }
        let asked = asked.send();
        if headers {
            drop(asked.await.unwrap());
        } else {
            let _ = tokio::time::timeout(Duration::from_millis(500), asked).await;
        }
    };
    give_up(&path, true).await;
    // A caller that asked for everything from some byte on has taken what it wanted.
    drop(world.client.get(world.url(&path)).header("range", "bytes=0-").send().await.unwrap());
    world.registry.state.lock().hangs = true;
    give_up("/v2/app/manifests/1", false).await;
    while world.metrics.local_requests_active.get() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for line in [
        r#"darter_mirror_gone_total{kind="blob",when="midway"} 1"#,
        r#"darter_mirror_gone_total{kind="manifest",when="before"} 1"#,
    ] {
        assert!(world.counted(line), "{line}");
    }
}
