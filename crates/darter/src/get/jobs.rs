//! What is to be downloaded: the URLs of the command line and of `-i FILE`, each with its place.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use darter_core::Digest;
use url::Url;

use super::target::{Place, Target, file_name};
use crate::cli::GetArgs;
use crate::cli::values;
use crate::failure::Failure;

/// One download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) url: Url,
    pub(super) digest: Option<Digest>,
    pub(super) place: Place,
    /// The name in a directory that a list gives it.
    pub(super) name: Option<String>,
}

impl Job {
    /// What its content is written to, if the origin calls it `called`.
    pub(super) fn target(&self, called: Option<&str>) -> anyhow::Result<Target> {
        self.place.target(&self.url, self.name.as_deref().or(called))
    }

    /// Whether the origin's name for it would count.
    pub(super) const fn takes_a_name(&self) -> bool {
        matches!(self.place, Place::Directory(_)) && self.name.is_none()
    }
}

/// All downloads of a command, in order. Refuses those of which one would undo the other.
pub(super) fn of(args: &GetArgs) -> anyhow::Result<Vec<Job>> {
    let mut jobs: Vec<Job> = Vec::new();
    for url in &args.urls {
        let place = Place::of(args.output.as_deref());
        jobs.push(Job { url: url.clone(), digest: args.digest, place, name: None });
    }
    if let Some(list) = &args.input {
        let text = if list == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("can't read the list on standard input")?;
            text
        } else {
            std::fs::read_to_string(list).with_context(|| format!("can't read the list {}", list.display()))?
        };
        let place = Place::of(args.output.as_deref());
        for (number, line) in text.lines().enumerate() {
            let said = |message: String| Failure::Usage(format!("{}:{}: {message}", list.display(), number + 1));
            jobs.extend(listed(line, &place).map_err(said)?);
        }
        if jobs.is_empty() {
            bail!("the list {} names no URL", list.display());
        }
    }
    let several = jobs.len() > 1 || args.input.is_some();
    if several && args.digest.is_some() && jobs.len() > 1 {
        return Err(Failure::Usage(
            "--digest is of one URL; in a list, write it behind the URL it belongs to".to_owned(),
        )
        .into());
    }
    if jobs.len() > 1 {
        check(&jobs, args)?;
    }
    Ok(jobs)
}

fn check(jobs: &[Job], args: &GetArgs) -> Result<(), Failure> {
    let mut places = HashSet::new();
    for job in jobs {
        let path = match &job.place {
            Place::Stdout => {
                return Err(Failure::Usage("several URLs can't share standard output; give -o DIR/".to_owned()));
            }
            Place::Name(path) => path.clone(),
            // What the origin will call it is not known yet.
            Place::Directory(_) if args.remote_name && job.takes_a_name() => continue,
            Place::Directory(dir) => dir.join(job.name.as_deref().or(file_name(&job.url)).unwrap_or_default()),
        };
        if !places.insert(path.clone()) {
            return Err(Failure::Usage(format!(
                "several URLs would be written to {}; give -o DIR/, or name the files in a list (-i)",
                path.display()
            )));
        }
    }
    Ok(())
}

/// A line of a list: a URL, then if wanted its digest, then if wanted a file name. Empty lines and comments say nothing.
fn listed(line: &str, place: &Place) -> Result<Option<Job>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (url, mut rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let url = values::source_url(url)?;
    rest = rest.trim_start();
    let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let digest: Option<Digest> = word.parse().ok();
    if digest.is_some() {
        rest = after.trim_start();
    }
    if !rest.is_empty() && !matches!(place, Place::Directory(_)) {
        return Err("names a file, which goes into a directory: give -o DIR/ or no -o".to_owned());
    }
    let name = Some(rest.to_owned()).filter(|name| !name.is_empty());
    Ok(Some(Job { url, digest, place: place.clone(), name }))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn jobs(line: &str) -> anyhow::Result<Vec<Job>> {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Get(args) = cli.command else { panic!() };
        of(&args)
    }

    #[test]
    fn a_list_says_url_digest_and_name() {
        let here = Place::Directory(PathBuf::from("d"));
        let digest = Digest::sha256(b"x");
        let parsed = |line: &str| listed(line, &here).unwrap();
        assert_eq!(parsed(" # nothing"), None);
        assert_eq!(parsed("http://a/b").unwrap().place, here);
        let full = parsed(&format!("http://a/b\t{digest}  my file.bin ")).unwrap();
        assert_eq!((full.digest, full.name.as_deref()), (Some(digest), Some("my file.bin")));
        assert_eq!(parsed("http://a/b c").unwrap().name.as_deref(), Some("c"));
        assert!(listed("ftp://a/b", &here).is_err());
        assert!(listed("http://a/b c", &Place::Name(PathBuf::from("x"))).is_err());
    }

    #[test]
    fn several_urls_need_several_places() {
        assert_eq!(jobs("darter get http://a/x http://a/y").unwrap().len(), 2);
        for line in [
            "darter get http://a/x http://b/x",
            "darter get http://a/x http://a/y -o one",
            "darter get http://a/x http://a/y -o -",
        ] {
            let error = jobs(line).unwrap_err();
            assert_eq!(Failure::exit_code(&error), 2, "{line}: {error}");
        }
        assert!(jobs("darter get http://a/x http://b/x -J").is_ok(), "the origin may name them apart");
    }

    #[test]
    fn a_bad_line_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"http://a/b\n\nnonsense\n").unwrap();
        let told = jobs(&format!("darter get -i {}", file.path().display())).unwrap_err().to_string();
        assert!(told.contains(":3: not a URL"), "{told}");
    }
}
