//! [`Builder`]: assembles an agent, from the operating system's parts or from a caller's own.
//!
//! It makes the core: an agent that listens to its peers, joins, fetches and gives. Ports for the programs of its host attach to the
//! agent's handle afterwards, by [`Agent::attach`]; a caller that has to open them before other agents learn of this one does so between [`Builder::prepare`] and
//! [`Prepared::begin`].
//!
//! With a network, an origin and a store in memory, and a clock that follows a paused runtime's, a whole fleet runs in one process and in
//! virtual time. Small files (the node id, known nodes, explanations, manifests) are in the data directory whatever the store is.
//!
//! Order: the data directory's lock, the store, the origins, the fleet, the swarms; then the peer port is bound, so that a port that is
//! in use is an error before anything is promised; then the agent introduces itself.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use darter_core::{Clock, NodeId, SystemClock, in_full};
use darter_engine::EngineOptions;
use darter_engine::budget::ByteBudget;
use darter_engine::context::{AllOrigins, EngineContext, Fetchers, dates};
use darter_engine::expanding::{Expansions, ExpansionsOptions};
use darter_engine::joins::Joins;
use darter_engine::packing::PackedPieces;
use darter_engine::profiles::Profiles;
use darter_engine::setbacks::Setbacks;
use darter_engine::swarms::{GivingSwarms, ListeningSwarms, Swarms};
use darter_engine::thrown_away::ThrownAway;
use darter_engine::transfer::House;
use darter_engine::transfer::journal::Archive;
use darter_engine::transfer::manners::Manners;
use darter_engine::transfer::meter::TierBytes;
use darter_engine::transfer::rechecks::Rechecks;
use darter_engine::transfer::turns::Turns;
use darter_fleet::seeds::Seeds;
use darter_fleet::{Fleet, FleetContext, PeerListener};
use darter_metrics::Metrics;
use darter_origin::{FileOrigin, HttpClient, Origin, Origins, Pauses, RegistryClient, RetryPolicy, Upstreams};
use darter_registries::{Registries, RegistriesOptions, Relay};
use darter_store::{Disk, DiskStore, Store, StoreConfig, threads};
use darter_wire::descriptors;
use darter_wire::{
    BufferPool, Capabilities, Hello, Receiving, Role as WireRole, Sending, Slots, TcpTransport, Transport, Uploads,
    Versions,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::build::{cannot_listen, http_client, place_of, refuse_strangers, registry_config};
use super::contents::ReadManifests;
use super::reload::Changeable;
use super::view::Sampler;
use super::{Agent, Inner, Phase};
use crate::error::StartError;
use crate::identity;
use crate::options::{Options, Role};

/// How many pieces are sent at a time. With one, every slow receiver would delay the others; more than four gain nothing.
const UPLOAD_SLOTS: usize = 4;

/// A peer that accepts no byte for this long is disconnected.
const STALL: Duration = Duration::from_secs(10);

/// An agent that is being assembled: its options and its parts.
#[must_use = "nothing is started"]
pub struct Builder {
    options: Options,
    transport: Arc<dyn Transport>,
    origin: Option<Arc<dyn Origin>>,
    store: Option<Arc<dyn Store>>,
    clock: Arc<dyn Clock>,
    records: bool,
}

impl Builder {
    /// With plain TCP, the origins and the disk of the options, and the system's clock.
    pub(super) fn new(options: Options) -> Self {
        let (transport, clock) = (Arc::new(TcpTransport::default()), Arc::new(SystemClock::start()));
        Self { options, transport, origin: None, store: None, clock, records: false }
    }

    /// Reaches peers over `transport`.
    pub fn transport(self, transport: impl Transport) -> Self {
        Self { transport: Arc::new(transport), ..self }
    }

    /// Reads every source from `origin`, for all callers.
    pub fn origin(self, origin: impl Origin + 'static) -> Self {
        Self { origin: Some(Arc::new(origin)), ..self }
    }

    /// Keeps blobs in `store`; then nothing is locked on the disk.
    pub fn store(self, store: impl Store + 'static) -> Self {
        Self { store: Some(Arc::new(store)), ..self }
    }

    /// Takes monotonic time and dates from `clock`. Pauses are tokio's: the two have to agree.
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// Records the agent's decisions about who leads: see [`Agent::decisions`].
    pub fn record_decisions(self) -> Self {
        Self { records: true, ..self }
    }

    /// Starts the agent. When this returns, the handle and the peer port can be used.
    ///
    /// # Errors
    /// [`StartError`], each with what to do about it.
    pub async fn start(self) -> Result<Agent, StartError> {
        let agent = self.prepare().await?.begin();
        if let Err(error) = agent.reach_seeds().await {
            agent.drain().await;
            return Err(error);
        }
        Ok(agent)
    }

    /// Does everything up to the moment at which other agents may learn of this one.
    ///
    /// # Errors
    /// The same as of [`Builder::start`].
    pub async fn prepare(self) -> Result<Prepared, StartError> {
        let Self { options, transport, origin, store, clock, records } = self;
        descriptors::raise_limit();
        refuse_strangers(options.listen, options.insecure)?;
        let http = {
            let options = options.clone();
            // Reads certificates, which is blocking.
            threads::run(move || http_client(&options)).await?
        };
        let registry = RegistryClient::new(http.clone(), &registry_config(&options), Arc::clone(&clock));
        let (origins, pauses) = match origin {
            Some(origin) => (AllOrigins::only(&origin), Pauses::default()),
            None => origins(&options, &http, &registry),
        };
        let data = open_data_dir(&options, store, Arc::clone(&clock)).await?;
        let store = Arc::clone(&data.store);
        let metrics = Metrics::new(clock.unix());
        let set_aside = store.set_aside();
        metrics.set_aside("blob", set_aside.blobs.len());
        metrics.set_aside("index", usize::from(set_aside.index));
        for (what, count) in &data.set_aside {
            metrics.set_aside(what, *count);
        }
        let read = ReadFrom { origins, pauses, registries: registry.upstreams().clone() };
        let context = Arc::new(EngineContext { records, ..engine_context(&options, data, read, &metrics, &clock) });
        let tasks = TaskTracker::new();
        let download = ByteBudget::new(options.download_limit, Arc::clone(&clock));
        let upload = ByteBudget::new(options.upload_limit, Arc::clone(&clock));
        let changeable = Changeable {
            http,
            registry: registry.clone(),
            store,
            origin: Arc::clone(&context.origin_budget),
            upload: Arc::clone(&upload),
            download: Arc::clone(&download),
            options: parking_lot::Mutex::new(options.clone()),
        };
        let receiving = Receiving { budget: download, buffers: BufferPool::default() };
        let sending =
            Sending { slots: Slots::new(UPLOAD_SLOTS), budget: upload, stall: STALL, clock: Arc::clone(&clock) };
        let fleet =
            Fleet::new(fleet_context(&options, &context), Arc::clone(&transport), receiving, sending, tasks.clone());
        let house = House {
            context: Arc::clone(&context),
            fleet: Arc::clone(&fleet),
            joins: Arc::new(Joins::new(context.pauses.clone())),
            tasks: tasks.clone(),
            sendable: watch::channel(()).0,
        };
        let swarms = Swarms::new(house);
        let registries = match options.role {
            Role::Seed | Role::Node => {
                let relay = Relay::new(Arc::clone(&fleet), options.role, tasks.clone());
                Some(open_registries(&options, registry, relay, metrics, clock).await?)
            }
            Role::Embedded => None,
        };
        let peers = match options.listen {
            Some(addr) => Some(transport.listen(&addr.to_string()).await.map_err(|error| cannot_listen(addr, error))?),
            None => None,
        };
        Ok(Prepared { options, context, fleet, swarms, registries, changeable, peers, tasks })
    }
}

/// An agent of which no other agent knows yet.
#[must_use = "nobody knows of it"]
pub struct Prepared {
    options: Options,
    context: Arc<EngineContext>,
    fleet: Arc<Fleet>,
    swarms: Arc<Swarms>,
    registries: Option<Arc<Registries>>,
    changeable: Changeable,
    peers: Option<Box<dyn darter_wire::Listener>>,
    tasks: TaskTracker,
}

impl Prepared {
    /// Introduces the agent to its peers. It is ready after [`Agent::reach_seeds`].
    pub fn begin(self) -> Agent {
        let Self { options, context, fleet, swarms, registries, changeable, peers, tasks } = self;
        let ears = Arc::new(ListeningSwarms { swarms: Arc::clone(&swarms), registries: registries.clone() });
        let hands = Arc::new(GivingSwarms(Arc::clone(&swarms)));
        let listen = peers.as_ref().map(|listener| listener.local_addr().to_string());
        let hello = Hello {
            node: context.me,
            listen: options.advertise.clone().or_else(|| listen.clone()).unwrap_or_default(),
            place: context.place.clone(),
            role: if options.role == Role::Seed { WireRole::Seed } else { WireRole::Node },
            program: env!("CARGO_PKG_VERSION").to_owned(),
            run: identity::draw_run(&*context.clock),
            versions: Versions::SPOKEN,
            capabilities: capabilities(&options),
        };
        let heard = Arc::downgrade(&ears) as Weak<dyn PeerListener>;
        let given = Arc::downgrade(&hands) as Weak<dyn Uploads>;
        fleet.begin(hello, heard, given);
        if let Some(listener) = peers {
            fleet.accept(listener);
        }
        fleet.mingle();
        let seeds = Seeds::join(&fleet, &options.join);
        let inner = Inner {
            options,
            fleet,
            seeds,
            swarms,
            registries,
            contents: ReadManifests::default(),
            sampler: Sampler::default(),
            inline: Arc::new(Semaphore::new(super::parts::MAX_INLINE)),
            _ears: ears,
            _hands: hands,
            listen,
            local_address: OnceLock::new(),
            phase: watch::channel(Phase::Starting).0,
            ports: TaskTracker::new(),
            changeable,
            tasks: tasks.clone(),
            context,
        };
        let agent = Agent { inner: Arc::new(inner) };
        // The metrics must not show an empty store when they are read as soon as there is a port.
        agent.note_room();
        if agent.options().role.is_daemon() {
            tasks.spawn(agent.clone().sample(agent.phases()));
            tasks.spawn(agent.clone().tidy(agent.phases()));
        }
        agent
    }
}

/// The parts of an agent that are on its disk.
struct DataDir {
    store: Arc<dyn Store>,
    archive: Archive,
    profiles: Profiles,
    me: NodeId,
    /// How many files of each kind beside the store are not used.
    set_aside: Vec<(&'static str, usize)>,
}

/// What content is read from.
struct ReadFrom {
    origins: AllOrigins,
    pauses: Pauses,
    registries: Upstreams,
}

/// The values that every part of the agent shares. Its decisions are not recorded.
fn engine_context(
    options: &Options,
    data: DataDir,
    read: ReadFrom,
    metrics: &Arc<Metrics>,
    clock: &Arc<dyn Clock>,
) -> EngineContext {
    let DataDir { store, archive, profiles, me, set_aside: _ } = data;
    let ReadFrom { origins, pauses, registries } = read;
    let disk = Disk::new(store);
    let origin_budget = ByteBudget::new(options.origin_limit, Arc::clone(clock));
    let expansions = Expansions::new(ExpansionsOptions {
        data_dir: options.data_dir.clone(),
        disk: disk.clone(),
        clock: Arc::clone(clock),
        metrics: Arc::clone(metrics),
        budget: Arc::clone(&origin_budget),
        pauses: pauses.clone(),
        registries: registries.clone(),
        patience: options.origin_patience,
    });
    EngineContext {
        me,
        place: place_of(options),
        clock: Arc::clone(clock),
        disk,
        origins: origins.expanding(&expansions),
        expansions,
        pauses,
        registries,
        origin_budget,
        origin_turns: Turns::for_connections(options.origin_connections),
        manners: Manners::default(),
        metrics: Arc::clone(metrics),
        tiers: TierBytes::default(),
        fetching: Fetchers::default(),
        setbacks: Setbacks::default(),
        thrown_away: ThrownAway::default(),
        rechecks: Rechecks::default(),
        let_downs: parking_lot::Mutex::default(),
        archive,
        profiles,
        packed: PackedPieces::new(options.packed, Arc::clone(clock)),
        ahead: parking_lot::Mutex::default(),
        layers_failing: watch::channel(()).0,
        records: false,
        options: engine_options(options),
    }
}

/// The fleet's options.
fn fleet_context(options: &Options, context: &EngineContext) -> FleetContext {
    FleetContext {
        role: options.role,
        place: context.place.clone(),
        join: options.join.clone(),
        data_dir: options.data_dir.clone(),
        clock: Arc::clone(&context.clock),
        disk: context.disk.clone(),
        metrics: Arc::clone(&context.metrics),
    }
}

/// The capabilities that it announces: those for profiles and packed pieces only if it uses them.
const fn capabilities(options: &Options) -> Capabilities {
    let own = if options.profiles { Capabilities::OWN } else { Capabilities::OWN.without(Capabilities::PROFILES) };
    if options.packed { own } else { own.without(Capabilities::PACKED_PIECES) }
}

/// The engine's options.
fn engine_options(options: &Options) -> EngineOptions {
    EngineOptions {
        role: options.role,
        data_dir: options.data_dir.clone(),
        join: options.join.clone(),
        origin_connections: options.origin_connections,
        origin_patience: options.origin_patience,
        origin_timeout: options.origin_timeout,
        stall_timeout: options.stall_timeout,
        verify_whole: options.verify_whole,
        profiles: options.profiles,
    }
}

/// The origins according to the options.
fn origins(options: &Options, http: &HttpClient, registry: &RegistryClient) -> (AllOrigins, Pauses) {
    let patience = RetryPolicy::patient(options.origin_patience);
    let mut origins = Origins::new(http.clone(), registry.clone()).with_retries(patience);
    if !options.role.is_daemon() {
        // This agent works only for its own user, who may read these files anyway.
        let files = options.local_roots.clone().map_or_else(FileOrigin::anywhere, FileOrigin::below);
        origins = origins.with_files(files);
    }
    (AllOrigins::new(&origins), origins.pauses())
}

/// Opens the data directory, and the store in it unless another one is `given`.
async fn open_data_dir(
    options: &Options,
    given: Option<Arc<dyn Store>>,
    clock: Arc<dyn Clock>,
) -> Result<DataDir, StartError> {
    let (data_dir, quota, reserve) = (options.data_dir.clone(), options.quota, options.reserve);
    let opened = threads::run(move || {
        let store = match given {
            Some(store) => store,
            None => {
                let mut config = StoreConfig::new(dates(&clock));
                config.clock = Some(clock);
                config.quota = quota;
                config.reserve_free = reserve;
                Arc::new(DiskStore::open(&data_dir, &config)?)
            }
        };
        let me = identity::of_this_machine(&data_dir)?;
        let newer = store.set_aside().blobs;
        let kept = store.list().into_iter().map(|row| row.id).chain(newer).collect();
        let archive = Archive::open(&data_dir)?;
        let mut set_aside: Vec<_> = identity::set_aside(&data_dir)?.into();
        match archive.keep_only(&kept) {
            Ok(newer) => set_aside.push(("explanations", newer)),
            Err(error) => tracing::warn!(error = %in_full(&error), "old explanations could not be tidied up"),
        }
        let profiles = Profiles::open(&data_dir)?;
        match profiles.keep_only(&kept) {
            Ok(newer) => set_aside.push(("profiles", newer)),
            Err(error) => tracing::warn!(error = %in_full(&error), "old profiles could not be tidied up"),
        }
        Ok::<_, StartError>(DataDir { store, archive, profiles, me, set_aside })
    });
    opened.await
}

async fn open_registries(
    options: &Options,
    client: RegistryClient,
    relay: Relay,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<Registries>, StartError> {
    let options = RegistriesOptions {
        data_dir: options.data_dir.clone(),
        grant_ttl: options.grant_ttl,
        stale_tags: options.stale_tags,
        answer_timeout: options.answer_timeout,
    };
    let path = options.data_dir.join("manifests").display().to_string();
    let opened = threads::run(move || Registries::open(options, client, metrics, clock));
    Ok(Arc::new(opened.await.map_err(|error| StartError::cannot_use(path, error))?.with_relay(relay)))
}
