//! Options that change while an agent runs: which of them take effect at once, and which after the next start.

use std::sync::Arc;

use darter_engine::budget::ByteBudget;
use darter_origin::{HttpClient, RegistryClient};
use darter_store::Store;

use super::{Agent, build};
use crate::error::StartError;
use crate::options::Options;

/// The options of an agent that can be changed while it runs.
pub(crate) struct Changeable {
    pub(crate) http: HttpClient,
    pub(crate) registry: RegistryClient,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) origin: Arc<ByteBudget>,
    pub(crate) upload: Arc<ByteBudget>,
    pub(crate) download: Arc<ByteBudget>,
    /// The options in force.
    pub(crate) options: parking_lot::Mutex<Options>,
}

/// The result of a reload: names of settings, as on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The new values are in force now.
    pub taken: Vec<&'static str>,
    /// These settings differ, and take effect after a restart.
    pub restart: Vec<&'static str>,
}

impl Agent {
    /// Applies those of the options that can change while the agent runs: limits, logins, certificates. Files that options name
    /// are read again, even if their names have not changed.
    ///
    /// # Errors
    /// A file can't be read or is malformed. Then nothing has changed.
    pub async fn reload(&self, fresh: Options) -> Result<Reloaded, StartError> {
        let agent = self.clone();
        // Reads files.
        self.inner.context.disk.run(move || agent.inner.changeable.reload(fresh)).await
    }
}

impl Changeable {
    fn reload(&self, fresh: Options) -> Result<Reloaded, StartError> {
        // Settings with which the agent would not start again are refused
        // now.
        build::refuse_strangers(fresh.listen, fresh.insecure)?;
        let mut old = self.options.lock();
        let mut reloaded = Reloaded { restart: needs_restart(&old, &fresh), ..Reloaded::default() };
        // Settings that need a restart stay as they are, including those of upstreams.
        let http = Options { upstreams: old.upstreams.clone(), origin_timeout: old.origin_timeout, ..fresh.clone() };
        self.http.reload(&build::http_config(&http)?)?;
        reloaded.taken.extend(["origin-ca", "login", "password-file", "docker-config"]);
        self.registry.reload_logins(&build::registry_config(&fresh));
        for (name, budget, rate) in [
            ("origin-limit", &self.origin, fresh.origin_limit),
            ("upload-limit", &self.upload, fresh.upload_limit),
            ("download-limit", &self.download, fresh.download_limit),
        ] {
            budget.set_rate(rate);
            reloaded.taken.push(name);
        }
        self.store.set_limits(fresh.quota, fresh.reserve);
        reloaded.taken.extend(["quota", "reserve"]);
        old.origin_ca = fresh.origin_ca;
        Ok(reloaded)
    }
}

/// The settings that differ and need a restart.
fn needs_restart(old: &Options, fresh: &Options) -> Vec<&'static str> {
    let differing = [
        ("data-dir", old.data_dir != fresh.data_dir),
        ("socket", old.sockets != fresh.sockets),
        ("socket-group", old.socket_group != fresh.socket_group),
        ("listen", old.listen != fresh.listen),
        ("local", old.local != fresh.local),
        ("metrics", old.metrics != fresh.metrics),
        ("local-name", old.local_names != fresh.local_names),
        ("advertise", old.advertise != fresh.advertise),
        ("join", old.join != fresh.join),
        ("label", old.labels != fresh.labels),
        ("insecure", old.insecure != fresh.insecure),
        ("upstream", old.upstreams != fresh.upstreams),
        ("default-upstream", old.default_upstream != fresh.default_upstream),
        ("trusted-registry", old.trusted_registries != fresh.trusted_registries),
        ("ask-login", old.ask_login != fresh.ask_login),
        ("plain-http", old.plain_http != fresh.plain_http),
        ("origin-patience", old.origin_patience != fresh.origin_patience),
        ("origin-connections", old.origin_connections != fresh.origin_connections),
        ("stale-tags", old.stale_tags != fresh.stale_tags),
        ("stall-timeout", old.stall_timeout != fresh.stall_timeout),
        ("signed-parameter", old.signed_parameters != fresh.signed_parameters),
        ("origin-timeout", old.origin_timeout != fresh.origin_timeout),
        ("grant-ttl", old.grant_ttl != fresh.grant_ttl),
        ("verify-whole", old.verify_whole != fresh.verify_whole),
        ("lazy-dir", old.lazy.is_some() != fresh.lazy.is_some()),
        ("lazy-wait", old.lazy.map(|lazy| lazy.wait) != fresh.lazy.map(|lazy| lazy.wait)),
        ("lazy-keep", old.lazy.map(|lazy| lazy.keep) != fresh.lazy.map(|lazy| lazy.keep)),
        ("lazy-profiles", old.profiles != fresh.profiles),
        ("lazy-packed", old.packed != fresh.packed),
        ("drain-timeout", old.drain_timeout != fresh.drain_timeout),
    ];
    differing.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}
