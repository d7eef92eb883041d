//! A seed that lies about whatever it is asked for ([`FalseLead`]), alone or beside an honest one. Agents as they are, over memory and in
//! virtual time. A seed's word counts for more than a node's; but nobody waits for a false one for ever, nobody takes wrong bytes, and an
//! error names the seed that it came from.

use darter_agent::options::Role as AgentRole;
use darter_agent::{Agent, FetchError, Options};
use darter_core::{Digest, Source};
use darter_origin::MemOrigin;
use darter_wire::{MemNetwork, Role};
use futures_util::future::join_all;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::false_leads::{FalseLead, LENGTH, LIAR, Word};
use crate::in_memory::{self, Virtual};
use crate::origin::read;

/// Twice what `--stall-timeout` is unless somebody sets it.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// In virtual time: a seed may say for ten minutes that it waits for its origin; then a transfer may stand still, and is tried once more.
const AT_LAST: Duration = Duration::from_secs(800);

const HONEST: u8 = 8;

/// What differs between the fleets.
#[derive(Clone, Copy, Default)]
struct Setup {
    /// True if the source has a digest.
    digest: bool,
    /// True if there is an honest seed, too.
    honest: bool,
    /// Each node's `--verify-whole`.
    verify_whole: bool,
}

/// Three nodes, the false seed and perhaps an honest one.
struct Fleet {
    nodes: Vec<Agent>,
    honest: Option<Agent>,
    origin: MemOrigin,
    source: Source,
    content: Vec<u8>,
    _dir: TempDir,
}

impl Fleet {
    async fn start(word: Word, setup: Setup) -> Self {
        let Setup { digest, honest, verify_whole } = setup;
        let content: Vec<u8> = (0..LENGTH).map(|at| (at * 31 + at / 251) as u8).collect();
        let (network, origin, dir) = (MemNetwork::new(), MemOrigin::new(), TempDir::new().unwrap());
        let digest = digest.then(|| Digest::sha256(&content));
        let (source, _) = Source::from_url("http://origin.lab/file".parse().unwrap(), &[], digest);
        origin.put(&source, content.clone());
        FalseLead::start(&network, word, source.clone(), Role::Seed).await;
        let clock = Virtual(Instant::now());
        let seed = Options { role: AgentRole::Seed, ..in_memory::options(HONEST, [], dir.path()) };
        let honest = match honest {
            true => Some(in_memory::start(HONEST, seed, &network, origin.clone(), clock).await),
            false => None,
        };
        let mut nodes = Vec::new();
        for host in 1..=3 {
            let join = [LIAR].into_iter().chain(honest.is_some().then_some(HONEST)).chain([1]);
            let options = in_memory::options(host, join, dir.path());
            let options = Options { stall_timeout: STALL_TIMEOUT, verify_whole, ..options };
            nodes.push(in_memory::start(host, options, &network, origin.clone(), clock).await);
        }
        let seeds = 1 + usize::from(honest.is_some());
        while nodes.iter().any(|node| node.status().peers.len() < seeds) {
            sleep(Duration::from_millis(10)).await;
        }
        Self { nodes, honest, origin, source, content, _dir: dir }
    }

    /// The result of each node's pull.
    async fn pull(&self, name: &str) -> Vec<Result<Vec<u8>, FetchError>> {
        let pulls = join_all(self.nodes.iter().map(|node| read(node, &self.source)));
        let before = Instant::now();
        let pulled = timeout(AT_LAST, pulls).await.unwrap_or_else(|_| panic!("{name} stops them"));
        let copies = self.origin.bytes_read(&self.source) as f64 / LENGTH as f64;
        let ends: Vec<_> = pulled
            .iter()
            .map(|end| end.as_ref().map_or_else(ToString::to_string, |bytes| (*bytes == self.content).to_string()))
            .collect();
        println!("{name}: {:?}, {copies} copies, {ends:?}", before.elapsed());
        assert!(copies <= 4.0, "{name}: {copies} copies");
        pulled
    }

    async fn drain(self) {
        join_all(self.nodes.iter().chain(&self.honest).map(Agent::drain)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_a_seed_makes_up_the_others_have_the_right_bytes_or_are_told_by_whom_they_were_deceived() {
    for digest in [false, true] {
        for word in Word::ALL {
            let name = format!("{word:?}, digest {digest}");
            let fleet = Fleet::start(word, Setup { digest, ..Setup::default() }).await;
            let is_asked_elsewhere = matches!(word, Word::Failed | Word::LimitedLater | Word::Dissolved);
            for end in fleet.pull(&name).await {
                match end {
                    Ok(bytes) => assert!(bytes == fleet.content, "{name} deceives somebody"),
                    Err(error) if is_asked_elsewhere => panic!("{name}: {error}"),
                    // The hashes that it made up contradict the origin, which is read in its place.
                    Err(error) if error.to_string().contains("changed while it was read") => {}
                    Err(error) => assert!(error.to_string().contains("10.0.0."), "{name}: {error}"),
                }
            }
            fleet.drain().await;
        }
    }
}

/// If the false seed says that the origin refuses what the origin gives, an honest seed is asked before any program is told.
#[tokio::test(start_paused = true)]
async fn what_a_seed_says_of_a_refusal_is_asked_of_another_seed() {
    for digest in [false, true] {
        for word in [Word::Missing, Word::Forbidden] {
            let name = format!("{word:?}, digest {digest}, beside an honest one");
            let fleet = Fleet::start(word, Setup { digest, honest: true, ..Setup::default() }).await;
            for end in fleet.pull(&name).await {
                assert!(end.is_ok_and(|bytes| bytes == fleet.content), "{name}");
            }
            fleet.drain().await;
        }
    }
}

/// Pieces that match the hashes of a manifest that is made up with them: only an agent that hashes the whole finds that. An agent that was given some
/// of them is told whose they were, and does not ask there again for five minutes: so it has the right ones once each agent that could give it wrong
/// ones has done so. If there is an honest seed, too, a node may follow the false one and lead the others: it says by whom it was deceived, and leads
/// them again.
#[tokio::test(start_paused = true)]
async fn whoever_trusts_nobody_finds_a_forged_whole_and_has_the_right_one_from_another_reader() {
    for honest in [false, true] {
        let fleet = Fleet::start(Word::Forged, Setup { digest: true, honest, verify_whole: true }).await;
        // Both seeds, and the two other nodes.
        for deceived in 0..=4 {
            let mut all_right = true;
            for end in fleet.pull(&format!("forged, honest {honest}, after {deceived} pulls")).await {
                match end {
                    Ok(bytes) => assert!(bytes == fleet.content, "honest {honest}"),
                    Err(error) => {
                        let text = error.to_string();
                        assert!(text.starts_with("wrong content") && text.contains(", read by "), "{text}");
                        assert!(deceived < 4, "{text}");
                        all_right = false;
                    }
                }
            }
            if all_right {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        fleet.drain().await;
    }
}
