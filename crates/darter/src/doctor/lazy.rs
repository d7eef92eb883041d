//! Judges whether containerd mounts layers before they are downloaded, and which settings silently prevent that. No I/O.

use super::facts::{Containerd, Kernel};
use super::findings::{Finding, Findings};
use super::{erofs, proxy};
use crate::setup::containerd::{Config, EROFS, IMAGES, Part, TRANSFER};
use crate::setup::document::{Node, Value};
use crate::setup::lazy::{FIRST, differ_of};

const AREA: &str = "lazy start";
const SET_UP: &str = "darter setup containerd --lazy";
const DIFFER: &str = "io.containerd.differ.v1.erofs";

/// How many downloads CRI runs at a time by default.
const DEFAULT_DOWNLOADS: i64 = 3;
/// Settings of CRI that the transfer service does not support: if one of them is set, CRI pulls without that service.
const LOCAL: [(Part, &str); 7] = [
    (Part::Images, "use_local_image_pull"),
    (Part::Images, "discard_unpacked_layers"),
    (Part::Images, "disable_snapshot_annotations"),
    (Part::Images, "max_concurrent_downloads"),
    (Part::Images, "image_pull_with_sync_fs"),
    (Part::Registry, "configs"),
    (Part::Registry, "auths"),
];

/// The directories in which containerd looks for layers.
pub(super) fn caches(config: &Config) -> Vec<String> {
    let found = config.setting(Part::Erofs, "layer_content_caches");
    let items = found.map(|found| found.node.items().to_vec()).unwrap_or_default();
    items.iter().filter_map(Node::text).map(str::to_owned).collect()
}

pub(super) fn start(facts: &Containerd, kernel: &Kernel) -> Vec<Finding> {
    let Ok((config, _)) = &facts.configuration else { return Vec::new() };
    if !facts.installed {
        return Vec::new();
    }
    let mut found = Findings::about(AREA);
    match facts.release {
        Some(release) if release >= FIRST => {}
        Some(_) => {
            proxy::start(&mut found, facts, config, kernel);
            return found.found;
        }
        None => return Vec::new(),
    }
    let caches = caches(config);
    if caches.is_empty() {
        found.warning(
            "directory",
            "layer_content_caches names no directory: images are downloaded before they start",
            SET_UP,
        );
        return found.found;
    }
    found.found.extend(erofs::of_kernel(kernel));
    directories(&mut found, &caches, &facts.missing);
    used(&mut found, config);
    unpacking(&mut found, config, facts.mkfs);
    found.found.extend(of_mkfs(facts.mkfs));
    switched_off(&mut found, config);
    found.ok("by hand", "ctr images pull --snapshotter erofs starts lazily; with --local it downloads everything");
    found.found
}

/// Judges whether layers that Darter does not show can be converted.
pub(super) fn of_mkfs(mkfs: Option<bool>) -> Vec<Finding> {
    let mut found = Findings::about(AREA);
    let todo = "install erofs-utils 1.7 or later (Debian 12 has 1.5)";
    match mkfs {
        Some(true) => found.ok("mkfs.erofs", "mkfs.erofs converts layers that Darter does not show"),
        Some(false) => found.warning(
            "mkfs.erofs",
            "this mkfs.erofs can't read tars: images with a layer that Darter does not show can't be pulled",
            todo,
        ),
        None => found.warning(
            "mkfs.erofs",
            "there is no mkfs.erofs: images with a layer that Darter does not show can't be pulled",
            todo,
        ),
    }
    found.found
}

fn directories(found: &mut Findings, caches: &[String], missing: &[String]) {
    if let Some(relative) = caches.iter().find(|path| !path.starts_with('/')) {
        found.problem("directory", format!("layer_content_caches: {relative:?} is not an absolute path"), SET_UP);
    }
    let there: Vec<_> = caches.iter().filter(|path| !missing.contains(path)).map(String::as_str).collect();
    if there.is_empty() {
        found.warning(
            "directory",
            format!("{} is not there: until it is, images are downloaded before they start", missing.join(", ")),
            "the daemon shows layers there: is it running, and is this the directory of its --lazy-dir?",
        );
    } else {
        found.ok("directory", format!("layers are looked for in {}", there.join(", ")));
    }
}

/// Judges whether pods use the snapshotter.
fn used(found: &mut Findings, config: &Config) {
    let is_erofs = |node: &Node| node.get("snapshotter").and_then(Node::text) == Some("erofs");
    let all = config.setting(Part::Images, "snapshotter").is_some_and(|it| it.node.text() == Some("erofs"));
    let tables = config.tables(Part::Runtimes);
    let handlers: Vec<_> = tables
        .iter()
        .flat_map(|table| table.node.entries())
        .filter(|(_, runtime)| is_erofs(runtime))
        .map(|(name, _)| name)
        .collect();
    match (all, handlers.is_empty()) {
        (true, _) => found.ok("snapshotter", "pods use the erofs snapshotter"),
        (false, false) => found.ok(
            "snapshotter",
            format!("pods of these runtime handlers use the erofs snapshotter: {}", handlers.join(", ")),
        ),
        (false, true) => found.warning(
            "snapshotter",
            "neither CRI nor any runtime handler uses the erofs snapshotter: only clients that ask for it start lazily",
            format!("{SET_UP}, for one runtime class with --runtime-handler NAME"),
        ),
    }
}

/// Judges the entries of unpack_config. Without both of them, the transfer service or CRI may not start, or refuse pulls.
fn unpacking(found: &mut Findings, config: &Config, mkfs: Option<bool>) {
    let tables = config.tables(Part::Transfer);
    let entries: Vec<_> =
        tables.iter().filter_map(|table| table.node.get("unpack_config")).flat_map(Node::items).collect();
    let by = |differ: &str| entries.iter().find(|entry| differ_of(entry) == Some(differ));
    match (by("erofs"), by("walking")) {
        (Some(_), Some(_)) => found.ok("unpack_config", "both entries of unpack_config are there"),
        (Some(_), None) if mkfs == Some(true) => found.warning(
            "unpack_config",
            "the entry of unpack_config with differ walking is missing: without mkfs.erofs, pulls are refused",
            SET_UP,
        ),
        (None, Some(_)) => {
            found.warning("unpack_config", "the entry of unpack_config with differ erofs is missing: layers that Darter does not show are unpacked slowly", SET_UP);
        }
        _ => found.problem(
            "unpack_config",
            "unpack_config has no entry for the erofs snapshotter that works here: pulls with it are refused (\"no unpack platforms defined\")",
            SET_UP,
        ),
    }
}

/// Reports settings that make containerd download everything first although the rest is configured.
fn switched_off(found: &mut Findings, config: &Config) {
    for (key, bad, why) in [
        ("enable_fsverity", Some(true), "the erofs snapshotter does not start with it and layer_content_caches"),
        ("set_immutable", Some(true), "the erofs snapshotter does not start with it and layer_content_caches"),
    ] {
        let set = config.setting(Part::Erofs, key).filter(|it| Some(it.node.is_true()) == bad);
        if let Some(it) = set {
            found.problem("switched off", format!("{}: {key}: {why}", it.place()), format!("remove {key}"));
        }
    }
    let mode = config.setting(Part::Erofs, "dmverity_mode").filter(|it| it.node.text() == Some("on"));
    if let Some(it) = mode {
        found.problem(
            "switched off",
            format!(
                "{}: dmverity_mode = \"on\" refuses layers without a dm-verity tree, and Darter's layers have none",
                it.place()
            ),
            "set dmverity_mode = \"off\", which also saves looking for such trees",
        );
    }
    for (part, key) in LOCAL {
        let Some(it) = config.setting(part, key) else { continue };
        let is_off = match &it.node.value {
            Value::Truth(truth) => *truth == (key == "disable_snapshot_annotations"),
            Value::Number(number) => *number == DEFAULT_DOWNLOADS,
            Value::Table(entries) => entries.is_empty(),
            _ => true,
        };
        if !is_off {
            found.warning(
                "switched off",
                format!("{}: {key} makes CRI pull without the transfer service and its unpack_config", it.place()),
                format!("remove {key}"),
            );
        }
    }
    for names in [&[EROFS][..], &[TRANSFER], &[IMAGES, "io.containerd.grpc.v1.cri", "cri"]] {
        if let Some(off) = config.disabled(names) {
            let plugin = off.node.text().unwrap_or_default();
            found.problem(
                "switched off",
                format!("{}: {plugin} is disabled", off.place()),
                "remove it from disabled_plugins and restart containerd",
            );
        }
    }
    if let Some(off) = config.disabled(&[DIFFER]) {
        found.warning(
            "switched off",
            format!(
                "{}: the erofs differ is disabled: layers that Darter does not show can't be converted",
                off.place()
            ),
            "remove it from disabled_plugins and restart containerd",
        );
    }
}
