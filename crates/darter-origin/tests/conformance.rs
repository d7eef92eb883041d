//! The suite that every origin passes: what callers rely on, whatever is behind the trait.

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use darter_core::{Blamed, Digest, Source, SystemClock};
use darter_origin::{
    ErrorKind, FileOrigin, HttpOrigin, MemOrigin, Origin, Origins, RegistryClient, RegistryConfig, RegistryOrigin,
    RetryPolicy,
};
use support::files::{Resource, Shared};
use support::{Reply, Server, client, content, none, range, take};
use tempfile::TempDir;

const LENGTH: usize = 300_000;

/// An origin with something in it.
trait Place {
    fn origin(&self) -> &dyn Origin;
    /// Holds `content(LENGTH)`.
    fn source(&self) -> Source;
    /// Holds nothing, but is there.
    fn empty(&self) -> Source;
    fn missing(&self) -> Source;
    /// Of a kind that this origin does not read.
    fn foreign(&self) -> Source;
    /// Puts other content of the same length at the source; false where content can't change.
    fn change(&self) -> bool;
    fn tells_length(&self) -> bool {
        true
    }
    fn serves_ranges(&self) -> bool {
        true
    }
}

async fn passes(place: &dyn Place) {
    reads_the_whole(place).await;
    reads_ranges(place).await;
    reads_nothing_where_nothing_is(place).await;
    refuses_what_is_not_there(place).await;
    survives_a_reader_that_leaves(place).await;
    notices_changes(place).await;
}

async fn reads_the_whole(place: &dyn Place) {
    let reading = place.origin().read(&place.source(), &none(), None, None).await.unwrap();
    assert_eq!(reading.start, 0);
    assert_eq!(reading.length, place.tells_length().then_some(LENGTH as u64));
    assert_eq!(reading.version.length, reading.length);
    assert!(take(reading).await.unwrap() == content(LENGTH));
}

async fn reads_ranges(place: &dyn Place) {
    let (origin, source) = (place.origin(), place.source());
    let version = origin.stat(&source, &none(), None).await.unwrap().version;
    let whole = content(LENGTH);
    for (start, end) in
        [(0, 1), (0, 300_000), (100_001, 250_003), (299_999, 300_000), (200_000, u64::MAX), (0, u64::MAX)]
    {
        let reading = origin.read(&source, &none(), range(start, end), Some(&version)).await.unwrap();
        assert_eq!(reading.version, version);
        let begin = usize::try_from(reading.start).unwrap();
        let bytes = take(reading).await.unwrap();
        if place.serves_ranges() {
            assert_eq!(begin as u64, start);
            let end = usize::try_from(end).unwrap().min(LENGTH);
            assert!(bytes == whole[begin..end], "{start}..{end}");
        } else {
            assert_eq!(begin, 0);
            assert!(bytes == whole);
        }
    }
    if place.serves_ranges() {
        let error = origin.read(&source, &none(), range(LENGTH as u64, LENGTH as u64 + 1), None).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::RangeNotSatisfiable);
    }
}

async fn reads_nothing_where_nothing_is(place: &dyn Place) {
    for range in [None, range(0, 10)] {
        let reading = place.origin().read(&place.empty(), &none(), range, None).await.unwrap();
        assert_eq!(reading.start, 0);
        assert!(take(reading).await.unwrap().is_empty());
    }
}

async fn refuses_what_is_not_there(place: &dyn Place) {
    let origin = place.origin();
    let error = origin.stat(&place.missing(), &none(), None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotFound);
    let error = origin.read(&place.missing(), &none(), None, None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotFound);
    let error = origin.read(&place.foreign(), &none(), None, None).await.unwrap_err();
    assert!(!error.blame().retry.is_later());
}

async fn survives_a_reader_that_leaves(place: &dyn Place) {
    use futures_util::StreamExt;
    let mut reading = place.origin().read(&place.source(), &none(), None, None).await.unwrap();
    reading.body.next().await.unwrap().unwrap();
    drop(reading);
    reads_the_whole(place).await;
}

async fn notices_changes(place: &dyn Place) {
    let (origin, source) = (place.origin(), place.source());
    let first = origin.stat(&source, &none(), None).await.unwrap();
    assert!(!first.unchanged);
    let second = origin.stat(&source, &none(), Some(&first.version)).await.unwrap();
    assert!(second.unchanged);
    assert_eq!(second.version, first.version);
    if !place.change() {
        return;
    }
    let third = origin.stat(&source, &none(), Some(&first.version)).await.unwrap();
    assert!(!third.unchanged);
    assert_ne!(source.blob(&third.version), source.blob(&first.version));
    for range in [None, range(1000, 2000)] {
        let error = origin.read(&source, &none(), range, Some(&first.version)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Changed);
    }
    let reading = origin.read(&source, &none(), None, Some(&third.version)).await.unwrap();
    assert!(take(reading).await.unwrap() == changed());
}

fn changed() -> Vec<u8> {
    content(LENGTH).into_iter().map(|byte| !byte).collect()
}

fn url(text: &str) -> Source {
    Source::from_url(text.parse().unwrap(), &[], None).0
}

#[derive(Default)]
struct InMemory {
    origin: MemOrigin,
    tells_length: bool,
    serves_ranges: bool,
}

impl InMemory {
    fn prepared(place: Self) -> Self {
        place.origin.put(&place.source(), content(LENGTH));
        place.origin.put(&place.empty(), "");
        place.origin.hide_length(!place.tells_length);
        place.origin.refuse_ranges(!place.serves_ranges);
        place
    }
}

impl Place for InMemory {
    fn origin(&self) -> &dyn Origin {
        &self.origin
    }
    fn source(&self) -> Source {
        url("mem:/full")
    }
    fn empty(&self) -> Source {
        url("mem:/empty")
    }
    fn missing(&self) -> Source {
        url("mem:/missing")
    }
    fn foreign(&self) -> Source {
        url("http://elsewhere/")
    }
    fn change(&self) -> bool {
        self.origin.put(&self.source(), changed());
        true
    }
    fn tells_length(&self) -> bool {
        self.tells_length
    }
    fn serves_ranges(&self) -> bool {
        self.serves_ranges
    }
}

#[tokio::test]
async fn memory_passes() {
    for tells_length in [true, false] {
        for serves_ranges in [true, false] {
            passes(&InMemory::prepared(InMemory { tells_length, serves_ranges, ..InMemory::default() })).await;
        }
    }
}

struct OnDisk {
    origin: FileOrigin,
    directory: TempDir,
}

impl OnDisk {
    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn named(&self, name: &str) -> Source {
        url(&format!("file://{}", self.at(name).display()))
    }
}

impl Place for OnDisk {
    fn origin(&self) -> &dyn Origin {
        &self.origin
    }
    fn source(&self) -> Source {
        self.named("full file")
    }
    fn empty(&self) -> Source {
        self.named("empty")
    }
    fn missing(&self) -> Source {
        self.named("missing")
    }
    fn foreign(&self) -> Source {
        url("http://elsewhere/")
    }
    fn change(&self) -> bool {
        // As careful writers do: another file under the same name.
        std::fs::write(self.at("new"), changed()).unwrap();
        std::fs::rename(self.at("new"), self.at("full file")).unwrap();
        true
    }
}

#[tokio::test]
async fn files_pass() {
    let directory = TempDir::new().unwrap();
    let place = OnDisk { origin: FileOrigin::under([directory.path().to_owned()]).unwrap(), directory };
    std::fs::write(place.at("full file"), content(LENGTH)).unwrap();
    std::fs::write(place.at("empty"), "").unwrap();
    passes(&place).await;
}

struct OnTheWeb {
    origin: HttpOrigin,
    server: Server,
    resource: Shared,
}

impl OnTheWeb {
    async fn new(resource: Resource) -> Self {
        let resource = resource.shared();
        let full = resource.clone();
        let server = Server::start(move |seen| match seen.path.as_str() {
            "/full" => full.lock().answer(seen),
            "/empty" => Resource { bytes: "".into(), ..full.lock().clone() }.answer(seen),
            _ => Reply::status(404),
        });
        Self { origin: HttpOrigin::new(client()), server: server.await, resource }
    }
}

impl Place for OnTheWeb {
    fn origin(&self) -> &dyn Origin {
        &self.origin
    }
    fn source(&self) -> Source {
        self.server.source("/full")
    }
    fn empty(&self) -> Source {
        self.server.source("/empty")
    }
    fn missing(&self) -> Source {
        self.server.source("/missing")
    }
    fn foreign(&self) -> Source {
        Source::Registry { registry: self.server.url("/"), repository: "a".into(), digest: Digest::sha256(b"") }
    }
    fn change(&self) -> bool {
        let mut resource = self.resource.lock();
        resource.bytes = changed().into();
        resource.etag = resource.etag.map(|_| "\"second\"");
        resource.last_modified = resource.last_modified.map(|_| "Sat, 21 Nov 2026 11:00:00 GMT");
        true
    }
    fn tells_length(&self) -> bool {
        !self.resource.lock().chunked
    }
    fn serves_ranges(&self) -> bool {
        self.resource.lock().ranges
    }
}

#[tokio::test]
async fn the_web_passes_whatever_its_server_knows() {
    let plain = Resource::new(content(LENGTH));
    passes(&OnTheWeb::new(plain.clone()).await).await;
    passes(&OnTheWeb::new(Resource { ranges: false, ..plain.clone() }).await).await;
    passes(&OnTheWeb::new(Resource { ranges: false, chunked: true, ..plain.clone() }).await).await;
    passes(&OnTheWeb::new(Resource { etag: None, ..plain.clone() }).await).await;
    passes(&OnTheWeb::new(Resource { last_modified: None, ..plain.clone() }).await).await;
    passes(&OnTheWeb::new(Resource { refuse_head: Some(405), ..plain.clone() }).await).await;
    passes(&OnTheWeb::new(Resource { refuse_head: Some(403), ranges: false, ..plain }).await).await;
}

struct InARegistry {
    origin: RegistryOrigin,
    server: Server,
}

impl InARegistry {
    async fn new(ranges: bool) -> Self {
        let full = Resource { ranges, ..Resource::new(content(LENGTH)) };
        let server = Server::start(move |seen| {
            let is = |bytes: &[u8]| seen.path == format!("/v2/some/repo/blobs/{}", Digest::sha256(bytes));
            match () {
                () if is(&full.bytes) => full.answer(seen),
                () if is(b"") => Resource::new("").answer(seen),
                () => Reply::status(404),
            }
        });
        Self { origin: RegistryOrigin::new(registry_client()), server: server.await }
    }

    fn blob(&self, bytes: &[u8]) -> Source {
        let digest = Digest::sha256(bytes);
        Source::Registry { registry: self.server.url("/"), repository: "some/repo".into(), digest }
    }
}

fn registry_client() -> RegistryClient {
    RegistryClient::new(client(), &RegistryConfig::default(), Arc::new(SystemClock::start()))
}

impl Place for InARegistry {
    fn origin(&self) -> &dyn Origin {
        &self.origin
    }
    fn source(&self) -> Source {
        self.blob(&content(LENGTH))
    }
    fn empty(&self) -> Source {
        self.blob(b"")
    }
    fn missing(&self) -> Source {
        self.blob(b"missing")
    }
    fn foreign(&self) -> Source {
        url("http://elsewhere/")
    }
    fn change(&self) -> bool {
        false
    }
}

struct RegistryWithoutRanges(InARegistry);

impl Place for RegistryWithoutRanges {
    fn origin(&self) -> &dyn Origin {
        self.0.origin()
    }
    fn source(&self) -> Source {
        self.0.source()
    }
    fn empty(&self) -> Source {
        self.0.empty()
    }
    fn missing(&self) -> Source {
        self.0.missing()
    }
    fn foreign(&self) -> Source {
        self.0.foreign()
    }
    fn change(&self) -> bool {
        false
    }
    fn serves_ranges(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn registries_pass() {
    passes(&InARegistry::new(true).await).await;
    passes(&RegistryWithoutRanges(InARegistry::new(false).await)).await;
}

/// The router in front of another place.
struct Routed<P> {
    origins: Origins,
    behind: P,
}

impl<P: Place> Place for Routed<P> {
    fn origin(&self) -> &dyn Origin {
        &self.origins
    }
    fn source(&self) -> Source {
        self.behind.source()
    }
    fn empty(&self) -> Source {
        self.behind.empty()
    }
    fn missing(&self) -> Source {
        self.behind.missing()
    }
    fn foreign(&self) -> Source {
        url("gopher://elsewhere/")
    }
    fn change(&self) -> bool {
        self.behind.change()
    }
}

#[tokio::test]
async fn the_router_passes_for_all() {
    let directory = TempDir::new().unwrap();
    let files = FileOrigin::under([directory.path().to_owned()]).unwrap();
    let origins = Origins::new(client(), registry_client()).with_retries(RetryPolicy::never());
    let with_files = origins.clone().with_files(files.clone());
    let disk = OnDisk { origin: files, directory };
    std::fs::write(disk.at("full file"), content(LENGTH)).unwrap();
    std::fs::write(disk.at("empty"), "").unwrap();
    let error = origins.stat(&disk.source(), &none(), None).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Forbidden);
    passes(&Routed { origins: with_files, behind: disk }).await;
    passes(&Routed { origins: origins.clone(), behind: OnTheWeb::new(Resource::new(content(LENGTH))).await }).await;
    passes(&Routed { origins, behind: InARegistry::new(true).await }).await;
}
