//! A layer while its lead reads it: copies that rotted, streams that stand still or turn out wrong, leads that are lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use darter_core::{Clock, Moment, Source, SystemClock};

use super::*;

/// Flips a bit of a blob that is stored below a directory.
fn rot(directory: &Path, content: &[u8]) {
    let (mut found, mut dirs) = (0, vec![directory.to_owned()]);
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(mut bytes) = std::fs::read(&path)
                && let Some(start) = bytes.windows(content.len()).position(|window| window == content)
            {
                bytes[start + content.len() / 2] ^= 1;
                std::fs::write(path, bytes).unwrap();
                found += 1;
            }
        }
    }
    assert_eq!(found, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_rotted_here_is_read_once_of_the_registry() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    let alone = node(directory.path(), "alone", &registry, &[]).await;
    assert_eq!(get(&alone, &format!("/v2/lab/app/blobs/{}", layer.digest)).await.status, 200);
    rot(&directory.path().join("alone"), &gzip(&tar));
    registry.asked();
    assert!(read(&alone, &layer).await.unwrap() == expanded(&tar));
    assert_eq!(reads(&registry, layer.digest), 1);
    alone.drain().await;
}

/// The layer's first two thirds, which the registry sends before it stands still.
pub(super) fn most_of(layer: &LayerRequest) -> usize {
    layer.size.unwrap() as usize * 2 / 3
}

/// What an agent has of expanded layers.
pub(super) async fn expanded_rows(agent: &Agent) -> Vec<darter_api::BlobRow> {
    let mut rows = agent.list().await.unwrap();
    rows.retain(|row| row.name.contains(" expanded-"));
    rows
}

/// Waits until each agent holds some pieces of the one expanded layer that it has, and says that nobody knows its length.
pub(super) async fn all_hold_some(agents: &[&Agent]) {
    so_many_hold_some(agents, agents.len()).await;
}

/// The same of `count` of them, whichever they are.
pub(super) async fn so_many_hold_some(agents: &[&Agent], count: usize) {
    let held = async {
        loop {
            let mut holders = 0;
            for agent in agents {
                // Three full pieces besides the first, which comes last.
                if let [row] = &expanded_rows(agent).await[..]
                    && row.held >= 3 << 19
                {
                    assert_eq!(row.length, None);
                    holders += 1;
                }
            }
            if holders >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WITHIN, held).await.expect("pieces while the registry stands still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_has_what_the_lead_has_read_of_a_layer_and_opens_it_once_all_of_it_is_right() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    registry.state.lock().blobs_stop_after = Some(most_of(&layer));
    let seed = patient_seed(directory.path(), &registry).await;
    let names = ["one", "two", "three"];
    let nodes = join_all(names.map(async |name| node(directory.path(), name, &registry, &[&seed]).await)).await;
    let reads_all = join_all(nodes.iter().map(|node| read(node, &layer)));
    let goes_on = async {
        all_hold_some(&[&seed, &nodes[0], &nodes[1], &nodes[2]]).await;
        registry.go_on();
    };
    let (got, ()) = tokio::join!(reads_all, goes_on);
    for got in got {
        assert!(got.unwrap() == expanded(&tar));
    }
    assert_eq!(reads(&registry, layer.digest), 1);
    // The seed has read the layer from its registry, so that is proven: the registry is not asked again.
    registry.state.lock().broken = Some(http::StatusCode::INTERNAL_SERVER_ERROR);
    let got = seed.expanded(&layer, Credentials::none(), Access::Granted, WITHIN).await.unwrap();
    assert_eq!(got.length(), Some(expanded(&tar).len() as u64));
    let explained = format!("{:?}", seed.explain(&expanded_rows(&seed).await[0].blob.to_string()).await.unwrap());
    assert!(explained.contains("expanded here"), "{explained}");
    join_all(nodes.iter().chain([&seed]).map(Agent::drain)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_turns_out_wrong_at_its_end_is_opened_nowhere_and_thrown_away_by_all() {
    for is_other_tar in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let tar = some_tar();
        let (registry, right) = registry_with(&tar).await;
        let named = Digest::sha256(b"what the registry says");
        registry.put_blob_as("lab/app", named, &gzip(&tar));
        let layer = match is_other_tar {
            true => LayerRequest { diff_id: Digest::sha256(b"another tar"), ..right.clone() },
            false => LayerRequest { digest: named, ..right.clone() },
        };
        registry.state.lock().blobs_stop_after = Some(most_of(&layer));
        let seed = seed(directory.path(), &registry).await;
        let node = node(directory.path(), "node", &registry, &[&seed]).await;
        let both = join_all([&node, &seed].map(|agent| read(agent, &layer)));
        let goes_on = async {
            all_hold_some(&[&seed, &node]).await;
            registry.go_on();
        };
        let (got, ()) = tokio::join!(both, goes_on);
        for error in got {
            let error = error.map(drop).unwrap_err();
            let told = in_full(&error).to_string();
            let words = if is_other_tar { [right.diff_id, layer.diff_id] } else { [right.digest, named] };
            assert!(words.iter().all(|word| told.contains(&word.to_string())), "{told}");
            assert_eq!(kind(&error) == Some(&ErrorKind::Unmountable), is_other_tar, "{error:?}");
        }
        for agent in [&seed, &node] {
            // The layer that unpacks into another tar is right in itself.
            let rows = agent.list().await.unwrap();
            let is_right = |name: &str| is_other_tar && name.ends_with(&right.digest.to_string());
            assert!(rows.iter().all(|row| is_right(&row.name)), "{rows:?}");
            // It is gone, and what was wrong with it is still told: to whoever asks for the tar that it was to be.
            let told = agent.explain(&layer.diff_id.to_string()).await.unwrap().failed.unwrap();
            assert!(told.contains(&layer.digest.to_string()), "{told}");
        }
        // The right one, of the same name where the tar is, is given all the same.
        assert!(read(&node, &right).await.unwrap() == expanded(&tar));
        join_all([&node, &seed].map(Agent::drain)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_of_a_reading_that_broke_off_keep_nobody_from_the_right_layer() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    let layer = LayerRequest { size: None, ..layer };
    let other: Vec<u8> = tar.iter().map(|byte| byte.reverse_bits()).collect();
    let other = self::tar([file("usr/large", &other)]);
    let wrong = gzip(&other);
    registry.put_blob_as("lab/app", layer.digest, &wrong);
    registry.state.lock().blobs_stop_after = Some(wrong.len() * 5 / 6);
    let seed = seed(directory.path(), &registry).await;
    let breaks_off = async {
        all_hold_some(&[&seed]).await;
        seed.drain().await;
    };
    let (got, ()) = tokio::join!(read(&seed, &layer), breaks_off);
    got.map(drop).unwrap_err();
    drop(seed);
    registry.state.lock().blobs_stop_after = None;
    registry.put_blob("lab/app", &gzip(&tar));
    let again = self::seed(directory.path(), &registry).await;
    assert!(expanded_rows(&again).await[0].held > 0, "wrong bytes are here");
    // The first reader may learn that what was here is thrown away.
    let first = read(&again, &layer).await;
    let second = read(&again, &layer).await.unwrap();
    assert!(second == expanded(&tar), "{:?}", first.map(drop));
    again.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lead_that_is_lost_half_way_is_followed_by_another_one() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    registry.state.lock().blobs_stop_after = Some(most_of(&layer));
    let seed = seed(directory.path(), &registry).await;
    let node = node(directory.path(), "node", &registry, &[&seed]).await;
    let lost = async {
        all_hold_some(&[&seed, &node]).await;
        registry.state.lock().blobs_stop_after = None;
        seed.drain().await;
    };
    let (got, ()) = tokio::join!(read(&node, &layer), lost);
    assert!(got.unwrap() == expanded(&tar));
    // The seed has a part of it, which it goes on with.
    drop(seed);
    let again = self::seed(directory.path(), &registry).await;
    assert!(read(&again, &layer).await.unwrap() == expanded(&tar));
    assert!(reads(&registry, layer.digest) <= 3);
    join_all([&node, &again].map(Agent::drain)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_of_which_nothing_comes_keep_no_other_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let slow = Registry::start().await;
    slow.state.lock().blobs_stop_after = Some(100_000);
    let stand_still: Vec<LayerRequest> = (0..3)
        .map(|number| {
            let tar = tar([file("number", [number; 1]), file("usr/large", some_tar())]);
            let stored = gzip(&tar);
            request(&slow, slow.put_blob("lab/app", &stored), stored.len(), &tar)
        })
        .collect();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    let trusted_registries = vec![slow.name()];
    let options = Options { role: Role::Seed, trusted_registries, ..options(directory.path(), "seed", &registry) };
    let seed = darter_gateway::start(options).await.unwrap();
    let waits = join_all(stand_still.iter().map(|layer| read(&seed, layer)));
    let comes = async {
        while slow.asked().iter().filter(|line| line.starts_with("GET")).count() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // All of them have been sent what is sent of them.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let got = tokio::time::timeout(WITHIN, read(&seed, &layer)).await;
        assert!(got.expect("it waits for the others").unwrap() == expanded(&tar));
        slow.go_on();
    };
    let (waited, ()) = tokio::join!(waits, comes);
    assert!(waited.iter().all(Result::is_ok), "{waited:?}");
    seed.drain().await;
}

/// A seed that reads a registry by one connection, which is waited for while it stands still.
async fn patient_seed(directory: &Path, registry: &Registry) -> Agent {
    let options = Options { role: Role::Seed, origin_connections: 1, ..options(directory, "seed", registry) };
    darter_gateway::start(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_of_a_layer_and_its_expanded_form_share_one_reading_whichever_begins() {
    let tar = some_tar();
    for pull_is_first in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let (registry, layer) = registry_with(&tar).await;
        registry.state.lock().blobs_stop_after = Some(most_of(&layer));
        let seed = patient_seed(directory.path(), &registry).await;
        let node = node(directory.path(), "node", &registry, &[&seed]).await;
        let is_begun = async |is_expanded: bool| {
            let holds_some = async || {
                let rows = seed.list().await.unwrap();
                rows.iter().any(|row| row.name.contains(" expanded-") == is_expanded && row.held >= 1 << 20)
            };
            while !holds_some().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let path = format!("/v2/lab/app/blobs/{}", layer.digest);
        let expands = async {
            if pull_is_first {
                is_begun(false).await;
            }
            read(&seed, &layer).await.unwrap()
        };
        let pulls = async {
            if !pull_is_first {
                is_begun(true).await;
            }
            get(&node, &path).await
        };
        let goes_on = async {
            is_begun(pull_is_first).await;
            is_begun(!pull_is_first).await;
            // The pull is given what the other has read, while the registry stands still.
            while node.list().await.unwrap().iter().all(|row| row.held < 1 << 20) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            registry.go_on();
        };
        let all = async { tokio::join!(expands, pulls, goes_on) };
        let (expanded_file, pulled, ()) = tokio::time::timeout(WITHIN, all).await.expect("both go on with one reading");
        assert!(expanded_file == expanded(&tar) && pulled.body == gzip(&tar), "{pull_is_first}");
        assert_eq!(seed.metrics().origin_bytes.get(), layer.size.unwrap(), "read once, {pull_is_first}");
        assert_eq!(reads(&registry, layer.digest), 1);
        // What the agent reads for the expanded form it gives to no program.
        let given = |agent: &Agent| agent.metrics().local_served_bytes.get();
        assert_eq!((given(&seed), given(&node)), (expanded_file.len() as u64, layer.size.unwrap()));
        join_all([&node, &seed].map(Agent::drain)).await;
    }
}

/// Time that goes on as the system's, and jumps when it is told to.
#[derive(Clone)]
struct Jumping(Arc<AtomicU64>, SystemClock);

impl Clock for Jumping {
    fn now(&self) -> Moment {
        self.1.now() + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn unix(&self) -> u64 {
        self.1.unix()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_came_for_the_expanded_form_alone_goes_after_a_while_and_one_that_was_pulled_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = registry_with(&some_tar()).await;
    let other_tar = tar([file("usr/large", [some_tar(), vec![7; 9]].concat())]);
    let stored = gzip(&other_tar);
    let pulled = request(&registry, registry.put_blob("lab/app", &stored), stored.len(), &other_tar);
    let clock = Jumping(Arc::default(), SystemClock::start());
    let options = Options { role: Role::Seed, ..options(directory.path(), "seed", &registry) };
    let seed = Agent::builder(options).clock(clock.clone()).start().await.unwrap();
    for layer in [&layer, &pulled] {
        read(&seed, layer).await.unwrap();
    }
    let of = |layer: &LayerRequest| Source::Registry {
        registry: format!("http://{}/", registry.name()).parse().unwrap(),
        repository: layer.repository.clone(),
        digest: layer.digest,
    };
    seed.open(of(&pulled), Credentials::none()).await.unwrap();
    let names = async || {
        let rows = seed.list().await.unwrap();
        let mut names: Vec<_> = rows.into_iter().map(|row| row.name).collect();
        names.sort();
        names
    };
    assert_eq!(names().await.len(), 4, "{:?}", names().await);
    clock.0.store(601, Ordering::Relaxed);
    let goes = async {
        while names().await.len() > 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(WITHIN, goes).await.expect("the copy is taken back");
    let left = names().await;
    assert!(!left.contains(&of(&layer).to_string()) && left.contains(&of(&pulled).to_string()), "{left:?}");
    assert!(read(&seed, &layer).await.unwrap() == expanded(&some_tar()), "its expanded form stays");
    seed.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_waits_for_a_layer_no_more_fetches_nothing_of_it_and_goes_on_when_it_is_wanted_again() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    registry.state.lock().blobs_stop_after = Some(most_of(&layer));
    let seed = patient_seed(directory.path(), &registry).await;
    let node = node(directory.path(), "node", &registry, &[&seed]).await;
    let waits = node.expanded(&layer, Credentials::none(), Access::Asked, WITHIN);
    let alone = [&node];
    tokio::select! {
        opened = waits => panic!("the registry stands still: {:?}", opened.map(drop)),
        () = all_hold_some(&alone) => {}
    }
    node.let_go_of_layers(&[layer.diff_id]);
    let held = expanded_rows(&node).await[0].held;
    registry.go_on();
    let is_whole = async {
        while !expanded_rows(&seed).await[0].complete {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WITHIN, is_whole).await.expect("the seed expands it all the same");
    // Whoever still fetched it would have it by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let row = &expanded_rows(&node).await[0];
    assert!(row.held < expanded(&tar).len() as u64 && !row.complete, "{held} bytes were here: {row:?}");
    assert!(read(&node, &layer).await.unwrap() == expanded(&tar));
    assert_eq!(reads(&registry, layer.digest), 1);
    join_all([&node, &seed].map(Agent::drain)).await;
}
