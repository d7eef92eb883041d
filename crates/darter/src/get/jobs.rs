//! The downloads of a command: the URLs of the command line and of `-i FILE`, each with its target.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Component, Path};

use anyhow::{Context as _, bail};
use darter_core::Digest;
use url::Url;

use super::target::{OutputPlace, Target, file_name};
use crate::cli::GetArgs;
use crate::cli::values;
use crate::failure::Failure;

/// One download.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Job {
    pub(super) url: Url,
    pub(super) digest: Option<Digest>,
    pub(super) place: OutputPlace,
    /// The file name in the directory, if a list gives one.
    pub(super) name: Option<String>,
}

impl Job {
    /// The target of the content; `called` is the origin's name for it.
    pub(super) fn target(&self, called: Option<&str>) -> anyhow::Result<Target> {
        self.place.target(&self.url, self.name.as_deref().or(called))
    }

    /// True if the origin's name for the content would be used.
    pub(super) const fn takes_a_name(&self) -> bool {
        matches!(self.place, OutputPlace::Directory(_)) && self.name.is_none()
    }
}

/// All downloads of a command, in order. Fails if two of them would write the same file.
pub(super) fn of(args: &GetArgs) -> anyhow::Result<Vec<Job>> {
    let mut jobs: Vec<Job> = Vec::new();
    for url in &args.urls {
        let place = OutputPlace::of(args.output.as_deref());
        jobs.push(Job { url: url.clone(), digest: args.digest, place, name: None });
    }
    if let Some(list) = &args.input {
        let text = text_of(list).with_context(|| format!("can't read the list {}", list.display()))?;
        let place = OutputPlace::of(args.output.as_deref());
        // Some editors put a byte order mark at the beginning of a file.
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let said = |message: String| Failure::Usage(format!("{}:{}: {message}", list.display(), number + 1));
            jobs.extend(listed(line, &place).map_err(said)?);
        }
        if jobs.is_empty() {
            bail!("the list {} names no URL; write URLs into it, one per line", list.display());
        }
    }
    // A download that is named twice runs once.
    let mut seen = HashSet::new();
    jobs.retain(|job| seen.insert(job.clone()));
    enforce(args.digest, &mut jobs)?;
    if jobs.len() > 1 {
        check(&jobs, args)?;
    }
    Ok(jobs)
}

/// The text of a list.
fn text_of(list: &Path) -> std::io::Result<String> {
    if list == Path::new("-") {
        let mut text = String::new();
        return std::io::stdin().read_to_string(&mut text).map(|_| text);
    }
    std::fs::read_to_string(list)
}

/// Applies `--digest`, which needs exactly one download, on the command line or in a list.
fn enforce(digest: Option<Digest>, jobs: &mut [Job]) -> Result<(), Failure> {
    let Some(digest) = digest else { return Ok(()) };
    let refused = match jobs {
        [job] if job.digest.is_none_or(|listed| listed == digest) => {
            job.digest = Some(digest);
            return Ok(());
        }
        [_] => "the list has another digest for this URL than --digest: leave out one of them",
        _ => "--digest needs exactly one URL; in a list, write each digest after its URL",
    };
    Err(Failure::Usage(refused.to_owned()))
}

fn check(jobs: &[Job], args: &GetArgs) -> Result<(), Failure> {
    let mut places = HashSet::new();
    for job in jobs {
        let path = match &job.place {
            OutputPlace::Stdout => {
                return Err(Failure::Usage("several URLs can't share standard output; give -o DIR/".to_owned()));
            }
            OutputPlace::Name(path) => path.clone(),
            // The origin's name for the content is not known yet.
            OutputPlace::Directory(_) if args.remote_name && job.takes_a_name() => continue,
            OutputPlace::Directory(dir) => {
                dir.join(job.name.clone().or_else(|| file_name(&job.url)).unwrap_or_default())
            }
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

/// A line of a list: a URL, optionally a digest, optionally a file name. Empty lines and comments give `None`.
fn listed(line: &str, place: &OutputPlace) -> Result<Option<Job>, String> {
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
    rest = without_comment(rest);
    if !rest.is_empty() && !matches!(place, OutputPlace::Directory(_)) {
        return Err("this line names a file in a directory: give -o DIR/ or no -o".to_owned());
    }
    let name = Some(rest.to_owned()).filter(|name| !name.is_empty());
    if let Some(name) = &name {
        stays_inside(name)?;
    }
    Ok(Some(Job { url, digest, place: place.clone(), name }))
}

/// The text before a comment. A `#` where the name would begin starts a comment; after a name, only a `#` between spaces does, since names may contain
/// `#`.
fn without_comment(rest: &str) -> &str {
    let begins = |at: usize| {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        before.is_empty()
            || before.ends_with(char::is_whitespace) && (after.is_empty() || after.starts_with(char::is_whitespace))
    };
    let comment = rest.match_indices('#').map(|(at, _)| at).find(|at| begins(*at));
    comment.map_or(rest, |at| rest[..at].trim_end())
}

/// Refuses a name that leads out of its directory: the list may come from somebody else.
fn stays_inside(name: &str) -> Result<(), String> {
    let named = Path::new(name);
    if named.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!(
            "the file name {name:?} leads out of the directory: give one without .. and without / in front"
        ));
    }
    if named.file_name().is_none() || name.ends_with('/') {
        return Err(format!("{name:?} is not a file name"));
    }
    Ok(())
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
        let here = OutputPlace::Directory(PathBuf::from("d"));
        let digest = Digest::sha256(b"x");
        let parsed = |line: &str| listed(line, &here).unwrap();
        assert_eq!(parsed(" # nothing"), None);
        assert_eq!(parsed("http://a/b").unwrap().place, here);
        let full = parsed(&format!("http://a/b\t{digest}  my file.bin ")).unwrap();
        assert_eq!((full.digest, full.name.as_deref()), (Some(digest), Some("my file.bin")));
        assert_eq!(parsed("http://a/b c").unwrap().name.as_deref(), Some("c"));
        for (line, name) in [
            ("http://a/b # the last one", None),
            ("http://a/b #", None),
            ("http://a/b #1", None),
            ("http://a/b c # why", Some("c")),
            ("http://a/b track #1.mp3", Some("track #1.mp3")),
            ("http://a/b c#", Some("c#")),
            ("http://a/b c #", Some("c")),
            ("http://a/b ./#1", Some("./#1")),
        ] {
            assert_eq!(parsed(line).unwrap().name.as_deref(), name, "{line}");
        }
        let commented = listed(&format!("http://a/b {digest} # pinned"), &OutputPlace::Stdout).unwrap().unwrap();
        assert_eq!((commented.digest, commented.name), (Some(digest), None));
        assert!(listed("ftp://a/b", &here).is_err());
        assert!(listed("http://a/b c", &OutputPlace::Name(PathBuf::from("x"))).is_err());
        assert_eq!(parsed("http://a/b sub/c").unwrap().name.as_deref(), Some("sub/c"));
        for outside in ["../c", "/etc/c", "a/../../c", "..", ".", "c/"] {
            assert!(listed(&format!("http://a/b {outside}"), &here).is_err(), "{outside}");
        }
    }

    fn list(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn a_list_is_read_as_editors_and_other_systems_write_it() {
        let file = list("\u{feff}# mine\r\nhttp://a/b\r\n\r\n  http://a/c  \r\nhttp://a/b\r\n");
        let found = jobs(&format!("darter get -i {}", file.path().display())).unwrap();
        let urls: Vec<_> = found.iter().map(|job| job.url.as_str()).collect();
        assert_eq!(urls, ["http://a/b", "http://a/c"], "what is listed twice is wanted once");
    }

    #[test]
    fn the_digest_of_the_command_line_counts_for_a_list_of_one_url() {
        let (right, other) = (Digest::sha256(b"x"), Digest::sha256(b"y"));
        let (one, with_digest) = (list("http://a/b\n"), list(&format!("http://a/b {right}\n")));
        let of = |file: &tempfile::NamedTempFile, digest: Digest| {
            jobs(&format!("darter get -i {} --digest {digest}", file.path().display()))
        };
        assert_eq!(of(&one, right).unwrap()[0].digest, Some(right));
        assert_eq!(of(&with_digest, right).unwrap()[0].digest, Some(right));
        assert_eq!(Failure::exit_code(&of(&with_digest, other).unwrap_err()), 2);
        assert_eq!(Failure::exit_code(&of(&list("http://a/b\nhttp://a/c\n"), right).unwrap_err()), 2);
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
        let file = list("http://a/b\n\nnonsense\n");
        let told = jobs(&format!("darter get -i {}", file.path().display())).unwrap_err().to_string();
        assert!(told.contains(":3: not a URL"), "{told}");
    }
}
