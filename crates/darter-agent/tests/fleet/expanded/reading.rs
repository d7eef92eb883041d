//! A layer while its lead reads it: copies that rotted, streams that stand still or turn out wrong, leads that are lost.

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

/// Waits until each agent holds some pieces of the one blob that it has, and says that nobody knows its length.
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
                if let [row] = &agent.list().await.unwrap()[..]
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
    let seed = seed(directory.path(), &registry).await;
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
    let explained = format!("{:?}", seed.explain(&seed.list().await.unwrap()[0].blob.to_string()).await.unwrap());
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
            assert!(agent.list().await.unwrap().is_empty(), "{:?}", agent.list().await);
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
    assert!(again.list().await.unwrap()[0].held > 0, "wrong bytes are here");
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
