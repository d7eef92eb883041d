//! The printed texts.

use darter_agent::options::Role;
use darter_api::*;
use darter_core::{BlobId, Digest, NodeId, Tier};

use super::{blobs, explain, image, status};

const NAME: &str = "https://example.org/model.bin";

fn traffic() -> Traffic {
    Traffic { from_origin: 1_000_000, from_seed: 2_000_000, from_peers: 3_000_000, to_peers: 4_000_000, to_local: 0 }
}

#[test]
fn status_tells_of_seeds_peers_and_transfers() {
    let progress = Progress {
        blob: BlobId([1; 32]),
        name: NAME.into(),
        length: Some(8_000_000),
        piece_length: 262_144,
        pieces: Some(31),
        held: 8,
        held_bytes: 2_000_000,
        map: "8800".into(),
        rate: 25_000_000,
        complete: false,
        elapsed: 0.1,
        waiting: None,
        traffic: traffic(),
    };
    let status = Status {
        version: "0.1.0".into(),
        node: NodeId([2; 16]),
        role: Role::Node,
        pid: 7,
        uptime: 3700.0,
        listen: Some("0.0.0.0:7400".into()),
        local: None,
        data_dir: "/d".into(),
        labels: [("rack".to_owned(), "1".to_owned())].into(),
        draining: true,
        resident: 24_000_000,
        cpu: 1.25,
        cpu_seconds: 1.25,
        store: StoreStatus {
            blobs: 3,
            used: 5_000_000,
            quota: Some(10_000_000),
            free: 7_000_000,
            capacity: 10_000_000,
            evicted: 0,
        },
        traffic: traffic(),
        seeds: vec![SeedStatus {
            addr: "seed:7400".into(),
            up: false,
            node: None,
            at: None,
            reason: Some("cannot connect".into()),
        }],
        peers: vec![PeerStatus { node: NodeId([3; 16]), addr: "10.0.0.3:7400".into(), tier: Tier::Rack, seed: true }],
        swarms: vec![SwarmStatus {
            blob: BlobId([1; 32]),
            leads: true,
            origin_connections: 4,
            members: 9,
            progress,
            sent_rate: 3_000_000,
        }],
        wrong: vec![WrongSource {
            from: "reg.example, read by seed 10.0.0.2:7400".into(),
            times: 2,
            last: 7,
            blob: BlobId([1; 32]),
        }],
    };
    let text = status::describe(&status);
    for part in [
        "node 0202",
        "process 7",
        "1h 1m 40s, draining",
        "3 blobs, 5.0 MB of 10.0 MB (--quota), 7.0 MB free",
        "rack=1",
        "1.0 MB from origins, 2.0 MB from seeds, 3.0 MB from peers",
        "seed:7400 does not answer: cannot connect",
        "10.0.0.3:7400  rack  seed",
        "25 %",
        "25.0 MB/s",
        "3.0 MB/s",
        "by 4",
        "content from reg.example, read by seed 10.0.0.2:7400, 2 times",
        NAME,
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn ls_tells_whole_blobs_from_parts() {
    let row = |complete: bool, held| BlobRow {
        blob: BlobId([1; 32]),
        name: NAME.into(),
        digest: complete.then(|| Digest::sha256(b"")),
        length: Some(4_000_000),
        held,
        complete,
        pinned: complete,
        in_use: false,
        last_used: 0,
        images: if complete {
            vec!["docker.io/library/app:v1".into(), "ghcr.io/shop/app:v2".into()]
        } else {
            Vec::new()
        },
    };
    let text = blobs::table(&[row(true, 4_000_000), row(false, 1_000_000)]);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].contains("4.0 MB   all") && lines[1].contains("pinned"), "{text}");
    assert!(
        lines[1].contains("sha256:e3b0c44298fc") && lines[1].ends_with("docker.io/library/app:v1 and 1 more"),
        "{text}"
    );
    assert!(lines[2].ends_with(NAME), "{text}");
    assert!(lines[2].contains("25 %") && !lines[2].contains("pinned"), "{text}");
}

#[test]
fn explain_sums_up_by_giver_and_tells_what_happened() {
    let peer = Giver::Peer { node: NodeId([4; 16]), addr: "10.0.0.4:7400".into() };
    let seed = Giver::Seed { node: NodeId([2; 16]), addr: "10.0.0.2:7400".into() };
    let range = |start, end, from| ExplainedRange { start, end, from };
    let mut ranges = vec![
        range(0, 1_000_000, Giver::Origin),
        range(1_000_000, 3_000_000, peer.clone()),
        range(3_000_000, 4_000_000, Giver::Disk),
        range(4_000_000, 5_000_000, peer),
    ];
    let mut explanation = Explanation {
        blob: BlobId([1; 32]),
        name: NAME.into(),
        digest: Some(Digest::sha256(b"")),
        root: None,
        length: Some(5_000_000),
        started: 0,
        seconds: Some(1.5),
        traffic: traffic(),
        ranges: ranges.clone(),
        events: vec![ExplainedEvent { at: 0.25, what: "seed went away; reading the origin".into() }],
        waits: vec![
            Wait { from: Some(seed), seconds: 20.0, rate: Some(2_500_000) },
            Wait { from: None, seconds: 1.0, rate: None },
        ],
        max_lag_bytes: 12_500_000,
        waiting: Some("7 s for an agent that leads the download".into()),
        failed: None,
    };
    let text = explain::describe(&explanation);
    for part in [
        "5.0 MB (5000000 bytes)",
        "1.50 s",
        "peer 04040404 10.0.0.4:7400",
        "3.0 MB",
        "0.25 s  seed went away",
        "for seed 10.0.0.2:7400, 2.5 MB/s",
        "for the check of the whole",
        "at most 12.5 MB received before a piece that comes earlier",
        "7 s for an agent that leads",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    for number in 0..60 {
        ranges.push(range(number, number + 1, Giver::Origin));
    }
    explanation.ranges = ranges;
    assert!(explain::describe(&explanation).contains("and 24 more ranges"));
    explanation.failed = Some("wrong content from 10.0.0.9:80".into());
    assert!(explain::describe(&explanation).contains("wrong content from 10.0.0.9:80"));
    // For a layer of an image, its expanded form is stored, or it was thrown away.
    let part = |explanation| {
        let digest = Digest::sha256(b"");
        let part = ImagePart { role: ImageRole::Layer, digest, length: Some(1), explanation };
        image::describe(&ImageExplanation { image: "app:1".into(), digest, parts: vec![part] })
    };
    assert!(part(Some(explanation.clone())).contains("thrown away: wrong content from 10.0.0.9:80"));
    explanation.failed = None;
    assert!(!part(Some(explanation.clone())).contains("expanded"));
    let digest = Digest::sha256(b"");
    explanation.name = format!("reg/app@{digest} expanded-1 {digest}");
    assert!(part(Some(explanation)).contains("from seeds") && part(None).contains("never here"));
}
