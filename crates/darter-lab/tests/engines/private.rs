//! A private repository: what one caller's credentials brought is given to no other caller without credentials of their own.

use std::fs;

use anyhow::{Context, Result, ensure};
use darter_lab::cluster::LOCAL;
use darter_lab::engine::{Containerd, PULL_TIMEOUT, Podman, Route, Skopeo, ensure_copied};
use darter_lab::oci::digest_of;
use darter_lab::process::Process;
use darter_lab::registry::{NAME, PASSWORD, USER};
use darter_lab::{Agent, Host, Registry};
use serde_json::json;

use crate::world::{World, ensure_held, sizes};

pub(crate) fn a_private_blob_needs_credentials(world: &World) -> Result<()> {
    let [origin, seed_host, one, two] = world.hosts(["registry", "seed", "node-1", "node-2"], "500mbit")?;
    let registry = Registry::private(&origin, world.shelf.storage())?;
    let _seed = Agent::seed(&seed_host, &registry.url())?;
    let _first = Agent::node(&one, &registry.url(), &seed_host)?;
    let _second = Agent::node(&two, &registry.url(), &seed_host)?;
    let image = &world.shelf.tools;
    let route = Route::mirrored(registry.authority()).with_login(USER, PASSWORD);
    let containerd = Containerd::start(&one, &route)?;
    containerd.fetch(&image.reference(NAME))?.finish(PULL_TIMEOUT)?;
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

pub(crate) fn logins_for_the_mirror_open_what_is_private(world: &World) -> Result<()> {
    let [origin, seed_host, one, two] = world.hosts(["registry", "seed", "node-1", "node-2"], "500mbit")?;
    let registry = Registry::private(&origin, world.shelf.storage())?;
    let _seed = Agent::seed(&seed_host, &registry.url())?;
    let _first = Agent::node_with(&one, &registry.url(), &seed_host, &["--ask-login"])?;
    let _second = Agent::node_with(&two, &registry.url(), &seed_host, &["--ask-login"])?;
    let image = &world.shelf.tools;
    let reference = image.reference(NAME);
    let stranger = Route::mirrored(registry.authority());
    let user = stranger.clone().with_login(USER, PASSWORD);

    // Both are logged in to the mirror alone: what they get, they get through it.
    let skopeo = Skopeo::configure(&one, &user)?;
    skopeo.copy(&reference, "copy")?.finish(PULL_TIMEOUT)?;
    ensure_copied(&skopeo.directory("copy")?, &image.manifest, &image.blobs())?;
    let podman = Podman::configure(&two, &user)?;
    podman.pull(&reference)?.finish(PULL_TIMEOUT)?;
    let diffs: Vec<_> = image.layers.iter().map(|layer| layer.diff).collect();
    let inspected = podman.inspect(&reference)?;
    ensure!(inspected["RootFS"]["Layers"] == json!(diffs), "podman's layers are {}", inspected["RootFS"]);
    registry.ensure_read_once(sizes(image)).context("the registry's own log")?;

    // The same hosts, whose agents hold all of it by now.
    let skopeo = Skopeo::configure(&one, &stranger)?;
    ensure_refused(skopeo.copy(&reference, "stolen")?)?;
    let stolen: Vec<_> = fs::read_dir(skopeo.directory("stolen")?)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(stolen.iter().all(|name| name == "version"), "skopeo has {stolen:?} without a login");
    ensure_refused(Podman::configure(&two, &stranger)?.pull(&reference)?)
}

/// An error unless a pull fails because the mirror wants a login, whatever the registry says after that.
fn ensure_refused(mut pull: Process) -> Result<()> {
    let status = pull.wait(PULL_TIMEOUT)?;
    let said = pull.tail();
    let by_mirror = said.split_once(LOCAL).and_then(|(_, rest)| rest.split(']').next()).unwrap_or_default();
    ensure!(!status.success() && by_mirror.contains("unauthorized"), "ended with {status}:\n{said}");
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
    let said = host.run("curl", curl.arg(url), PULL_TIMEOUT)?;
    let (status, bytes) = said.split_once(' ').context("curl tells status and size")?;
    Ok(Answer { status: status.parse()?, bytes: bytes.trim().parse()? })
}
