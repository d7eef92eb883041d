//! A registry that behaves as Docker Hub does towards those who pull: a registry behind nginx, with a token service and a
//! content delivery network of its own.
//!
//! The following is as on Docker Hub, since mirrors have failed on each of it:
//!
//! - every request needs a token, anonymous callers too; the token's answer holds it as `token` and as `access_token`;
//! - blobs are redirected to another host, which refuses a request that brings `Authorization`;
//! - answers tell how many pulls are left (`RateLimit-Remaining`, `Docker-RateLimit-Source`).
//!
//! Left out: TLS, logins, a limit that is reached.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Host;
use crate::process::Process;
use crate::registry::{AccessLog, Registry};

/// Docker Hub's name in image references.
pub const NAME: &str = "docker.io";
/// The port for manifests and tokens.
const PORT: u16 = 5001;
/// The port to which blobs are redirected.
const CONTENT_PORT: u16 = 5002;
/// The token that everybody gets.
const TOKEN: &str = "laboratory-token";
const HUB_TIMEOUT: Duration = Duration::from_secs(30);

/// A running hub. The registry behind it is the witness for what blobs were read.
#[derive(Debug)]
pub struct Hub {
    /// The registry behind it.
    pub registry: Registry,
    authority: String,
    log: PathBuf,
    _nginx: Process,
}

impl Hub {
    /// Serves the images in a registry's `storage` to anybody who brings a token.
    pub fn start(host: &Host, storage: &Path) -> Result<Self> {
        let registry = Registry::public(host, storage)?;
        let directory = host.make_directory("hub")?;
        let log = directory.join("access.log");
        let configuration = directory.join("nginx.conf");
        let text = configuration_text(&directory, &log, &host.address().to_string(), registry.authority());
        fs::write(&configuration, text).with_context(|| format!("write {}", configuration.display()))?;
        let mut command = host.command("nginx");
        command.arg("-p").arg(&directory).arg("-e").arg(directory.join("error.log")).arg("-c").arg(&configuration);
        let mut nginx = host.spawn("hub", &mut command)?;
        nginx.wait_for_port(PORT, HUB_TIMEOUT)?;
        nginx.wait_for_port(CONTENT_PORT, HUB_TIMEOUT)?;
        Ok(Self { registry, authority: format!("{}:{PORT}", host.address()), log, _nginx: nginx })
    }

    /// The address at which agents and engines reach it directly.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// `ADDRESS:PORT` on the hosts' network.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The requests to it so far, tokens among them, as far as they are answered.
    pub fn access_log(&self) -> Result<AccessLog> {
        let text = fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(AccessLog::parse(&text))
    }
}

fn configuration_text(directory: &Path, log: &Path, address: &str, registry: &str) -> String {
    let place = directory.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {place}/{kind};\n"))
        .concat();
    let challenge = format!(
        r#"Bearer realm="http://{address}:{PORT}/token",service="registry.docker.io",scope="repository:$repository:pull""#
    );
    let unauthorized = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":null}]}"#;
    let token = format!(
        r#"{{"token":"{TOKEN}","access_token":"{TOKEN}","expires_in":300,"issued_at":"2026-01-01T00:00:00.000000000Z"}}"#
    );
    format!(
        "daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n{temporary}  access_log {log} combined;\n  keepalive_requests 1000000;\n  default_type application/json;\n\
         proxy_http_version 1.1;\n  proxy_buffering off;\n\
         server {{\n\
           listen {address}:{PORT};\n\
           location = /token {{ return 200 '{token}'; }}\n\
           location ~ ^/v2/(?<repository>.+)/(?<kind>manifests|blobs|tags)/ {{\n\
             add_header RateLimit-Limit '100;w=21600' always;\n\
             add_header RateLimit-Remaining '99;w=21600' always;\n\
             add_header Docker-RateLimit-Source '192.0.2.1' always;\n\
             if ($http_authorization != 'Bearer {TOKEN}') {{\n\
               add_header WWW-Authenticate '{challenge}' always;\n\
               return 401 '{unauthorized}';\n\
             }}\n\
             if ($kind = blobs) {{ return 307 http://{address}:{CONTENT_PORT}$request_uri; }}\n\
             proxy_pass http://{registry};\n\
           }}\n\
           location / {{\n\
             set $repository '';\n\
             add_header WWW-Authenticate 'Bearer realm=\"http://{address}:{PORT}/token\",service=\"registry.docker.io\"' always;\n\
             return 401 '{unauthorized}';\n\
           }}\n\
         }}\n\
         server {{\n\
           listen {address}:{CONTENT_PORT};\n\
           access_log off;\n\
           location / {{\n\
             if ($http_authorization) {{ return 400 'only one way to authorize is allowed'; }}\n\
             proxy_pass http://{registry};\n\
           }}\n\
         }}\n}}\n",
        log = log.display(),
    )
}
