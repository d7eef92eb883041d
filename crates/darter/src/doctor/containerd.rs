//! Judges whether containerd asks the mirror first. No I/O.

use super::facts::Containerd;
use super::findings::{Finding, Findings};
use crate::setup::containerd::{Config, IMAGES, Part};
use crate::setup::document::{Document, Value};
use crate::setup::hosts::{Standing, standing};
use crate::setup::registries::{DEFAULT, Directory, RegistryFiles};

const SET_UP: &str = "darter setup containerd (--dry-run shows what it would change)";

pub(super) fn mirror(facts: &Containerd) -> Vec<Finding> {
    let mut found = Findings::about("containerd");
    if !facts.installed {
        found.ok("containerd", "not installed");
        return found.found;
    }
    let (config, registry_files) = match &facts.configuration {
        Ok(both) => both,
        Err(reason) => {
            found.problem("configuration", reason.clone(), "correct the file: containerd can't read it either");
            return found.found;
        }
    };
    match facts.release {
        Some((major, minor)) => {
            found.ok("containerd", format!("containerd {major}.{minor}, configuration version {}", config.version(0)));
        }
        None => found.warning(
            "containerd",
            "`containerd --version` gives no version here",
            "name its version with --containerd-version, since the meaning of some settings depends on it",
        ),
    }
    ignored(&mut found, config);
    if let Some(off) = config.disabled(&["cri", "io.containerd.grpc.v1.cri", IMAGES]) {
        found.warning(
            "cri",
            format!("{}: CRI is disabled, so no kubelet pulls here", off.place()),
            "Docker and nerdctl do not need it; otherwise remove it from disabled_plugins and restart containerd",
        );
    }
    if let Some(refusal) = config.old_style() {
        found.problem("old-style", refusal.to_string(), "until then containerd asks registries without the mirror");
        return found.found;
    }
    let roots = config.certs();
    if roots.is_empty() {
        found.problem("config_path", "config_path is not set: containerd's CRI reads no hosts.toml", SET_UP);
        return found.found;
    }
    if roots.len() > 1 && !config.reads_several() {
        found.problem(
            "config_path",
            "config_path names several directories, as by default: from 2.1 on containerd's CRI takes them for one name, and reads no \
             hosts.toml",
            SET_UP,
        );
    }
    let roots: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
    found.ok("config_path", format!("config_path is {}", roots.join(":")));
    hosts(&mut found, registry_files, &facts.mirror);
    found.found
}

/// Finds settings in a form that this version ignores.
fn ignored(found: &mut Findings, config: &Config) {
    for (place, file) in config.files.iter().enumerate() {
        let (document, version) = (&file.document, config.version(place));
        let mut old: Vec<(&str, &[&str])> = Vec::new();
        let migrates = version == 3 && config.engine().is_some_and(|engine| engine >= (2, 3));
        if version >= 3 && !migrates {
            old.push(("io.containerd.grpc.v1.cri registry", &["plugins", "io.containerd.grpc.v1.cri", "registry"]));
            old.push(("io.containerd.grpc.v1.cri containerd", &["plugins", "io.containerd.grpc.v1.cri", "containerd"]));
            old.push(("plugins.cri", &["plugins", "cri"]));
        }
        if version >= 4 {
            old.push(("[grpc]", &["grpc"]));
        }
        if version == 2 {
            old.push(("plugins.cri", &["plugins", "cri"]));
        }
        for (name, path) in old {
            let Some(node) = document.get(path) else { continue };
            if matches!(&node.value, Value::Table(entries) if entries.is_empty()) {
                continue;
            }
            found.warning(
                "ignored",
                format!(
                    "{}:{}: {name} is ignored in a file of version {version}",
                    file.path.display(),
                    document.line(node.at.start)
                ),
                "write it in the form of that version: containerd config migrate prints it",
            );
        }
    }
    let unread = config.setting(Part::Registry, "config_path").filter(|it| it.node.text().is_none());
    if let Some(unread) = unread {
        found.problem(
            "config_path",
            format!("{}: config_path is not a string", unread.place()),
            "write config_path = \"/etc/containerd/certs.d\"",
        );
    }
}

fn hosts(found: &mut Findings, registry_files: &RegistryFiles, mirror: &str) {
    let (mut first, mut past) = (Vec::new(), Vec::new());
    for (place, root) in registry_files.roots.iter().enumerate() {
        for directory in &root.directories {
            let path = root.path.join(&directory.name).join("hosts.toml");
            // The same registry's directory in an earlier root hides this one.
            let is_hidden = place > 0
                && (directory.name == DEFAULT
                    || registry_files.find(&directory.name).is_some_and(|(earlier, _)| earlier < place));
            if is_hidden {
                continue;
            }
            match judged(directory, mirror) {
                Ok(Standing::First) => first.push(directory.name.clone()),
                Ok(Standing::Absent) => past.push(directory.name.clone()),
                Ok(Standing::Later) => found.warning(
                    "hosts",
                    format!("{}: another host is asked before the mirror", path.display()),
                    SET_UP,
                ),
                Ok(Standing::Narrowed) => found.warning(
                    "hosts",
                    format!("{}: the mirror is listed without all of its capabilities", path.display()),
                    "capabilities = [\"pull\", \"resolve\"]",
                ),
                Err(reason) => found.problem(
                    "hosts",
                    format!("{}: {reason}: containerd ignores this file", path.display()),
                    "correct the file",
                ),
            }
        }
    }
    let everything = first.iter().any(|name| name == DEFAULT);
    if first.is_empty() {
        found.problem("hosts", format!("no hosts.toml names the mirror {mirror}: containerd does not use it"), SET_UP);
        return;
    }
    let names: Vec<_> =
        first.iter().map(|name| if name == DEFAULT { "every registry without a directory" } else { name }).collect();
    found.ok("hosts", format!("the mirror is asked first for {}", names.join(", ")));
    past.retain(|name| name != DEFAULT);
    if !past.is_empty() {
        let why = if everything { ", since _default does not apply to a registry with a directory" } else { "" };
        found.warning("hosts", format!("not asked through the mirror: {}{why}", past.join(", ")), SET_UP);
    }
    if !everything {
        found.warning("hosts", "registries without a directory are not asked through the mirror", SET_UP);
    }
}

fn judged(directory: &Directory, mirror: &str) -> Result<Standing, String> {
    let document =
        Document::parse(directory.hosts.as_deref().unwrap_or_default()).map_err(|wrong| wrong.to_string())?;
    Ok(standing(&document, mirror))
}
