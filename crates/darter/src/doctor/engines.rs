//! Judges whether Docker and Podman ask the mirror. No I/O.

use super::facts::{Docker, Podman};
use super::findings::{Finding, Findings};
use crate::setup::document::{Document, Node};

pub(super) fn docker(facts: &Docker, mirror: &str) -> Vec<Finding> {
    let mut found = Findings::about("Docker");
    if !facts.installed {
        return found.found;
    }
    let file = "/etc/docker/daemon.json";
    let wanted = format!(
        "\"registry-mirrors\": [\"{mirror}\"] in {file}, systemctl reload docker, and darter … --default-upstream docker.io"
    );
    let parsed = serde_json::from_str::<serde_json::Value>(facts.text.as_deref().unwrap_or("{}"));
    let Ok(settings) = parsed else {
        found.problem("mirrors", format!("{file} is not JSON: Docker does not start with it"), "correct the file");
        return found.found;
    };
    let mirrors: Vec<_> =
        settings["registry-mirrors"].as_array().into_iter().flatten().filter_map(|it| it.as_str()).collect();
    let same = |url: &&str| url.trim_end_matches('/') == mirror;
    match mirrors.iter().position(same) {
        Some(0) => found.ok(
            "mirrors",
            "the mirror is asked first for images of Docker Hub (Docker has mirrors for no other registry)",
        ),
        Some(_) => {
            found.warning("mirrors", format!("{file}: another mirror is asked before Darter's"), "put Darter's first");
        }
        None => found.warning("mirrors", "Docker asks Docker Hub without the mirror", wanted),
    }
    found.found
}

pub(super) fn podman(facts: &Podman, mirror: &str) -> Vec<Finding> {
    let mut found = Findings::about("Podman, CRI-O, skopeo");
    if !facts.installed {
        return found.found;
    }
    let host = mirror.trim_start_matches("http://");
    let (mut mirrored, mut secure) = (Vec::new(), Vec::new());
    for (path, text) in &facts.files {
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(wrong) => {
                let text = format!("{}: {wrong}: no images can be pulled", path.display());
                found.problem("registries.conf", text, "correct the file");
                continue;
            }
        };
        for registry in document.get(&["registry"]).map(Node::items).unwrap_or_default() {
            let name = ["prefix", "location"].iter().find_map(|key| registry.get(key)?.text()).unwrap_or_default();
            let is_ours = |mirror: &&Node| {
                let location = mirror.get("location").and_then(Node::text).unwrap_or_default();
                location.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let Some(mirror) = registry.get("mirror").map(Node::items).unwrap_or_default().iter().find(is_ours) else {
                continue;
            };
            mirrored.push(name.to_owned());
            if !mirror.get("insecure").is_some_and(Node::is_true) {
                secure.push(format!("{}:{}", path.display(), document.line(mirror.at.start)));
            }
        }
    }
    if mirrored.is_empty() {
        found.warning(
            "registries.conf",
            "no registry has the mirror in registries.conf: the mirror is not used",
            format!("[[registry]] location = \"NAME\", [[registry.mirror]] location = \"{host}/NAME\", insecure = true (README)"),
        );
    } else {
        found.ok("registries.conf", format!("the mirror is asked first for {}", mirrored.join(", ")));
    }
    if !secure.is_empty() {
        found.warning(
            "registries.conf",
            format!(
                "{}: Podman expects TLS from the mirror, which uses plain HTTP: the mirror is skipped",
                secure.join(", ")
            ),
            "set insecure = true in [[registry.mirror]]",
        );
    }
    found.found
}
