//! The name of each counter and gauge, and what `/metrics` says of it. The library appends the unit, and `_total` to counters.

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Unit;

use crate::Metrics;
use crate::process::ProcessCollector;

impl Metrics {
    /// Registers every counter and gauge.
    pub(super) fn register(&mut self, started: u64) {
        self.process.register_collector(Box::new(ProcessCollector::new(started)));
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        self.registry.register("build", "The program's version", build);
        self.register_origins();
        self.register_mounts();
        self.register_pieces();
        self.register_fleet();
        self.register_store();
        self.register_local_port();
        self.register_mirror();
        let failures = "Failures by what failed and whose fault it was: user, origin, network, peer, disk, ourselves";
        self.registry.register("failures", failures, self.failures.clone());
    }

    /// What is read from origins.
    fn register_origins(&mut self) {
        let r = &mut self.registry;
        r.register_with_unit("origin", "Content read from origins", Unit::Bytes, self.origin_bytes.clone());
        let connections = "Connections that read blobs of origins now: several for one blob where they get more (--origin-connections)";
        r.register("origin_connections", connections, self.origin_connections.clone());
        let expanded = "Layers read and made into files that the kernel mounts, for the fleet";
        r.register("expanded_layers", expanded, self.expanded_layers.clone());
        r.register("back_to_source", "Origin reads because no agent could give the bytes", self.back_to_source.clone());
    }

    /// Reads of mounts, and what is fetched ahead of them.
    fn register_mounts(&mut self) {
        let r = &mut self.registry;
        let here = "Reads of mounted layers and files whose bytes were here";
        r.register("mount_reads_here", here, self.part_reads_here.clone());
        let waited = "Reads of mounted layers and files that waited for bytes from elsewhere";
        r.register("mount_reads_waited", waited, self.part_reads_waited.clone());
        let fetched = "Parts of layers fetched because others touched them first who started the same";
        r.register_with_unit("profile_fetched", fetched, Unit::Bytes, self.profile_fetched_bytes.clone());
        let hit = "Parts of layers that were fetched because others touched them first, and that a program read";
        r.register_with_unit("profile_hit", hit, Unit::Bytes, self.profile_hit_bytes.clone());
        let unread = "Parts of layers that were fetched because others touched them first, and that no program read within a minute";
        r.register_with_unit("profile_unread", unread, Unit::Bytes, self.profile_unread_bytes.clone());
    }

    /// Pieces between agents, those that were wrong, and the givers that failed.
    fn register_pieces(&mut self) {
        let r = &mut self.registry;
        r.register_with_unit(
            "peer_received",
            "Pieces received from agents, as they crossed the wire",
            Unit::Bytes,
            self.peer_received_bytes.clone(),
        );
        r.register_with_unit(
            "peer_sent",
            "Pieces sent to agents, as they crossed the wire",
            Unit::Bytes,
            self.peer_sent_bytes.clone(),
        );
        let packed = "Pieces exchanged with agents compressed, as they crossed the wire";
        r.register_with_unit("packed", packed, Unit::Bytes, self.packed_bytes.clone());
        let plain = "Pieces exchanged with agents compressed, before they were";
        r.register_with_unit("packed_plain", plain, Unit::Bytes, self.packed_plain_bytes.clone());
        r.register("pieces_corrupt", "Pieces that failed verification", self.pieces_corrupt.clone());
        let failing = "Times that a holder failed again to give a piece that it says it holds";
        r.register("holders_failing", failing, self.holders_failing.clone());
        let wrong = "Blobs that did not match their digest, by sender";
        r.register("wrong_content", wrong, self.wrong_content.clone());
    }

    /// Connections with agents, and the messages on them.
    fn register_fleet(&mut self) {
        let r = &mut self.registry;
        r.register("swarms_active", "Blobs being fetched or served to agents", self.swarms_active.clone());
        r.register("peers_connected", "Agents with an open connection", self.peers_connected.clone());
        r.register("seeds_connected", "Seeds with an open connection", self.seeds_connected.clone());
        r.register("last_seed_lost", "Times the last connected seed was lost", self.last_seed_lost.clone());
        let trips = "Requests to peers that a transfer had to wait for";
        r.register("round_trips", trips, self.round_trips.clone());
        r.register("control_messages", "Control messages, both ways", self.control_messages.clone());
        let unknown = "Control messages skipped because this version does not know them";
        r.register("unknown_messages", unknown, self.unknown_messages.clone());
        r.register("hashes_sent", "Piece hashes sent to peers", self.hashes_sent.clone());
        let refused = "Piece hashes rejected: no valid signature";
        r.register("hashes_refused", refused, self.hashes_refused.clone());
    }

    /// What is stored.
    fn register_store(&mut self) {
        let r = &mut self.registry;
        r.register_with_unit("store_used", "Content kept", Unit::Bytes, self.store_used_bytes.clone());
        r.register("store_blobs", "Blobs kept", self.store_blobs.clone());
        let capacity = "The most content that may be kept now: the quota, or less if the disk has no room for it";
        r.register_with_unit("store_capacity", capacity, Unit::Bytes, self.store_capacity_bytes.clone());
        let free = "Free on the file system of the data directory";
        r.register_with_unit("store_free", free, Unit::Bytes, self.store_free_bytes.clone());
        r.register("store_evicted_blobs", "Blobs evicted to make room", self.store_evicted.clone());
        let passed = "Blobs passed on without being stored whole, since there was no room for them";
        r.register("blobs_passed", passed, self.blobs_passed.clone());
        let evicted = "Content evicted to make room";
        r.register_with_unit("store_evicted", evicted, Unit::Bytes, self.store_evicted_bytes.clone());
        let aside = "Files in the data directory that a newer version wrote, or that can't be read: left untouched, or set aside under another name";
        r.register("set_aside", aside, self.set_aside.clone());
    }

    /// Programs of this host: what they were served, and what they asked for.
    fn register_local_port(&mut self) {
        let r = &mut self.registry;
        let served = "Content served to programs of this host";
        r.register_with_unit("local_served", served, Unit::Bytes, self.local_served_bytes.clone());
        let sendfile = "Content served to programs of this host by sendfile";
        r.register_with_unit("local_sendfile", sendfile, Unit::Bytes, self.local_sendfile_bytes.clone());
        let active = "Requests on the local port being answered";
        r.register("local_requests_active", active, self.local_requests_active.clone());
        let refusals =
            "Requests on the local port that were not for it: a wrong host name, or a page of another origin";
        r.register("local_refusals", refusals, self.local_refusals.clone());
    }

    /// The registry mirror.
    fn register_mirror(&mut self) {
        let r = &mut self.registry;
        r.register("mirror_requests", "Requests to the registry mirror", self.mirror_requests.clone());
        let upstream = "Requests the mirror made to upstream registries, apart from blob reads of the agent";
        r.register("mirror_upstream_requests", upstream, self.mirror_upstream_requests.clone());
        let checks = "Authorization checks by outcome: cached, granted, refused";
        r.register("mirror_access_checks", checks, self.mirror_access_checks.clone());
        let gone = "Requests to the registry mirror whose caller gave up before the answer, or in the middle of it";
        r.register("mirror_gone", gone, self.mirror_gone.clone());
        let fallbacks =
            "Blobs the mirror read from the upstream because the agent failed, or could give a range only much later";
        r.register("mirror_fallbacks", fallbacks, self.mirror_fallbacks.clone());
        let answers =
            "Questions about manifests, tags and access by what answered them: registry, seed, node, shared, stale";
        r.register("registry_answers", answers, self.registry_answers.clone());
        let layers = "Questions for layers to be mounted (--lazy-dir) by their answer: miss, promised, whole";
        r.register("layer_answers", layers, self.layer_answers.clone());
        let first = "Time until the first byte of an answer is ready";
        r.register_with_unit("mirror_first_byte", first, Unit::Seconds, self.mirror_first_byte.clone());
        let whole = "Time until the last byte of an answer is sent";
        r.register_with_unit("mirror_duration", whole, Unit::Seconds, self.mirror_duration.clone());
    }
}
