//! `darter image expand`: turns a layer into a file that the kernel can mount.
//!
//! The file has no name while it is written: a command that is ended early leaves nothing behind, and no incomplete file is ever visible.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Context as _;
use darter_core::{Blame, Digest, Fault, Retry};
use darter_image::{Expanded, LayerDigests, expand_layer};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::cli::ExpandArgs;
use crate::failure::Failure;
use crate::get::{progress_bar, temporary::Temporary};
use crate::{output, units};

/// The JSON that `--json` prints.
#[derive(Debug, Serialize)]
struct ExpandReport {
    file: String,
    length_bytes: u64,
    tar_bytes: u64,
    metadata_bytes: u64,
    inodes: u64,
    compression: &'static str,
    stored_bytes: u64,
    digest: Digest,
    diff_id: Digest,
}

pub(super) fn run(args: &ExpandArgs) -> anyhow::Result<()> {
    check_name(&args.out)?;
    let directory = match args.out.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let layer = args.layer.display();
    let (stored, length) = open(&args.layer).with_context(|| format!("can't read {layer}"))?;
    let file = Temporary::create(directory).with_context(|| format!("can't write into {}", directory.display()))?;
    let bar = progress_bar(length, args.quiet);
    let made = make(file.file(), stored, &bar, args);
    bar.finish_and_clear();
    let (digests, expanded) = made.with_context(|| format!("can't expand {layer}"))?;
    file.name(&args.out).with_context(|| format!("can't write {}", args.out.display()))?;
    tell(args, &digests, &expanded)
}

/// Refuses a name of something that no file can replace.
fn check_name(out: &Path) -> anyhow::Result<()> {
    let shown = out.display();
    match std::fs::symlink_metadata(out) {
        Ok(there) if there.is_dir() => Err(Failure::Usage(format!("{shown} is a directory; name a file in it")).into()),
        Ok(there) if !there.is_file() && !there.is_symlink() => Err(Failure::Usage(format!(
            "{shown} is not a regular file, and a mountable file can't be written in parts; choose another name"
        ))
        .into()),
        // Other errors are reported where the file gets its name.
        _ => Ok(()),
    }
}

/// The layer's stored bytes, and their number if known.
fn open(layer: &Path) -> io::Result<(Box<dyn Read>, Option<u64>)> {
    if layer == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let file = File::open(layer)?;
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok((Box::new(file), found.is_file().then_some(found.len())))
}

/// Writes the whole file, and checks the layer's digests.
fn make(
    file: &File,
    stored: Box<dyn Read>,
    bar: &ProgressBar,
    args: &ExpandArgs,
) -> anyhow::Result<(LayerDigests, Expanded)> {
    let write =
        |at, bytes: &[u8]| file.write_all_at(bytes, at).with_context(|| format!("can't write {}", args.out.display()));
    expand_layer(stored, None, write, |stored, tar| check(stored, tar, args), |read| bar.set_position(read))
}

/// Compares the layer's digests with `--digest` and `--diff-id`.
fn check(stored: &Digest, tar: Option<&Digest>, args: &ExpandArgs) -> anyhow::Result<()> {
    for (flag, expected, found) in [("--diff-id", args.diff_id, tar), ("--digest", args.digest, Some(stored))] {
        if let Some((expected, found)) = expected.as_ref().zip(found)
            && expected != found
        {
            let text = format!("the layer has the digest {found}, but {flag} says {expected}");
            return Err(Failure::Judged { text, blame: Blame::new(Fault::Origin, Retry::Never) }.into());
        }
    }
    Ok(())
}

fn tell(args: &ExpandArgs, digests: &LayerDigests, expanded: &Expanded) -> anyhow::Result<()> {
    let report = ExpandReport {
        file: args.out.display().to_string(),
        length_bytes: expanded.length(),
        tar_bytes: expanded.tar_length,
        metadata_bytes: expanded.metadata.len() as u64,
        inodes: expanded.inodes,
        compression: digests.compression.name(),
        stored_bytes: digests.stored_length,
        digest: digests.stored,
        diff_id: digests.tar,
    };
    if args.json {
        return output::json(&report);
    }
    if !args.quiet {
        let (tar, metadata) = (units::size(report.tar_bytes), units::size(report.metadata_bytes));
        output::complain(&format!(
            "{}: {tar} of tar and {metadata} of metadata for {} files; diff id {}; mount it with `mount -t erofs -o ro {} DIR`",
            report.file, report.inodes, report.diff_id, report.file
        ));
    }
    Ok(())
}
