//! One blob on its way: what this agent holds and wants of it, who leads its swarm, and what happens next.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Transfer`] and its state, from its beginning to its end |
//! | `drive` | the task that carries out what the session decides |
//! | `member` | following a lead, and taking what peers give |
//! | `storing` | pieces on their way to the disk |
//! | `leading` | being the lead: members, late-bound pieces |
//! | `electing` | finding another lead, handing back |
//! | `state` | the state and its lock, which wakes the driver |
//! | `reading` | the lead reads the origin, once for everybody |
//! | `readers` | what those that read it do, and have in hand between two runs |
//! | `body` | the body of an answer becomes stored pieces |
//! | `beside` | further connections to an origin that gives several more than one |
//! | `manners` | what is known of origins from other blobs: which want one connection |
//! | `through` | an answer that is read to its end, and compared with what is here |
//! | `whole` | the digest of the whole, while pieces come in any order |
//! | `callers` | whose credentials the origin is read with |
//! | `anew` | an origin that can't be continued is read from its start, and compared |
//! | [`mounting`] | what every mount of an expanded layer reads, fetched before it is mounted |
//! | `naming` | whether an expanded layer names all of its directories |
//! | `profile` | which parts of an expanded layer are touched first, and fetched first |
//! | [`turns`] | which blobs' pieces are read now |
//! | `finish` | the last piece is here: is the whole what it should be? |
//! | `declared` | what a later answer of the origin declares of the whole |
//! | `doubts` | others doubt what was given or vouched for here, and hear of doubts that are had here |
//! | `dissolve` | it is not: away with it, and whose fault is it? |
//! | `passing` | a blob that does not fit: what of it is still needed |
//! | [`rest`] | when the blob may be evicted though the transfer stays |
//! | [`stream`] | verified bytes in order, for whoever asked |
//! | `handing` | verified bytes in any order, for whoever keeps a file |
//! | [`journal`] | what happened, for `darter explain` |
//! | [`meter`] | a rate over the last second or so |
//! | `steps` | work of this agent itself that is waited for |
//! | `tasks` | the tasks by which it lives, and what follows when one of them panics |
//! | `upkeep` | somebody is responsible for what is lacking; nobody waits for ever |
//! | `hashes` | hashes that are told are checked and stored |
//! | `wants` | what of it is wanted: everything, or what a few readers wait for |
//! | `status` | how far it is, for `darter status` and `darter explain` |
//! | `view` | what moves between whom, for `darter top` |
//!
//! The files of this directory go on with `impl Transfer`: they import this one, and it the parts of its state.
//!
//! Decisions are made by `darter_swarm`'s `Session`, under one lock and without I/O: everybody who learns something tells it (`tell` in
//! `drive`), and only the driver carries out what it decides. So what goes out to a peer goes out in one order: a Meet before a Have, a
//! lead's hashes in the order of the pieces.
//!
//! Lock order: a transfer's state, then the fleet's. Nothing is said to a peer with any lock held: a peer found gone is
//! told to every transfer. The store is never called with the state locked, except for its
//! questions that don't touch the disk.

mod anew;
pub(crate) mod beside;
pub(crate) mod body;
mod callers;
mod declared;
pub(crate) mod dissolve;
pub mod doubts;
pub(crate) mod drive;
mod electing;
pub(crate) mod finish;
mod handing;
mod hashes;
pub mod journal;
pub(crate) mod leading;
pub mod manners;
pub(crate) mod member;
pub mod meter;
pub mod mounting;
mod naming;
pub(crate) mod parts;
pub(crate) mod passing;
mod profile;
mod readers;
pub(crate) mod reading;
pub mod rest;
mod state;
pub mod status;
pub(crate) mod steps;
mod storing;
pub mod stream;
mod tasks;
mod through;
pub mod turns;
mod upkeep;
pub mod view;
pub mod wants;
mod whole;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use darter_api::Giver;
use darter_api::Role;
use darter_core::source::Credentials;
use darter_core::{BlobId, Digest, Manifest, NodeId, PieceHash, PieceIndex, PieceLength, Source, Version, in_full};
use darter_fleet::Fleet;
use darter_origin::Requester;
use darter_store::StoredBlob;
use darter_swarm::leadership::trace::Trace;
use darter_swarm::session::trace::SessionTrace;
use darter_swarm::{Bounds, Came, Input, Profile, RequestId, Session, SessionStart, Tuning};
use darter_wire::Verdict;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::callers::Callers;
use self::handing::Losses;
use self::journal::Journal;
use self::naming::Naming;
use self::passing::Positions;
use self::profile::Profiling;
use self::readers::Readers;
use self::rest::Rest;
use self::state::TransferState;
use self::steps::Steps;
use self::storing::Storing;
use self::view::Flows;
use self::whole::Whole;
use crate::context::EngineContext;
use crate::error::FetchError;
use crate::joins::Joins;

pub(crate) use darter_swarm::Leader as Lead;

/// How a transfer ended, or that it has not.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It goes on.
    Open,
    /// Everything is held and the whole was checked.
    Complete,
    /// It can't go on.
    Failed(FetchError),
}

/// One blob on its way. See the module's text.
pub struct Transfer {
    pub(crate) context: Arc<EngineContext>,
    pub(crate) fleet: Arc<Fleet>,
    joins: Arc<Joins>,
    tasks: TaskTracker,
    /// The blob.
    pub blob: BlobId,
    /// The blob's source.
    pub source: Source,
    /// The state of the source that its bytes are.
    pub version: Version,
    /// The blob as it is stored here.
    pub stored: Arc<dyn StoredBlob>,
    storing: Storing,
    /// How long its pieces are.
    pub piece_length: PieceLength,
    on_trust: AtomicBool,
    state: Mutex<TransferState>,
    profiling: Profiling,
    naming: Naming,
    /// How far the whole was hashed.
    whole: Whole,
    steps: Arc<Steps>,
    /// Wakes the driver: see [`state`].
    driver: Notify,
    /// Marked as changed when pieces, the length or the outcome changed: wakes readers.
    changed: watch::Sender<()>,
    /// Marked as changed, for the whole agent, when there may be something to send: wakes uploads that wait.
    sendable: watch::Sender<()>,
    readers: AtomicUsize,
    rest: Rest,
    /// Ends the driver.
    closed: CancellationToken,
}

/// The one of the two for whom less may be read.
const fn narrower(one: Requester, other: Requester) -> Requester {
    match (one, other) {
        (Requester::Named, _) | (_, Requester::Named) => Requester::Named,
        (Requester::Elsewhere, _) | (_, Requester::Elsewhere) => Requester::Elsewhere,
        (Requester::Here, Requester::Here) => Requester::Here,
    }
}

/// The values that all transfers of an agent share.
pub struct House {
    /// The values that every part of the agent shares.
    pub context: Arc<EngineContext>,
    /// The agents that it is connected with.
    pub fleet: Arc<Fleet>,
    /// Its questions to leads.
    pub joins: Arc<Joins>,
    /// The agent's tasks.
    pub tasks: TaskTracker,
    /// Marked as changed when there may be more to send.
    pub sendable: watch::Sender<()>,
}

/// The state with which a transfer begins.
pub(crate) struct Beginning {
    pub(crate) source: Source,
    pub(crate) version: Version,
    pub(crate) credentials: Credentials,
    pub(crate) requester: Requester,
    pub(crate) stored: Arc<dyn StoredBlob>,
    /// True if all of it is wanted, false for parts alone.
    pub(crate) everything: bool,
    /// True if this is a seed that takes the manifest from a node.
    pub(crate) on_trust: bool,
}

impl Transfer {
    /// A transfer that nobody leads yet, with a driver of its own.
    pub(crate) async fn begin(house: &House, beginning: Beginning) -> Arc<Self> {
        let House { context, fleet, joins, tasks, sendable } = house;
        let Beginning { source, version, credentials, requester, stored, everything, on_trust } = beginning;
        let root = stored.manifest().root().filter(|_| stored.is_complete());
        let digest = match (source.digest(), root) {
            // Of content without a digest of its own, the one that was found when it came.
            (None, Some(root)) => recalled(context, stored.id(), root).await,
            (digest, _) => digest,
        };
        let verdict = root.map(|root| Verdict { root, digest });
        let now = context.now();
        let held = stored.held();
        let manifest = stored.manifest();
        let blob = stored.id();
        let mut journal = Journal::new(source.to_string(), source.digest(), now, context.unix(), &held);
        let complete = verdict.is_some();
        if complete {
            journal.completed(now, verdict.as_ref().and_then(|verdict| verdict.digest));
        } else if !held.is_empty() {
            journal.note(now, format!("resumed with {} of {:?} pieces held", held.len(), manifest.piece_count()));
        }
        let start = SessionStart {
            me: context.me,
            source: source.key(),
            blob,
            may_follow: context.options.role == Role::Node,
            pieces: manifest.piece_length(),
            piece_bytes: manifest.piece_length().bytes(),
            total: manifest.piece_count(),
            hashes: manifest.hashes().to_vec(),
            known: manifest.known().clone(),
            held,
            verdict,
            is_complete: complete,
            everything,
            seed: random_seed(&context.me, blob),
            tuning: Tuning::default(),
            now,
        };
        let profile = recalled_profile(context, blob, &source, &manifest).await;
        let mut session = Session::begin(start.clone());
        if context.records {
            session.record(start);
        }
        let state = TransferState {
            session,
            callers: Callers::new(credentials),
            requester,
            streamed_digest: None,
            readers: Readers::default(),
            given_back: 0,
            joined_parts: false,
            fetching: None,
            failure: None,
            dissolved_for: None,
            journal,
            flows: Flows::default(),
            last_sent: None,
            positions: Positions::default(),
            losses: Losses::default(),
        };
        let transfer = Arc::new(Self {
            context: Arc::clone(context),
            fleet: Arc::clone(fleet),
            joins: Arc::clone(joins),
            tasks: tasks.clone(),
            blob,
            source,
            version,
            stored,
            storing: Storing::default(),
            piece_length: manifest.piece_length(),
            on_trust: AtomicBool::new(on_trust),
            state: Mutex::new(state),
            profiling: Profiling::new(profile),
            naming: Naming::default(),
            whole: Whole::default(),
            steps: Arc::new(Steps::new(&context.clock)),
            driver: Notify::new(),
            changed: watch::channel(()).0,
            sendable: sendable.clone(),
            readers: AtomicUsize::new(0),
            rest: Rest::default(),
            closed: CancellationToken::new(),
        });
        transfer.note_passing(&mut transfer.state());
        drive::start(&transfer);
        transfer
    }

    /// Ends the driver; the transfer does nothing more by itself.
    pub fn close(&self) {
        self.closed.cancel();
        self.changed.send_replace(());
    }

    /// True if it was ended here.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Marked as changed when pieces, hashes or the outcome change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// True if anybody waits for it, here or elsewhere.
    pub(crate) fn is_wanted(&self) -> bool {
        self.has_readers() || self.is_leading_others()
    }

    /// How it stands.
    pub fn outcome(&self) -> Outcome {
        self.state().outcome()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state().is_complete()
    }

    /// True if the manifest is a node's word alone, and this seed has not checked the whole yet: it gives nobody else any of it, takes no
    /// verdict of that node's, and never leads with it.
    pub(crate) fn is_on_trust(&self) -> bool {
        self.on_trust.load(Ordering::Acquire)
    }

    /// True if an agent has checked the whole.
    pub(crate) fn has_verdict(&self) -> bool {
        self.state().session.verdict().0.is_some()
    }

    /// The lead, as this agent sees it.
    pub(crate) fn lead(&self) -> Lead {
        self.state().lead()
    }

    /// The session's trace, if that is recorded.
    pub fn trace(&self) -> Option<SessionTrace> {
        self.state().session.trace().cloned()
    }

    /// The decisions about who leads, if they are recorded.
    pub fn decisions(&self) -> Option<Trace> {
        self.state().session.leadership().trace()
    }

    /// Ends the driver, which says good-bye to the swarm.
    pub(crate) fn leave(&self) {
        self.tell(Input::Leaves);
        self.close();
    }

    /// True if this agent leads others, not only itself.
    pub(crate) fn is_leading_others(&self) -> bool {
        self.state().session.leads_others()
    }

    /// True if there is something to tell of how it came here in this run.
    pub fn has_history(&self) -> bool {
        self.state().journal.has_history()
    }

    /// True if somebody on this host reads it now.
    pub fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Writes something worth telling into the journal.
    pub(crate) fn note(&self, what: impl Into<String>) {
        let what = what.into();
        tracing::debug!(blob = %self.blob.short(), what, "transfer");
        self.state().journal.note(self.context.now(), what);
    }

    /// A caller who may read this brings credentials: they serve the origin if there are none, or if nothing is under way;
    /// else when those in use are refused.
    pub(crate) fn offer_credentials(&self, source: &Source, credentials: &Credentials) {
        if self.source != *source {
            return;
        }
        let mut state = self.state();
        let is_idle = state.callers.current().headers.is_empty() || !state.session.course().is_open();
        if is_idle && !credentials.headers.is_empty() {
            state.callers.renew(credentials.clone());
        } else {
            state.callers.keep(credentials.clone());
        }
    }

    /// Somebody else wants it: from now on the origin is read as may be read for this one, too.
    pub(crate) fn is_asked_by(&self, requester: Requester) {
        let mut state = self.state();
        state.requester = narrower(state.requester, requester);
    }

    /// A newer caller's credentials serve the origin from now on. Only those for the very source that is read: another
    /// registry must not be shown them.
    pub(crate) fn renew_credentials(&self, source: &Source, credentials: Credentials) {
        if self.source == *source {
            self.state().callers.renew(credentials);
        }
    }

    /// Ends the transfer, unless it has ended: readers learn why, nothing more is fetched.
    pub(crate) fn fail(&self, error: FetchError) {
        let mut state = self.state();
        if state.session.course().is_open() {
            self.end(&mut state, error);
        }
    }

    /// Ends the transfer whatever it came to before.
    fn end_with(&self, error: FetchError) {
        self.end(&mut self.state(), error);
    }

    fn end(&self, state: &mut TransferState, error: FetchError) {
        state.journal.note(self.context.now(), format!("failed: {}", in_full(&error)));
        state.session.handle(Input::Fails, self, self.context.now());
        state.failure = Some(error);
        self.changed.send_replace(());
        if self.is_expanded() {
            self.context.layers_failing.send_replace(());
        }
    }

    /// A verified piece is in the store.
    pub(crate) fn stored_piece(&self, piece: PieceIndex, bytes: u64, request: Option<RequestId>, from: Giver) {
        let came = Came { piece, bytes, request, from: from.node() };
        self.tell_and(Input::Stored(came), |state, now| {
            self.note_passing(state);
            state.flows.came(now, bytes, &from);
            state.journal.gave(piece, bytes, from, now);
            let lag = u64::from(state.session.picker().lag()) * self.piece_length.bytes();
            state.journal.lagged(lag);
        });
        self.changed.send_replace(());
        self.sendable.send_replace(());
    }

    /// Bytes went out to a peer.
    pub(crate) fn count_sent(&self, to: NodeId, bytes: u64) {
        let now = self.context.now();
        let mut state = self.state();
        state.journal.sent(bytes);
        state.last_sent = Some(now);
        state.flows.went(now, bytes, to);
    }

    /// The digest that the content must have, if one is known.
    pub fn digest(&self) -> Option<Digest> {
        self.source.digest()
    }

    /// How many pieces the blob has, once known.
    pub fn pieces(&self) -> Option<u32> {
        self.stored.length().map(|length| self.piece_length.count(length))
    }

    /// How many pieces the blob has, or has at least as far as is known.
    fn pieces_so_far(&self) -> u32 {
        self.pieces().unwrap_or_else(|| self.stored.known().runs().last().map_or(0, |run| run.end))
    }

    fn manifest(&self) -> Manifest {
        self.stored.manifest()
    }
}

/// The digest that was found when a blob of this root came here.
async fn recalled(context: &EngineContext, blob: BlobId, root: PieceHash) -> Option<Digest> {
    let archive = context.archive.clone();
    let told = context.disk.run(move || archive.recall(blob)).await?;
    told.digest.filter(|_| told.root == Some(root.to_string()))
}

/// The profile of an expanded layer's first touches that was kept on the disk; an empty one if none was.
async fn recalled_profile(context: &EngineContext, blob: BlobId, source: &Source, manifest: &Manifest) -> Profile {
    let pieces = manifest.piece_length();
    let new = || Profile::new(Bounds { total: manifest.piece_count(), piece_bytes: pieces.bytes() });
    if !context.options.profiles || !matches!(source, Source::Expanded(_)) {
        return new();
    }
    let profiles = context.profiles.clone();
    context.disk.run(move || profiles.recall(blob, pieces)).await.unwrap_or_else(new)
}

/// A seed for a picker's or a lead's ties that differs from node to node and from blob to blob.
fn random_seed(me: &NodeId, blob: BlobId) -> u64 {
    darter_core::rendezvous::weight(&blob.0, me)
}
