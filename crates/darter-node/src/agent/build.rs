//! How an agent is put together.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use darter_core::fault::advice;
use darter_core::{NodeId, Place, SystemClock, in_full};
use darter_origin::{
    FileOrigin, HttpClient, HttpConfig, Login, Origins, RegistryClient, RegistryConfig, RetryPolicy, ServerConfig,
    Upstreams,
};
use darter_store::{Disk, DiskStore, Store, StoreConfig, threads};
use darter_wire::{
    BufferPool, Capabilities, Hello, Receiving, Role as WireRole, Sending, Slots, TcpTransport, Transport, Uploads,
    Versions, WireError,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use url::Url;

use super::contents::Contents;
use super::reload::Changeable;
use super::view::Sampler;
use super::{Agent, Inner, is_daemon};
use crate::admin;
use crate::budget::ByteBudget;
use crate::context::{AllOrigins, Context, Fetchers, unix_now};
use crate::descriptors;
use crate::error::StartError;
use crate::fleet::seeds::Seeds;
use crate::fleet::{Fleet, Listener};
use crate::identity;
use crate::joins::Joins;
use crate::local::LocalPort;
use crate::metrics::Metrics;
use crate::mirror::{Mirror, MirrorOptions};
use crate::options::{Options, Role, UpstreamOption};
use crate::registries::{Registries, RegistriesOptions, Relay};
use crate::setbacks::Setbacks;
use crate::swarms::{GivingSwarms, ListeningSwarms, Swarms};
use crate::transfer::House;
use crate::transfer::journal::Archive;
use crate::transfer::meter::TierBytes;
use crate::transfer::turns::Turns;

/// Pieces sent at a time. One alone waits for every slow receiver; beyond four nothing is gained.
const UPLOAD_SLOTS: usize = 4;

/// A peer that takes no byte for so long is disconnected.
const STALL: Duration = Duration::from_secs(10);

pub(super) async fn start(options: Options) -> Result<Agent, StartError> {
    descriptors::raise_limit();
    refuse_strangers(options.listen, options.insecure)?;
    let clock = SystemClock::start();
    let registry_config = registry_config(&options);
    let http = http_client(&options)?;
    let registry = RegistryClient::new(http.clone(), &registry_config, Arc::new(clock));
    let patience = RetryPolicy::patient(options.origin_patience);
    let mut origins = Origins::new(http.clone(), registry.clone()).with_retries(patience);
    if !is_daemon(options.role) {
        // Works for its own user alone, who may read these files anyway.
        origins = origins.with_files(FileOrigin::anywhere());
    }
    let (store, archive, me) = open_data_dir(&options).await?;
    let metrics = Metrics::new();
    let set_aside = store.set_aside();
    metrics.set_aside("blob", set_aside.blobs.len());
    metrics.set_aside("index", usize::from(set_aside.index));
    let context = Arc::new(Context {
        me,
        place: place_of(&options),
        clock,
        disk: Disk::new(Arc::clone(&store)),
        origins: AllOrigins::new(&origins),
        pauses: origins.pauses(),
        registries: registry.upstreams().clone(),
        origin_budget: ByteBudget::new(options.origin_limit, clock),
        origin_turns: Turns::default(),
        metrics: Arc::clone(&metrics),
        tiers: TierBytes::default(),
        fetching: Fetchers::default(),
        setbacks: Setbacks::default(),
        archive,
        options: options.clone(),
    });
    let tasks = TaskTracker::new();
    let transport: Arc<dyn Transport> = Arc::new(TcpTransport::default());
    let (download, upload) =
        (ByteBudget::new(options.download_limit, clock), ByteBudget::new(options.upload_limit, clock));
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
    let slots = Slots::new(UPLOAD_SLOTS);
    let sending = Sending { slots, budget: upload, stall: STALL };
    let fleet = Fleet::new(Arc::clone(&context), Arc::clone(&transport), receiving, sending, tasks.clone());
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
            Some(open_registries(&options, registry, relay, Arc::clone(&metrics), clock).await?)
        }
        Role::Embedded => None,
    };
    let ears = Arc::new(ListeningSwarms { swarms: Arc::clone(&swarms), registries: registries.clone() });
    let hands = Arc::new(GivingSwarms(Arc::clone(&swarms)));

    let peers = match options.listen {
        Some(addr) => Some(transport.listen(&addr.to_string()).await.map_err(|error| cannot_listen(addr, error))?),
        None => None,
    };
    let local = match options.local {
        Some(addr) => Some(bind_local(addr, "--local").await?),
        None => None,
    };
    let observed = match options.metrics {
        Some(addr) => Some(bind_local(addr, "--metrics").await?),
        None => None,
    };
    let listen = peers.as_ref().map(|listener| listener.local_addr().to_string());
    let hello = Hello {
        node: me,
        listen: options.advertise.clone().or_else(|| listen.clone()).unwrap_or_default(),
        place: context.place.clone(),
        role: if options.role == Role::Seed { WireRole::Seed } else { WireRole::Node },
        program: env!("CARGO_PKG_VERSION").to_owned(),
        run: identity::draw_run(),
        versions: Versions::SPOKEN,
        capabilities: Capabilities::OWN,
    };
    let heard = Arc::downgrade(&ears) as Weak<dyn Listener>;
    let given = Arc::downgrade(&hands) as Weak<dyn Uploads>;
    fleet.begin(hello, heard, given);
    if let Some(listener) = peers {
        fleet.accept(listener);
    }
    fleet.mingle();
    let seeds = Seeds::join(&fleet, &options.join);

    let local_address = local.as_ref().and_then(|listener| listener.local_addr().ok()).map(|addr| addr.to_string());
    let (stop_admin, admin_stopped) = watch::channel(false);
    let mut sockets = Vec::new();
    if is_daemon(options.role) {
        let own = admin::socket_path(&options.data_dir);
        sockets.extend(options.sockets.iter().filter(|path| **path != own).cloned());
        sockets.push(own);
    }
    let inner = Inner {
        context: Arc::clone(&context),
        fleet,
        seeds,
        swarms,
        registries: registries.clone(),
        contents: Contents::default(),
        sampler: Sampler::default(),
        _ears: ears,
        _hands: hands,
        listen,
        local_address,
        ports: tokio::sync::Mutex::default(),
        sockets: sockets.clone(),
        changeable,
        stop_admin,
        tasks: tasks.clone(),
    };
    let agent = Agent { inner: Arc::new(inner) };
    if let (Some(listener), Some(registries)) = (local, registries) {
        let port = serve_local(&agent, listener, registries, Arc::clone(&metrics), clock)?;
        agent.inner.ports.lock().await.push(port);
    }
    if let Some(listener) = observed {
        let port = LocalPort::serve(listener, None, metrics, agent.inner.context.options.local_names.clone());
        agent.inner.ports.lock().await.push(port.map_err(file_error("metrics port".to_owned()))?);
    }
    if is_daemon(options.role) {
        for path in &sockets {
            let listener = admin::bind(path, options.socket_group)?;
            tasks.spawn(admin::serve(agent.clone(), listener, admin_stopped.clone()));
        }
        tasks.spawn(agent.clone().sample(admin_stopped.clone()));
        tasks.spawn(agent.clone().tidy(admin_stopped));
    }
    // What was served already is not kept waiting by a seed that does not answer.
    if let Err(error) = agent.inner.seeds.first_attempts().await {
        agent.drain().await;
        return Err(error);
    }
    agent.inner.ports.lock().await.iter().for_each(LocalPort::announce_ready);
    tracing::info!(node = %me.short(), role = ?options.role, data_dir = %options.data_dir.display(), "ready");
    Ok(agent)
}

/// Peers are not encrypted or authenticated yet: whoever reaches the peer port can read what is cached.
pub(super) fn refuse_strangers(listen: Option<SocketAddr>, insecure: bool) -> Result<(), StartError> {
    match listen {
        Some(addr) if !addr.ip().to_canonical().is_loopback() && !insecure => Err(StartError::Options(format!(
            "not listening on {addr} (--listen): peer traffic is not encrypted or authenticated yet, and anybody who \
                 reaches this port can read what is cached. Firewall it and pass --insecure, or listen on 127.0.0.1:{}",
            addr.port()
        ))),
        _ => Ok(()),
    }
}

async fn open_data_dir(options: &Options) -> Result<(Arc<dyn Store>, Archive, NodeId), StartError> {
    let (data_dir, quota, reserve) = (options.data_dir.clone(), options.quota, options.reserve);
    let opened = threads::run(move || {
        let mut config = StoreConfig::new(Arc::new(unix_now));
        config.quota = quota;
        config.reserve_free = reserve;
        let store = DiskStore::open(&data_dir, &config)?;
        let me = identity::of_this_machine(&data_dir)?;
        let newer = store.set_aside().blobs;
        let kept = store.list().into_iter().map(|row| row.id).chain(newer).collect();
        let archive = Archive::open(&data_dir)?;
        if let Err(error) = archive.keep_only(&kept) {
            tracing::warn!(error = %in_full(&error), "old explanations could not be tidied up");
        }
        Ok::<_, StartError>((Arc::new(store) as Arc<dyn Store>, archive, me))
    });
    opened.await
}

async fn open_registries(
    options: &Options,
    client: RegistryClient,
    relay: Relay,
    metrics: Arc<Metrics>,
    clock: SystemClock,
) -> Result<Arc<Registries>, StartError> {
    let options = RegistriesOptions::from(options);
    let path = options.data_dir.join("manifests").display().to_string();
    let opened = threads::run(move || Registries::open(options, client, metrics, Arc::new(clock)));
    let opened = opened.await.map_err(file_error(path))?;
    Ok(Arc::new(opened.with_relay(relay)))
}

fn serve_local(
    agent: &Agent,
    listener: TcpListener,
    registries: Arc<Registries>,
    metrics: Arc<Metrics>,
    clock: SystemClock,
) -> Result<LocalPort, StartError> {
    let options = &agent.inner.context.options;
    let (names, options) = (options.local_names.clone(), MirrorOptions::from(options));
    let blobs = Arc::new(agent.clone());
    let mirror = Mirror::new(options, registries, blobs, Arc::clone(&metrics), Arc::new(clock));
    LocalPort::serve(listener, Some(Arc::new(mirror)), metrics, names).map_err(file_error("local port".to_owned()))
}

fn file_error(path: String) -> impl FnOnce(io::Error) -> StartError {
    move |error| StartError::File { path, reason: advice(&error).to_owned(), source: Some(error) }
}

async fn bind_local(addr: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(addr).await.map_err(|error| listen_error(addr, flag, error))
}

fn cannot_listen(addr: SocketAddr, error: WireError) -> StartError {
    match error {
        WireError::Listen { source, .. } => listen_error(addr, "--listen", source),
        other => listen_error(addr, "--listen", io::Error::other(other)),
    }
}

fn listen_error(addr: SocketAddr, flag: &'static str, source: io::Error) -> StartError {
    let advice = match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("the port is taken; stop what uses it (`ss -ltnp` shows it), or give {flag} another")
        }
        io::ErrorKind::PermissionDenied => {
            format!("not permitted; ports below 1024 are for root; give {flag} a higher one")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("no such address on this host; give {flag} one that `ip addr` shows, or 0.0.0.0")
        }
        _ => format!("give {flag} another address"),
    };
    StartError::Listen { addr: addr.to_string(), flag, advice, source }
}

fn place_of(options: &Options) -> Place {
    let mut place = Place::from_labels(&options.labels);
    if place.host.is_empty() {
        place.host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    place
}

/// Every registry that the configuration names is trusted, besides those that it says are.
fn trusted_registries(options: &Options) -> BTreeSet<String> {
    let upstreams = options.upstreams.iter().map(|upstream| &upstream.name);
    upstreams.chain(&options.trusted_registries).chain(&options.default_upstream).cloned().collect()
}

pub(super) fn registry_config(options: &Options) -> RegistryConfig {
    let login = |login: &crate::options::LoginOption| {
        let password = Login::Password { user: login.username.clone(), password: login.password.clone() };
        (login.registry.clone(), password)
    };
    let mut addresses = BTreeMap::<_, Vec<_>>::new();
    for upstream in &options.upstreams {
        addresses.entry(upstream.name.clone()).or_default().extend(upstream.urls.iter().cloned());
    }
    let prefixes = options.upstreams.iter().filter_map(|upstream| {
        let prefix = upstream.prefix.as_deref()?.trim_matches('/');
        (!prefix.is_empty()).then(|| (upstream.name.clone(), prefix.to_owned()))
    });
    RegistryConfig {
        addresses,
        prefixes: prefixes.collect(),
        plain_http: options.plain_http.iter().cloned().collect(),
        logins: options.logins.iter().map(login).collect(),
        docker_config: options.docker_config.clone(),
        helper_directories: Vec::new(),
        trusted: trusted_registries(options),
        guarded: is_daemon(options.role),
    }
}

/// Where an upstream is: at the configured addresses, else where its name says.
fn addresses_of(upstream: &UpstreamOption, registries: &Upstreams) -> Vec<Url> {
    if !upstream.urls.is_empty() {
        return upstream.urls.clone();
    }
    registries.resolve(&upstream.name).map(|registry| registry.base().clone()).into_iter().collect()
}

/// The settings of upstreams, by the servers that they are about. Several upstreams may be at one server, which has the
/// settings of all of them.
///
/// # Errors
/// Two of them that can't both hold.
fn servers(upstreams: &[UpstreamOption], registries: &Upstreams) -> Result<BTreeMap<String, ServerConfig>, StartError> {
    let mut servers = BTreeMap::<String, (&str, ServerConfig)>::new();
    for upstream in upstreams {
        let config = ServerConfig {
            urls: Vec::new(),
            ca: upstream.ca.clone(),
            client_cert: upstream.client_cert.clone(),
            client_key: upstream.client_key.clone(),
            skip_verify: upstream.skip_verify,
            connect_timeout: upstream.connect_timeout,
            first_byte_timeout: upstream.first_byte_timeout,
            headers: upstream.headers.clone(),
            proxy: upstream.proxy.clone(),
        };
        if config != ServerConfig::default() {
            let config = ServerConfig { urls: addresses_of(upstream, registries), ..config };
            for server in upstream.servers() {
                let Some((other, known)) = servers.get_mut(&server) else {
                    servers.insert(server, (&upstream.name, config.clone()));
                    continue;
                };
                known.merge(&config).map_err(|setting| {
                    StartError::Options(format!(
                        "the upstreams {other} and {} are both at {server} and have different settings ({setting}), which \
                         belong to the server: give both the same, or the one of them another address",
                        upstream.name
                    ))
                })?;
            }
        }
    }
    Ok(servers.into_iter().map(|(server, (_, config))| (server, config)).collect())
}

/// # Errors
/// Settings of one server that can't both hold.
pub(super) fn http_config(options: &Options) -> Result<HttpConfig, StartError> {
    let registries = Upstreams::new(&registry_config(options));
    Ok(HttpConfig {
        configured: options.upstreams.iter().flat_map(|upstream| addresses_of(upstream, &registries)).collect(),
        extra_ca: options.origin_ca.clone(),
        first_byte_timeout: options.origin_timeout,
        servers: servers(&options.upstreams, &registries)?,
        signed_parameters: options.signed_parameters.clone(),
        ..HttpConfig::default()
    })
}

fn http_client(options: &Options) -> Result<HttpClient, StartError> {
    Ok(HttpClient::new(&http_config(options)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstreams_headers_are_for_its_own_addresses() {
        let urls_of = |name: &str, urls: &[&str], plain_http: &[&str]| {
            let upstream = UpstreamOption {
                name: name.to_owned(),
                urls: urls.iter().map(|url| url.parse().unwrap()).collect(),
                headers: vec![("X-Api-Key".to_owned(), "secret".to_owned())],
                ..UpstreamOption::default()
            };
            let config = RegistryConfig {
                plain_http: plain_http.iter().map(|&name| name.to_owned()).collect(),
                ..RegistryConfig::default()
            };
            addresses_of(&upstream, &Upstreams::new(&config)).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(urls_of("lab", &["https://h.corp/x", "http://b:1"], &[]), ["https://h.corp/x", "http://b:1/"]);
        assert_eq!(urls_of("h.corp", &[], &[]), ["https://h.corp/"]);
        assert_eq!(urls_of("h.corp:5000", &[], &["h.corp:5000"]), ["http://h.corp:5000/"]);
        assert_eq!(urls_of("docker.io", &[], &[]), ["https://registry-1.docker.io/"]);
    }

    #[test]
    fn two_upstreams_at_one_server_have_the_same_settings_there_or_are_refused() {
        let upstream = |name: &str, url: &str| UpstreamOption {
            name: name.to_owned(),
            urls: vec![url.parse().unwrap()],
            ..UpstreamOption::default()
        };
        let servers = |upstreams: [UpstreamOption; 2]| {
            let registries = Upstreams::new(&RegistryConfig::default());
            super::servers(&upstreams, &registries).map_err(|error| error.to_string())
        };
        let hub = || UpstreamOption {
            ca: Some("/ca.pem".into()),
            headers: vec![("X-Team".to_owned(), "a".to_owned())],
            ..upstream("docker.io", "https://harbor.lab")
        };
        let other = || UpstreamOption {
            first_byte_timeout: Some(Duration::from_secs(9)),
            headers: vec![("x-team".to_owned(), "a".to_owned()), ("X-Site".to_owned(), "b".to_owned())],
            ..upstream("ghcr.io", "https://harbor.lab/x")
        };
        let both = servers([hub(), other()]).unwrap();
        let harbor = &both["harbor.lab"];
        assert_eq!((harbor.ca.as_deref(), harbor.headers.len()), (Some(std::path::Path::new("/ca.pem")), 2));
        assert_eq!((harbor.first_byte_timeout, harbor.urls.len()), (Some(Duration::from_secs(9)), 2));
        let wrong = UpstreamOption { headers: vec![("X-Team".to_owned(), "secret".to_owned())], ..other() };
        let told = servers([hub(), wrong.clone()]).unwrap_err();
        let says = |part: &str| told.contains(part);
        assert!(
            says("docker.io") && says("ghcr.io") && says("harbor.lab") && says("X-Team") && !says("secret"),
            "{told}"
        );
        let plain = UpstreamOption { urls: vec!["http://harbor.lab".parse().unwrap()], ..other() };
        assert!(servers([hub(), plain]).unwrap_err().contains("http and https"));
        let elsewhere = UpstreamOption { urls: vec!["https://harbor.lab:8443".parse().unwrap()], ..wrong };
        assert_eq!(servers([hub(), elsewhere]).unwrap().len(), 2);
    }

    #[test]
    fn beyond_loopback_one_listens_only_if_told_that_peers_are_not_encrypted() {
        let start = |addr: &str, insecure| refuse_strangers(Some(addr.parse().unwrap()), insecure);
        for addr in ["127.0.0.1:7400", "127.9.9.9:1", "[::1]:7400", "[::ffff:127.0.0.1]:7400"] {
            assert!(start(addr, false).is_ok(), "{addr}");
        }
        assert!(refuse_strangers(None, false).is_ok());
        for addr in ["0.0.0.0:7400", "[::]:7400", "10.0.0.1:7400"] {
            let told = start(addr, false).unwrap_err().to_string();
            assert!(told.contains(addr) && told.contains("--insecure"), "{told}");
            assert!(start(addr, true).is_ok(), "{addr}");
        }
    }
}
