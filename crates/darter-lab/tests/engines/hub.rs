//! Docker Hub: the registry that most images come from, and the only one for which the Docker engine asks its mirrors.

use anyhow::{Context, Result, ensure};
use darter_lab::cluster::PEER_PORT;
use darter_lab::engine::{Containerd, Docker, PULL_TIMEOUT, Route};
use darter_lab::hub::NAME;
use darter_lab::{Agent, Hub};
use serde_json::json;

use crate::world::{Came, World, ensure_held, sizes};

/// Docker knows no way round its mirror here, since Docker Hub itself is out of reach: what it pulls, it pulls through Darter.
/// Every token answer holds the token under both names (krustlet#495, AllexVeldman/pyoci#321).
pub(crate) fn docker_and_containerd_pull(world: &World) -> Result<()> {
    let [origin, seed, one, two] = world.hosts(["hub", "seed", "node-1", "node-2"], "500mbit")?;
    let hub = Hub::start(&origin, world.shelf.storage())?;
    let upstream = format!("{NAME}={}", hub.url());
    let join = format!("{}:{PEER_PORT}", seed.address());
    let _seed = Agent::custom(&seed, &["seed", "--upstream", &upstream])?;
    let node = ["node", "--join", &join, "--upstream", &upstream, "--default-upstream", NAME];
    let docker_agent = Agent::custom(&one, &node)?;
    let containerd_agent = Agent::custom(&two, &node)?;
    let docker = Docker::start(&one)?;
    let containerd = Containerd::start(&two, &Route::mirrored(hub.authority()).named(NAME))?;

    let image = &world.shelf.tools;
    let short = image.name.strip_prefix("library/").context("an official image")?;
    let mut pulls = [docker.pull(short)?, containerd.fetch(&image.reference(NAME))?];
    for pull in &mut pulls {
        pull.finish(PULL_TIMEOUT)?;
    }
    hub.registry.ensure_read_once(sizes(image)).context("the registry's own log")?;
    ensure_held(&containerd, image)?;
    let diffs: Vec<_> = image.layers.iter().map(|layer| layer.diff).collect();
    let inspected = docker.inspect(short)?;
    ensure!(inspected["RootFS"]["Layers"] == json!(diffs), "Docker's layers are {}", inspected["RootFS"]);
    let said = docker.run(short, &["python3", "-c", "print(6 * 7)"])?;
    ensure!(said.trim() == "42", "the container said {said:?}");
    for agent in [&docker_agent, &containerd_agent] {
        let came = Came::to(agent)?;
        ensure!(came.from_origin < image.size() / 100, "{} read the hub itself: {came:?}", agent.host().name());
    }
    let log = hub.access_log()?;
    ensure!(log.requests.iter().any(|request| request.target.starts_with("/token")), "nobody asked for a token");
    Ok(())
}
