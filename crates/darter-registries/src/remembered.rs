//! Repositories without their registry: noted from every answer, given while the registry is away.

use std::time::Duration;

use bytes::Bytes;
use darter_core::Digest;
use darter_metrics::RegistryAnswered;
use darter_oci::manifest::{self, ImageManifest, NamedParts};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::outage::Trouble;
use super::provenance::place_at;
use super::question::{About, Question, Reply, Stale};
use super::record::{Learnt, Repository, Tagged, accept_key};
use super::{PrivateTag, Registries};

impl Registries {
    /// Notes what a reply teaches for when the registry is away.
    pub(super) async fn learn(&self, question: &Question, reply: &Reply) {
        let (name, about) = question.about();
        if name.is_empty() {
            return;
        }
        let mut learnt = Vec::new();
        match (reply.status, about) {
            (StatusCode::OK, About::Tag(_) | About::Manifest(_)) => {
                let Some(digest) = self.keep(question, reply, &mut learnt).await else { return };
                if let About::Tag(tag) = about {
                    let age = reply.age + reply.stale.as_ref().map_or(Duration::ZERO, |stale| stale.age);
                    let tagged = Tagged { digest, at: self.clock.unix().saturating_sub(age.as_secs()) };
                    let (tag, accept) = (tag.to_owned(), accept_key(&question.headers));
                    if !question.is_open() && reply.stale.is_none() {
                        let key = self.private_tag(question, &tag, &accept);
                        self.private_tags.lock().insert(key, (tagged, self.clock.now()), 1);
                    }
                    learnt.push(Learnt::Tag { tag, accept, tagged });
                }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => learnt.push(Learnt::Closed),
            (StatusCode::NOT_FOUND, About::Tag(tag)) => learnt.push(Learnt::NoTag(tag.to_owned())),
            (StatusCode::NOT_FOUND, About::Manifest(digest) | About::Blob(digest)) => {
                learnt.push(Learnt::HasNot(digest));
            }
            _ => {}
        }
        if question.is_open() && !learnt.is_empty() {
            self.record.learn(Repository::new(question.base(), name), learnt).await;
        }
    }

    /// Keeps the manifest of a reply; its digest, if the manifest is here.
    async fn keep(&self, question: &Question, reply: &Reply, learnt: &mut Vec<Learnt>) -> Option<Digest> {
        if reply.body.is_empty() {
            let digest = reply.digest()?;
            return self.manifests.get(digest).await.map(|manifest| manifest.digest);
        }
        let expected = match question.about().1 {
            About::Manifest(digest) => Some(digest),
            _ => None,
        };
        // A wrong manifest is left to the caller, who sees the same reply.
        let checked = manifest::check(&reply.headers, reply.body.clone(), expected).ok()?;
        let manifest::Checked { manifest, keeps: true } = checked else { return None };
        let size = Some(manifest.bytes.len() as u64);
        let parts = NamedParts::parse(&manifest.bytes).all().map(|part| (part.digest, part.size));
        learnt.push(Learnt::Has([(manifest.digest, size)].into_iter().chain(parts).collect()));
        let digest = manifest.digest;
        self.manifests.put(manifest).await;
        self.provenance.note(digest, place_at(question.base(), question.about().0)).await;
        Some(digest)
    }

    /// The remembered answer instead of the registry's, if the caller may have it.
    pub(super) async fn instead(&self, question: &Question, trouble: &Trouble) -> Option<Reply> {
        let (name, about) = question.about();
        let repository = Repository::new(question.base(), name);
        let stale = |age| Stale { age, reason: trouble.reason().to_owned() };
        let reply = match about {
            About::Blob(digest) => {
                let length = self.record.has(repository, digest).await?;
                of_blob(digest, length, stale(Duration::ZERO))
            }
            About::Manifest(digest) => {
                self.record.has(repository, digest).await?;
                let manifest = self.delivered(question, digest).await?;
                let fits = manifest::accepts(&question.headers, &manifest.media_type);
                fits.then(|| of_manifest(question, &manifest, stale(Duration::ZERO)))?
            }
            About::Tag(tag) if trouble.opens_tags(self.options.stale_tags) => {
                let (manifest, at) = self.last_tagged(question, repository, tag).await?;
                let age = Duration::from_secs(self.clock.unix().saturating_sub(at));
                tracing::debug!(base = %question.base(), repository = name, tag, "answering a tag as it was last seen");
                of_manifest(question, &manifest, stale(age))
            }
            About::Tag(_) | About::Other => return None,
        };
        self.metrics.registry_answer(RegistryAnswered::Stale);
        Some(reply)
    }

    /// The manifest that a tag stood for last, as far as this caller may know, and when.
    async fn last_tagged(
        &self,
        question: &Question,
        repository: Repository,
        tag: &str,
    ) -> Option<(ImageManifest, u64)> {
        let accept = accept_key(&question.headers);
        let key = self.private_tag(question, tag, &accept);
        let private = self.private_tags.lock().get(&key).copied();
        let private = private.filter(|(_, at)| self.clock.now() - *at < self.options.grant_ttl);
        let open = self.record.tag(repository, tag, &accept).await;
        for tagged in private.map(|(tagged, _)| tagged).into_iter().chain(open) {
            if let Some(manifest) = self.delivered(question, tagged.digest).await
                && manifest::accepts(&question.headers, &manifest.media_type)
            {
                return Some((manifest, tagged.at));
            }
        }
        None
    }

    /// A manifest that the repository itself delivered: that it was named there proves nothing.
    async fn delivered(&self, question: &Question, digest: Digest) -> Option<ImageManifest> {
        let place = place_at(question.base(), question.about().0);
        if !self.provenance.knows(digest, &place).await {
            return None;
        }
        self.manifests.get(digest).await
    }

    fn private_tag(&self, question: &Question, tag: &str, accept: &str) -> PrivateTag {
        let repository = Repository::new(question.base(), question.about().0);
        let caller = Digest::Sha256(question.credentials.fingerprint());
        (repository.key(), format!("{tag} {accept}"), caller)
    }
}

fn of_blob(digest: Digest, length: Option<u64>, stale: Stale) -> Reply {
    let mut headers = HeaderMap::new();
    put(&mut headers, "docker-content-digest", &digest.to_string());
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Reply { status: StatusCode::OK, headers, body: Bytes::new(), age: Duration::ZERO, stale: Some(stale) }
}

fn of_manifest(question: &Question, manifest: &ImageManifest, stale: Stale) -> Reply {
    let mut headers = HeaderMap::new();
    put(&mut headers, "docker-content-digest", &manifest.digest.to_string());
    put(&mut headers, CONTENT_TYPE.as_str(), &manifest.media_type);
    headers.insert(CONTENT_LENGTH, manifest.bytes.len().into());
    let body = if question.method == Method::HEAD { Bytes::new() } else { manifest.bytes.clone() };
    Reply { status: StatusCode::OK, headers, body, age: Duration::ZERO, stale: Some(stale) }
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
