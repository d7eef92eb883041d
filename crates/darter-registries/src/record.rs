//! Answers that registries gave to everybody, kept for when they can't be asked.
//!
//! *Open* is what a registry gave for a question without credentials: it is public, or read with a login that the
//! owner of the agent configured for everybody. Such a digest may be served without the registry, however long ago it
//! was given; what only a caller's own credentials opened is never written down.
//!
//! # On disk
//!
//! `<dir>/<SHA-256 of "BASE REPOSITORY" in hexadecimal>` is one file of lines for each repository:
//!
//! ```text
//! darter-open-1 <base address> <repository>
//! tag <tag> <accept> <digest> <seconds since 1970>
//! has <digest> <length, or ->
//! ```
//!
//! `accept` is the first 16 digits of the SHA-256 of the request's `Accept` headers, since a tag may stand for different
//! manifests to different clients. A file is written anew when something in it changes, under a temporary name (a
//! leading dot) and renamed, without a sync: what a crash loses is asked for again. A file of another version is left
//! alone, and counts as absent.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use darter_core::Digest;
use darter_core::recent::Recent;
use darter_store::Dir;
use parking_lot::Mutex;
use url::Url;

use crate::small_files::SmallFiles;

const MAGIC: &str = "darter-open-1";

/// Repositories remembered, in memory and on disk.
const MAX_REPOSITORIES: usize = 2000;
/// Digests of one repository.
const MAX_DIGESTS: usize = 10_000;
/// Tags of one repository.
const MAX_TAGS: usize = 1000;
/// Longest file that is read.
const MAX_FILE: u64 = 4 << 20;
/// A tag that stands for the same as before is written down again after this long, for its age.
const REFRESH: Duration = Duration::from_secs(600);

/// A repository of a registry, by the registry's base address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Repository {
    base: Arc<str>,
    name: Arc<str>,
}

/// The digest that a tag stood for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tagged {
    pub(crate) digest: Digest,
    /// When the registry last said so, in seconds since 1970.
    pub(crate) at: u64,
}

/// The open content of one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Open {
    /// By tag and `Accept`, each with the time that the file has.
    tags: BTreeMap<(String, String), (Tagged, u64)>,
    /// Lengths of manifests and blobs, with the order in which they were learnt.
    digests: HashMap<Digest, (Option<u64>, u64)>,
    learnt: u64,
}

/// Knowledge from one answer.
#[derive(Clone, Debug)]
pub(crate) enum Learnt {
    /// These belong to the repository.
    Has(Vec<(Digest, Option<u64>)>),
    /// The tag stands for this, as far as a client with this `Accept` is concerned.
    Tag { tag: String, accept: String, tagged: Tagged },
    /// The tag is gone.
    NoTag(String),
    /// The digest is gone.
    HasNot(Digest),
    /// The registry refuses callers without credentials.
    Closed,
}

/// The open content of every repository. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Record(Arc<Inner>);

struct Inner {
    dir: Dir,
    known: Mutex<Recent<Repository, Open>>,
    /// Held while a repository is loaded or written: one writer, and no lost update.
    writing: Mutex<u64>,
    files: SmallFiles,
}

impl Repository {
    pub(crate) fn new(base: &Url, name: &str) -> Self {
        Self { base: base.as_str().into(), name: name.into() }
    }

    /// Names the repository, for files and for the choice of a seed.
    pub(crate) fn key(&self) -> Digest {
        Digest::sha256(format!("{} {}", self.base, self.name).as_bytes())
    }
}

/// How a request's `Accept` is written down.
pub(crate) fn accept_key(headers: &http::HeaderMap) -> String {
    let mut hasher = Digest::sha256(b"").hasher();
    for value in headers.get_all(http::header::ACCEPT) {
        hasher.update(value.as_bytes());
        hasher.update(b",");
    }
    hex(&hasher.finish())[..16].to_owned()
}

fn hex(digest: &Digest) -> String {
    digest.to_string().split_once(':').map(|(_, value)| value.to_owned()).expect("a digest is written with a colon")
}

impl Learnt {
    /// True if less is open from now on.
    const fn takes_back(&self) -> bool {
        matches!(self, Self::NoTag(_) | Self::HasNot(_) | Self::Closed)
    }
}

impl Record {
    /// Opens the record in this directory. Blocking.
    ///
    /// # Errors
    /// When the directory can't be listed.
    pub(crate) fn open(dir: Dir) -> io::Result<Self> {
        tidy(&dir)?;
        let known = Mutex::new(Recent::new(MAX_REPOSITORIES as u64));
        Ok(Self(Arc::new(Inner { dir, known, writing: Mutex::new(0), files: SmallFiles::default() })))
    }

    /// Notes what an answer taught.
    pub(crate) async fn learn(&self, repository: Repository, learnt: Vec<Learnt>) {
        let (inner, of) = (Arc::clone(&self.0), repository.clone());
        let taken_back: Vec<_> = learnt.iter().filter(|learnt| learnt.takes_back()).cloned().collect();
        // While the disk hangs, what was learnt is only not kept; what is closed is closed all the same.
        if self.0.files.work(move || inner.learn(&repository, learnt)).await.is_none() {
            self.0.take_back(&of, taken_back);
        }
    }

    /// The digests that a tag stood for: to a client with this `Accept` first, then to others, the latest first.
    pub(crate) async fn tag(&self, repository: Repository, tag: &str, accept: &str) -> Vec<Tagged> {
        let (inner, tag, accept) = (Arc::clone(&self.0), tag.to_owned(), accept.to_owned());
        let look = move || inner.with(&repository, |open| open.tag(&tag, &accept));
        self.0.files.work(look).await.unwrap_or_default()
    }

    /// The length of what is open; `None` if it is not known to be.
    pub(crate) async fn has(&self, repository: Repository, digest: Digest) -> Option<Option<u64>> {
        let inner = Arc::clone(&self.0);
        let look = move || inner.with(&repository, |open| open.digests.get(&digest).map(|(length, _)| *length));
        self.0.files.work(look).await.flatten()
    }
}

impl Open {
    fn tag(&self, tag: &str, accept: &str) -> Vec<Tagged> {
        let all = self.tags.range((tag.to_owned(), String::new())..).take_while(|((name, _), _)| name == tag);
        let mut found: Vec<_> =
            all.map(|((_, key), (tagged, _))| (key != accept, u64::MAX - tagged.at, *tagged)).collect();
        found.sort_by_key(|(other, age, _)| (*other, *age));
        found.into_iter().map(|(_, _, tagged)| tagged).collect()
    }

    /// Takes something in; whether the file is to be written for it.
    fn learn(&mut self, learnt: Learnt) -> bool {
        match learnt {
            Learnt::Has(all) => {
                let mut changed = false;
                for (digest, length) in all {
                    self.learnt += 1;
                    let (known, order) = (self.digests.get(&digest).copied(), self.learnt);
                    let length = length.or(known.and_then(|(length, _)| length));
                    changed |= known.is_none_or(|(before, _)| before != length);
                    self.digests.insert(digest, (length, order));
                }
                self.bound();
                changed
            }
            Learnt::Tag { tag, accept, tagged } => {
                let key = (tag, accept);
                let same = self.tags.get(&key).filter(|(known, _)| known.digest == tagged.digest);
                let written = same.map(|(_, at)| *at).filter(|at| tagged.at.saturating_sub(*at) < REFRESH.as_secs());
                self.tags.insert(key, (tagged, written.unwrap_or(tagged.at)));
                self.bound();
                written.is_none()
            }
            Learnt::NoTag(tag) => {
                let before = self.tags.len();
                self.tags.retain(|(name, _), _| *name != tag);
                self.tags.len() != before
            }
            Learnt::HasNot(digest) => {
                self.tags.retain(|_, (tagged, _)| tagged.digest != digest);
                self.digests.remove(&digest).is_some()
            }
            Learnt::Closed => {
                let was_open = !self.tags.is_empty() || !self.digests.is_empty();
                *self = Self::default();
                was_open
            }
        }
    }

    fn bound(&mut self) {
        if self.digests.len() > MAX_DIGESTS {
            let mut orders: Vec<_> = self.digests.values().map(|(_, order)| *order).collect();
            orders.sort_unstable();
            let oldest_kept = orders[orders.len() - MAX_DIGESTS / 2];
            self.digests.retain(|_, (_, order)| *order >= oldest_kept);
        }
        while self.tags.len() > MAX_TAGS {
            let oldest = self.tags.iter().min_by_key(|(_, (tagged, _))| tagged.at).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.tags.remove(&oldest);
            }
        }
    }

    fn write(&self, repository: &Repository) -> String {
        let mut text = format!("{MAGIC} {} {}\n", repository.base, repository.name);
        for ((tag, accept), (Tagged { digest, at }, _)) in &self.tags {
            let _ = writeln!(text, "tag {tag} {accept} {digest} {at}");
        }
        let mut digests: Vec<_> = self.digests.iter().collect();
        digests.sort_unstable_by_key(|(_, (_, order))| *order);
        for (digest, (length, _)) in digests {
            let length = length.map_or_else(|| "-".to_owned(), |length| length.to_string());
            let _ = writeln!(text, "has {digest} {length}");
        }
        text
    }

    /// Lines that make no sense are skipped.
    fn read(text: &str, repository: &Repository) -> Option<Self> {
        let mut lines = text.lines();
        let head = format!("{MAGIC} {} {}", repository.base, repository.name);
        lines.next().filter(|line| *line == head)?;
        let mut open = Self::default();
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["tag", tag, accept, digest, at] => {
                    if let (Ok(digest), Ok(at)) = (digest.parse(), at.parse()) {
                        open.tags.insert((tag.to_owned(), accept.to_owned()), (Tagged { digest, at }, at));
                    }
                }
                ["has", digest, length] => {
                    if let Ok(digest) = digest.parse() {
                        open.learnt += 1;
                        open.digests.insert(digest, (length.parse().ok(), open.learnt));
                    }
                }
                _ => {}
            }
        }
        open.bound();
        Some(open)
    }
}

impl Inner {
    /// Asks what is known of a repository.
    fn with<T>(&self, repository: &Repository, ask: impl FnOnce(&Open) -> T) -> T {
        let _one = self.writing.lock();
        self.load(repository);
        let mut known = self.known.lock();
        match known.get(repository) {
            Some(open) => ask(open),
            None => ask(&Open::default()),
        }
    }

    fn learn(&self, repository: &Repository, learnt: Vec<Learnt>) {
        let mut number = self.writing.lock();
        self.load(repository);
        let written = {
            let mut known = self.known.lock();
            let Some(open) = known.get_mut(repository) else { return };
            // Each is taken in, whether or not one before it is worth a write.
            let news = learnt.into_iter().map(|learnt| open.learn(learnt)).filter(|is_news| *is_news).count();
            (news > 0).then(|| open.write(repository))
        };
        let Some(text) = written else { return };
        *number += 1;
        let name = hex(&repository.key());
        if let Err(error) = self.dir.replace(&name, &format!(".{number}"), &[text.as_bytes()], false) {
            tracing::warn!(file = name, %error, "can't record the tags and blobs of a repository");
        }
        if number.is_multiple_of(100)
            && let Err(error) = tidy(&self.dir)
        {
            tracing::warn!(%error, "can't remove old records of repositories");
        }
    }

    /// Forgets in memory what a registry does not give any more. Nothing is read or written.
    fn take_back(&self, repository: &Repository, learnt: Vec<Learnt>) {
        let mut known = self.known.lock();
        if learnt.iter().any(|learnt| matches!(learnt, Learnt::Closed)) {
            // The repository need not have been in memory; the file is not asked again.
            known.insert(repository.clone(), Open::default(), 1);
        } else if let Some(open) = known.get_mut(repository) {
            for learnt in learnt {
                open.learn(learnt);
            }
        }
    }

    /// Brings a repository into memory.
    fn load(&self, repository: &Repository) {
        if self.known.lock().get(repository).is_some() {
            return;
        }
        let open = self.read(&hex(&repository.key())).and_then(|text| Open::read(&text, repository));
        self.known.lock().insert(repository.clone(), open.unwrap_or_default(), 1);
    }

    fn read(&self, name: &str) -> Option<String> {
        let look = self.dir.look(name).ok()??;
        if look.length > MAX_FILE {
            return None;
        }
        String::from_utf8(self.dir.read(name).ok()?).ok()
    }
}

/// Removes leftovers of a crash, and the files written longest ago beyond the limit.
fn tidy(dir: &Dir) -> io::Result<()> {
    let mut found = Vec::new();
    for name in dir.names()? {
        if name.starts_with('.') {
            // A file that can't be removed is in nobody's way.
            let _ = dir.remove(&name);
        } else if name.len() == 64
            && let Ok(Some(look)) = dir.look(&name)
        {
            found.push((look.modified, name));
        }
    }
    found.sort();
    let beyond = found.len().saturating_sub(MAX_REPOSITORIES);
    for (_, name) in &found[..beyond] {
        let _ = dir.remove(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small_files::elsewhere;

    fn repository(name: &str) -> Repository {
        Repository::new(&"https://registry.lab/".parse().unwrap(), name)
    }

    fn tag(name: &str, accept: &str, content: &str, at: u64) -> Learnt {
        let tagged = Tagged { digest: Digest::sha256(content.as_bytes()), at };
        Learnt::Tag { tag: name.into(), accept: accept.into(), tagged }
    }

    fn digests(found: &[Tagged]) -> Vec<Digest> {
        found.iter().map(|tagged| tagged.digest).collect()
    }

    #[tokio::test]
    async fn what_is_open_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let open = || elsewhere(|| Record::open(Dir::open(&dir.path().join("data")).unwrap()).unwrap());
        let (app, layer) = (repository("lab/app"), Digest::sha256(b"layer"));
        let learnt = vec![Learnt::Has(vec![(layer, Some(5)), (Digest::sha256(b"other"), None)]), tag("1", "a", "x", 9)];
        open().learn(app.clone(), learnt).await;
        let record = open();
        assert_eq!(record.has(app.clone(), layer).await, Some(Some(5)));
        assert_eq!(record.has(app.clone(), Digest::sha256(b"other")).await, Some(None));
        assert_eq!(record.tag(app, "1", "a").await, [Tagged { digest: Digest::sha256(b"x"), at: 9 }]);
        for absent in [repository("lab/other"), Repository::new(&"http://registry.lab/".parse().unwrap(), "lab/app")] {
            assert_eq!(record.has(absent.clone(), layer).await, None);
            assert_eq!(record.tag(absent, "1", "a").await, []);
        }
    }

    #[tokio::test]
    async fn a_tag_is_what_it_was_to_this_kind_of_client_or_else_what_it_was_last() {
        let dir = tempfile::tempdir().unwrap();
        let (record, app) =
            (elsewhere(|| Record::open(Dir::open(&dir.path().join("data")).unwrap()).unwrap()), repository("app"));
        let learnt = vec![tag("1", "a", "old", 1), tag("1", "b", "x", 2), tag("1", "c", "y", 3), tag("1", "a", "z", 4)];
        record.learn(app.clone(), learnt).await;
        let (x, y, z) = (Digest::sha256(b"x"), Digest::sha256(b"y"), Digest::sha256(b"z"));
        assert_eq!(digests(&record.tag(app.clone(), "1", "b").await), [x, z, y]);
        assert_eq!(digests(&record.tag(app.clone(), "1", "d").await), [z, y, x]);
        assert_eq!(record.tag(app, "10", "a").await, []);
    }

    #[tokio::test]
    async fn what_the_registry_takes_back_is_forgotten_on_disk_too() {
        let dir = tempfile::tempdir().unwrap();
        let open = || elsewhere(|| Record::open(Dir::open(&dir.path().join("data")).unwrap()).unwrap());
        let (app, one, two) = (repository("app"), Digest::sha256(b"1"), Digest::sha256(b"2"));
        let record = open();
        record.learn(app.clone(), vec![Learnt::Has(vec![(one, None), (two, None)]), tag("1", "a", "1", 1)]).await;
        record.learn(app.clone(), vec![Learnt::HasNot(one)]).await;
        assert_eq!(open().has(app.clone(), one).await, None);
        assert_eq!(open().tag(app.clone(), "1", "a").await, []);
        record.learn(app.clone(), vec![tag("2", "a", "2", 1)]).await;
        record.learn(app.clone(), vec![Learnt::NoTag("2".into())]).await;
        assert_eq!(open().tag(app.clone(), "2", "a").await, []);
        assert_eq!(open().has(app.clone(), two).await, Some(None));
        record.learn(app.clone(), vec![Learnt::Closed]).await;
        assert_eq!(open().has(app, two).await, None);
    }

    #[tokio::test]
    async fn what_the_registry_takes_back_while_the_disk_hangs_is_not_open_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let record = elsewhere(|| Record::open(Dir::open(&dir.path().join("data")).unwrap()).unwrap());
        let (app, other, one, two) =
            (repository("app"), repository("other"), Digest::sha256(b"1"), Digest::sha256(b"2"));
        for repository in [&app, &other] {
            let learnt = vec![Learnt::Has(vec![(one, None), (two, None)]), tag("1", "a", "2", 1)];
            record.learn(repository.clone(), learnt).await;
        }
        let inner = Arc::clone(&record.0);
        let (go, held) = std::sync::mpsc::channel::<()>();
        let hanging = std::thread::spawn(move || {
            let _writing = inner.writing.lock();
            held.recv()
        });
        while !record.0.writing.is_locked() {
            std::thread::yield_now();
        }
        record.learn(app.clone(), vec![Learnt::HasNot(one)]).await;
        record.learn(other.clone(), vec![Learnt::Closed]).await;
        assert_eq!(record.has(app.clone(), two).await, None, "nothing is told meanwhile");
        go.send(()).unwrap();
        hanging.join().unwrap().unwrap();
        while record.has(app.clone(), two).await.is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(record.has(app, one).await, None);
        assert_eq!(record.has(other.clone(), two).await, None);
        assert_eq!(record.tag(other, "1", "a").await, []);
    }

    #[test]
    fn a_repository_is_bounded_and_what_was_learnt_last_stays() {
        let mut open = Open::default();
        let digest = |n: usize| Digest::sha256(&n.to_le_bytes());
        for n in 0..MAX_DIGESTS + 10 {
            open.learn(Learnt::Has(vec![(digest(n), None)]));
            open.learn(tag(&n.to_string(), "a", "x", n as u64));
        }
        assert!(open.digests.len() <= MAX_DIGESTS && open.tags.len() <= MAX_TAGS);
        let last = MAX_DIGESTS + 9;
        assert!(open.digests.contains_key(&digest(last)) && !open.digests.contains_key(&digest(0)));
        assert_eq!(open.tag(&last.to_string(), "a").len(), 1);
    }

    #[test]
    fn files_of_another_version_or_with_nonsense_do_no_harm() {
        let app = repository("app");
        let mut open = Open::default();
        open.learn(Learnt::Has(vec![(Digest::sha256(b"1"), Some(1))]));
        let text = open.write(&app);
        assert_eq!(Open::read(&text, &app), Some(open.clone()));
        assert_eq!(Open::read(&format!("{text}tag x\nhas sha256:0 1\n\nwhat\n"), &app), Some(open));
        assert_eq!(Open::read(&text.replace("open-1", "open-2"), &app), None);
        assert_eq!(Open::read(&text, &repository("other")), None);
    }
}
