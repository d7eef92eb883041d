//! Images known on this host: which blobs belong to one, and which of them are explained, watched or removed.
//!
//! The blobs of an image are named in its manifests, as far as the mirror has them.

use std::collections::{HashMap, HashSet};

use darter_api::{Explained, Explanation, ImageExplanation, ImagePart, ImageRole};
use darter_core::source::blob_of;
use darter_core::{BlobId, Digest, Source};
use darter_engine::FetchError;
use darter_engine::transfer::Outcome;

use super::Inner;
use super::names::{self, Meaning};

/// A part of an image.
struct Component {
    role: ImageRole,
    digest: Digest,
    length: Option<u64>,
}

/// The explanation of where the bytes of the blob or image called `name` came from.
pub(super) async fn explain(inner: &Inner, name: &str) -> Result<Option<Explained>, FetchError> {
    let found = match names::find(inner, name).await? {
        Meaning::Nothing => None,
        Meaning::Blob(blob) => explain_blob(inner, blob).await,
        Meaning::Image(image, digest) => {
            let expanded = Expanded::all(inner).await;
            let mut parts = Vec::new();
            for Component { role, digest, length } in parts_of(inner, digest).await {
                let explanation = explain_part(inner, &digest, &expanded).await;
                parts.push(ImagePart { role, digest, length, explanation });
            }
            return Ok(Some(Explained::Image(ImageExplanation { image, digest, parts })));
        }
    };
    let told = found.or_else(|| {
        let (blob, digest, thrown) = (name.parse().ok(), name.parse().ok(), &inner.context.thrown_away);
        let source =
            name.parse().ok().map(|url| Source::from_signed_url(url, &[], None, &inner.options.signed_parameters).0);
        thrown.find(blob, digest.as_ref(), &source.map_or_else(|| name.to_owned(), |source| source.to_string()))
    });
    Ok(told.map(|told| Explained::Blob(Box::new(told))))
}

/// The explanation of a part: of the blob itself, of its expanded form if only that is here, or of one of them that was thrown away.
async fn explain_part(inner: &Inner, digest: &Digest, expanded: &Expanded) -> Option<Explanation> {
    if let Some(told) = explain_blob(inner, blob_of(digest)).await {
        return Some(told);
    }
    for blob in expanded.of(digest) {
        if let Some(told) = explain_blob(inner, *blob).await {
            return Some(told);
        }
    }
    inner.context.thrown_away.find(None, Some(digest), "")
}

/// The layers whose expanded form is here.
struct Expanded(HashMap<Digest, Vec<BlobId>>);

impl Expanded {
    async fn all(inner: &Inner) -> Self {
        let mut all: HashMap<Digest, Vec<BlobId>> = HashMap::new();
        for known in names::known(&inner.swarms).await {
            let Some((layer, _)) = known.expanded else { continue };
            let of = all.entry(layer).or_default();
            if !of.contains(&known.blob) {
                of.push(known.blob);
            }
        }
        Self(all)
    }

    /// The expanded forms of the layer with this digest.
    fn of(&self, digest: &Digest) -> &[BlobId] {
        self.0.get(digest).map_or(&[], Vec::as_slice)
    }
}

async fn explain_blob(inner: &Inner, blob: BlobId) -> Option<Explanation> {
    let moving = inner.swarms.get(blob).filter(|transfer| transfer.has_history());
    if let Some(transfer) = moving {
        return Some(transfer.explain());
    }
    let archive = inner.context.archive.clone();
    inner.context.disk.run(move || archive.recall(blob)).await
}

/// The blob to watch for `name`: for an image, the first part that is being fetched, else the first that has a
/// transfer.
pub(super) async fn swarm(inner: &Inner, name: &str) -> Result<Option<BlobId>, FetchError> {
    let blobs = blobs_of(inner, name).await?;
    let transfers = blobs.iter().filter_map(|blob| inner.swarms.get(*blob));
    let (mut open, mut other) = (None, None);
    for transfer in transfers {
        let chosen = if matches!(transfer.outcome(), Outcome::Open) { &mut open } else { &mut other };
        chosen.get_or_insert(transfer.blob);
    }
    Ok(open.or(other).or(blobs.first().copied()))
}

/// What is removed with a name.
#[derive(Debug, Default)]
pub(super) struct Removable {
    pub(super) blobs: Vec<BlobId>,
    /// Expanded layers; those that an engine may mount are kept.
    pub(super) expanded: Vec<BlobId>,
    /// The names of images.
    pub(super) images: Vec<String>,
}

/// What is removed with `name`: for an image, its name, and the blobs that belong to no image of another name. For an image's digest,
/// all names of the image.
pub(super) async fn removable(inner: &Inner, name: &str) -> Result<Removable, FetchError> {
    let registries = inner.registries.as_deref();
    let (image, digest) = match names::find(inner, name).await? {
        Meaning::Nothing => return Ok(Removable::default()),
        Meaning::Blob(blob) => return Ok(Removable { blobs: vec![blob], ..Removable::default() }),
        Meaning::Image(image, digest) => (image, digest),
    };
    let known = registries.map(|registries| registries.images().all()).unwrap_or_default();
    let by_name = !is_digest_of(name, digest) && known.iter().any(|(name, _)| *name == image);
    let goes = |name: &str, other: Digest| if by_name { name == image } else { other == digest };
    let (going, staying): (Vec<_>, Vec<_>) = known.into_iter().partition(|(name, other)| goes(name, *other));
    let mut needed = HashSet::new();
    for (_, other) in staying {
        needed.extend(parts_of(inner, other).await.into_iter().map(|part| part.digest));
    }
    let parts = parts_of(inner, digest).await.into_iter().map(|part| part.digest);
    let parts: Vec<_> = parts.filter(|digest| !needed.contains(digest)).collect();
    let blobs = parts.iter().map(blob_of).collect();
    let all = Expanded::all(inner).await;
    let expanded = parts.iter().flat_map(|digest| all.of(digest)).copied().collect();
    Ok(Removable { blobs, expanded, images: going.into_iter().map(|(name, _)| name).collect() })
}

/// True if `name` is an image's digest, or its first digits.
fn is_digest_of(name: &str, digest: Digest) -> bool {
    let text = digest.to_string();
    let digits = text.split_once(':').map_or(text.as_str(), |(_, digits)| digits);
    let name = name.rsplit_once('@').map_or(name, |(_, digest)| digest).to_ascii_lowercase();
    text.starts_with(&name) || digits.starts_with(&name)
}

/// The names of the known images that each blob is a part of.
pub(super) async fn by_blob(inner: &Inner) -> HashMap<BlobId, Vec<String>> {
    let registries = inner.registries.as_deref();
    let known = registries.map(|registries| registries.images().all()).unwrap_or_default();
    let mut images: HashMap<BlobId, Vec<String>> = HashMap::new();
    let expanded = Expanded::all(inner).await;
    for (name, digest) in known {
        for part in parts_of(inner, digest).await {
            for blob in [blob_of(&part.digest)].iter().chain(expanded.of(&part.digest)) {
                images.entry(*blob).or_default().push(name.clone());
            }
        }
    }
    images
}

/// The blobs of the blob or image called `name`.
pub(super) async fn blobs_of(inner: &Inner, name: &str) -> Result<Vec<BlobId>, FetchError> {
    Ok(match names::find(inner, name).await? {
        Meaning::Nothing => Vec::new(),
        Meaning::Blob(blob) => vec![blob],
        Meaning::Image(_, digest) => {
            let (parts, expanded) = (parts_of(inner, digest).await, Expanded::all(inner).await);
            let blobs = |digest| [blob_of(digest)].into_iter().chain(expanded.of(digest).iter().copied());
            parts.iter().flat_map(|part| blobs(&part.digest)).collect()
        }
    })
}

/// An index or manifest and everything that it names, as far as the manifests are here, without duplicates.
async fn parts_of(inner: &Inner, digest: Digest) -> Vec<Component> {
    let Some(registries) = inner.registries.as_deref() else { return Vec::new() };
    let Some(root) = inner.contents.of(registries, digest).await else { return Vec::new() };
    let role = if root.is_index { ImageRole::Index } else { ImageRole::Manifest };
    let mut parts = vec![Component { role, digest, length: Some(root.length) }];
    let mut seen = HashSet::from([digest]);
    // An index may name indexes; digests that were seen are skipped, so this ends.
    let mut open = vec![root];
    while let Some(next) = open.pop() {
        for &(role, digest, length) in &next.parts {
            if !seen.insert(digest) {
                continue;
            }
            let inside = match role {
                ImageRole::Manifest => inner.contents.of(registries, digest).await,
                _ => None,
            };
            // For other platforms' manifests, nothing was requested here.
            if role == ImageRole::Manifest && inside.is_none() {
                continue;
            }
            parts.push(Component { role, digest, length });
            open.extend(inside);
        }
    }
    parts
}
