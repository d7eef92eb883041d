//! The transfer of one blob: what this agent holds and wants of it, who leads its swarm, and what happens next.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Transfer`] and its state, from its beginning to its end |
//! | `drive` | the task that carries out what the session decides |
//! | `member` | follows a lead, and receives what peers give |
//! | `storing` | pieces on their way to the disk |
//! | `leading` | being the lead: members, and pieces chosen when they are sent |
//! | `electing` | finds another lead, hands back |
//! | `state` | the state and its lock, which wakes the driver |
//! | `reading` | the lead reads the origin, once for all |
//! | `after_run` | how a reader goes on when a run has ended or failed |
//! | `readers` | the readers of the origin, and what each keeps between two runs |
//! | `body` | turns the body of an answer into stored pieces |
//! | `beside` | further connections to an origin that serves several faster than one |
//! | `manners` | what is known of origins from other blobs: which want one connection |
//! | `through` | an answer that is read to its end, and compared with what is here |
//! | `whole` | the digest of the whole, although pieces arrive in any order |
//! | `callers` | whose credentials the origin is read with |
//! | `anew` | an origin that can't be continued is read from its start, and compared |
//! | [`mounting`] | prefetches what every mount of an expanded layer reads |
//! | `naming` | whether an expanded layer names all of its directories |
//! | `profile` | which parts of an expanded layer are read first, and prefetched |
//! | [`turns`] | which blobs' pieces are read from origins now |
//! | `finish` | checks the whole after the last piece |
//! | `declared` | what a later answer of the origin declares of the whole |
//! | `doubts` | other agents' doubts about what this one gave, and its own doubts |
//! | `dissolve` | throws away wrong content, and finds who sent it |
//! | `passing` | a blob that does not fit: which of its pieces are still needed |
//! | [`rest`] | when the blob may be evicted though the transfer stays |
//! | [`stream`] | verified bytes in order, for a reader |
//! | `handing` | verified bytes in any order, for a program that writes a file |
//! | [`journal`] | what happened, for `darter explain` |
//! | [`meter`] | a rate over the last second or so |
//! | `steps` | work of this agent itself for which the transfer waits |
//! | `tasks` | the tasks of a transfer, and what follows when one of them panics |
//! | `upkeep` | makes sure that some agent fetches what is missing, and that nobody waits for ever |
//! | `hashes` | checks and stores hashes from peers |
//! | `wants` | what of it is wanted: everything, or only some ranges |
//! | `status` | its progress, for `darter status` and `darter explain` |
//! | `view` | the rates between peers, for `darter top` |
//!
//! Most files of this directory contain an `impl Transfer`: they import this file, and it imports the parts of its state from them.
//!
//! `darter_swarm`'s `Session` makes the decisions, under one lock and without I/O: any code that learns something tells it (`tell` in
//! `drive`), and only the driver carries out what it decides. So the messages to a peer have one order: a Meet before a Have, a
//! lead's hashes in the order of the pieces.
//!
//! Lock order: a transfer's state, then the fleet's. No message is sent with a lock held: if the peer turns out to be gone,
//! every transfer is notified. The store is never called with the state locked, except for
//! questions that don't touch the disk.

mod after_run;
mod anew;
pub(crate) mod beside;
pub(crate) mod body;
mod callers;
mod declared;
pub(crate) mod dissolve;
mod doubts;
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
pub mod rechecks;
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
use self::journal::Journal;
use self::naming::Naming;
use self::profile::Profiling;
use self::rest::Rest;
use self::state::TransferState;
use self::steps::Steps;
use self::storing::Storing;
use self::whole::Whole;
use crate::context::EngineContext;
use crate::error::FetchError;
use crate::joins::Joins;

pub(crate) use darter_swarm::Leader as Lead;

/// Whether and how a transfer has ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It has not ended.
    Open,
    /// Everything is held and the whole was checked.
    Complete,
    /// It has failed.
    Failed(FetchError),
}

/// The transfer of one blob. See the module's documentation.
pub struct Transfer {
    pub(crate) context: Arc<EngineContext>,
    pub(crate) fleet: Arc<Fleet>,
    joins: Arc<Joins>,
    tasks: TaskTracker,
    /// The blob.
    pub blob: BlobId,
    /// The source of the blob.
    pub source: Source,
    /// The version of the source to which the bytes belong.
    pub version: Version,
    /// The blob in the store.
    pub stored: Arc<dyn StoredBlob>,
    storing: Storing,
    /// The length of its pieces.
    pub piece_length: PieceLength,
    on_trust: AtomicBool,
    state: Mutex<TransferState>,
    profiling: Profiling,
    naming: Naming,
    /// How far the whole has been hashed.
    whole: Whole,
    steps: Arc<Steps>,
    /// Wakes the driver: see [`state`].
    driver: Notify,
    /// Notified when pieces, the length or the outcome change: wakes readers.
    changed: watch::Sender<()>,
    /// Notified, for the whole agent, when there may be something to send: wakes uploads that wait.
    sendable: watch::Sender<()>,
    readers: AtomicUsize,
    rest: Rest,
    /// Ends the driver.
    closed: CancellationToken,
}

/// The requester of the two for whom less may be read.
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
    /// The agents with which it is connected.
    pub fleet: Arc<Fleet>,
    /// Its requests to leads.
    pub joins: Arc<Joins>,
    /// The agent's tasks.
    pub tasks: TaskTracker,
    /// Notified when there may be more to send.
    pub sendable: watch::Sender<()>,
}

/// The state with which a transfer begins.
pub(crate) struct Beginning {
    pub(crate) source: Source,
    pub(crate) version: Version,
    pub(crate) credentials: Credentials,
    pub(crate) requester: Requester,
    pub(crate) stored: Arc<dyn StoredBlob>,
    /// True if everything is wanted, false if only ranges.
    pub(crate) everything: bool,
    /// True if this is a seed that takes the manifest from a node.
    pub(crate) on_trust: bool,
}

impl Transfer {
    /// A transfer that nobody leads yet, with its own driver.
    pub(crate) async fn begin(house: &House, beginning: Beginning) -> Arc<Self> {
        let House { context, fleet, joins, tasks, sendable } = house;
        let Beginning { source, version, credentials, requester, stored, everything, on_trust } = beginning;
        let verdict = stored_verdict(context, &source, &*stored).await;
        let (now, blob, manifest) = (context.now(), stored.id(), stored.manifest());
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
            held: stored.held(),
            is_complete: verdict.is_some(),
            verdict,
            everything,
            seed: random_seed(&context.me, blob),
            tuning: Tuning::default(),
            now,
        };
        let mut journal = Journal::new(source.to_string(), source.digest(), now, context.unix(), &start.held);
        if let Some(verdict) = &start.verdict {
            journal.completed(now, verdict.digest);
        } else if !start.held.is_empty() {
            journal.note(now, format!("resumed with {} of {:?} pieces held", start.held.len(), start.total));
        }
        let profile = recalled_profile(context, blob, &source, &manifest).await;
        let mut session = Session::begin(start.clone());
        if context.records {
            session.record(start);
        }
        let state = TransferState::new(session, Callers::new(credentials), requester, journal);
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

    /// True if it was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Notified when pieces, hashes or the outcome change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// True if any program or agent waits for it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.has_readers() || self.is_leading_others()
    }

    /// Whether and how it has ended.
    pub fn outcome(&self) -> Outcome {
        self.state().outcome()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state().is_complete()
    }

    /// True if the manifest is only a node's claim, and this seed has not checked the whole yet: it gives none of it to others, accepts no
    /// verdict of that node, and never leads with it.
    pub(crate) fn is_on_trust(&self) -> bool {
        self.on_trust.load(Ordering::Acquire)
    }

    /// The digest of the whole, once it is complete, if an agent has computed one.
    pub(crate) fn checked_digest(&self) -> Option<Digest> {
        let state = self.state();
        let verdict = state.session.verdict().0.filter(|_| state.is_complete());
        verdict.and_then(|verdict| verdict.digest)
    }

    /// The digest of the whole, as the lead says or this agent has found.
    pub(crate) fn told_digest(&self) -> Option<Digest> {
        self.state().session.verdict().0.and_then(|verdict| verdict.digest)
    }

    /// True if an agent has checked the whole.
    pub(crate) fn has_verdict(&self) -> bool {
        self.state().session.verdict().0.is_some()
    }

    /// The lead, as this agent sees it.
    pub(crate) fn lead(&self) -> Lead {
        self.state().lead()
    }

    /// The session's trace, if it is recorded.
    pub fn trace(&self) -> Option<SessionTrace> {
        self.state().session.trace().cloned()
    }

    /// The decisions about who leads, if they are recorded.
    pub fn decisions(&self) -> Option<Trace> {
        self.state().session.leadership().trace()
    }

    /// Ends the driver, which first tells the swarm that this agent leaves.
    pub(crate) fn leave(&self) {
        self.tell(Input::Leaves);
        self.close();
    }

    /// True if this agent leads other members, not only itself.
    pub(crate) fn is_leading_others(&self) -> bool {
        self.state().session.leads_others()
    }

    /// True if bytes arrived during this run, so that there is something to explain.
    pub fn has_history(&self) -> bool {
        self.state().journal.has_history()
    }

    /// True if a program of this host reads it now.
    pub fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Adds a notable event to the journal.
    pub(crate) fn note(&self, what: impl Into<String>) {
        let what = what.into();
        tracing::debug!(blob = %self.blob.short(), what, "transfer");
        self.state().journal.note(self.context.now(), what);
    }

    /// A caller who may read this brings credentials. They are used for the origin if there are none, or if nothing is being read;
    /// otherwise they are kept in case those in use are refused.
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

    /// Another requester wants it: from now on the origin is read only as far as that one may read it, too.
    pub(crate) fn is_asked_by(&self, requester: Requester) {
        let mut state = self.state();
        state.requester = narrower(state.requester, requester);
    }

    /// Uses a newer caller's credentials for the origin from now on. Only those for the very source that is read: they must
    /// not be sent to another registry.
    pub(crate) fn renew_credentials(&self, source: &Source, credentials: Credentials) {
        if self.source == *source {
            self.state().callers.renew(credentials);
        }
    }

    /// Ends the transfer, unless it has ended: readers get the error, and nothing more is fetched.
    pub(crate) fn fail(&self, error: FetchError) {
        let mut state = self.state();
        if state.session.course().is_open() {
            self.end(&mut state, error);
        }
    }

    /// Ends the transfer, even if it was complete.
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

    /// Counts bytes sent to a peer.
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

    /// The number of the blob's pieces, or the number known so far.
    fn pieces_so_far(&self) -> u32 {
        self.pieces().unwrap_or_else(|| self.stored.known().runs().last().map_or(0, |run| run.end))
    }

    fn manifest(&self) -> Manifest {
        self.stored.manifest()
    }
}

/// The digest that was computed when a blob with this root was complete here.
pub(crate) async fn recalled(context: &EngineContext, blob: BlobId, root: PieceHash) -> Option<Digest> {
    let archive = context.archive.clone();
    let told = context.disk.run(move || archive.recall(blob)).await?;
    told.digest.filter(|_| told.root == Some(root.to_string()))
}

/// The root of a blob that is complete on this host, with the digest of the whole if one is known. `None` if the blob is not complete.
async fn stored_verdict(context: &EngineContext, source: &Source, stored: &dyn StoredBlob) -> Option<Verdict> {
    let root = stored.manifest().root().filter(|_| stored.is_complete())?;
    let (digest, named) = (source.digest(), stored.info().digest);
    // The blob may have been created for the address without this digest: then only the digest counts that was computed at an earlier
    // transfer.
    let was_checked = digest.is_some() && (digest == named || !matches!(source, Source::Url { .. }));
    let digest = if was_checked { digest } else { recalled(context, stored.id(), root).await.or(named) };
    Some(Verdict { root, digest })
}

/// The stored profile of an expanded layer; an empty one if there is none.
async fn recalled_profile(context: &EngineContext, blob: BlobId, source: &Source, manifest: &Manifest) -> Profile {
    let pieces = manifest.piece_length();
    let new = || Profile::new(Bounds { total: manifest.piece_count(), piece_bytes: pieces.bytes() });
    if !context.options.profiles || !matches!(source, Source::Expanded(_)) {
        return new();
    }
    let profiles = context.profiles.clone();
    context.disk.run(move || profiles.recall(blob, pieces)).await.unwrap_or_else(new)
}

/// A random seed for breaking ties in a picker or lead, which differs between nodes and between blobs.
fn random_seed(me: &NodeId, blob: BlobId) -> u64 {
    darter_core::rendezvous::weight(&blob.0, me)
}
