//! From flags to the agent's options. This module adds no decision that a flag does not express.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use darter_agent::Options;
use darter_agent::options::{LoginOption, Role, UpstreamOption};
use darter_api::Client;
use darter_api::socket_path;
use darter_origin::settings;
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::agent::{NetworkArgs, OriginArgs, RegistryArgs, StoreArgs, UpstreamArgs};
use super::upstream::{self, Login, Upstream};
use super::values;
use super::{AgentArgs, GetArgs, MountArgs, NodeArgs, PlaceArgs};
use crate::config;
use crate::failure::Failure;

/// The address on which agents listen for each other.
const PEER_PORT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 7400));

/// The socket of the daemon that the system runs.
const SYSTEM_SOCKET: &str = "/run/darter/darter.sock";

impl PlaceArgs {
    /// The data directory: the one that was given, or the platform's default, which configuring has filled in.
    pub(crate) fn data_dir(&self) -> Result<PathBuf, Failure> {
        self.data_dir.clone().ok_or_else(|| {
            Failure::Usage("there is no home directory to keep data in; say where with --data-dir DIR".to_owned())
        })
    }

    /// The daemons to ask, in this order: the one that `--socket` names, or else that of the data directory, and, if the data directory is
    /// the default, the daemon that the system runs.
    pub(crate) fn clients(&self) -> Result<Vec<Client>, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(vec![Client::at(socket.clone())]);
        }
        let data_dir = self.data_dir()?;
        let mut sockets = vec![socket_path(&data_dir)];
        if config::own_data_dir().is_some_and(|own| own == data_dir) {
            sockets.push(PathBuf::from(SYSTEM_SOCKET));
        }
        Ok(sockets.into_iter().map(Client::at).collect())
    }
}

impl NetworkArgs {
    /// The sockets to listen on besides the data directory's. For a service, and for root with the default data directory, one of them is
    /// where every user's commands look.
    fn sockets(&self, place: &PlaceArgs) -> Vec<PathBuf> {
        if let Some(socket) = &place.socket {
            return vec![socket.clone()];
        }
        // systemd gives several directories with colons between them.
        let runtime = std::env::var_os("RUNTIME_DIRECTORY")
            .and_then(|dirs| Some(PathBuf::from(dirs.to_str()?.split(':').next()?)))
            .filter(|dir| dir.is_absolute());
        let root = rustix::process::geteuid().is_root();
        let system = root && place.data_dir.as_deref() == Some(Path::new(config::SYSTEM_DATA_DIR));
        match runtime {
            Some(dir) => vec![dir.join("darter.sock")],
            // This socket was not asked for: if it can't be made, the agent starts without it.
            None if system && !can_be_made(Path::new(SYSTEM_SOCKET)) => {
                let socket = SYSTEM_SOCKET;
                tracing::warn!(
                    socket,
                    "this socket can't be made: other users' commands need --socket to find this agent"
                );
                Vec::new()
            }
            None if system => vec![PathBuf::from(SYSTEM_SOCKET)],
            None => Vec::new(),
        }
    }
}

/// True if a socket may be made under this name: in many containers /run can't be written to.
fn can_be_made(socket: &Path) -> bool {
    let mut directories = socket.ancestors().skip(1);
    let nearest = directories.find(|directory| directory.symlink_metadata().is_ok());
    nearest.is_some_and(|directory| {
        directory.is_dir() && accessat(CWD, directory, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok()
    })
}

impl UpstreamArgs {
    /// The registries' options, with the contents of the files that they name: headers, and the login for the proxy.
    fn options(&self) -> Result<Vec<UpstreamOption>, Failure> {
        let whole = |upstream: &Upstream| {
            let mut option = upstream.option.clone();
            for (name, path) in &upstream.header_files {
                let header = upstream::header(name, &secret_in(path, "header value")?);
                option.headers.push(header.map_err(|reason| upstream.wrong_file(path, &reason))?);
            }
            // The order must not depend on whether a header comes from a file.
            option.headers.sort();
            if let (Some(path), Some(proxy)) = (&upstream.proxy_login_file, &mut option.proxy) {
                upstream.login_in(path)?.put_into(proxy);
            }
            Ok(option)
        };
        self.all().map(whole).collect()
    }

    /// The logins from the registries' own settings.
    fn logins(&self) -> Result<Vec<LoginOption>, Failure> {
        let login = |upstream: &Upstream| {
            let login = match &upstream.login_file {
                Some(path) => Some(upstream.login_in(path)?),
                None => upstream.login.clone(),
            };
            let registry = upstream.option.name.clone();
            Ok(login.map(|login| LoginOption { registry, username: login.user, password: login.password }))
        };
        self.all().map(login).filter_map(Result::transpose).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Upstream> {
        self.upstream.iter().flat_map(|list| &list.0)
    }
}

impl Upstream {
    fn login_in(&self, path: &Path) -> Result<Login, Failure> {
        Login::parse(&secret_in(path, "login")?).map_err(|reason| self.wrong_file(path, &reason))
    }

    fn wrong_file(&self, path: &Path, reason: &str) -> Failure {
        Failure::Usage(format!("upstream {}: {}: {reason}", self.option.name, path.display()))
    }
}

impl AgentArgs {
    /// The options of an agent that joins `join`.
    pub(crate) fn options(&self, role: Role, join: &[String]) -> Result<Options, Failure> {
        let join: Vec<_> = join.iter().filter(|address| !address.is_empty()).cloned().collect();
        if role == Role::Node && join.is_empty() {
            return Err(Failure::Usage(
                "a node needs a seed or another node to join: add --join HOST:PORT (or run `darter up` for all in one)"
                    .to_owned(),
            ));
        }
        Ok(Options {
            role,
            data_dir: self.place.data_dir()?,
            sockets: self.network.sockets(&self.place),
            socket_group: self.network.socket_group,
            listen: Some(self.network.listen.unwrap_or(PEER_PORT)),
            advertise: self.network.advertise.clone(),
            local: Some(self.network.local),
            metrics: self.network.metrics,
            local_names: self.network.local_name.clone(),
            join,
            labels: self.network.label.iter().filter(|(_, value)| !value.is_empty()).cloned().collect(),
            upload_limit: self.limits.upload_limit,
            download_limit: self.limits.download_limit,
            origin_limit: self.origin.origin_limit,
            origin_connections: self.origin.origin_connections,
            insecure: self.network.insecure,
            quota: Some(self.store.quota),
            reserve: self.store.reserve,
            upstreams: self.upstream.options()?,
            default_upstream: self.registry.default_upstream.clone(),
            trusted_registries: self.registry.trusted_registry.clone(),
            ask_login: self.registry.ask_login,
            plain_http: self.registry.plain_http.clone(),
            logins: self.logins()?,
            docker_config: self.registry.docker_config.clone(),
            origin_ca: self.origin.origin_ca.clone(),
            origin_patience: self.origin.origin_patience,
            origin_timeout: self.origin.origin_timeout,
            signed_parameters: self.origin.signed_parameters(),
            grant_ttl: self.registry.grant_ttl,
            stale_tags: self.registry.stale_tags.into(),
            verify_whole: self.network.verify_whole,
            answer_timeout: darter_agent::ANSWER_TIMEOUT,
            stall_timeout: self.origin.stall_timeout,
            lazy: self.lazy.option(),
            profiles: self.lazy.lazy_profiles,
            packed: self.lazy.lazy_packed,
            local_roots: None,
            drain_timeout: self.network.drain_timeout,
        })
    }
}

impl AgentArgs {
    /// The logins of `--login` and of upstreams.
    fn logins(&self) -> Result<Vec<LoginOption>, Failure> {
        let mut logins = self.registry.logins()?;
        for login in self.upstream.logins()? {
            if logins.contains(&login) {
                continue;
            }
            if logins.iter().any(|known| known.registry == login.registry) {
                return Err(Failure::Usage(format!(
                    "there are two logins for {}, of --login and of its upstream: leave out one of them",
                    login.registry
                )));
            }
            logins.push(login);
        }
        Ok(logins)
    }

    /// The options of an all-in-one agent: unless told otherwise, it listens for peers on loopback only.
    pub(crate) fn options_alone(&self) -> Result<Options, Failure> {
        let mut options = self.options(Role::Seed, &[])?;
        if self.network.listen.is_none() && !self.network.insecure {
            options.listen = Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PEER_PORT.port()));
        }
        Ok(options)
    }
}

impl OriginArgs {
    fn signed_parameters(&self) -> Vec<String> {
        self.signed_parameter.iter().filter(|name| !name.is_empty()).cloned().collect()
    }
}

impl RegistryArgs {
    /// The logins with their passwords, some of which are in files.
    fn logins(&self) -> Result<Vec<LoginOption>, Failure> {
        let given = || self.password_file.iter().filter(|(name, _)| !name.is_empty());
        let file_of = |registry: &str| given().find(|(name, _)| name == registry);
        if let Some((name, _)) = given().find(|(name, _)| self.login.iter().all(|it| it.registry != *name)) {
            return Err(Failure::Usage(format!(
                "--password-file {name}=…: this needs a user: add --login {name}=USER"
            )));
        }
        let whole = |login: &LoginOption| {
            let registry = &login.registry;
            match (login.password.as_str(), file_of(registry)) {
                ("", None) => Err(Failure::Usage(format!(
                    "the login for {registry} has no password: name the file that has it, with --password-file {registry}=FILE"
                ))),
                (_, None) => Ok(login.clone()),
                ("", Some((_, path))) => Ok(LoginOption { password: secret_in(path, "password")?, ..login.clone() }),
                (_, Some(_)) => Err(Failure::Usage(format!(
                    "the login for {registry} has a password and a --password-file: leave out one of them"
                ))),
            }
        };
        self.login.iter().map(whole).collect()
    }
}

/// The first line of a file that holds a secret; `kind` names the secret in errors.
fn secret_in(path: &Path, kind: &str) -> Result<String, Failure> {
    let shown = path.display();
    let text = settings::read_text(path)
        .map_err(|error| Failure::Usage(format!(
            "can't read the {kind} file {shown}: {error} (write the {kind} into it; `darter config --write-secrets` does \
             that for a {kind} in the configuration)"
        )))?;
    match text.lines().next().unwrap_or_default() {
        "" => Err(Failure::Usage(format!("the {kind} file {shown} is empty; write the {kind} into its first line"))),
        mask if values::is_mask(mask) => Err(Failure::Usage(format!(
            "the {kind} file {shown} has *** in it, which stands for a {kind} that was not printed; write the {kind}"
        ))),
        secret => Ok(secret.to_owned()),
    }
}

impl NodeArgs {
    /// The options of a node.
    pub(crate) fn options(&self) -> Result<Options, Failure> {
        self.agent.options(Role::Node, &self.join.join)
    }
}

impl GetArgs {
    /// The options of an agent that lives for one command.
    pub(crate) fn embedded_options(&self, data_dir: PathBuf) -> Result<Options, Failure> {
        // Without a lead, this agent computes the digest itself, which is worth the time only if the digest is checked or printed.
        embedded(data_dir, &self.store, &self.origin, &self.upstream, self.verify_whole || self.json)
    }
}

impl MountArgs {
    /// The options of an agent that lives as long as the mount.
    pub(crate) fn embedded_options(&self, data_dir: PathBuf) -> Result<Options, Failure> {
        embedded(data_dir, &self.store, &self.origin, &self.upstream, false)
    }
}

/// The options of an agent that serves no peers and listens nowhere.
fn embedded(
    data_dir: PathBuf,
    store: &StoreArgs,
    origin: &OriginArgs,
    upstream: &UpstreamArgs,
    verify_whole: bool,
) -> Result<Options, Failure> {
    Ok(Options {
        role: Role::Embedded,
        data_dir,
        sockets: Vec::new(),
        socket_group: None,
        listen: None,
        advertise: None,
        local: None,
        metrics: None,
        local_names: Vec::new(),
        join: Vec::new(),
        labels: Default::default(),
        upload_limit: None,
        download_limit: None,
        origin_limit: origin.origin_limit,
        origin_connections: origin.origin_connections,
        insecure: false,
        quota: Some(store.quota),
        reserve: store.reserve,
        upstreams: upstream.options()?,
        default_upstream: None,
        trusted_registries: Vec::new(),
        ask_login: false,
        plain_http: Vec::new(),
        logins: Vec::new(),
        docker_config: None,
        origin_ca: origin.origin_ca.clone(),
        origin_patience: origin.origin_patience,
        origin_timeout: origin.origin_timeout,
        signed_parameters: origin.signed_parameters(),
        grant_ttl: std::time::Duration::ZERO,
        stale_tags: Default::default(),
        verify_whole,
        answer_timeout: darter_agent::ANSWER_TIMEOUT,
        stall_timeout: origin.stall_timeout,
        lazy: None,
        profiles: true,
        packed: true,
        local_roots: None,
        drain_timeout: std::time::Duration::from_secs(3),
    })
}
