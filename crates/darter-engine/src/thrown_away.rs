//! Explanations of blobs that were thrown away because their content was wrong: the blob itself is gone, so these say who sent it.
//!
//! In memory, and bounded: the latest ones of this run. Decided without I/O.

use std::collections::VecDeque;

use darter_api::Explanation;
use darter_core::{BlobId, Digest, ExpandedLayer, Source};
use parking_lot::Mutex;

/// How many are kept. Each may have thousands of ranges.
const MAX_KEPT: usize = 16;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct ThrownAway(Mutex<VecDeque<ThrownBlob>>);

#[derive(Debug)]
struct ThrownBlob {
    explanation: Explanation,
    /// The digests by which it is requested: its own, or those of the layer that it should have been.
    digests: Vec<Digest>,
}

impl ThrownAway {
    /// Keeps an explanation, and replaces an earlier one of the same blob.
    pub(crate) fn keep(&self, source: &Source, explanation: Explanation) {
        let digests = match source {
            Source::Expanded(ExpandedLayer { digest, diff_id, .. }) => vec![*digest, *diff_id],
            other => other.digest().into_iter().collect(),
        };
        let mut kept = self.0.lock();
        kept.retain(|other| other.explanation.blob != explanation.blob);
        if kept.len() >= MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back(ThrownBlob { explanation, digests });
    }

    /// The latest that matches by its blob, by one of its digests, or by the name under which it was requested.
    pub fn find(&self, blob: Option<BlobId>, digest: Option<&Digest>, name: &str) -> Option<Explanation> {
        let fits = |it: &ThrownBlob| {
            blob == Some(it.explanation.blob)
                || digest.is_some_and(|digest| it.digests.contains(digest))
                || it.explanation.name == name
        };
        self.0.lock().iter().rev().find(|it| fits(it)).map(|it| it.explanation.clone())
    }
}

#[cfg(test)]
mod tests {
    use darter_api::Traffic;

    use super::*;

    fn explanation(number: u8, name: &str) -> Explanation {
        Explanation {
            blob: BlobId([number; 32]),
            name: name.to_owned(),
            digest: None,
            root: None,
            length: None,
            started: 0,
            seconds: None,
            traffic: Traffic::default(),
            ranges: Vec::new(),
            events: Vec::new(),
            waits: Vec::new(),
            max_lag_bytes: 0,
            waiting: None,
            failed: Some("wrong".to_owned()),
        }
    }

    #[test]
    fn the_latest_are_found_by_blob_by_name_and_by_every_digest() {
        let thrown = ThrownAway::default();
        let [layer, tar] = [b"layer", b"a tar"].map(|text| Digest::sha256(text));
        let registry = "https://a/".parse().unwrap();
        let source = Source::Expanded(ExpandedLayer {
            registry,
            repository: "r".into(),
            digest: layer,
            diff_id: tar,
            format: 1,
        });
        thrown.keep(&source, explanation(1, "one"));
        let found = |blob, digest: Option<&Digest>, name| thrown.find(blob, digest, name).map(|found| found.blob.0[0]);
        assert_eq!(found(Some(BlobId([1; 32])), None, ""), Some(1));
        assert_eq!((found(None, Some(&layer), ""), found(None, Some(&tar), "")), (Some(1), Some(1)));
        assert_eq!((found(None, None, "one"), found(None, Some(&Digest::sha256(b"x")), "two")), (Some(1), None));
        for number in 2..=u8::try_from(MAX_KEPT).unwrap() + 1 {
            thrown.keep(&Source::from_url("http://a/".parse().unwrap(), &[], None).0, explanation(number, "url"));
        }
        assert_eq!((found(None, None, "one"), found(None, None, "url")), (None, Some(17)));
    }
}
