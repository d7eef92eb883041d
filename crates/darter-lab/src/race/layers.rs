//! Layers that engines can pull and unpack: tars of files, gzipped, each of exactly the size that was asked for; and the image of
//! them.
//!
//! They are as hard to unpack as a real image: files of 512 B to 128 KiB, most of them text of which gzip takes away some two
//! thirds, each eighth incompressible. The same on every machine with the same compressor.
//!
//! A compressed layer's size can't be chosen, so gzip members follow one another, and the last of them hold nothing but a header as
//! long as what is missing.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use darter_core::DigestHasher;
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};

use crate::image::{Image, architecture, describe};
use crate::oci::{Layer, Layout};
use crate::race::noise::splitmix;
use crate::storage::shelve;

/// The image's repository and tag.
const NAME: &str = "library/race:1";
/// Bytes of a tar's records.
const RECORD: usize = 512;
/// Bytes of tar that a gzip member holds.
const MEMBER: usize = 256 * 1024;
/// Sizes of files: this, doubled up to this many times.
const MIN_FILE: usize = 512;
const DOUBLINGS: u64 = 9;
/// Bytes of text and of noise, from which files are cut.
const POOL: usize = 8 << 20;
/// Words of the text.
const WORDS: u64 = 512;
/// Bytes of a gzip member without content, but for what its header holds besides.
const EMPTY_MEMBER: u64 = 22;
/// The most that a header can hold besides.
const MAX_EXTRA: u64 = u16::MAX as u64;

/// An image whose layers are the content of a race.
#[derive(Clone, Debug)]
pub struct Layers {
    /// Its names and digests.
    pub image: Image,
    /// Bytes of all files in it, unpacked.
    pub unpacked: u64,
}

/// The bytes that files are cut from.
pub(super) struct Pool {
    text: Vec<u8>,
    noise: Vec<u8>,
}

impl Pool {
    pub(super) fn new() -> Self {
        let noise: Vec<u8> = (0..POOL as u64 / 8).flat_map(|word| splitmix(word).to_le_bytes()).collect();
        let word = |number: u64| -> Vec<u8> {
            let letters = [splitmix(!number), splitmix(!number / 2)].map(u64::to_le_bytes).concat();
            letters[..4 + (number % 9) as usize].iter().map(|letter| b'a' + letter % 26).collect()
        };
        let words: Vec<Vec<u8>> = (0..WORDS).map(word).collect();
        let mut text = Vec::with_capacity(POOL + 16);
        let mut draw = 0;
        while text.len() < POOL {
            // Some words are far more frequent than others, as in any language.
            let drawn = splitmix(draw);
            let rank = (drawn >> 32) % WORDS * (drawn % WORDS) / WORDS;
            text.extend(&words[rank as usize]);
            text.push(if drawn.is_multiple_of(11) { b'\n' } else { b' ' });
            draw += 1;
        }
        Self { text, noise }
    }

    /// The content of the file of this number.
    fn file(&self, number: u64) -> &[u8] {
        let drawn = splitmix(number);
        let from = if drawn.is_multiple_of(8) { &self.noise } else { &self.text };
        let length = MIN_FILE << ((drawn >> 8) % DOUBLINGS);
        let start = (drawn >> 16) as usize % (POOL - length);
        &from[start..start + length]
    }
}

/// Writes a layer of exactly `size` bytes; gives it, and the bytes of all files in it.
pub(super) fn write(path: &Path, pool: &Pool, number: u64, size: u64) -> Result<(Layer, u64)> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut packed = Packed { file: BufWriter::new(file), hasher: DigestHasher::sha256(), size: 0 };
    let (mut plain, mut unpacked, mut files) = (DigestHasher::sha256(), 0, 0);
    let end = [0; 2 * RECORD];
    let last = member(&end)?;
    loop {
        let (mut tar, mut bytes) = (Vec::with_capacity(MEMBER + (MIN_FILE << DOUBLINGS)), 0);
        while tar.len() < MEMBER {
            let content = pool.file(number << 40 | files);
            append(&mut tar, &format!("srv/layer-{number:02}/{:03}/{files:06}", files / 100), content)?;
            bytes += content.len() as u64;
            files += 1;
        }
        let next = member(&tar)?;
        if packed.size + (next.len() + last.len()) as u64 + EMPTY_MEMBER > size {
            break;
        }
        packed.write(&next)?;
        plain.update(&tar);
        unpacked += bytes;
    }
    packed.write(&last)?;
    plain.update(&end);
    for extra in paddings(size.checked_sub(packed.size).context("a layer has room for an empty tar")?) {
        packed.write(&empty_member(extra))?;
    }
    packed.file.flush().with_context(|| format!("write {}", path.display()))?;
    Ok((Layer { digest: packed.hasher.finish(), size: packed.size, diff: plain.finish() }, unpacked))
}

/// Makes the image of these layers below `directory`, where they lie by these names, and a registry's storage that holds it.
pub(super) fn image(directory: &Path, storage: &Path, layers: &[(&str, Layer)]) -> Result<Image> {
    let path = directory.join("layout");
    let layout = Layout::create(&path)?;
    let plain: Vec<Layer> = layers.iter().map(|(_, layer)| layer.clone()).collect();
    let manifest = layout.add_manifest(architecture(), &plain)?;
    for (name, layer) in layers {
        let link = layout.blob(layer.digest);
        if !link.is_symlink() {
            symlink(directory.join(name), &link).with_context(|| format!("create {}", link.display()))?;
        }
    }
    let image = describe(&path, NAME, None, &manifest, plain)?;
    fs::create_dir_all(storage).with_context(|| format!("create {}", storage.display()))?;
    shelve(storage, &image, |digest| layout.blob(*digest))?;
    Ok(image)
}

/// Counts and hashes what it writes.
struct Packed {
    file: BufWriter<File>,
    hasher: DigestHasher,
    size: u64,
}

impl Packed {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).context("write a layer")
    }
}

fn member(plain: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(plain.len() / 2), Compression::fast());
    gzip.write_all(plain).context("compress a part of a layer")?;
    gzip.finish().context("compress a part of a layer")
}

/// The lengths of the extra fields of empty gzip members that take `size` bytes in all.
fn paddings(mut size: u64) -> Vec<u64> {
    let mut extras = Vec::new();
    while size > 0 {
        let whole = size.min(EMPTY_MEMBER + MAX_EXTRA);
        // The rest must have room for a member, too.
        let left = size - whole;
        let taken = if left == 0 || left >= EMPTY_MEMBER { whole } else { whole - EMPTY_MEMBER };
        extras.push(taken - EMPTY_MEMBER);
        size -= taken;
    }
    extras
}

/// A gzip member without content, with `extra` bytes in its header's extra field.
fn empty_member(extra: u64) -> Vec<u8> {
    const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
    /// A last block of fixed codes that holds its end alone.
    const NOTHING: [u8; 2] = [3, 0];
    let length = u16::try_from(extra).unwrap_or(u16::MAX);
    let check = Crc::new().sum().to_le_bytes();
    let parts: [&[u8]; 6] =
        [&HEAD, &length.to_le_bytes(), &vec![0; usize::from(length)], &NOTHING, &check, &0_u32.to_le_bytes()];
    parts.concat()
}

/// Appends a file to a tar.
fn append(tar: &mut Vec<u8>, name: &str, content: &[u8]) -> Result<()> {
    let mut head = [0; RECORD];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    for (at, number) in [(100, "0000644"), (108, "0000000"), (116, "0000000"), (136, "00000000000")] {
        put(at, number);
    }
    put(124, &format!("{:011o}", content.len()));
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = head.iter().map(|&byte| u32::from(byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.write_all(&head)?;
    tar.write_all(content)?;
    tar.resize(tar.len().next_multiple_of(RECORD), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::oci::digest_of;

    #[test]
    fn a_layer_has_the_size_that_was_asked_for_and_can_be_unpacked() {
        let directory = tempfile::tempdir().unwrap();
        let pool = Pool::new();
        for (number, size) in [(0, 8 << 20), (1, 4 << 20), (2, (4 << 20) + 1)] {
            let path = directory.path().join(format!("layer-{number}"));
            let (layer, unpacked) = write(&path, &pool, number, size).unwrap();
            assert_eq!((path.metadata().unwrap().len(), layer.size), (size, size));
            assert_eq!(digest_of(&path).unwrap(), layer.digest);
            let into = directory.path().join(format!("unpacked-{number}"));
            fs::create_dir(&into).unwrap();
            let status = Command::new("tar").arg("-xzf").arg(&path).arg("-C").arg(&into).status().unwrap();
            assert!(status.success());
            assert_eq!(crate::race::pull::bytes_below(&into), unpacked);
            // Neither trivial nor noise.
            assert!((size * 3 / 2..size * 4).contains(&unpacked), "{unpacked} of {size}");
        }
    }

    #[test]
    fn paddings_fill_what_is_left() {
        for size in [EMPTY_MEMBER, 23, 43, 44, MAX_EXTRA + 22, MAX_EXTRA + 23, MAX_EXTRA + 43, 3 * MAX_EXTRA + 7] {
            let extras = paddings(size);
            assert_eq!(extras.iter().map(|&extra| empty_member(extra).len() as u64).sum::<u64>(), size, "{extras:?}");
        }
    }
}
