//! Trees of images as containerd unpacks them for overlayfs, compared with the same images mounted before their layers have come: names, kinds, modes, owners, times, links,
//! attributes and every byte.
//!
//! Directories in `$DARTER_LAB_TREES`, a list as in `$PATH`, become images besides.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_core::{Clock as _, SystemClock};
use darter_lab::lazy::LazyNode;
use darter_lab::made::Workshop;
use darter_lab::oci::Layer;
use darter_lab::registry::NAME;
use darter_lab::{Agent, Image, Registry, place};
use serde_json::json;

use crate::layers;
use crate::lazy::can_mount;
use crate::support::tar::{Entry, device, dir, entry, file, hardlink, symlink, tar};
use crate::support::walk::{Listing, differences, walk};
use crate::world::World;

/// Layers come from the registry, and nothing of it is about rates.
const RATE: &str = "2gbit";
/// How long erofs-utils may take for one layer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);
/// The first release of erofs-utils that reads blocks of 512 bytes.
const FIRST_UTILITIES: (u32, u32) = (1, 6);
/// Real trees of this machine, where they are: Perl's library, the time zones (links of both kinds), modules of node, what Debian's packages are made of, and
/// configuration without secrets. Each with what is taken of it.
const TREES: [(&str, &[&str]); 5] = [
    ("/usr/share/perl", &["."]),
    ("/usr/share/zoneinfo", &["."]),
    ("/usr/lib/node_modules/npm", &["."]),
    ("/var/lib/dpkg", &["info"]),
    (
        "/etc",
        &["alternatives", "cron.daily", "init.d", "logrotate.d", "profile.d", "skel", "debian_version", "os-release"],
    ),
];
/// The largest of those that is taken: whoever wants more names it.
const MAX_TREE: u64 = 32 << 20;
/// The fewest images that count as all kinds: those that are made. Which real trees there are depends on the machine.
const MIN_IMAGES: usize = 16;

pub(crate) fn trees_are_what_containerd_unpacks(world: &World) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    let utilities = utilities();
    let directory = tempfile::tempdir_in(place::cache_directory()?).context("make a directory")?;
    let workshop = Workshop::new(directory.path())?;
    let images = [made(&workshop)?, trees(&workshop, directory.path())?].concat();
    let misfit = misfit(&workshop)?;
    let debian = std::slice::from_ref(&world.shelf.tools);
    let count = images.len() + debian.len();
    ensure!(count >= MIN_IMAGES, "{count} images are not all kinds");
    let mut different = Vec::new();
    for (storage, images) in [(workshop.storage(), &images[..]), (world.shelf.storage().to_owned(), debian)] {
        let number = different.len();
        let names = ["registry", "seed", "node"].map(|name| format!("{name}-{}-{number}", images.len()));
        let [origin, seed_host, host] = world.hosts(names.each_ref().map(String::as_str), RATE)?;
        let registry = Registry::public(&origin, &storage)?;
        let seed = Agent::seed(&seed_host, &registry.url())?;
        let node = LazyNode::start(&host, seed.host(), registry.authority())?;
        // Layers that containerd fetches to unpack one image would be there for the next image, too.
        let mut mounted = Vec::new();
        for image in images {
            mounted.push(mount(&node, image, utilities).with_context(|| image.name.clone())?);
        }
        if number == 0 && storage == workshop.storage() {
            is_not_shown(&node, &misfit)?;
        }
        // Directories that no member names have the time at which they were unpacked, and images share layers.
        let begun = i64::try_from(SystemClock::start().unix())?;
        for (image, mounted) in images.iter().zip(&mounted) {
            different.extend(compare(&node, image, mounted, begun).with_context(|| image.name.clone())?);
        }
    }
    eprintln!("  {count} images compared, {} differences", different.len());
    ensure!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}

/// An image whose upper layer does not name a directory that the lower one has otherwise is pulled the ordinary way: neither is it known here what containerd's
/// own conversion makes of it, nor whether there is one.
fn is_not_shown(node: &LazyNode<'_>, image: &Image) -> Result<()> {
    let pulled = node.pull(&image.reference(NAME));
    let shown = |layer: &Layer| node.seen(&file_of(node, layer)).exists();
    let [below, above] = &image.layers[..] else { anyhow::bail!("two layers") };
    ensure!(!shown(above), "shown though a directory would be another one; the pull: {pulled:?}");
    ensure!(shown(below), "other images have the lower layer, too");
    Ok(())
}

/// An image's tree, mounted before its layers have come.
fn mount(node: &LazyNode<'_>, image: &Image, utilities: bool) -> Result<Listing> {
    let reference = image.reference(NAME);
    let at = place_for(node, image, "mounted")?;
    node.pull(&reference)?;
    for layer in &image.layers {
        ensure!(!node.engine.blob(&layer.digest).exists(), "containerd fetched the layer {}", layer.digest);
        if utilities {
            check(node, layer)?;
        }
    }
    node.engine.mount_image(&reference, false, &at)?;
    Ok(walk(&node.seen(&at)))
}

/// The differences from the tree that containerd unpacks.
fn compare(node: &LazyNode<'_>, image: &Image, ours: &Listing, begun: i64) -> Result<Vec<String>> {
    let reference = image.reference(NAME);
    let at = place_for(node, image, "unpacked")?;
    node.engine.pull_unpacked(&reference)?;
    node.engine.mount_image(&reference, true, &at)?;
    let theirs = walk(&node.seen(&at));
    for layer in &image.layers {
        ensure!(node.engine.blob(&layer.digest).exists(), "containerd unpacked something else than {}", layer.digest);
    }
    Ok(differences(&image.name, &theirs, ours, begun))
}

fn place_for(node: &LazyNode<'_>, image: &Image, way: &str) -> Result<PathBuf> {
    let at = node.layers.with_file_name(format!("{}-{way}", image.name.replace(['/', ':'], "-")));
    fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
    Ok(at)
}

/// Lets erofs-utils read a layer's file as the directory of layers shows it.
fn check(node: &LazyNode<'_>, layer: &Layer) -> Result<()> {
    let file = file_of(node, layer);
    let host = node.agent.host();
    let mut dump = host.command_beside(node.anchor.id(), "dump.erofs");
    let told = host.run("dump.erofs", dump.arg("-s").arg(&file), CHECK_TIMEOUT)?;
    ensure!(told.contains("Filesystem magic number"), "dump.erofs says {told}");
    let mut check = host.command_beside(node.anchor.id(), "fsck.erofs");
    let told = host.run("fsck.erofs", check.args(["--extract", "-d1"]).arg(&file), CHECK_TIMEOUT)?;
    ensure!(!told.contains("<E>"), "fsck.erofs says of {}: {told}", layer.diff);
    Ok(())
}

/// A layer's file in the directory of layers.
fn file_of(node: &LazyNode<'_>, layer: &Layer) -> PathBuf {
    let digits = layer.diff.to_string().replace("sha256:", "");
    node.layers.join("sha256").join(&digits[..2]).join(format!("{digits}.erofs"))
}

/// True if erofs-utils that read such files are installed; else it prints the reason.
fn utilities() -> bool {
    let told = Command::new("fsck.erofs").arg("-V").output();
    let told = told.map(|output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned());
    let release = told.as_deref().unwrap_or_default().split_whitespace().find_map(|word| {
        let mut numbers = word.trim_end_matches(';').split(['.', '-']);
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    });
    let can = release.is_some_and(|release: (u32, u32)| release >= FIRST_UTILITIES);
    if !can {
        eprintln!("  left out: erofs-utils 1.6 or later are not installed, which read such layers, too ({release:?})");
    }
    can
}

fn image(workshop: &Workshop, name: &str, layers: &[Layer]) -> Result<Image> {
    workshop.image(&format!("{name}:1"), layers, &json!({ "Cmd": ["/bin/true"] }))
}

/// containerd does not unpack the first two above a file that has the name of a directory of theirs which no member names. The last one does not name a
/// directory that another kind gives attributes. By itself it would not be shown above that; but it is in use, and a layer in use stays shown.
const NOT_ABOVE_OTHERS: [&str; 3] =
    ["names", "a link's target that passes another link", "of an unknown type, and nothing"];

/// Images that are made: each kind of layer on one that it covers, and below one that covers it.
fn made(workshop: &Workshop) -> Result<Vec<Image>> {
    let lower = workshop.layer_of(&tar(lower())[..])?;
    let upper = workshop.layer_of(&tar(upper())[..])?;
    let mut images = Vec::new();
    let mut kinds = Vec::new();
    // Ten thousand names in one directory are compared elsewhere, without containers.
    for (kind, tar) in layers::unpacked().into_iter().filter(|(kind, _)| *kind != "many names") {
        let layer = workshop.layer_of(&tar[..])?;
        // Letters, digits and single separators: a repository's name has nothing else.
        let words: Vec<_> =
            kind.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let name = format!("kinds/{}", words.join("-").to_lowercase());
        images.push(image(workshop, &name, &[lower.clone(), layer.clone(), upper.clone()])?);
        if !NOT_ABOVE_OTHERS.contains(&kind) {
            kinds.push(layer);
        }
    }
    // One layer needs no overlay; all of them, one above the other, meet each other.
    images.push(image(workshop, "kinds/alone", &kinds[3..4])?);
    images.push(image(workshop, "kinds/all", &[std::slice::from_ref(&lower), &kinds[..], &[upper]].concat())?);
    // Directories that are not named are made, both those that the lower layer has and those that it does not have.
    let unnamed = workshop.layer_of(&tar(unnamed())[..])?;
    images.push(image(workshop, "kinds/not-named", &[lower.clone(), unnamed.clone()])?);
    images.push(image(workshop, "kinds/not-named-below", &[unnamed, lower])?);
    Ok(images)
}

/// A layer that names none of its directories.
fn unnamed() -> Vec<Entry> {
    vec![
        file("var/by-directory/new", "1"),
        file("usr/lib/new", "2"),
        file("usr/lib/.wh.old", ""),
        file("new/deep/er/file", "3"),
        file("p/.wh..wh..opq", ""),
    ]
}

/// An image with a layer that does not name a directory of the layer below it, which has another mode and owner.
fn misfit(workshop: &Workshop) -> Result<Image> {
    let lower = workshop.layer_of(&tar(lower())[..])?;
    let upper = workshop.layer_of(&tar(vec![file("etc/new", "in a directory of mode 0750")])[..])?;
    image(workshop, "kinds/misfit", &[lower, upper])
}

/// A layer with what others remove, replace and go on with.
fn lower() -> Vec<Entry> {
    vec![
        dir("etc").mode(0o750).owner(9, 9).mtime(1_000_000_000),
        file("etc/passwd", "gone where there are whiteouts"),
        file("etc/group", "stays"),
        file("gone", "1"),
        dir("opt").xattr("user.lower", "1"),
        file("opt/old", "2"),
        dir("opt/deep/er"),
        file("opt/deep/er/file", "3"),
        dir("var/was-file"),
        file("var/was-file/below", "4"),
        file("var/was-directory", "5"),
        dir("var/by-directory"),
        file("p/below", "6"),
        symlink("x", "gone"),
        file("d/old", "7"),
        file("usr/lib/old", "8"),
        hardlink("usr/lib/older", "usr/lib/old"),
        file("many/old", "9"),
        file("labelled", "a file where others have a directory"),
        device(b'3', "dev/null", 1, 3).mode(0o666),
        entry(b'6', "pipe"),
    ]
}

/// A layer that takes away what those before have. It names the directories in which it does that, as those do that builders make.
fn upper() -> Vec<Entry> {
    vec![
        file(".wh.a", ""),
        dir("usr"),
        file("usr/.wh.long", ""),
        dir("etc").mode(0o700).owner(8, 8).mtime(1_000_000_001),
        file("etc/.wh.group", ""),
        dir("d"),
        dir("usr/bin").mode(0o700),
        file("usr/bin/tool", "another one"),
        file("d/.wh..wh..opq", ""),
        file("d/only", "this"),
        symlink("dev", "usr"),
        file("many", "no directory any more"),
        file("labelled", "1").xattr("user.upper", "1"),
        dir("opt").mode(0o711).mtime(1_234_567_890),
    ]
}

/// Images of real trees, each with a layer of changes above.
fn trees(workshop: &Workshop, directory: &Path) -> Result<Vec<Image>> {
    let named: Vec<PathBuf> =
        env::var_os("DARTER_LAB_TREES").map(|list| env::split_paths(&list).collect()).unwrap_or_default();
    let own = TREES.iter().map(|(tree, parts)| (PathBuf::from(tree), *parts));
    let own = own.filter(|(tree, parts)| size(tree, parts).is_some_and(|size| size <= MAX_TREE));
    let mut images = Vec::new();
    for (number, (live, parts)) in own.chain(named.into_iter().map(|tree| (tree, &["."][..]))).enumerate() {
        let tree = directory.join(format!("tree-{number}"));
        copy(&live, parts, &tree)?;
        let packed = directory.join("packed.tar");
        let mut command = Command::new("tar");
        command.args(["--format=pax", "--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner"]);
        let packing = command.arg("--directory").arg(&tree).arg("-cf").arg(&packed).arg(".").output();
        let packing = packing.context("start tar")?;
        let said = String::from_utf8_lossy(&packing.stderr);
        ensure!(packing.status.success(), "tar of {}: {said}", live.display());
        let below = workshop.layer_of(File::open(&packed).context("open a tar")?)?;
        fs::remove_file(&packed).context("remove a tar")?;
        let above = workshop.layer_of(&tar(changes(&tree)?)[..])?;
        eprintln!("  {}: {} bytes, compressed", live.display(), below.size);
        fs::remove_dir_all(&tree).context("remove a copied tree")?;
        images.push(image(workshop, &format!("trees/{number}"), &[below, above])?);
    }
    Ok(images)
}

/// Copies parts of a tree: the machine goes on with it, and what is packed has to stay as it is.
fn copy(live: &Path, parts: &[&str], tree: &Path) -> Result<()> {
    fs::create_dir(tree).with_context(|| format!("create {}", tree.display()))?;
    let mut command = Command::new("cp");
    command.arg("--archive").args(parts).arg(tree).current_dir(live);
    // It says so where something is not there, or went meanwhile: what is left is as good a tree.
    command.output().context("start cp")?;
    let mut copied = fs::read_dir(tree).with_context(|| format!("list {}", tree.display()))?;
    ensure!(copied.next().is_some(), "nothing of {} could be copied", live.display());
    Ok(())
}

/// The bytes of the files of these parts of a tree, if it is there.
fn size(tree: &Path, parts: &[&str]) -> Option<u64> {
    let mut command = Command::new("du");
    let output = command.args(["--total", "--summarize", "--bytes"]).args(parts).current_dir(tree).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().last()?.split_whitespace().next()?.parse().ok()
}

/// A layer that removes, replaces and covers parts of a tree.
fn changes(tree: &Path) -> Result<Vec<Entry>> {
    let mut changes = vec![dir("./").mode(0o755).mtime(1_600_000_000), file("new", "in the root")];
    let (mut files, mut dirs) = (0, 0);
    let list = fs::read_dir(tree).with_context(|| format!("list {}", tree.display()))?;
    let mut entries = list.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for item in entries {
        let name = item.file_name();
        let (Some(name), kind) = (name.to_str(), item.file_type()?) else { continue };
        if kind.is_dir() {
            dirs += 1;
            match dirs % 4 {
                1 => changes.extend([dir(name).mode(0o750), file(&format!("{name}/.wh..wh..opq"), "")]),
                2 => changes.push(file(name, "a file in a directory's place")),
                3 => {
                    changes.extend([dir(name).mode(0o2750).owner(4_000_000, 7), symlink(&format!("{name}/new"), "..")]);
                }
                _ => {}
            }
        } else {
            files += 1;
            match files % 4 {
                1 => changes.push(file(&format!(".wh.{name}"), "")),
                2 => changes.extend([dir(name), file(&format!("{name}/below"), "where a file was")]),
                3 => changes.extend([file(name, "another").xattr("user.a", "b"), hardlink(&format!("{name}~"), name)]),
                _ => {}
            }
        }
    }
    Ok(changes)
}
