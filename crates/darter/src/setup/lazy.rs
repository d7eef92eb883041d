//! The settings with which containerd 2.4 and later mounts layers before they are downloaded: the directory in which it looks for them, the snapshotter
//! that mounts them, and how other layers are unpacked. No I/O.
//!
//! With the settings of containerd's documentation, CRI's image service does not start on a host without mkfs.erofs (1.7 or later). With the two entries of
//! `unpack_config` it does: the first is optional, and the second unpacks through an ordinary mount. As soon as there is any entry, containerd drops its default
//! entries, so these are written, too.

use std::path::Path;

use super::containerd::{Config, EROFS, Found, IMAGES, Part, Refusal, Release, TRANSFER};
use super::document::{Node, header, quoted, set};

/// The first release with this feature.
pub(crate) const FIRST: Release = (2, 4);

const SNAPSHOTTER: &str = "erofs";

/// An entry of `unpack_config`.
#[derive(Clone, Copy, Debug)]
struct Unpack {
    platform: &'static str,
    snapshotter: &'static str,
    differ: &'static str,
    optional: bool,
}

/// For layers that Darter shows, and for others if mkfs.erofs is installed.
const CONVERT: Unpack = Unpack { platform: "", snapshotter: SNAPSHOTTER, differ: "erofs", optional: true };
/// Lets the service start if it is not.
const WALK: Unpack = Unpack { platform: "", snapshotter: SNAPSHOTTER, differ: "walking", optional: false };
/// The entries that containerd has by default.
const DEFAULTS: [Unpack; 2] = [
    Unpack { platform: "", snapshotter: "overlayfs", differ: "walking", optional: false },
    Unpack { platform: "(+erofs)", snapshotter: SNAPSHOTTER, differ: "erofs", optional: true },
];

impl Unpack {
    /// `linux/amd64`, or with a feature `linux(+erofs)/amd64`.
    fn platform(self) -> String {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        format!("linux{}/{architecture}", self.platform)
    }

    fn pairs(self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![
            ("platform", quoted(&self.platform())),
            ("snapshotter", quoted(self.snapshotter)),
            ("differ", quoted(self.differ)),
        ];
        if self.optional {
            pairs.push(("optional", "true".to_owned()));
        }
        pairs
    }

    fn table(self, name: &str) -> String {
        let lines: Vec<_> = self.pairs().into_iter().map(|(key, value)| format!("  {key} = {value}\n")).collect();
        format!("[[{name}]]\n{}", lines.concat())
    }

    fn inline(self) -> String {
        let pairs: Vec<_> = self.pairs().into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
        format!("{{ {} }}", pairs.join(", "))
    }

    fn value(self) -> toml::Value {
        let mut table = toml::Table::new();
        table.insert("platform".to_owned(), self.platform().into());
        table.insert("snapshotter".to_owned(), self.snapshotter.into());
        table.insert("differ".to_owned(), self.differ.into());
        if self.optional {
            table.insert("optional".to_owned(), true.into());
        }
        table.into()
    }
}

/// If an entry is for the erofs snapshotter, the differ with which it unpacks layers that Darter does not show.
pub(crate) fn differ_of(entry: &Node) -> Option<&str> {
    let is_erofs = entry.get("snapshotter").and_then(Node::text) == Some(SNAPSHOTTER);
    // An entry for images that are EROFS already is of no use for others.
    let plain = entry.get("platform").and_then(Node::text).is_none_or(|platform| !platform.contains("(+"));
    (is_erofs && plain).then(|| entry.get("differ").and_then(Node::text).unwrap_or_default())
}

/// Writes the settings into a configuration. Returns notes for the operator.
pub(crate) fn write(config: &mut Config, layers: &Path, handler: Option<&str>) -> Result<Vec<String>, Refusal> {
    let off = config.disabled(&[EROFS, TRANSFER, "io.containerd.cri.v1.runtime", IMAGES]);
    if let Some(off) = off {
        let plugin = off.node.text().unwrap_or_default();
        let message = format!("{plugin} is disabled here, and lazy start needs it: remove it from disabled_plugins");
        return Err(Refusal::at(&off, message));
    }
    if let Some(refusal) = beside(config) {
        return Err(refusal);
    }
    let layers = layers.to_string_lossy();
    write_directory(config, &layers)?;
    let mut notes = write_unpacking(config)?;
    match handler {
        None => {
            let is_so =
                config.setting(Part::Images, "snapshotter").is_some_and(|it| it.node.text() == Some(SNAPSHOTTER));
            if !is_so {
                config.set(Part::Images, &[], "snapshotter", SNAPSHOTTER)?;
            }
        }
        Some(handler) => write_handler(config, handler, SNAPSHOTTER)?,
    }
    let local = config.setting(Part::Images, "use_local_image_pull").filter(|found| found.node.is_true());
    if let Some(found) = local {
        notes.push(format!(
            "{}: use_local_image_pull makes CRI pull without the transfer service; remove it if pods do not start lazily",
            found.place()
        ));
    }
    Ok(notes)
}

/// Refuses settings that keep the erofs snapshotter from starting, or make it refuse every layer of the directory.
fn beside(config: &Config) -> Option<Refusal> {
    for key in ["enable_fsverity", "set_immutable"] {
        if let Some(found) = config.setting(Part::Erofs, key).filter(|found| found.node.is_true()) {
            let message = format!(
                "{key}: the erofs snapshotter does not start with both {key} and layer_content_caches: remove {key}"
            );
            return Some(Refusal::at(&found, message));
        }
    }
    let mode = config.setting(Part::Erofs, "dmverity_mode").filter(|found| found.node.text() == Some("on"))?;
    let message = "dmverity_mode = \"on\" refuses layers without a dm-verity tree, and Darter's layers have none: set it to \"off\" or \"auto\"";
    Some(Refusal::at(&mode, message.to_owned()))
}

/// Writes `layer_content_caches`. The first directory that has a layer is used.
fn write_directory(config: &mut Config, layers: &str) -> Result<(), Refusal> {
    const KEY: &str = "layer_content_caches";
    let (file, table) = config.target(Part::Erofs);
    let path: Vec<_> = table.iter().copied().chain([KEY]).collect();
    config.check_tables(file, &table)?;
    let document = &config.files[file].document;
    let there = document.get(&path);
    let items = there.map(Node::items).unwrap_or_default();
    if items.iter().any(|item| item.text() == Some(layers)) {
        return Ok(());
    }
    let text = match there {
        Some(node) => {
            let first = node.at.start + 1;
            let comma = if items.is_empty() { "" } else { ", " };
            document.with(first..first, &format!("{}{comma}", quoted(layers)))
        }
        None => document.with_key(&table, KEY, &format!("[{}]", quoted(layers)), config.quote(file)),
    };
    let directory = toml::Value::from(layers);
    config.replace(file, &text, |wanted| {
        if let Some(list) = array_at(wanted, &path) {
            list.insert(0, directory);
        }
    })
}

/// The array at this path, which is created if missing; `None` if a value on the path is not a table.
fn array_at<'a>(table: &'a mut toml::Table, path: &[&str]) -> Option<&'a mut Vec<toml::Value>> {
    let (key, tables) = path.split_last()?;
    let mut at = table;
    for name in tables {
        at = at.entry(*name).or_insert_with(|| toml::Table::new().into()).as_table_mut()?;
    }
    at.entry(*key).or_insert_with(|| toml::Value::Array(Vec::new())).as_array_mut()
}

/// Writes the two entries if they are missing: the converting one before the unpacking one, since containerd takes the first that matches.
fn write_unpacking(config: &mut Config) -> Result<Vec<String>, Refusal> {
    const KEY: &str = "unpack_config";
    let tables = config.tables(Part::Transfer);
    let entries: Vec<_> = tables
        .iter()
        .filter_map(|table| Some((table.file, table.node.get(KEY)?)))
        .flat_map(|(file, list)| list.items().iter().map(move |node| Found { file, node }))
        .collect();
    let by = |differ: &str| entries.iter().find(|entry| differ_of(entry.node) == Some(differ));
    let (convert, walk) = (by(CONVERT.differ), by(WALK.differ));
    let mut notes = Vec::new();
    if let Some(entry) = convert.filter(|entry| !entry.node.get("optional").is_some_and(Node::is_true)) {
        notes.push(format!(
            "{}: this unpack_config is not optional: without mkfs.erofs 1.7 or later, containerd's transfer service does not start",
            entry.place()
        ));
    }
    let (mut front, mut back) = (Vec::new(), Vec::new());
    match (convert.is_some(), walk.is_some()) {
        (true, true) => return Ok(notes),
        (true, false) => back.push(WALK),
        (false, true) => front.push(CONVERT),
        (false, false) => front.extend([CONVERT, WALK]),
    }
    if entries.is_empty() {
        front.extend(DEFAULTS);
    }
    let (file, table) = config.target(Part::Transfer);
    let path: Vec<_> = table.iter().copied().chain([KEY]).collect();
    config.check_tables(file, &table)?;
    let name = header(&path, config.quote(file));
    let document = &config.files[file].document;
    let there = document.get(&path);
    let items = there.map(Node::items).unwrap_or_default();
    let tables = |unpacks: &[Unpack]| unpacks.iter().map(|unpack| unpack.table(&name)).collect::<Vec<_>>().join("\n");
    let is_table = |item: &Node| document.text()[item.at.start..].starts_with("[[");
    let text = match (there, items.first(), items.last()) {
        (None, ..) => document.with_at_end(&tables(&front)),
        (Some(_), Some(first), Some(last)) if is_table(first) => {
            if back.is_empty() {
                let at = document.block_start(first.at.start);
                document.with(at..at, &format!("{}\n", tables(&front)))
            } else {
                let next = document.headers().into_iter().find(|header| *header > last.at.start);
                match next.map(|next| document.block_start(next)) {
                    Some(at) => document.with(at..at, &format!("{}\n", tables(&back))),
                    None => document.with_at_end(&tables(&back)),
                }
            }
        }
        (Some(list), first, last) => {
            let inline = |unpacks: &[Unpack]| unpacks.iter().map(|one| one.inline()).collect::<Vec<_>>().join(", ");
            match (first, last) {
                (Some(_), Some(last)) if !back.is_empty() => {
                    document.with(last.at.end..last.at.end, &format!(", {}", inline(&back)))
                }
                (first, _) => {
                    let comma = if first.is_some() { ", " } else { "" };
                    let at = list.at.start + 1;
                    document.with(at..at, &format!("{}{comma}", inline(&front)))
                }
            }
        }
    };
    config.replace(file, &text, |wanted| {
        if let Some(list) = array_at(wanted, &path) {
            list.splice(0..0, front.iter().map(|unpack| unpack.value()));
            list.extend(back.iter().map(|unpack| unpack.value()));
        }
    })?;
    Ok(notes)
}

/// Sets the snapshotter of one runtime handler. A missing handler is created as a copy of runc's, since it must use the same cgroup driver as the kubelet.
pub(super) fn write_handler(config: &mut Config, handler: &str, snapshotter: &str) -> Result<(), Refusal> {
    let there = config.setting(Part::Runtimes, handler);
    if let Some(found) = &there {
        let is_so = found.node.get("snapshotter").and_then(Node::text) == Some(snapshotter);
        return if is_so { Ok(()) } else { config.set(Part::Runtimes, &[handler], "snapshotter", snapshotter) };
    }
    let model = config.setting(Part::Runtimes, "runc").and_then(|found| {
        let table: toml::Table = found.file.document.text().parse().ok()?;
        // The same table in the parsed form: in that file it has the path of its part.
        let file = config.files.iter().position(|file| std::ptr::eq(file, found.file))?;
        config.meaning(Part::Runtimes, file, &table)?.get("runc")?.as_table().cloned()
    });
    let mut runtime = model.unwrap_or_default();
    runtime.entry("runtime_type").or_insert_with(|| "io.containerd.runc.v2".into());
    runtime.insert("snapshotter".to_owned(), snapshotter.into());
    let (file, table) = config.target(Part::Runtimes);
    let path: Vec<_> = table.iter().copied().chain([handler]).collect();
    config.check_tables(file, &table)?;
    let quote = config.quote(file);
    let plain = runtime.iter().filter(|(_, value)| !value.is_table());
    let mut text = format!("[{}]\n", header(&path, quote));
    for (key, value) in plain {
        text += &format!("  {} = {value}\n", header(&[key], quote));
    }
    for (name, inner) in runtime.iter().filter_map(|(name, value)| Some((name, value.as_table()?))) {
        let inner_path: Vec<_> = path.iter().copied().chain([name.as_str()]).collect();
        text += &format!("  [{}]\n", header(&inner_path, quote));
        for (key, value) in inner {
            text += &format!("    {} = {value}\n", header(&[key], quote));
        }
    }
    let text = config.files[file].document.with_at_end(&text);
    config.replace(file, &text, |wanted| set(wanted, &path, runtime.into()))
}
