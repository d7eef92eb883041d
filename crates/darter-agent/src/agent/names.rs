//! The names that commands accept: a blob's id, a digest, the first digits of either, a URL, the name that `darter ls` shows, or an image
//! reference. Every command accepts all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use darter_core::layer::expanded_name;
use darter_core::source::blob_of;
use darter_core::{BlobId, Digest, Source};
use darter_engine::FetchError;
use darter_engine::swarms::Swarms;
use darter_registries::Registries;
use darter_registries::images::Found;

use super::Inner;

/// The minimum number of digits of an id or a digest.
pub const MIN_DIGITS: usize = 8;

/// What a name refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing that is known here.
    Nothing,
    /// A blob that is stored or has a transfer.
    Blob(BlobId),
    /// An image: the name under which it is shown, and the digest of its index or manifest.
    Image(String, Digest),
}

/// What `name` refers to.
///
/// # Errors
/// [`FetchError::Ambiguous`] if it fits more than one thing; the store's errors.
pub(super) async fn find(inner: &Inner, name: &str) -> Result<Meaning, FetchError> {
    let (swarms, registries) = (&inner.swarms, inner.registries.as_deref());
    let blob = name.parse::<BlobId>().ok();
    if let Some(blob) = blob
        && swarms.is_known(blob).await?
    {
        return Ok(Meaning::Blob(blob));
    }
    let digest = name.rsplit_once('@').map_or(name, |(_, digest)| digest).parse::<Digest>();
    if let Ok(digest) = digest {
        if let Some(registries) = registries
            && registries.manifests().get(digest).await.is_some()
        {
            return Ok(Meaning::Image(name.to_owned(), digest));
        }
        return Ok(find_digest(swarms, &digest).await?.map_or(Meaning::Nothing, Meaning::Blob));
    }
    if let Ok(url) = name.parse() {
        let (source, _) = Source::from_signed_url(url, &[], None, &inner.options.signed_parameters);
        if let Some(record) = swarms.recall(&source).await? {
            return Ok(Meaning::Blob(record.blob));
        }
    }
    let found = by_digits_or_name(swarms, registries, name).await;
    match found.len() {
        0 => match blob {
            // The blob is gone, but its explanation may be here.
            Some(blob) => Ok(Meaning::Blob(blob)),
            None => by_reference(registries, name),
        },
        1 => Ok(found.into_values().next().unwrap_or(Meaning::Nothing)),
        _ => Err(FetchError::Ambiguous { name: name.to_owned(), candidates: found.into_keys().collect() }),
    }
}

/// Everything whose id or digest begins with these digits, and blobs that are shown under this name, by what distinguishes
/// them.
async fn by_digits_or_name(
    swarms: &Arc<Swarms>,
    registries: Option<&Registries>,
    name: &str,
) -> BTreeMap<String, Meaning> {
    let known = known(swarms).await;
    let digits = Digits::of(name);
    let is_digest = |digest: &Digest| digits.as_ref().is_some_and(|digits| digits.begin_digest(digest));
    let is_blob = |blob: BlobId| digits.as_ref().is_some_and(|digits| digits.begin_blob(blob));
    let expanded: Vec<_> = known
        .iter()
        .filter(|it| it.expanded.is_some_and(|(layer, tar)| is_digest(&layer) || is_digest(&tar)))
        .map(|it| (it.blob.to_string(), Meaning::Blob(it.blob)))
        .collect();
    let blobs = known
        .into_iter()
        .filter(|it| it.name == name || is_blob(it.blob) || it.digest.as_ref().is_some_and(is_digest))
        .map(|it| (it.digest.map_or_else(|| it.blob.to_string(), |digest| digest.to_string()), Meaning::Blob(it.blob)));
    let manifests = registries.map(|registries| registries.manifests().all()).unwrap_or_default();
    let manifests = manifests.into_iter().map(|digest| (digest.to_string(), digest));
    // A blob with a name of its own is shown under that name.
    let named = registries.map(|registries| registries.images().all()).unwrap_or_default();
    let images = manifests
        .chain(named)
        .filter(|(_, digest)| is_digest(digest))
        .map(|(image, digest)| (digest.to_string(), Meaning::Image(image, digest)));
    let found: BTreeMap<_, _> = blobs.chain(images).collect();
    // The layer itself has precedence over its expanded form.
    if found.is_empty() { expanded.into_iter().collect() } else { found }
}

/// A blob that is stored or has a transfer.
pub(super) struct Known {
    pub(super) blob: BlobId,
    /// The name under which it is shown.
    name: String,
    digest: Option<Digest>,
    /// For an expanded layer, the digests of the layer and of its tar.
    pub(super) expanded: Option<(Digest, Digest)>,
}

/// All blobs that are here, some perhaps twice.
pub(super) async fn known(swarms: &Arc<Swarms>) -> Vec<Known> {
    let stored = swarms.house.context.disk.list().await;
    let stored = stored.into_iter().map(|row| (row.id, row.info.name, row.info.digest));
    let moving = swarms.all();
    let moving = moving.iter().map(|transfer| (transfer.blob, transfer.source.to_string(), transfer.digest()));
    let known = |(blob, name, digest): (BlobId, String, Option<Digest>)| {
        let expanded = expanded_name(&name);
        Known { blob, name, digest, expanded }
    };
    stored.chain(moving).map(known).collect()
}

fn by_reference(registries: Option<&Registries>, name: &str) -> Result<Meaning, FetchError> {
    match registries.map_or(Found::Nothing, |registries| registries.images().find(name)) {
        Found::Nothing => Ok(Meaning::Nothing),
        Found::Image(image, digest) => Ok(Meaning::Image(image.to_string(), digest)),
        Found::Several(candidates) => Err(FetchError::Ambiguous { name: name.to_owned(), candidates }),
    }
}

/// The first digits of an id or a digest.
struct Digits {
    /// In lower case.
    digits: String,
    /// The algorithm, if the name contains one, as in `sha256:0123abcd`.
    algorithm: Option<String>,
}

impl Digits {
    /// Parses a name; for `app@sha256:0123abcd`, the part after the image's name. `None` if it is something else.
    fn of(name: &str) -> Option<Self> {
        let digest = name.rsplit_once('@').map(|(_, digest)| digest).filter(|digest| digest.contains(':'));
        let (algorithm, digits) = match digest.unwrap_or(name).split_once(':') {
            Some((algorithm, digits)) => (Some(algorithm.to_ascii_lowercase()), digits),
            None => (None, name),
        };
        let are_digits = digits.len() >= MIN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        are_digits.then(|| Self { digits: digits.to_ascii_lowercase(), algorithm })
    }

    fn begin_blob(&self, blob: BlobId) -> bool {
        self.algorithm.is_none() && blob.to_string().starts_with(&self.digits)
    }

    fn begin_digest(&self, digest: &Digest) -> bool {
        let text = digest.to_string();
        let Some((algorithm, digits)) = text.split_once(':') else { return false };
        self.algorithm.as_ref().is_none_or(|wanted| wanted == algorithm) && digits.starts_with(&self.digits)
    }
}

/// The blob whose content has this digest: a registry's blob before one that was read from an address, a complete blob
/// before an incomplete one; else the expanded form of the layer or of the tar with this digest.
async fn find_digest(swarms: &Arc<Swarms>, digest: &Digest) -> Result<Option<BlobId>, FetchError> {
    let blob = blob_of(digest);
    if swarms.is_known(blob).await? {
        return Ok(Some(blob));
    }
    let moving = swarms.all();
    if let Some(transfer) = moving.iter().find(|transfer| transfer.digest() == Some(*digest)) {
        return Ok(Some(transfer.blob));
    }
    let mut stored = swarms.house.context.disk.list().await;
    stored.retain(|row| row.info.digest == Some(*digest));
    stored.sort_by_key(|row| !row.complete);
    if let Some(row) = stored.first() {
        return Ok(Some(row.id));
    }
    let expanded = |it: &Known| it.expanded.is_some_and(|(layer, tar)| [layer, tar].contains(digest));
    Ok(Some(known(swarms).await.into_iter().find(expanded).map_or(blob, |it| it.blob)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_digits_name_digests_and_ids() {
        let digest = Digest::sha256(b"layer");
        let text = digest.to_string();
        let hex = text.strip_prefix("sha256:").unwrap();
        let begin = |name: &str| Digits::of(name).is_some_and(|digits| digits.begin_digest(&digest));
        let of_image = format!("reg:5000/app:v1@{}", &text[..15]);
        for name in
            [&hex[..8], &hex[..20], hex, &text[..15], &hex[..12].to_uppercase(), &text.to_uppercase(), &of_image]
        {
            assert!(begin(name), "{name}");
        }
        let (other, of_nothing) = (format!("sha512:{}", &hex[..12]), format!("app@{}", &hex[..12]));
        for name in [&hex[..7], &hex[1..12], &other, &of_nothing, "library/app:v1"] {
            assert!(!begin(name), "{name}");
        }
        let blob = blob_of(&digest);
        assert!(Digits::of(&blob.to_string()[..8]).unwrap().begin_blob(blob));
        assert!(!Digits::of(&format!("sha256:{}", &blob.to_string()[..8])).unwrap().begin_blob(blob));
    }
}
