//! The status with which a proxy refuses a tunnel (`CONNECT`).
//!
//! The HTTP stack reports only that the proxy refused, without the status; but a rule of the proxy (403) stays as it is, and a server that the proxy does not reach (503) may be
//! reached later. So the proxy is asked for the tunnel once more, in a request whose answer is seen: as if the proxy itself were asked for a plain resource, which the stack sends
//! unchanged, with the proxy's login.
//!
//! Invariants: it is asked only after a tunnel was refused, once for each refusal, and nothing is sent through the tunnel if it is opened now.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use url::Url;

use super::{Proxies, Server};

/// How long the proxy may take to refuse again.
const SECOND_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

impl Server {
    /// The proxy's refusal of a tunnel to the server of `url`, if it refuses once more, within `left` if that is given.
    pub(in crate::client) async fn tunnel_refusal(
        &self,
        url: &Url,
        left: Option<Duration>,
    ) -> Option<(StatusCode, HeaderMap)> {
        let client = self.tunnels.get_or_init(|| self.plan.tunnel_client(&self.proxy_of_tunnel(url)?).ok()).as_ref()?;
        let limit = left.map_or(SECOND_ANSWER_TIMEOUT, |left| left.min(SECOND_ANSWER_TIMEOUT));
        let asked = client.request(Method::CONNECT, end_of_tunnel(url)?).send();
        let answer = tokio::time::timeout(limit, asked).await.ok()?.ok()?;
        (!answer.status().is_success()).then(|| (answer.status(), answer.headers().clone()))
    }

    /// The proxy for `url`, as one that is asked for plain resources.
    fn proxy_of_tunnel(&self, url: &Url) -> Option<reqwest::Proxy> {
        match &self.proxies {
            Proxies::None => None,
            Proxies::One(proxy) => reqwest::Proxy::http(proxy.clone()).ok(),
            Proxies::Environment(matcher, _) => {
                let intercept = matcher.intercept(&url.as_str().parse().ok()?)?;
                let proxy = reqwest::Proxy::http(intercept.uri().to_string()).ok()?;
                Some(match intercept.basic_auth() {
                    Some(login) => proxy.custom_http_auth(login.clone()),
                    None => proxy,
                })
            }
        }
    }
}

/// The address of which the HTTP stack makes `CONNECT host:port`.
fn end_of_tunnel(url: &Url) -> Option<Url> {
    let host = url.host_str()?;
    format!("http://{host}:{}/", url.port_or_known_default()?).parse().ok()
}
