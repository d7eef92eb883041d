//! Nodes before one registry while no seed is there: one of them asks for all, and its own login opens nothing to the others.

use super::*;

/// Nodes without a seed that know each other.
async fn start_nodes_alone(options: Vec<Options>) -> Vec<Agent> {
    let mut nodes: Vec<Agent> = Vec::new();
    for options in options {
        let join = nodes.first().map(|first| first.status().listen.unwrap()).into_iter().collect();
        nodes.push(darter_gateway::start(Options { join, ..options }).await.unwrap());
    }
    know_each_other(&nodes).await;
    nodes
}

async fn know_each_other(nodes: &[Agent]) {
    let known = async {
        while nodes.iter().any(|node| node.status().peers.len() < nodes.len() - 1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), known).await.is_err() {
        let peers: Vec<_> = nodes.iter().map(|node| node.status().peers.len()).collect();
        panic!("they come to know each other: {peers:?}");
    }
}

fn many(directory: &Path, registry: &Registry) -> Vec<Options> {
    (0..NODES).map(|n| options(directory, &n.to_string(), registry)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_nodes_without_any_seed_cost_the_registry_what_one_costs() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, blobs) = put_image(&registry);
    let nodes = start_nodes_alone(many(directory.path(), &registry)).await;
    join_all(nodes.iter().map(|node| pull(node, image, &blobs))).await;
    let asked = read_of(&registry);
    assert_eq!(asked, once(image, blobs));
    for path in ["/v2/lab/app/tags/list", "/v2/lab/app/manifests/none"] {
        let got = join_all(nodes.iter().map(|node| get(node, path))).await;
        assert!(got.windows(2).all(|two| (two[0].status, &two[0].body) == (two[1].status, &two[1].body)), "{path}");
        assert_eq!(registry.asked(), [format!("GET {path}")]);
    }
    registry.state.lock().broken = Some(StatusCode::TOO_MANY_REQUESTS);
    for got in join_all(nodes.iter().map(|node| get(node, "/v2/lab/app/manifests/2"))).await {
        assert_eq!((got.status.as_u16(), got.headers["retry-after"].to_str().unwrap()), (429, "7"));
    }
    assert_eq!(registry.asked().len(), 1, "no host asks again for itself what asks to be left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_seed_died_one_node_asks_the_registry_for_all_and_another_one_when_that_is_gone() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    put_image(&registry);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    let mut nodes = start_nodes(directory.path(), &registry, &seed).await;
    let joined = async {
        while seed.status().peers.len() < NODES {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), joined).await.expect("all have joined the seed");
    seed.drain().await;
    drop(seed);
    know_each_other(&nodes).await;
    join_all(nodes.iter().map(|node| get(node, TAG))).await;
    assert_eq!(registry.asked(), [format!("GET {TAG}")]);
    // The node that asked is among those that go.
    for gone in nodes.split_off(2) {
        gone.drain().await;
    }
    for path in ["/v2/lab/app/tags/list", "/v2/lab/other/tags/list", "/v2/lab/third/tags/list"] {
        let got = join_all(nodes.iter().map(|node| get(node, path))).await;
        assert!(got[0].status == got[1].status, "{path}");
        assert_eq!(registry.asked(), [format!("GET {path}")]);
    }
}

/// harbor#13566, without a seed: whoever asks next may be the one that is to ask for all, and has never pulled.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_seed_a_node_that_never_pulled_gets_what_another_one_holds_while_the_registry_is_away() {
    for private in [false, true] {
        let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
        // Enough for one of the others to be the one to ask about some of them.
        let images = (0..6_u8).map(|n| {
            let repository = format!("/v2/lab/{n}");
            let (image, [_, layer]) = registry.put_image(&repository["/v2/".len()..], Some("1"), &vec![n; 300_000]);
            [
                format!("{repository}/manifests/1"),
                format!("{repository}/manifests/{image}"),
                format!("{repository}/blobs/{layer}"),
            ]
        });
        let paths: Vec<_> = images.flatten().collect();
        let mut options = many(directory.path(), &registry);
        options.truncate(3);
        if private {
            (0..6).for_each(|n| registry.allow(ALICES_TOKEN, &format!("lab/{n}")));
            registry.state.lock().realm = Some(format!("http://{}/token", registry.address));
            let (username, password) = ("alice".to_owned(), "secret".to_owned());
            options[0].logins.push(LoginOption { registry: registry.name(), username, password });
        }
        let first = start_nodes_alone(vec![options.remove(0)]).await.remove(0);
        for path in &paths {
            assert_eq!(get(&first, path).await.status, 200, "{path}");
        }
        // It knew nobody, and was asked by nobody.
        let join = vec![first.status().listen.unwrap()];
        let mut nodes = vec![first];
        for options in options {
            nodes.push(darter_gateway::start(Options { join: join.clone(), ..options }).await.unwrap());
        }
        know_each_other(&nodes).await;
        registry.stop().await;
        for (node, path) in nodes[1..].iter().flat_map(|node| paths.iter().map(move |path| (node, path))) {
            // Content that its own login opened is its own host's.
            assert_eq!(get(node, path).await.status == 200, !private, "{path}");
        }
    }
}

/// A node's configuration is for its own host, whichever node the others name.
#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_own_login_opens_nothing_to_other_nodes() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, blobs) = put_image(&registry);
    let (_, others) = registry.put_image("lab/other", Some("1"), &[8; 300_000]);
    registry.allow(ALICES_TOKEN, "lab/app");
    registry.allow(ALICES_TOKEN, "lab/other");
    registry.state.lock().realm = Some(format!("http://{}/token", registry.address));
    let mut options = many(directory.path(), &registry);
    options[1..].iter_mut().for_each(|options| options.logins.push(alices(&registry, "secret")));
    // The one that has none comes first or last in the order of each repository, or between.
    let nodes = start_nodes_alone(options).await;
    for (repository, layer) in [("lab/app", blobs[1]), ("lab/other", others[1])] {
        for path in [format!("/v2/{repository}/manifests/1"), format!("/v2/{repository}/blobs/{layer}")] {
            assert_eq!(get(&nodes[1], &path).await.status, 200, "{path}");
            assert_eq!(get(&nodes[0], &path).await.status, 401, "{path}");
        }
    }
    pull(&nodes[2], image, &blobs).await;
    // A caller's credentials count wherever it is asked.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}{TAG}", nodes[0].status().local.unwrap());
    assert_eq!(client.get(url).header("authorization", ALICE).send().await.unwrap().status(), 200);
}

fn alices(registry: &Registry, password: &str) -> LoginOption {
    let (username, password) = ("alice".to_owned(), password.to_owned());
    LoginOption { registry: registry.name(), username, password }
}

/// How often bytes were asked for with this `Authorization`, since the last call of `asked`.
fn times_given(registry: &Registry, authorization: &str, path_part: &str) -> usize {
    let state = registry.state.lock();
    let given = |seen: &Seen| seen.headers.get("authorization").is_some_and(|value| value == authorization);
    let gets = state.seen.iter().filter(|seen| seen.line.starts_with("GET "));
    gets.filter(|seen| seen.line.contains(path_part) && given(seen)).count()
}

/// As where all hosts are configured alike.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_the_same_login_ask_the_registry_once_and_one_with_another_login_asks_for_itself() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, blobs) = put_image(&registry);
    registry.allow(ALICES_TOKEN, "lab/app");
    registry.state.lock().realm = Some(format!("http://{}/token", registry.address));
    let mut options = many(directory.path(), &registry);
    options[0].logins.push(alices(&registry, "guess"));
    options[1..].iter_mut().for_each(|options| options.logins.push(alices(&registry, "secret")));
    let nodes = start_nodes_alone(options).await;
    join_all(nodes[1..].iter().map(|node| pull(node, image, &blobs))).await;
    assert_eq!(times_given(&registry, ALICES_TOKEN, &format!("manifests/{image}")), 1);
    // A tag is asked for anew by those who come three seconds later.
    assert!(times_given(&registry, ALICES_TOKEN, TAG) <= 3);
    for blob in blobs {
        assert_eq!(times_given(&registry, ALICES_TOKEN, &blob.to_string()), 1);
    }
    // The one that asks for the manifests; another one of them may have been chosen for each blob.
    let tokens = registry.state.lock().tokens.iter().filter(|login| *login == ALICE).count();
    assert!(tokens <= 3, "{tokens}");
    registry.asked();
    let none = "/v2/lab/app/manifests/none";
    let got = join_all(nodes[1..].iter().map(|node| get(node, none))).await;
    assert!(got.iter().all(|got| got.status == 404));
    assert_eq!(registry.asked(), [format!("GET {none}")]);
    for path in [TAG.to_owned(), format!("/v2/lab/app/blobs/{}", blobs[1])] {
        assert_eq!(get(&nodes[0], &path).await.status, 401, "{path}");
    }
}

/// The node that is to read a blob for all may be the one host whose login was never set, or has expired. It was every host's own reading
/// then.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_by_the_registry_leaves_a_blob_to_the_next_that_is_not() {
    for (refused, its_token) in [(Some("guess"), "Bearer YWxpY2U6Z3Vlc3M="), (None, "Bearer nobody")] {
        let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
        registry.allow(ALICES_TOKEN, "lab/app");
        registry.state.lock().realm = Some(format!("http://{}/token", registry.address));
        let mut options = many(directory.path(), &registry);
        options[0].logins.extend(refused.map(|password| alices(&registry, password)));
        options[1..].iter_mut().for_each(|options| options.logins.push(alices(&registry, "secret")));
        let nodes = start_nodes_alone(options).await;
        let ids: Vec<_> = nodes.iter().map(|node| node.status().node).collect();
        let (image, blobs) = (0_u32..)
            .map(|n| registry.put_image("lab/app", Some("1"), &n.to_le_bytes().repeat(70_000)))
            .find(|(_, [_, layer])| {
                let registry = format!("http://{}/", registry.address).parse().unwrap();
                let source = Source::Registry { registry, repository: "lab/app".to_owned(), digest: *layer };
                rendezvous::owner(&source.record_key(&Credentials::none()).0, &ids) == Some(ids[0])
            })
            .unwrap();
        join_all(nodes[1..].iter().map(|node| pull(node, image, &blobs))).await;
        let layer = blobs[1].to_string();
        assert!(times_given(&registry, its_token, &layer) > 0, "it was asked first: {refused:?}");
        assert_eq!(times_given(&registry, ALICES_TOKEN, &layer), 1, "{refused:?}");
        assert_eq!(get(&nodes[0], &format!("/v2/lab/app/blobs/{layer}")).await.status, 401, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_seed_a_node_asks_the_registry_itself() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, blobs) = put_image(&registry);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    let nodes = start_nodes(directory.path(), &registry, &seed).await;
    seed.drain().await;
    drop(seed);
    pull(&nodes[0], image, &blobs).await;
}
