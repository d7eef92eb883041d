//! What people call a blob: its id or the beginning of it, its digest, or the URL it was asked for as.

use std::sync::Arc;

use darter_core::source::blob_of;
use darter_core::{BlobId, Digest, Source};

use crate::error::FetchError;
use crate::swarms::Swarms;

/// The fewest digits of an id that name a blob.
const FEWEST_DIGITS: usize = 8;

/// The blob of this name, stored or moving; `None` if nothing or more than one thing is called so.
pub(super) async fn find(swarms: &Arc<Swarms>, name: &str) -> Result<Option<BlobId>, FetchError> {
    if let Ok(blob) = name.parse::<BlobId>() {
        return Ok(Some(blob));
    }
    if let Ok(digest) = name.parse::<Digest>() {
        return find_digest(swarms, &digest).await;
    }
    if let Ok(url) = name.parse() {
        let (source, _) = Source::from_url(url, &[], None);
        if let Some(record) = swarms.recall(&source).await? {
            return Ok(Some(record.blob));
        }
    }
    let store = Arc::clone(&swarms.house.context.store);
    let stored = tokio::task::spawn_blocking(move || store.list()).await.expect("listing does not panic");
    let mut known: Vec<(BlobId, String)> = stored.into_iter().map(|row| (row.id, row.info.name)).collect();
    known.extend(swarms.all().iter().map(|transfer| (transfer.blob, transfer.source.to_string())));
    let is_prefix = name.len() >= FEWEST_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut found: Vec<BlobId> = known
        .into_iter()
        .filter(|(blob, known_as)| known_as == name || (is_prefix && blob.to_string().starts_with(name)))
        .map(|(blob, _)| blob)
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(if let [blob] = found[..] { Some(blob) } else { None })
}

/// The blob whose content has this digest: a registry's, else one that was read from an address; what is complete
/// before what is not.
async fn find_digest(swarms: &Arc<Swarms>, digest: &Digest) -> Result<Option<BlobId>, FetchError> {
    let blob = blob_of(digest);
    if swarms.is_known(blob).await? {
        return Ok(Some(blob));
    }
    let moving = swarms.all();
    if let Some(transfer) = moving.iter().find(|transfer| transfer.digest() == Some(*digest)) {
        return Ok(Some(transfer.blob));
    }
    let store = Arc::clone(&swarms.house.context.store);
    let mut stored = tokio::task::spawn_blocking(move || store.list()).await.expect("listing does not panic");
    stored.retain(|row| row.info.digest == Some(*digest));
    stored.sort_by_key(|row| !row.complete);
    Ok(Some(stored.first().map_or(blob, |row| row.id)))
}
