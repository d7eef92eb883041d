//! An agent's counters and gauges, for Prometheus (`/metrics` on the local port).
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Metrics`]: every counter and gauge |
//! | `kinds` | what is counted apart: [`MirrorKind`], [`Fallback`] and the like |
//! | `labels` | names that callers make up, as labels of a bounded number |
//! | [`process`] | what the process uses |
//! | `registering` | the name of each, and what `/metrics` says of it |
//!
//! One struct of counters that are registered once; whoever moves bytes holds it in an [`Arc`] and adds to a field. An
//! addition is an atomic increment; a labelled family also takes a shared lock for a moment, which is nothing compared
//! with a piece. Values describe this process since it started.
//!
//! Invariant: no label carries what a caller chose (a repository, a URL, a user), so the number of series is bounded; of the
//! registries that callers name, and of the sources of wrong content, the first few dozen have a label of their own. Non-goals: the port
//! that serves them (`darter-gateway`), and what `darter top` shows.

mod kinds;
mod labels;
pub mod process;
mod registering;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_api::Traffic;
use darter_core::{Fault, Tier};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use self::kinds::{AccessCheck, Failed, Fallback, Gone, LayerAnswered, MirrorKind, Packed, RegistryAnswered};
use self::labels::Names;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the time-to-first-byte buckets, in seconds: a local hit takes a millisecond, a far origin seconds.
const FIRST_BYTE_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of the buckets for whole answers, in seconds: a manifest takes a millisecond, a layer of 10 GB minutes.
const DURATION_SECONDS: [f64; 14] =
    [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    status: u16,
    registry: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PullLabels {
    kind: &'static str,
    registry: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GoneLabels {
    kind: &'static str,
    when: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    what: &'static str,
    fault: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhatLabel {
    what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    from: &'static str,
    tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

type Histograms = Family<PullLabels, Histogram, fn() -> Histogram>;

/// Every counter and gauge of an agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Metrics whose names do not begin with `darter_`.
    process: Registry,
    registries: Names,
    /// Bytes of content read from origins.
    pub origin_bytes: Counter,
    /// Connections that read blobs of origins now.
    pub origin_connections: Gauge,
    /// Layers that were read and expanded.
    pub expanded_layers: Counter,
    /// Reads of mounts whose bytes were here, and those that had to wait.
    pub part_reads_here: Counter,
    /// See above.
    pub part_reads_waited: Counter,
    /// Bytes that were fetched because others touched them first; those of them that a program read; and those that none did in time.
    pub profile_fetched_bytes: Counter,
    /// See above.
    pub profile_hit_bytes: Counter,
    /// See above.
    pub profile_unread_bytes: Counter,
    /// Bytes of pieces sent to other agents, as they crossed the wire.
    pub peer_sent_bytes: Counter,
    /// Bytes of content served to programs of this host.
    pub local_served_bytes: Counter,
    /// Those of them that went from a file to the socket past this process.
    pub local_sendfile_bytes: Counter,
    /// Questions to other agents for whose answer something waits: to be let in, for a manifest, for a piece.
    pub round_trips: Counter,
    /// Control messages sent to other agents, and received.
    pub control_messages: Counter,
    /// Control messages of newer agents that mean nothing to this one.
    pub unknown_messages: Counter,
    /// Piece hashes told to other agents.
    pub hashes_sent: Counter,
    /// Piece hashes from agents that don't lead, and were refused because they had not the lead's word.
    pub hashes_refused: Counter,
    /// Pieces that came and were not what the manifest says.
    pub pieces_corrupt: Counter,
    /// Failures of holders that failed before: they are silent, crawl, refuse or take back.
    pub holders_failing: Counter,
    /// Times this agent read an origin itself because no seed or peer could give the bytes.
    pub back_to_source: Counter,
    /// Bytes the store keeps.
    pub store_used_bytes: Gauge,
    /// Blobs the store keeps.
    pub store_blobs: Gauge,
    /// The most the store may keep now.
    pub store_capacity_bytes: Gauge,
    /// Bytes free on the store's file system.
    pub store_free_bytes: Gauge,
    /// Blobs evicted to make room.
    pub store_evicted: Counter,
    /// Bytes of theirs.
    pub store_evicted_bytes: Counter,
    /// Blobs passed on without being stored whole.
    pub blobs_passed: Counter,
    /// Blobs being fetched or served to peers now.
    pub swarms_active: Gauge,
    /// Agents with an open connection to this one.
    pub peers_connected: Gauge,
    /// Seeds with an open connection to this agent.
    pub seeds_connected: Gauge,
    /// True if this is a node that has been connected with nobody for some seconds.
    pub alone: AtomicBool,
    /// Times the last connected seed was lost.
    pub last_seed_lost: Counter,
    /// Requests on the local port whose answer is not yet sent.
    pub local_requests_active: Gauge,
    peer_received_bytes: Family<PeerLabels, Counter>,
    packed_bytes: Family<DirectionLabel, Counter>,
    packed_plain_bytes: Family<DirectionLabel, Counter>,
    /// Sums of the above over all tiers; not registered, since Prometheus can add.
    from_seed: Counter,
    from_peers: Counter,
    local_refusals: Family<ReasonLabel, Counter>,
    failures: Family<FailureLabels, Counter>,
    wrong_content: Family<SourceLabel, Counter>,
    wrong_sources: Names,
    set_aside: Family<WhatLabel, Gauge>,
    mirror_requests: Family<RequestLabels, Counter>,
    mirror_upstream_requests: Family<KindLabel, Counter>,
    mirror_access_checks: Family<ResultLabel, Counter>,
    mirror_gone: Family<GoneLabels, Counter>,
    mirror_fallbacks: Family<ResultLabel, Counter>,
    registry_answers: Family<ResultLabel, Counter>,
    layer_answers: Family<ResultLabel, Counter>,
    mirror_first_byte: Histograms,
    mirror_duration: Histograms,
}

/// A connection that reads a blob of an origin, as long as this lives.
#[derive(Debug)]
pub struct OriginConnection(Gauge);

impl Drop for OriginConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// A connection begins to read a blob of an origin.
    pub fn origin_connection(&self) -> OriginConnection {
        self.origin_connections.inc();
        OriginConnection(self.origin_connections.clone())
    }

    /// Takes down how full the store is.
    pub fn store(&self, usage: &darter_store::Usage) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.store_used_bytes.set(gauge(usage.used));
        self.store_blobs.set(gauge(usage.blobs));
        self.store_capacity_bytes.set(gauge(usage.capacity));
        self.store_free_bytes.set(gauge(usage.disk_free.unwrap_or_default()));
        self.store_evicted.inc_by(usage.evicted_blobs.saturating_sub(self.store_evicted.get()));
        self.store_evicted_bytes.inc_by(usage.evicted_bytes.saturating_sub(self.store_evicted_bytes.get()));
    }

    /// In the data directory, `count` files of the kind `what` are not used: a newer version wrote them, or they can't be read.
    pub fn set_aside(&self, what: &'static str, count: usize) {
        self.set_aside.get_or_create(&WhatLabel { what }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// All at zero, and registered, of a process that started at this date, in seconds since 1970.
    pub fn new(started: u64) -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("darter"),
            process: Registry::default(),
            registries: Names::default(),
            origin_bytes: Counter::default(),
            origin_connections: Gauge::default(),
            expanded_layers: Counter::default(),
            part_reads_here: Counter::default(),
            part_reads_waited: Counter::default(),
            profile_fetched_bytes: Counter::default(),
            profile_hit_bytes: Counter::default(),
            profile_unread_bytes: Counter::default(),
            peer_sent_bytes: Counter::default(),
            local_served_bytes: Counter::default(),
            local_sendfile_bytes: Counter::default(),
            round_trips: Counter::default(),
            control_messages: Counter::default(),
            unknown_messages: Counter::default(),
            hashes_sent: Counter::default(),
            hashes_refused: Counter::default(),
            pieces_corrupt: Counter::default(),
            holders_failing: Counter::default(),
            back_to_source: Counter::default(),
            store_used_bytes: Gauge::default(),
            store_blobs: Gauge::default(),
            store_capacity_bytes: Gauge::default(),
            store_free_bytes: Gauge::default(),
            store_evicted: Counter::default(),
            store_evicted_bytes: Counter::default(),
            blobs_passed: Counter::default(),
            swarms_active: Gauge::default(),
            peers_connected: Gauge::default(),
            seeds_connected: Gauge::default(),
            alone: AtomicBool::new(false),
            last_seed_lost: Counter::default(),
            local_requests_active: Gauge::default(),
            peer_received_bytes: Family::default(),
            packed_bytes: Family::default(),
            packed_plain_bytes: Family::default(),
            from_seed: Counter::default(),
            from_peers: Counter::default(),
            local_refusals: Family::default(),
            failures: Family::default(),
            wrong_content: Family::default(),
            wrong_sources: Names::default(),
            set_aside: Family::default(),
            mirror_requests: Family::default(),
            mirror_upstream_requests: Family::default(),
            mirror_access_checks: Family::default(),
            mirror_gone: Family::default(),
            mirror_fallbacks: Family::default(),
            registry_answers: Family::default(),
            layer_answers: Family::default(),
            mirror_first_byte: Family::new_with_constructor(|| Histogram::new(FIRST_BYTE_SECONDS)),
            mirror_duration: Family::new_with_constructor(|| Histogram::new(DURATION_SECONDS)),
        };
        metrics.register(started);
        Arc::new(metrics)
    }

    /// The text that `/metrics` gives.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        text::encode_registry(&mut out, &self.process).expect("writing to a string does not fail");
        text::encode(&mut out, &self.registry).expect("writing to a string does not fail");
        out
    }

    /// How it stands with the fleet, one line each: what `/healthz?verbose` adds.
    pub fn health(&self) -> String {
        let seeds = self.seeds_connected.get();
        let nodes = (self.peers_connected.get() - seeds).max(0);
        let lost = if seeds == 0 && self.last_seed_lost.get() > 0 { " (the last one was lost)" } else { "" };
        let alone = match self.alone.load(Ordering::Relaxed) {
            true => "no other agent can be reached; downloads read their origins from here: check --join\n",
            false => "",
        };
        format!("seeds connected: {seeds}{lost}\nnodes connected: {nodes}\n{alone}")
    }

    /// Counts a packed piece: the bytes of the piece itself, and those that crossed the wire.
    pub fn packed(&self, way: Packed, plain: u64, wire: u64) {
        let label = DirectionLabel { direction: way.name() };
        self.packed_bytes.get_or_create(&label).inc_by(wire);
        self.packed_plain_bytes.get_or_create(&label).inc_by(plain);
    }

    /// Counts piece bytes received from a seed (`from_seed`) or another node, by how far it is: those that crossed the wire.
    pub fn peer_received(&self, from_seed: bool, tier: Tier, bytes: u64) {
        let (from, sum) = if from_seed { ("seed", &self.from_seed) } else { ("peer", &self.from_peers) };
        sum.inc_by(bytes);
        self.peer_received_bytes.get_or_create(&PeerLabels { from, tier: tier_name(tier) }).inc_by(bytes);
    }

    /// The piece bytes that crossed the wire, as `status` shows them.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            from_origin: self.origin_bytes.get(),
            from_seed: self.from_seed.get(),
            from_peers: self.from_peers.get(),
            to_peers: self.peer_sent_bytes.get(),
            to_local: self.local_served_bytes.get(),
        }
    }

    /// Counts a blob that was not what its digest says, by the origin's host or the agent that sent it.
    pub fn wrong_content(&self, source: &str) {
        let source = self.wrong_sources.label(Some(source));
        self.wrong_content.get_or_create(&SourceLabel { source }).inc();
    }

    /// Counts a request that the local port refused for its `host` or its `origin`.
    pub fn local_refusal(&self, reason: &'static str) {
        self.local_refusals.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a request to the mirror for something of `registry`, and its answer's status.
    pub fn mirror_request(&self, kind: MirrorKind, registry: Option<&str>, status: u16) {
        let registry = self.registries.label(registry);
        self.mirror_requests.get_or_create(&RequestLabels { kind: kind.name(), status, registry }).inc();
    }

    /// Counts a request to an upstream registry.
    pub fn mirror_upstream_request(&self, kind: MirrorKind) {
        self.mirror_upstream_requests.get_or_create(&KindLabel { kind: kind.name() }).inc();
    }

    /// Counts how a caller's right to cached content was known.
    pub fn mirror_access_check(&self, check: AccessCheck) {
        self.mirror_access_checks.get_or_create(&ResultLabel { result: check.name() }).inc();
    }

    /// Counts an answer to an engine that wants to mount a layer.
    pub fn layer_answered(&self, answered: LayerAnswered) {
        self.layer_answers.get_or_create(&ResultLabel { result: answered.name() }).inc();
    }

    /// Counts a caller that gave up.
    pub fn mirror_gone(&self, kind: MirrorKind, gone: Gone) {
        self.mirror_gone.get_or_create(&GoneLabels { kind: kind.name(), when: gone.name() }).inc();
    }

    /// Counts a blob that the agent failed.
    pub fn mirror_fallback(&self, fallback: Fallback) {
        self.mirror_fallbacks.get_or_create(&ResultLabel { result: fallback.name() }).inc();
    }

    /// Counts how a question to a registry was answered.
    pub fn registry_answer(&self, answered: RegistryAnswered) {
        self.registry_answers.get_or_create(&ResultLabel { result: answered.name() }).inc();
    }

    /// Something failed.
    pub fn failed(&self, what: Failed, fault: Fault) {
        self.failures.get_or_create(&FailureLabels { what: what.name(), fault: fault.name() }).inc();
    }

    /// Notes how long a mirror answer's first byte took.
    pub fn mirror_first_byte(&self, kind: MirrorKind, registry: Option<&str>, took: Duration) {
        let labels = PullLabels { kind: kind.name(), registry: self.registries.label(registry) };
        self.mirror_first_byte.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Notes how long a mirror answer took to its last byte.
    pub fn mirror_duration(&self, kind: MirrorKind, registry: Option<&str>, took: Duration) {
        let labels = PullLabels { kind: kind.name(), registry: self.registries.label(registry) };
        self.mirror_duration.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

const fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Host => "host",
        Tier::Rack => "rack",
        Tier::Zone => "zone",
        Tier::Region => "region",
        Tier::Far => "far",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_units_and_labels() {
        let metrics = Metrics::new(7);
        metrics.origin_bytes.inc_by(7);
        metrics.peer_received(true, Tier::Rack, 3);
        metrics.mirror_request(MirrorKind::Blob, Some("docker.io"), 206);
        metrics.mirror_first_byte(MirrorKind::Blob, Some("docker.io"), Duration::from_millis(20));
        metrics.mirror_duration(MirrorKind::Blob, Some("docker.io"), Duration::from_secs(2));
        metrics.store_used_bytes.set(11);
        metrics.wrong_content("reg.example");
        metrics.failed(Failed::Command, Fault::Disk);
        metrics.peer_received(false, Tier::Far, 4);
        metrics.peer_received(false, Tier::Rack, 1);
        let traffic = Traffic { from_origin: 7, from_seed: 3, from_peers: 5, ..Traffic::default() };
        assert_eq!(metrics.traffic(), traffic);
        let text = metrics.encode();
        for line in [
            "darter_origin_bytes_total 7",
            r#"darter_peer_received_bytes_total{from="seed",tier="rack"} 3"#,
            r#"darter_mirror_requests_total{kind="blob",status="206",registry="docker.io"} 1"#,
            r#"darter_mirror_first_byte_seconds_count{kind="blob",registry="docker.io"} 1"#,
            r#"darter_mirror_duration_seconds_bucket{le="2.5",kind="blob",registry="docker.io"} 1"#,
            "darter_store_used_bytes 11",
            r#"darter_wrong_content_total{source="reg.example"} 1"#,
            r#"darter_failures_total{what="command",fault="disk"} 1"#,
            "darter_back_to_source_total 0",
            concat!("darter_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|have| have == line), "no {line:?} in:\n{text}");
        }
        for name in
            ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"]
        {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            assert!(value.trim().parse::<f64>().unwrap() > 0.0, "{name}{value}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
    }
}
