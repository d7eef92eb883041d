//! The contents of the directory of layers, as the agent of this host tells them.
//!
//! A [silent](super::agents) agent is not waited for: an engine downloads layers that it does not find, but waits for ever for a directory that hangs.
//! Layers that were found before are still found then, since the engine relies on them.
//!
//! One answer covers all layers of an image, and is [cached](super::remembered) for a moment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use darter_api::GetRequest;
use darter_api::client::{Client, ClientError};
use darter_api::layers::{FoundLayer, LayerAnswer};
use darter_core::recent::Recent;
use darter_core::{Clock, Digest, Moment};
use darter_mount::{KeptFile, Layer, Layers, MountedFile, Settings, Waits};
use darter_store::threads;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::agents::{Agents, RETRY_PAUSE};
use super::remembered::Remembered;
use crate::mount::daemon::Daemon;

/// How many layers are cached.
const MAX_KNOWN: u64 = 50_000;

/// How long the agent may take to accept a request to report changes.
const LISTEN_TIMEOUT: Duration = Duration::from_millis(500);

/// How long until the agent is asked again after it did not accept that.
const LISTEN_AGAIN: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub(super) struct AgentLayers {
    agents: Agents,
    settings: Settings,
    clock: Arc<dyn Clock>,
    /// How long the agent may take to accept a request to report changes.
    listen_timeout: Duration,
    /// Containers read several layers at a time.
    waits: Waits,
    known: Mutex<Recent<Digest, FoundLayer>>,
    remembered: Mutex<Remembered>,
    /// Why the last layer was not found.
    last_miss: Mutex<String>,
    /// Locked while the agent is asked to report changes. Holds the time at which it may be asked again after a refusal.
    telling: AsyncMutex<Moment>,
}

impl AgentLayers {
    pub(super) fn new(clients: Vec<Client>, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let (known, remembered) = (Mutex::new(Recent::new(MAX_KNOWN)), Mutex::new(Remembered::new()));
        let (agents, telling) = (Agents::new(clients), AsyncMutex::new(clock.now()));
        let listen_timeout = LISTEN_TIMEOUT;
        Self {
            agents,
            settings,
            clock,
            listen_timeout,
            waits: Waits::new(),
            known,
            remembered,
            last_miss: Mutex::default(),
            telling,
        }
    }

    /// The agent of this host, and a layer that it found.
    pub(super) async fn found(&self, layer: Digest) -> Option<(Client, FoundLayer)> {
        let found = self.known.lock().get(&layer)?.clone();
        Some((self.agents.client().await, found))
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Asks the agent to report changes, unless it does so already.
    async fn listen(&self) {
        if self.remembered.lock().is_told() {
            return;
        }
        let mut again = self.telling.lock().await;
        if self.remembered.lock().is_told() || self.clock.now() < *again {
            return;
        }
        let asking = async { self.agents.client().await.changes().await };
        match tokio::time::timeout(self.listen_timeout, asking).await {
            Ok(Ok(changes)) => self.remembered.lock().is_told_by(changes),
            // An agent that restarts will be asked again.
            Ok(Err(ClientError::NoDaemon(_) | ClientError::Connect(..) | ClientError::Broken(..))) => {}
            // An older agent can't report changes.
            Ok(Err(_)) | Err(_) => *again = self.clock.now() + LISTEN_AGAIN,
        }
    }

    /// Logs why a layer is not found: at info level only if the reason is new.
    fn tell_miss(&self, layer: Digest, reason: String) {
        let mut last = self.last_miss.lock();
        if *last == reason {
            tracing::debug!(%layer, reason, "not found");
        } else {
            tracing::info!(%layer, reason, "an engine asked for a layer that the agent does not give");
            *last = reason;
        }
    }

    /// The directory's entry for each of `found`: a link to the store's file if the layer is complete, else a virtual file.
    async fn shown(found: &[FoundLayer]) -> Vec<Layer> {
        let shown = found.iter().map(|found| {
            let file = Layer::File { length: found.length_bytes, here: found.held_bytes };
            (file, found.file.clone().map(|file| (file, found.length_bytes)))
        });
        let shown: Vec<_> = shown.collect();
        if shown.iter().all(|(_, whole)| whole.is_none()) {
            return shown.into_iter().map(|(file, _)| file).collect();
        }
        let link = |(file, whole): (Layer, Option<(PathBuf, u64)>)| {
            // An agent in a container has the file at another path.
            let is_there = |path: &PathBuf, length| std::fs::metadata(path).is_ok_and(|found| found.len() == length);
            match whole {
                Some((path, length)) if is_there(&path, length) => Layer::Link(path),
                _ => file,
            }
        };
        threads::run(move || shown.into_iter().map(link).collect()).await
    }
}

#[async_trait]
impl Layers for AgentLayers {
    fn at_hand(&self, layer: Digest) -> Option<Layer> {
        self.remembered.lock().get(layer, self.clock.now())
    }

    async fn look_up(&self, layer: Digest) -> Option<Layer> {
        self.listen().await;
        let (when, beside) = {
            let mut remembered = self.remembered.lock();
            // Unless the agent reports changes, answers for the other layers can't be cached.
            (remembered.asks(self.clock.now()), remembered.is_told())
        };
        let asked = self.agents.ask(|client, beat| async move { client.layer(layer, beside, beat).await }).await;
        let found = match asked {
            Ok(LayerAnswer::Found(mut first)) => {
                let mut found = std::mem::take(&mut first.beside);
                found.insert(0, *first);
                let mut known = self.known.lock();
                for found in &found {
                    known.insert(found.layer.diff_id, found.clone(), 1);
                }
                found
            }
            Ok(LayerAnswer::Miss { reason }) => {
                self.tell_miss(layer, reason);
                self.known.lock().remove(&layer);
                return None;
            }
            Ok(LayerAnswer::Unknown) => return None,
            Err(error) => {
                tracing::warn!(%layer, reason = error.brief(), "the agent could not be asked for a layer");
                let known = self.known.lock().get(&layer)?.clone();
                return Self::shown(&[known]).await.pop();
            }
        };
        let shown = Self::shown(&found).await;
        let mut remembered = self.remembered.lock();
        for (found, shown) in found.iter().zip(&shown).rev() {
            remembered.found(found.layer.diff_id, shown.clone(), when);
        }
        shown.into_iter().next()
    }

    async fn open(&self, layer: Digest) -> Option<Arc<KeptFile>> {
        let found = self.known.lock().get(&layer)?.clone();
        let request = GetRequest::of_layer(found.layer, found.headers);
        let opened = async {
            loop {
                let daemon = Daemon::new(self.agents.client().await, request.clone());
                match daemon.connect(false).await {
                    Ok((content, supply)) => return (daemon, content, supply),
                    Err(error) => tracing::info!(%layer, reason = error.brief(), "a layer can't be opened yet"),
                }
                tokio::time::sleep(RETRY_PAUSE * 4).await;
            }
        };
        let (daemon, content, supply) = tokio::time::timeout(self.settings.limit, opened).await.ok()?;
        let file = MountedFile::among(content, supply, self.settings, Arc::clone(&self.clock), self.waits.clone());
        Some(KeptFile::begin(file, daemon))
    }

    fn listed(&self) -> Vec<Digest> {
        self.known.lock().keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use darter_api::LayerRequest;
    use darter_core::BlobId;
    use darter_mount::Fill;
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::sync::Notify;

    use super::*;

    const LAYERS: u8 = 33;

    fn diff_id(number: u8) -> Digest {
        Digest::sha256(&[number])
    }

    fn found(number: u8) -> FoundLayer {
        let (registry, repository) = ("lab".to_owned(), "app".to_owned());
        let diff_id = diff_id(number);
        let layer = LayerRequest { registry, repository, digest: diff_id, size: None, media_type: None, diff_id };
        FoundLayer { length_bytes: 4096, held_bytes: 0, file: None, layer, headers: Vec::new(), beside: Vec::new() }
    }

    /// A stand-in for an agent, which has one image and counts requests.
    #[derive(Default)]
    struct Played {
        asked: AtomicUsize,
        /// True if it can report changes, as newer releases do.
        tells: bool,
        /// True if it keeps no profiles, and so wants no reports of touches.
        takes_no_touches: bool,
        change: Notify,
    }

    impl Played {
        async fn run(self: Arc<Self>, listener: UnixListener) {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&self).answer(stream));
            }
        }

        async fn answer(self: Arc<Self>, stream: UnixStream) {
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).await.unwrap_or_default() == 0 {
                    // The client only checked whether an agent listens.
                    return;
                }
            }
            if head.contains("/v1/parts") {
                let touches = if self.takes_no_touches { "darter-touches: none\r\n" } else { "" };
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {}\r\n\
                     darter-blob: {}\r\ndarter-length: 4096\r\ndarter-pieces: 19\r\n{touches}\r\n",
                    darter_api::parts::PROTOCOL,
                    BlobId([1; 32]),
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            } else if !head.contains("/v1/layers/changes") {
                self.asked.fetch_add(1, Ordering::SeqCst);
                let mut answer = found(0);
                let wants_all = head.lines().next().is_some_and(|line| line.contains("?beside "));
                assert_eq!(wants_all, self.tells, "of use only to who is told of changes: {head}");
                if wants_all {
                    answer.beside = (1..LAYERS).map(found).collect();
                }
                let answer = serde_json::to_string(&LayerAnswer::Found(Box::new(answer))).unwrap();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                stream.write_all(head.as_bytes()).await.unwrap();
            } else if self.tells {
                let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: darter-changes\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&[1]).await.unwrap();
                loop {
                    self.change.notified().await;
                    stream.write_all(&[1]).await.unwrap();
                }
            } else {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            }
        }
    }

    /// A clock that stands still, so that no answer expires.
    struct Still;

    impl Clock for Still {
        fn now(&self) -> Moment {
            Moment::ZERO
        }

        fn unix(&self) -> u64 {
            1
        }
    }

    fn keeper(socket: &Path) -> AgentLayers {
        let limit = Duration::from_secs(10);
        let settings = Settings::of_layer(limit, Fill::Never, None);
        let keeper = AgentLayers::new(vec![Client::at(socket.to_owned())], settings, Arc::new(Still));
        // The timeout must not matter, however loaded the machine is.
        AgentLayers { listen_timeout: Duration::from_secs(60), ..keeper }
    }

    /// Looks a layer up, as the directory does.
    async fn stat(layers: &AgentLayers, number: u8) -> bool {
        match layers.at_hand(diff_id(number)) {
            Some(_) => true,
            None => layers.look_up(diff_id(number)).await.is_some(),
        }
    }

    /// Looks layers up as containerd 2.4 does for a pull: with each layer, all layers below. Returns the number of lookups.
    async fn pull(layers: &AgentLayers) -> usize {
        let mut stats = 0;
        for layer in 0..LAYERS {
            for below in (0..=layer).rev() {
                assert!(stat(layers, below).await);
                stats += 1;
            }
        }
        stats
    }

    #[tokio::test]
    async fn an_image_of_thirty_three_layers_is_one_question_and_one_more_after_a_change() {
        let room = tempfile::tempdir().unwrap();
        let socket = room.path().join("darter.sock");
        let agent = Arc::new(Played { tells: true, ..Played::default() });
        let playing = tokio::spawn(Arc::clone(&agent).run(UnixListener::bind(&socket).unwrap()));
        let layers = keeper(&socket);
        let asked = || agent.asked.load(Ordering::SeqCst);
        let stats = pull(&layers).await;
        assert_eq!((stats, asked()), (561, 1));
        assert!(stat(&layers, 5).await);
        assert_eq!(asked(), 1);
        agent.change.notify_one();
        let heard = async {
            while layers.at_hand(diff_id(6)).is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap();
        assert!(stat(&layers, 5).await);
        assert_eq!(asked(), 2, "it may be another answer now");
        playing.abort();
    }

    #[tokio::test]
    async fn the_start_of_a_complete_layer_is_examined_only_for_an_agent_that_keeps_profiles() {
        for takes_no_touches in [false, true] {
            let room = tempfile::tempdir().unwrap();
            let socket = room.path().join("darter.sock");
            let agent = Arc::new(Played { takes_no_touches, ..Played::default() });
            let playing = tokio::spawn(Arc::clone(&agent).run(UnixListener::bind(&socket).unwrap()));
            let layers = keeper(&socket);
            assert!(stat(&layers, 0).await);
            assert_eq!(layers.open_to_note(diff_id(0)).await.is_none(), takes_no_touches);
            playing.abort();
        }
    }

    #[tokio::test]
    async fn an_older_agent_is_asked_each_time() {
        let room = tempfile::tempdir().unwrap();
        let socket = room.path().join("darter.sock");
        let agent = Arc::new(Played::default());
        let playing = tokio::spawn(Arc::clone(&agent).run(UnixListener::bind(&socket).unwrap()));
        let layers = keeper(&socket);
        assert_eq!(pull(&layers).await, agent.asked.load(Ordering::SeqCst));
        playing.abort();
    }
}
