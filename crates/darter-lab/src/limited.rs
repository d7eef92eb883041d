//! A registry that gives each connection no more than a rate, as stores and delivery networks do: nginx in front of `docker-registry`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use darter_core::Rate;

use crate::netns::Host;
use crate::process::Process;
use crate::registry::{AccessLog, Registry};

const PORT: u16 = 5003;
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running one. Its own log is the witness for what was read: it reads ahead in the registry.
#[derive(Debug)]
pub struct Limited {
    authority: String,
    log: PathBuf,
    _registry: Registry,
    _nginx: Process,
}

impl Limited {
    /// Serves the images in a registry's `storage` to anybody, each connection at no more than `each`.
    pub fn start(host: &Host, storage: &Path, each: Rate) -> Result<Self> {
        let registry = Registry::public(host, storage)?;
        let directory = host.make_directory("limited")?;
        let (log, configuration) = (directory.join("access.log"), directory.join("nginx.conf"));
        let authority = format!("{}:{PORT}", host.address());
        let text = configuration_text(&directory, &log, &authority, registry.authority(), each);
        fs::write(&configuration, text).with_context(|| format!("write {}", configuration.display()))?;
        let mut command = host.command("nginx");
        command.arg("-p").arg(&directory).arg("-e").arg(directory.join("error.log")).arg("-c").arg(&configuration);
        let mut nginx = host.spawn("limited", &mut command)?;
        nginx.wait_for_port(PORT, START_TIMEOUT)?;
        Ok(Self { authority, log, _registry: registry, _nginx: nginx })
    }

    /// `ADDRESS:PORT` on the hosts' network.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The requests to it so far, as far as they are answered.
    pub fn access_log(&self) -> Result<AccessLog> {
        let text = fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(AccessLog::parse(&text))
    }
}

fn configuration_text(directory: &Path, log: &Path, authority: &str, registry: &str, each: Rate) -> String {
    let (place, log) = (directory.display(), log.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {place}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n{temporary}  access_log {log} combined;\n  keepalive_requests 1000000;\n\
         proxy_http_version 1.1;\n  proxy_max_temp_file_size 0;\n\
         server {{\n\
           listen {authority};\n\
           limit_rate {};\n\
           location / {{ proxy_set_header Host $http_host; proxy_pass http://{registry}; }}\n\
         }}\n}}\n",
        each.bytes_per_second(),
    )
}
