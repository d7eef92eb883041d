//! Files that an agent keeps beside its blobs, and can't read at its start: it starts all the same and has its blobs, or says what to do. A
//! newer release's files are not deleted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use darter_agent::{Agent, Options};
use darter_core::Source;

use crate::another_user::copied;
use crate::seed;
use crate::web::{Reply, Web};

static CONTENT: [u8; 300_000] = [7; 300_000];

fn remove(at: &Path) {
    let _ = fs::remove_file(at);
    let _ = fs::remove_dir_all(at);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
}

/// Puts something at a path where nothing is.
type Put = fn(&Path);

/// Things in the place of a file or a directory, each with a way to put it there.
const INSTEAD: [(&str, Put); 5] = [
    ("a directory with something in it", |at| fs::create_dir_all(at.join("x/y")).unwrap()),
    ("a pipe", |at| {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }),
    ("a dangling link", |at| symlink("/nowhere/at/all", at).unwrap()),
    ("nothing", |at| fs::write(at, "").unwrap()),
    ("garbage", |at| fs::write(at, "garbage 99\n").unwrap()),
];

/// Files and directories of the data directory, and whether an agent starts without.
const PLACES: [(&str, bool); 18] = [
    ("node-id", false),
    ("lock", false),
    ("blobs", false),
    ("trash", false),
    ("node-key", true),
    ("node-machine", true),
    ("peers", true),
    ("peers.new", true),
    ("images", true),
    ("index.redb", true),
    ("explain", true),
    ("explain/x.json", true),
    ("manifests", true),
    ("manifests/sha256", true),
    ("manifests/sha256/0000000000000000000000000000000000000000000000000000000000000000", true),
    ("manifests/from", true),
    ("manifests/from/sha256", true),
    ("manifests/open-1", true),
];

async fn read(agent: &Agent, web: &Web) -> Vec<u8> {
    let (source, _) = Source::from_url(web.url("/x").parse().unwrap(), &[], None);
    crate::origin::read(agent, &source).await.unwrap()
}

#[tokio::test]
async fn an_agent_starts_with_what_it_can_read_or_says_what_to_do() {
    let web = Web::start(|_| Reply::ok(&CONTENT).with("etag", "\"1\"")).await;
    let first = tempfile::tempdir().unwrap();
    let agent = darter_gateway::start(seed::node(first.path(), Vec::new())).await.unwrap();
    assert!(read(&agent, &web).await == CONTENT);
    agent.drain().await;
    for (place, starts) in PLACES {
        for (what, put) in INSTEAD {
            let dir = copied(first.path());
            let at = dir.path().join(place);
            remove(&at);
            put(&at);
            match darter_gateway::start(seed::node(dir.path(), Vec::new())).await {
                Ok(agent) => {
                    assert_eq!(agent.status().store.blobs, u64::from(place != "blobs"), "{what} as {place}");
                    assert!(read(&agent, &web).await == CONTENT, "{what} as {place}");
                    agent.drain().await;
                }
                Err(error) => {
                    assert!(!starts, "{what} as {place}: {error}");
                    let mut told = error.to_string();
                    let mut cause = std::error::Error::source(&error);
                    while let Some(this) = cause {
                        told = format!("{told}: {this}");
                        cause = this.source();
                    }
                    let advice = ["remove", "check"].iter().any(|word| told.contains(word));
                    assert!(told.contains(place) && advice, "{what} as {place}: {told}");
                }
            }
        }
    }
}

/// Written by a later release, in a format that nobody knows yet.
#[tokio::test]
async fn what_a_newer_release_wrote_is_still_there() {
    let web = Web::start(|_| Reply::ok(&CONTENT)).await;
    let dir = tempfile::tempdir().unwrap();
    let manifest = format!("manifests/sha256/{}", "0".repeat(64));
    let blobs = ["ab", "cd"].map(|digits| format!("blobs/{digits}/{}", digits.repeat(32)));
    let [sidecar, bytes, other_sidecar, other_bytes] =
        [(0, "piece"), (0, "data"), (1, "piece2"), (1, "data")].map(|(at, kind)| format!("{}.{kind}", blobs[at]));
    let explanation = format!("explain/{}.json", "ab".repeat(32));
    let profile = format!("profiles/{}", "ef".repeat(32));
    let files = [
        (sidecar.as_str(), "DARTPIEC\x4dshorter"),
        (bytes.as_str(), "bytes"),
        (other_sidecar.as_str(), "described in another file"),
        (other_bytes.as_str(), "bytes"),
        (explanation.as_str(), "{\"later\": true}"),
        ("explain/later", "all in one"),
        ("peers", "{\"format\": 2, \"fleet\": []}"),
        ("images", "darter-images-2\nx\n"),
        (manifest.as_str(), "darter-manifest-2 x\n{}"),
        ("index.redb", "a later index"),
        ("layers", "darter-layers-99\nx\n"),
        (profile.as_str(), "DARTPROF\x63later"),
        ("node-key", "darter node key 2\nof another kind\n"),
        ("node-machine", "darter node-machine 2\nof another kind\n"),
    ];
    for (name, text) in files {
        let at = dir.path().join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, text).unwrap();
    }
    let local = Some(([127, 0, 0, 1], 0).into());
    let agent = darter_gateway::start(Options { local, ..seed::node(dir.path(), Vec::new()) }).await.unwrap();
    assert!(read(&agent, &web).await == CONTENT);
    let metrics = format!("http://{}/metrics", agent.status().local.unwrap());
    let counted = async |what: &str, count: u32| {
        let metrics = reqwest::get(&metrics).await.unwrap().text().await.unwrap();
        metrics.contains(&format!("darter_set_aside{{what=\"{what}\"}} {count}\n"))
    };
    let counts = [
        ("blob", 2),
        ("index", 1),
        ("nodes", 1),
        ("images", 1),
        ("manifests", 1),
        ("explanations", 1),
        ("profiles", 1),
        ("layers", 1),
        ("node-key", 1),
        ("node-machine", 1),
    ];
    for (what, count) in counts {
        let met = async { while !counted(what, count).await {} };
        tokio::time::timeout(Duration::from_secs(60), met).await.expect(what);
    }
    agent.drain().await;
    for (name, text) in files {
        let at = [name.to_owned(), format!("{name}.unread"), format!("{name}.newer")].map(|name| dir.path().join(name));
        assert!(at.iter().any(|at| fs::read_to_string(at).is_ok_and(|there| there == text)), "{name}");
    }
}
