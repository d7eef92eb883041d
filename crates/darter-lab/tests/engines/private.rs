//! A private repository: what one caller's credentials brought is given to no other caller without credentials of their own.

use anyhow::{Context, Result, ensure};
use darter_lab::cluster::LOCAL;
use darter_lab::engine::{Containerd, PULL_PATIENCE, Route};
use darter_lab::oci::digest_of;
use darter_lab::registry::{NAME, PASSWORD, USER};
use darter_lab::{Agent, Host, Registry};

use crate::world::{World, ensure_held};

pub(crate) fn a_private_blob_needs_credentials(world: &World) -> Result<()> {
    let [origin, seed_host, one, two] = world.hosts(["registry", "seed", "node-1", "node-2"], "500mbit")?;
    let registry = Registry::private(&origin, world.shelf.storage())?;
    let _seed = Agent::seed(&seed_host, &registry.url())?;
    let _first = Agent::node(&one, &registry.url(), &seed_host)?;
    let _second = Agent::node(&two, &registry.url(), &seed_host)?;
    let image = &world.shelf.tools;
    let route = Route::mirrored(registry.authority()).with_login(USER, PASSWORD);
    let containerd = Containerd::start(&one, &route)?;
    containerd.fetch(&image.reference(NAME))?.finish(PULL_PATIENCE)?;
    ensure_held(&containerd, image)?;

    let layer = &image.layers[1];
    let blob = format!("http://{LOCAL}/v2/{}/blobs/{}?ns={NAME}", image.repository(), layer.digest);
    let manifest = format!("http://{LOCAL}/v2/{}/manifests/{}?ns={NAME}", image.repository(), image.manifest);
    let right = format!("{USER}:{PASSWORD}");
    // The node that holds the blob, and one that could get it from its peers.
    for host in [&one, &two] {
        for url in [&blob, &manifest] {
            for login in [None, Some("alice:guessed"), Some("mallory:open-sesame")] {
                let answer = ask(host, url, login)?;
                ensure!(answer.status == 401, "{} answered {login:?} with {}", host.name(), answer.status);
                ensure!(answer.bytes < 1024, "{} gave {login:?} {} bytes", host.name(), answer.bytes);
            }
        }
        let answer = ask(host, &blob, Some(&right))?;
        ensure!(answer.status == 200, "{} answered the right credentials with {}", host.name(), answer.status);
        ensure!(digest_of(&host.directory().join("answer"))? == layer.digest, "{} gave wrong bytes", host.name());
    }
    Ok(())
}

struct Answer {
    status: u16,
    bytes: u64,
}

/// Asks a host's own mirror; the body goes to the file `answer`.
fn ask(host: &Host, url: &str, login: Option<&str>) -> Result<Answer> {
    let mut curl = host.command("curl");
    curl.args(["--silent", "--show-error", "--write-out", "%{http_code} %{size_download}", "--output"]);
    curl.arg(host.directory().join("answer"));
    if let Some(login) = login {
        curl.args(["--user", login]);
    }
    let said = host.run("curl", curl.arg(url), PULL_PATIENCE)?;
    let (status, bytes) = said.split_once(' ').context("curl tells status and size")?;
    Ok(Answer { status: status.parse()?, bytes: bytes.trim().parse()? })
}
