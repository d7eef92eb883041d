//! Manifests and indexes, by tag and by digest.
//!
//! *By tag*: the upstream is asked for every request. For a tag seen before, it is asked by HEAD, which costs no body, and
//! nothing of the quota of registries that count pulls; if the tag's digest is cached, the cached bytes are the answer. In
//! all other cases the manifest is read again, for a HEAD, too: engines request the digest right after they have learnt it.
//!
//! *By digest*: cached bytes if the caller may read them; else the upstream is asked, and its answer is checked against
//! the digest before a byte of it is passed on.
//!
//! Everything that a served manifest names belongs to the repository from then on (`grants`).

use darter_core::Digest;
use darter_metrics::AccessCheck;
use darter_oci::error::Code;
use darter_oci::manifest::{self, DOCKER_CONTENT_DIGEST, ImageManifest, MAX_MANIFEST, NamedParts, Wrong};
use darter_oci::name::Reference;
use darter_registries::provenance::place_of;
use darter_registries::question::Reply;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{Method, Response, StatusCode};

use crate::body::{self, Body};
use crate::mirror::grants::NamedBlob;
use crate::mirror::problem::Problem;
use crate::mirror::{Ask, Mirror, entity_tag, header};

impl Mirror {
    pub(super) async fn manifest(&self, ask: &Ask<'_>, reference: Reference<'_>) -> Result<Response<Body>, Problem> {
        let manifest = match reference {
            Reference::Tag(tag) => self.tagged(ask, tag).await?,
            Reference::Digest(digest) => self.immutable(ask, digest).await?,
        };
        self.refuse_wrong(ask, NamedParts::parse(&manifest.bytes).all().map(|part| part.digest)).await?;
        self.note_members(ask, &manifest);
        self.learn(ask, &manifest);
        if let Reference::Tag(tag) = reference {
            let images = self.registries.images();
            images.note(ask.upstream.name(), &ask.repository, tag, manifest.digest).await;
        }
        let mut response = respond(ask, manifest)?;
        ask.pass_on(response.headers_mut());
        if let Reference::Tag(tag) = reference {
            ask.say_stale(tag, response.headers_mut());
        }
        Ok(response)
    }

    async fn tagged(&self, ask: &Ask<'_>, tag: &str) -> Result<ImageManifest, Problem> {
        let key = (ask.scope.clone(), tag.to_owned());
        let seen = self.tags.lock().get(&key).is_some();
        if seen && let Some(manifest) = self.unchanged(ask, tag).await? {
            return Ok(manifest);
        }
        let manifest = self.read_manifest(ask, tag, None).await?;
        self.tags.lock().insert(key, (), 1);
        Ok(manifest)
    }

    /// The cached manifest that the tag refers to now; `None` if it refers to another one, or the upstream does not say.
    async fn unchanged(&self, ask: &Ask<'_>, tag: &str) -> Result<Option<ImageManifest>, Problem> {
        let reply = self.head_manifest(ask, tag, None).await?;
        let Some(digest) = reply.digest() else { return Ok(None) };
        let Some(manifest) = self.registries.manifests().get(digest).await else { return Ok(None) };
        Ok(self.may_give(ask, digest, &reply).await.then_some(manifest))
    }

    async fn immutable(&self, ask: &Ask<'_>, digest: Digest) -> Result<ImageManifest, Problem> {
        let reference = digest.to_string();
        let cached = self.registries.manifests().get(digest).await;
        let cached = cached.filter(|manifest| manifest::accepts(ask.headers, &manifest.media_type));
        let Some(manifest) = cached else { return self.read_manifest(ask, &reference, Some(digest)).await };
        let delivered = self.registries.provenance().knows(digest, &place_of(&ask.upstream, &ask.repository)).await;
        if delivered && self.believed(ask, digest).is_some() {
            return Ok(manifest);
        }
        // Anybody can write a manifest that names this one, and an untrusted registry's answer does not open what others delivered.
        if !delivered && !ask.upstream.is_trusted() {
            return self.read_manifest(ask, &reference, Some(digest)).await;
        }
        let reply = self.head_manifest(ask, &reference, Some(digest)).await?;
        if reply.digest() != Some(digest) || !self.may_give(ask, digest, &reply).await {
            return self.read_manifest(ask, &reference, Some(digest)).await;
        }
        self.metrics.mirror_access_check(AccessCheck::Granted);
        Ok(manifest)
    }

    /// True if a cached manifest may be served in this repository, whose upstream has just named it.
    async fn may_give(&self, ask: &Ask<'_>, digest: Digest, reply: &Reply) -> bool {
        let (provenance, place) = (self.registries.provenance(), place_of(&ask.upstream, &ask.repository));
        if provenance.knows(digest, &place).await {
            return true;
        }
        let vouches = ask.upstream.is_trusted() && reply.stale.is_none();
        if vouches {
            provenance.note(digest, place).await;
        }
        vouches
    }

    /// Asks the upstream for a manifest's headers.
    pub(super) async fn head_manifest(
        &self,
        ask: &Ask<'_>,
        reference: &str,
        expected: Option<Digest>,
    ) -> Result<Reply, Problem> {
        let reply = self.request(ask, Method::HEAD, &format!("manifests/{reference}"), ask.accept()).await?;
        if reply.status != StatusCode::OK {
            return Err(self.refusal(ask, reply, expected));
        }
        // An answer that names no digest does not show that the manifest exists.
        if reply.digest().is_some_and(|named| expected.is_none_or(|expected| named == expected)) {
            self.accepted(ask, &reply);
        }
        Ok(reply)
    }

    /// Reads a manifest from the upstream, checks it and caches it.
    async fn read_manifest(
        &self,
        ask: &Ask<'_>,
        reference: &str,
        expected: Option<Digest>,
    ) -> Result<ImageManifest, Problem> {
        let reply = self.request(ask, Method::GET, &format!("manifests/{reference}"), ask.accept()).await?;
        if reply.status != StatusCode::OK {
            return Err(self.refusal(ask, reply, expected));
        }
        let upstream = ask.upstream.name();
        let checked = manifest::check(&reply.headers, reply.body.clone(), expected).map_err(|wrong| {
            let text = match wrong {
                Wrong::TooLong => {
                    format!("{upstream} sent a manifest of more than {MAX_MANIFEST} bytes: ask who made the image")
                }
                Wrong::NoManifest => format!(
                    "{upstream} sent something that is not a manifest (HTTP {}, {}): check its address, and whether a \
                     portal or a proxy answers in its place",
                    reply.status,
                    reply.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("of no type")
                ),
                Wrong::Other(wrong) => {
                    format!(
                        "{upstream} sent a manifest with the digest {} for {}: ask who runs it",
                        wrong.got, wrong.claimed
                    )
                }
            };
            Problem::bad_upstream(Code::ManifestInvalid, text)
        })?;
        self.accepted(ask, &reply);
        Ok(checked.manifest)
    }

    fn refusal(&self, ask: &Ask<'_>, reply: Reply, digest: Option<Digest>) -> Problem {
        self.refused(ask, reply.status, digest);
        Problem::of_reply(reply, ask.upstream.name(), Code::ManifestUnknown)
    }

    /// Notes that the manifest and everything that it names belong to the repository for which the upstream served it.
    fn note_members(&self, ask: &Ask<'_>, manifest: &ImageManifest) {
        let mut grants = self.grants.lock();
        let size = Some(manifest.bytes.len() as u64);
        grants.belongs(&ask.scope, manifest.digest, NamedBlob { size });
        for named in NamedParts::parse(&manifest.bytes).all() {
            grants.belongs(&ask.scope, named.digest, NamedBlob { size: named.size });
        }
    }
}

fn respond(ask: &Ask<'_>, manifest: ImageManifest) -> Result<Response<Body>, Problem> {
    let mut response = Response::new(body::empty());
    let headers = response.headers_mut();
    headers.insert(DOCKER_CONTENT_DIGEST, header(&manifest.digest.to_string())?);
    headers.insert(ETAG, header(&entity_tag(&manifest.digest))?);
    headers.insert(CONTENT_TYPE, header(&manifest.media_type)?);
    if let Some(status) = ask.condition(&manifest.digest) {
        *response.status_mut() = status;
        return Ok(response);
    }
    headers.insert(CONTENT_LENGTH, manifest.bytes.len().into());
    if !ask.head {
        *response.body_mut() = body::full(manifest.bytes);
    }
    Ok(response)
}
