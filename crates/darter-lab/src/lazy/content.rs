//! Images of the four kinds that containers start from, and what the containers do.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::image::{Image, Images};
use crate::made::{Workshop, noise, programs};
use crate::oci::digest_of;
use crate::place::cache_directory;
use crate::process::{Process, wait_until};

/// Bytes of the one large file.
pub(crate) const LARGE: u64 = 192 << 20;
/// Layers besides that of the programs.
const LAYERS: u64 = 32;
/// Files of each, and bytes of a file. One is read.
const FILES: u64 = 4;
const SMALL: u64 = 256 << 10;
/// The port on which the service listens.
const PORT: u16 = 8000;
const READY_TIMEOUT: Duration = Duration::from_secs(600);

/// Counted up when images that are made here change, so that those of an older build are not taken for them.
const BUILD: u32 = 1;

/// An image, and what its container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A small tool in a large image: Debian with compilers and a JVM, of which Python prints a line.
    Tool,
    /// A JVM of the same image, until its service listens.
    Service,
    /// One large file that is read from its first byte to its last.
    File,
    /// Thirty-three layers, of each of which one file is read.
    Layers,
}

/// The image at hand.
#[derive(Clone, Debug)]
pub struct Content {
    /// The image.
    pub image: Image,
    /// The storage of a registry that has it.
    pub storage: PathBuf,
    /// The command that the container runs.
    pub command: Vec<String>,
    sign: Sign,
}

/// An image that was made here, as it is written down beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    image: Image,
    /// The files that are read.
    read: Vec<String>,
    /// The digest of the last of them, in digits.
    last: String,
}

/// How one knows that a container is ready.
#[derive(Clone, Debug)]
enum Sign {
    /// The container's output has this.
    Says(String),
    /// The container listens at this port.
    Listens(u16),
}

impl What {
    /// Makes the image, or finds it.
    pub fn content(self) -> Result<Content> {
        match self {
            Self::Tool => {
                let command = ["python3", "-c", "print('rea' + 'dy')"];
                of_debian(&command, Sign::Says("ready".to_owned()))
            }
            Self::Service => {
                let port = PORT.to_string();
                let command = ["java", "-m", "java.rmi/sun.rmi.registry.RegistryImpl", &port];
                of_debian(&command, Sign::Listens(PORT))
            }
            Self::File => made("file", &["large"], |root| {
                noise(&root.join("large/data/large"), 1, LARGE)?;
                Ok((vec!["/data/large".to_owned()], digest_of(&root.join("large/data/large"))?.to_string()))
            }),
            Self::Layers => {
                let names: Vec<_> = (0..LAYERS).map(|layer| format!("layer-{layer}")).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                made("layers", &names, |root| {
                    let mut read = Vec::new();
                    let mut last = String::new();
                    for (number, name) in (0..).zip(&names) {
                        for file in 0..FILES {
                            noise(&root.join(format!("{name}/data/{number}/{file}")), number * FILES + file, SMALL)?;
                        }
                        read.push(format!("/data/{number}/1"));
                        last = digest_of(&root.join(format!("{name}/data/{number}/1")))?.to_string();
                    }
                    Ok((read, last))
                })
            }
        }
    }
}

fn of_debian(command: &[&str], sign: Sign) -> Result<Content> {
    let images = Images::open()?;
    let (image, storage) = (images.app.clone(), images.storage().to_path_buf());
    let command = command.iter().map(ToString::to_string).collect();
    Ok(Content { image, storage, command, sign })
}

/// An image of programs, and of layers with these names that `write` fills, which gives the files to hash, and the digest of the last one. Made
/// once for all runs, which wait for each other.
fn made(kind: &str, names: &[&str], write: impl FnOnce(&Path) -> Result<(Vec<String>, String)>) -> Result<Content> {
    let cache = cache_directory()?;
    let lock = File::create(cache.join("starts.lock")).context("create the lock of images for starts")?;
    lock.lock().context("wait for another run to make an image")?;
    let directory = cache.join(format!("starts-{kind}-{BUILD}"));
    let (note, storage) = (directory.join("made.json"), directory.join("images/registry"));
    let known = fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Made>(&text).ok());
    let Made { image, read, last } = match known {
        Some(made) => made,
        None => {
            if directory.exists() {
                fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
            }
            let made = make(&directory, names, write).with_context(|| format!("make the image {kind}"))?;
            fs::write(&note, serde_json::to_vec_pretty(&made)?).with_context(|| format!("write {}", note.display()))?;
            made
        }
    };
    let mut command = vec!["/bin/sha256sum".to_owned()];
    command.extend(read);
    Ok(Content { image, storage, command, sign: Sign::Says(last) })
}

fn make(directory: &Path, names: &[&str], write: impl FnOnce(&Path) -> Result<(Vec<String>, String)>) -> Result<Made> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let files = tempfile::tempdir_in(directory).context("create a directory for an image's files")?;
    let root = files.path();
    programs(&root.join("programs"), &["sha256sum", "sleep"])?;
    let (read, last) = write(root)?;
    let workshop = Workshop::new(&directory.join("images"))?;
    let layers = ["programs"].iter().chain(names).map(|name| workshop.layer(&root.join(name)));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let config = json!({ "Cmd": ["/bin/sha256sum"], "Env": ["PATH=/bin"] });
    let image = workshop.image("library/made:1", &layers, &config)?;
    let last = last.split_once(':').context("a digest names its algorithm")?.1.to_owned();
    Ok(Made { image, read, last })
}

impl Content {
    /// Waits until a container that runs in this process is ready.
    pub fn wait_until_ready(&self, process: &mut Process) -> Result<()> {
        if let Sign::Listens(port) = self.sign {
            return process.wait_for_port(port, READY_TIMEOUT);
        }
        wait_until("a container to be ready", READY_TIMEOUT, || {
            let runs = process.is_running();
            let is_ready = self.is_sign(&process.output()?);
            if !runs && !is_ready {
                bail!("a container ended before it was ready\n{}", process.tail());
            }
            Ok(is_ready)
        })
    }

    fn is_sign(&self, output: &str) -> bool {
        matches!(&self.sign, Sign::Says(text) if output.contains(text))
    }
}
