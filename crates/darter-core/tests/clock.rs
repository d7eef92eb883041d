//! An agent's clock is given to it, so that a test or a simulator can run it in a time of its own. This reads the sources of whatever an
//! agent is made of and finds who asks another clock.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that ask another clock, and why they may. All but the first two wait for a socket: a pause at a program of this host, or at an
/// origin's server, is the runtime's, as the socket is.
const MAY: [(&str, &str); 17] = [
    ("src/clock.rs", "it is the clock"),
    ("client/failure.rs", "compares a server's date that came without the server's own"),
    ("src/client.rs", "an origin's answer"),
    ("registry/client.rs", "a registry's answer"),
    ("src/retry.rs", "pauses between questions to an origin"),
    ("src/pauses.rs", "tells people of such pauses"),
    ("src/control.rs", "silence on a connection"),
    ("src/waits.rs", "how long programs of this host wait for an answer"),
    ("darter-registries/src/others.rs", "how long programs of this host wait for an answer"),
    ("darter-registries/src/request.rs", "how long programs of this host wait for an answer"),
    ("mirror/rescue.rs", "how long an engine waits"),
    ("mirror/blob.rs", "how long an engine waits"),
    ("mirror/sampled.rs", "how long an engine waits"),
    ("mirror/flow.rs", "how long an engine waits"),
    ("server/seats.rs", "how often a refusal is logged"),
    ("server/half_closed.rs", "how long after its request a program closed its side"),
    ("src/descriptors.rs", "how often a failure to accept is logged"),
];

/// Programs with a terminal, and what measures programs.
const PROGRAMS: [&str; 3] = ["darter", "darter-lab", "darter-plot"];

fn sources(of: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(of).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") && path.file_stem().is_some_and(|it| it != "tests") {
            found.push(path);
        }
    }
}

/// The first line that asks a clock, tests left out.
fn asks(text: &str) -> Option<usize> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let asks = |line: &str| line.contains("Instant::now") || line.contains("SystemTime::now");
    code.lines().position(asks).map(|line| line + 1)
}

#[test]
fn an_agent_tells_the_time_by_the_clock_that_it_was_given() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for entry in fs::read_dir(&crates).unwrap() {
        let entry = entry.unwrap();
        if !PROGRAMS.iter().any(|program| entry.file_name() == *program) {
            sources(&entry.path().join("src"), &mut files);
        }
    }
    assert!(files.len() > 200, "{} files", files.len());
    let mut used = Vec::new();
    for file in files {
        let Some(line) = asks(&fs::read_to_string(&file).unwrap()) else { continue };
        let may = MAY.iter().find(|(name, _)| file.ends_with(name));
        let (name, _) = may.unwrap_or_else(|| {
            panic!("{}:{line} asks a clock of its own: take a `Moment`, or the `Clock` that is given", file.display())
        });
        used.push(*name);
    }
    let idle: Vec<_> = MAY.iter().filter(|(name, _)| !used.contains(name)).collect();
    assert!(idle.is_empty(), "these ask no other clock any more: {idle:?}");
}
