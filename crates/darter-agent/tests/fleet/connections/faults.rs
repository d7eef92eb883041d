//! Faults while several connections read a blob: it comes right all the same, no later than by one, and the origin is asked no more than it
//! bears.

use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_agent::{Agent, FetchError, Options};
use darter_core::source::Credentials;
use darter_core::{Clock as _, Digest, Source};
use darter_origin::ErrorKind;
use darter_store::{MemStore, StoreConfig};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::store::{Does, MIB, Store, TICK, TICKS, UNLIMITED};
use super::{options, read_all, says, took_it_for_a_limit};

/// Long, on the busiest machine.
const AT_LAST: Duration = Duration::from_secs(120);

async fn get(agent: &Agent, source: Source) -> Result<Vec<u8>, FetchError> {
    let reading = async {
        let download = agent.open(source, Credentials::none()).await?;
        let (mut bytes, mut read) = (download.stream(None), Vec::new());
        while let Some(bytes) = bytes.next().await {
            read.extend_from_slice(&bytes?);
        }
        Ok(read)
    };
    timeout(AT_LAST, reading).await.expect("an end")
}

async fn until(mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            sleep(TICK / 2).await;
        }
    };
    timeout(AT_LAST, waiting).await.expect("it comes about");
}

/// Bytes read ahead are of the version before, and so are those read first: nothing of them stands beside the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_changes_while_it_is_read_ahead_is_never_of_two_versions() {
    const LENGTH: u64 = 48 * MIB;
    for is_same in [false, true] {
        let store = Store::start(LENGTH, 8 * MIB, UNLIMITED, Does::Serves).await;
        let before = store.shared.content.to_vec();
        let mut next = before.clone();
        if !is_same {
            // Behind what is read ahead by then, but for the trial at the end.
            next[LENGTH as usize / 4 * 3..].iter_mut().for_each(|byte| *byte = !*byte);
        }
        let directory = TempDir::new().unwrap();
        let seed = store.agent(options(directory.path())).await;
        let changing = async {
            until(|| store.most_open() >= 8 && store.given() > LENGTH / 8).await;
            store.change(next.clone());
            store.give_each(UNLIMITED);
        };
        let (read, ()) = tokio::join!(get(&seed, store.source()), changing);
        match read {
            // Bytes given until then may be the same in the next version. The same bytes under another tag are no other version.
            Ok(read) => assert!(read == next, "{:#?}", seed.explain(&store.url).await.unwrap().events),
            Err(FetchError::Origin(failure)) => {
                assert!(!is_same && failure.kind == ErrorKind::Changed, "{failure:?}");
                assert!(get(&seed, store.source()).await.unwrap() == next);
            }
            Err(error) => panic!("{error}"),
        }
        seed.drain().await;
    }
}

/// Pieces that others have read ahead fill the memory that the blob passes through, and are not what is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_gets_full_while_several_connections_read_holds_up_nobody() {
    const LENGTH: u64 = 96 * MIB;
    let store = Store::start(LENGTH, 4 * MIB, UNLIMITED, Does::Serves).await;
    let content = store.shared.content.clone();
    let dates = store.clock();
    let disk = MemStore::new(&StoreConfig::new(std::sync::Arc::new(move || dates.unix())));
    let directory = TempDir::new().unwrap();
    let builder = Agent::builder(options(directory.path())).store(disk.clone()).clock(store.clock());
    let seed = builder.start().await.unwrap();
    let (source, _) = Source::from_url(store.url.parse().unwrap(), &[], Some(Digest::sha256(&content)));
    let filling = async {
        until(|| store.most_open() >= 8 && store.given() > LENGTH / 4).await;
        disk.fill();
        sleep(Duration::from_millis(1500)).await;
        store.give_each(UNLIMITED);
    };
    let (read, ()) = tokio::join!(get(&seed, source), filling);
    assert!(read.unwrap() == content);
    assert!(says(&seed, &store, "passes through").await);
    seed.drain().await;
}

/// An origin that takes ranges no more is read from its start once, however many stretches there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_refuses_ranges_midway_is_read_from_its_start_once() {
    const LENGTH: u64 = 64 * MIB;
    let store = Store::start(LENGTH, 8 * MIB, UNLIMITED, Does::Denies).await;
    let directory = TempDir::new().unwrap();
    let seed = store.agent(options(directory.path())).await;
    let speeding = async {
        until(|| store.shared.turned() > 0).await;
        let requests = store.requests();
        sleep(Duration::from_millis(400)).await;
        store.give_each(UNLIMITED);
        requests
    };
    let ((), requests) = tokio::join!(read_all(&seed, &store), speeding);
    let copies = store.given() as f64 / LENGTH as f64;
    assert!(copies < 2.0, "{copies:.3} copies");
    let after = store.requests() - requests;
    assert!(after <= 7 + 6, "{after} requests after it refused one");
    seed.drain().await;
}

/// Whichever connection is asked to wait, none asks for anything before the time is over; and the next blob is read by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_one_connection_is_asked_for_is_kept_by_all() {
    const LENGTH: u64 = 48 * MIB;
    let store = Store::start(LENGTH, 8 * MIB, UNLIMITED, Does::Pauses).await;
    let directory = TempDir::new().unwrap();
    let patient = Options { origin_patience: Duration::from_secs(20), ..options(directory.path()) };
    let seed = store.agent(patient).await;
    read_all(&seed, &store).await;
    // Those that broke ask at the same moment.
    let refused = store.shared.refused.load(Ordering::Relaxed);
    assert!((1..=8).contains(&refused), "{refused} requests were refused");
    assert!(says(&seed, &store, "going on with 1").await);
    let ranges = store.shared.ranges.lock().len();
    let again = Source::from_url(format!("{}?again", store.url).parse().unwrap(), &[], None).0;
    assert!(get(&seed, again).await.unwrap() == store.shared.content);
    assert_eq!(store.shared.ranges.lock().len(), ranges, "one connection read the next blob");
    seed.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origins_that_bear_two_connections_or_fewer_are_asked_little_and_read_once() {
    for (does, most_refused) in
        [(Does::Resets, 12), (Does::Overloads, 3), (Does::Replicas, 0), (Does::Unsatisfiable, 0)]
    {
        const LENGTH: u64 = 32 * MIB;
        let store = Store::start(LENGTH, 8 * MIB, UNLIMITED, does).await;
        let directory = TempDir::new().unwrap();
        let seed = store.agent(options(directory.path())).await;
        let before = store.ticks();
        read_all(&seed, &store).await;
        let (took, copies) = (store.ticks() - before, store.given() as f64 / LENGTH as f64);
        assert!((1.0..1.1).contains(&copies), "{does:?}: {copies:.3} copies");
        let refused = store.shared.refused.load(Ordering::Relaxed);
        assert!(refused <= most_refused, "{does:?}: {refused} requests were refused");
        assert!(store.requests() <= 24, "{does:?}: {} requests", store.requests());
        // By one connection it takes four seconds.
        assert!(took < TICKS * 9 / 2, "{does:?}: {took} ticks");
        seed.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_cuts_every_answer_off_is_read_to_its_end_once() {
    const LENGTH: u64 = 24 * MIB;
    let store = Store::start(LENGTH, 16 * MIB, UNLIMITED, Does::Cuts).await;
    let directory = TempDir::new().unwrap();
    let seed = store.agent(options(directory.path())).await;
    read_all(&seed, &store).await;
    let copies = store.given() as f64 / LENGTH as f64;
    assert!((1.0..1.15).contains(&copies), "{copies:.3} copies");
    assert!(store.requests() <= 24, "{} requests", store.requests());
    seed.drain().await;
}

/// Once nobody else is to read, the rest is one answer, which outlives them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_expire_while_the_rest_is_read_do_not_end_it() {
    const LENGTH: u64 = 128 * MIB;
    let store = Store::start(LENGTH, UNLIMITED, 32 * MIB, Does::Expires).await;
    let directory = TempDir::new().unwrap();
    let seed = store.agent(options(directory.path())).await;
    read_all(&seed, &store).await;
    if !took_it_for_a_limit(&seed, &store).await {
        assert_eq!(store.given(), LENGTH);
        let ranges = store.shared.ranges.lock().clone();
        assert!(ranges.iter().position(|range| range.1 == LENGTH) == Some(ranges.len() - 1), "{ranges:?}");
        assert_eq!(store.requests(), ranges.len(), "nothing is asked for after the rest was");
    }
    seed.drain().await;
}
