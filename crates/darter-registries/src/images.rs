//! Images that this host was asked for by tag, under the names that people use: what `darter explain app:v1` looks up.
//!
//! A name is matched as people write it: `app:v1`, `library/app:v1`, `docker.io/library/app:v1` and, without a tag, `latest`. A
//! name of more than one known image is ambiguous, and all of them are told.
//!
//! # On disk
//!
//! `DATA_DIR/images` is one file of lines, the oldest first:
//!
//! ```text
//! darter-images-1
//! <registry> <repository> <tag> <digest> <seconds since 1970>
//! ```
//!
//! It is written anew, under a temporary name and renamed, when a tag is new or stands for something else. A file of another
//! version is left alone and counts as absent. Only the owner of the agent reads it: names of private images stand there too.
//!
//! Non-goals: answering engines (`record` knows what may be given to whom).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use darter_core::{Clock, Digest};
use darter_oci::name::ImageName;
use darter_store::Dir;
use parking_lot::Mutex;

use crate::small_files::SmallFiles;

const FILE: &str = "images";
const TEMPORARY: &str = ".images";
const MAGIC: &str = "darter-images-1";
/// Images remembered; the one that was asked for longest ago goes first.
const MAX_IMAGES: usize = 2000;
/// A tag that stands for the same is written down again after this many seconds, for its age.
const REFRESH_SECONDS: u64 = 3600;

/// The images of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// None is known.
    Nothing,
    /// This one.
    Image(ImageName, Digest),
    /// More than one; the full names.
    Several(Vec<String>),
}

/// The images known. Cheap to clone.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    dir: Dir,
    clock: Arc<dyn Clock>,
    /// True if the file was not used when it was opened.
    set_aside: bool,
    /// The digest that each name stood for, and when it was last asked for.
    known: Mutex<BTreeMap<ImageName, (Digest, u64)>>,
    /// Held while the file is written: no older content replaces a newer one.
    writing: Mutex<()>,
    files: SmallFiles,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").field("known", &self.0.known.lock().len()).finish_non_exhaustive()
    }
}

impl Images {
    /// Opens the record of a data directory. Blocking. A file that can't be read, or is a newer release's, counts as absent.
    pub(crate) fn open(dir: Dir, clock: Arc<dyn Clock>) -> Self {
        let set_aside = may_be_newer(&dir);
        if set_aside {
            let path = dir.path_of(FILE);
            tracing::warn!(path = %path.display(), "the names of images are a newer version's or can't be read: they are left alone, and none are kept");
        }
        let text = dir.read(FILE).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        Self(Arc::new(Inner {
            dir,
            clock,
            set_aside,
            known: Mutex::new(parse(&text)),
            writing: Mutex::new(()),
            files: SmallFiles::default(),
        }))
    }

    /// True if the file there is not used: a newer release wrote it, or it can't be read.
    pub(crate) fn is_set_aside(&self) -> bool {
        self.0.set_aside
    }

    /// A program of this host was given what this tag stands for.
    pub async fn note(&self, registry: &str, repository: &str, tag: &str, digest: Digest) {
        let name = ImageName { registry: registry.to_owned(), repository: repository.to_owned(), tag: tag.to_owned() };
        if !fits_a_line(&name) || !self.0.is_news(name, digest, self.0.clock.unix()) {
            return;
        }
        let inner = Arc::clone(&self.0);
        // While the disk hangs, the name is only not kept.
        self.0.files.work(move || inner.write()).await;
    }

    /// These images were removed.
    pub async fn forget(&self, names: &[String]) {
        self.0.known.lock().retain(|name, _| !names.contains(&name.to_string()));
        let inner = Arc::clone(&self.0);
        // While the disk hangs, the names are only kept.
        self.0.files.work(move || inner.write()).await;
    }

    /// The image of this name.
    pub fn find(&self, text: &str) -> Found {
        let known = self.0.known.lock();
        let mut found = known.iter().filter(|(name, _)| name.is_called(text));
        match (found.next(), found.next()) {
            (None, _) => Found::Nothing,
            (Some((name, (digest, _))), None) => Found::Image(name.clone(), *digest),
            (Some(_), Some(_)) => {
                let names = known.keys().filter(|name| name.is_called(text));
                Found::Several(names.map(ToString::to_string).collect())
            }
        }
    }

    /// Every image with what its tag stands for.
    pub fn all(&self) -> Vec<(String, Digest)> {
        self.0.known.lock().iter().map(|(name, (digest, _))| (name.to_string(), *digest)).collect()
    }
}

impl Inner {
    /// Notes a name; whether the file is to be written.
    fn is_news(&self, name: ImageName, digest: Digest, now: u64) -> bool {
        let mut known = self.known.lock();
        if known.get(&name).is_some_and(|(was, at)| *was == digest && now.saturating_sub(*at) < REFRESH_SECONDS) {
            return false;
        }
        known.insert(name, (digest, now));
        while known.len() > MAX_IMAGES {
            let oldest = known.iter().min_by_key(|(_, (_, at))| *at).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            known.remove(&oldest);
        }
        true
    }

    fn write(&self) {
        let _writing = self.writing.lock();
        let mut lines: Vec<(u64, String)> = {
            let known = self.known.lock();
            let line = |(name, (digest, at)): (&ImageName, &(Digest, u64))| {
                (*at, format!("{} {} {} {digest} {at}\n", name.registry, name.repository, name.tag))
            };
            known.iter().map(line).collect()
        };
        lines.sort_unstable();
        let text: String = lines.into_iter().map(|(_, line)| line).collect();
        if may_be_newer(&self.dir) {
            return;
        }
        if let Err(error) = self.dir.replace(FILE, TEMPORARY, &[MAGIC.as_bytes(), b"\n", text.as_bytes()], false) {
            tracing::warn!(path = %self.dir.path_of(FILE).display(), %error, "could not note the name of an image");
        }
    }
}

/// True if the file is a newer release's; one that can't be read may be, too.
fn may_be_newer(dir: &Dir) -> bool {
    match dir.read(FILE) {
        Ok(there) => !there.starts_with(format!("{MAGIC}\n").as_bytes()),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// Names with white space are no image's, and would break a line.
fn fits_a_line(name: &ImageName) -> bool {
    [&name.registry, &name.repository, &name.tag]
        .iter()
        .all(|part| !part.is_empty() && !part.contains(char::is_whitespace))
}

fn parse(text: &str) -> BTreeMap<ImageName, (Digest, u64)> {
    let mut lines = text.lines();
    if lines.next() != Some(MAGIC) {
        return BTreeMap::new();
    }
    let image = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let name = ImageName { registry: words.next()?, repository: words.next()?, tag: words.next()? };
        let (digest, at) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((name, (digest, at)))
    };
    lines.filter_map(image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::small_files::elsewhere;

    fn clock() -> Arc<dyn Clock> {
        Arc::new(darter_core::SystemClock::start())
    }

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    async fn images(dir: &std::path::Path) -> Images {
        let images = elsewhere(|| Images::open(Dir::open(dir).unwrap(), clock()));
        images.note("docker.io", "library/app", "v1", digest("hub")).await;
        images.note("ghcr.io", "shop/app", "v2", digest("shop")).await;
        images.note("10.0.0.1:5000", "tools", "latest", digest("tools")).await;
        images
    }

    #[tokio::test]
    async fn an_image_is_found_by_what_people_call_it() {
        let dir = tempfile::tempdir().unwrap();
        let images = images(&dir.path().join("data")).await;
        let is = |text: &str, wanted: &str| match images.find(text) {
            Found::Image(_, found) => assert_eq!(found, digest(wanted), "{text}"),
            other => panic!("{text}: {other:?}"),
        };
        for text in ["app:v1", "library/app:v1", "docker.io/library/app:v1", "docker.io/app:v1"] {
            is(text, "hub");
        }
        for text in ["app:v2", "shop/app:v2", "ghcr.io/shop/app:v2"] {
            is(text, "shop");
        }
        for text in ["tools", "tools:latest", "10.0.0.1:5000/tools", "10.0.0.1:5000/tools:latest"] {
            is(text, "tools");
        }
        for text in ["app", "app:v3", "pp:v1", "other.io/library/app:v1", "library/tools", ""] {
            assert_eq!(images.find(text), Found::Nothing, "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_of_two_images_is_ambiguous() {
        let dir = tempfile::tempdir().unwrap();
        let images = images(&dir.path().join("data")).await;
        images.note("quay.io", "other/app", "v1", digest("quay")).await;
        let both = vec!["docker.io/library/app:v1".to_owned(), "quay.io/other/app:v1".to_owned()];
        assert_eq!(images.find("app:v1"), Found::Several(both));
    }

    #[tokio::test]
    async fn names_outlive_the_process_and_follow_their_tag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        images(&path).await.note("docker.io", "library/app", "v1", digest("new")).await;
        let again = elsewhere(|| Images::open(Dir::open(&path).unwrap(), clock()));
        assert_eq!(again.all().len(), 3);
        assert!(matches!(again.find("app:v1"), Found::Image(_, found) if found == digest("new")));
    }

    #[tokio::test]
    async fn what_a_newer_release_wrote_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        elsewhere(|| {
            let text: &[u8] = b"darter-images-2\nwhatever\n";
            Dir::open(&path).unwrap().replace(FILE, TEMPORARY, &[text], false).unwrap();
        });
        let images = images(&path).await;
        assert!(matches!(images.find("app:v1"), Found::Image(..)), "known in this run");
        assert_eq!(std::fs::read(path.join(FILE)).unwrap(), b"darter-images-2\nwhatever\n");
    }

    #[tokio::test]
    async fn the_table_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let images = elsewhere(|| Images::open(Dir::open(&dir.path().join("data")).unwrap(), clock()));
        for number in 0..MAX_IMAGES + 5 {
            let name = ImageName { registry: "r.io".into(), repository: "a".into(), tag: number.to_string() };
            images.0.is_news(name, digest("x"), number as u64);
        }
        assert_eq!(images.all().len(), MAX_IMAGES);
        assert_eq!(images.find("r.io/a:4"), Found::Nothing, "the oldest went");
    }
}
