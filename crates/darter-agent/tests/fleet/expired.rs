//! Credentials that the origin takes no more in the middle of a download that several callers wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::Source;
use darter_core::source::Credentials;
use futures_util::StreamExt as _;
use tokio::sync::watch;

use crate::seed;
use crate::web::{Reply, Seen, Web};

fn content() -> Vec<u8> {
    (0..700_000_u32).map(|at| (at * 7 + at / 253) as u8).collect()
}

fn of(name: &str) -> Credentials {
    Credentials { headers: vec![("authorization".to_owned(), name.to_owned())] }
}

fn is_by(seen: &Seen, name: &str) -> bool {
    seen.header("authorization") == Some(name)
}

async fn read(agent: &Agent, source: &Source, credentials: Credentials) -> Result<Vec<u8>, String> {
    let download = agent.open(source.clone(), credentials).await.map_err(|error| error.to_string())?;
    let mut stream = download.stream(None);
    let mut read = Vec::new();
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes.map_err(|error| error.to_string())?);
    }
    Ok(read)
}

/// An origin that breaks off the first answer half-way, when told to, and then takes alice's credentials no more, nor those of
/// anybody it does not know.
async fn downloads(callers: &[&str]) -> Vec<Result<Vec<u8>, String>> {
    let (gate, opened) = watch::channel(false);
    let expired = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&expired);
    let web = Web::start(move |seen| {
        let is_known = is_by(seen, "bob") || (is_by(seen, "alice") && !over.load(Ordering::Relaxed));
        let whole = Reply::ok(&content()).with("etag", "\"1\"").with("cache-control", "public");
        match (is_known, over.load(Ordering::Relaxed)) {
            (false, _) => Reply::status(401),
            (true, false) => whole.gated(400_000, &opened).cut(400_000),
            (true, true) => whole,
        }
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let options = Options { role: Role::Seed, ..seed::node(directory.path(), Vec::new()) };
    let agent = Agent::start(options).await.unwrap();
    let (source, _) = Source::from_url(web.url("/file").parse().unwrap(), &[], None);
    let mut running = Vec::new();
    for caller in callers {
        let (agent, source, credentials) = (agent.clone(), source.clone(), of(caller));
        running.push(tokio::spawn(async move { read(&agent, &source, credentials).await }));
        while !web.seen().iter().any(|seen| is_by(seen, caller)) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        // The answer is acted upon.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    expired.store(true, Ordering::Relaxed);
    gate.send_replace(true);
    let mut results = Vec::new();
    for task in running {
        results.push(task.await.unwrap());
    }
    agent.drain().await;
    results
}

#[tokio::test]
async fn what_one_callers_credentials_do_not_open_any_more_is_read_on_with_anothers() {
    for callers in [["bob", "alice"], ["alice", "bob"]] {
        for read in downloads(&callers).await {
            assert!(read.unwrap() == content(), "{callers:?}");
        }
    }
}

#[tokio::test]
async fn where_nobody_else_waits_the_refusal_is_the_answer() {
    let mut read = downloads(&["alice"]).await;
    assert!(read.remove(0).unwrap_err().contains("HTTP 401"), "the error names the status");
}
