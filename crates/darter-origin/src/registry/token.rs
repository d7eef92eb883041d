//! Access tokens: gets them as a registry's challenge says, and keeps them until they expire.
//!
//! A token is used only for what it was granted for: registry, realm, service, scope and login, whether the login is configured or a caller's. A login is sent to the realm that the registry names, as every
//! engine does, but never in the clear on behalf of a registry that is used over TLS.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use darter_core::{Blamed as _, Clock, Moment, in_full};
use darter_oci::challenge::Challenge;
use darter_oci::token::Granted;
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::body;
use crate::client::{HttpClient, Reach, Request, left_until, no_answer_in, of_status, shown};
use crate::error::{ErrorKind, OriginError, status_text};
use crate::registry::config::Login;
use crate::registry::encoding;
use crate::registry::upstreams::Upstream;

/// The lifetime of a token if the answer does not say it, by the token specification.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// How long before its expiry a token is no longer used (a short-lived one after half its lifetime): requests take time, and
/// clocks differ.
const SLACK: Duration = Duration::from_secs(10);
/// The maximum time for which a token is kept, whatever the answer says.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Most tokens that are kept.
const MAX_TOKENS: usize = 4096;
/// The maximum length of a token service's answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// The request for a token that follows from a Bearer challenge.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Demand {
    /// The base address of the registry that sent the challenge.
    registry: Url,
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
    /// The reach of the token service, which is that of the registry that names it.
    reach: Reach,
    stranger: bool,
}

/// The tokens of one client.
pub(super) struct Tokens {
    http: HttpClient,
    clock: Arc<dyn Clock>,
    kept: Mutex<HashMap<TokenKey, Kept>>,
    /// Held while a token is requested: other callers that need the same token wait.
    asking: Mutex<HashMap<TokenKey, Arc<tokio::sync::Mutex<()>>>>,
}

/// The demand and the login for which a token was granted.
type TokenKey = (Arc<Demand>, Option<Login>);

/// What [`Tokens::get`] found.
pub(super) enum Grant {
    Token(String),
    /// The token service refuses, and would refuse again.
    Refused(OriginError),
}

/// The token service's answer.
enum Answered {
    /// A token, and its lifetime if the answer says it.
    Granted(String, Option<Duration>),
    Refused(OriginError),
}

struct Kept {
    token: String,
    until: Moment,
}

impl Demand {
    /// The demand of a Bearer challenge for a request about `repository`; `None` for one without a usable realm.
    pub(super) fn of(challenge: &Challenge, upstream: &Upstream, repository: Option<&str>) -> Option<Self> {
        let realm: Url = challenge.get("realm")?.parse().ok()?;
        if !matches!(realm.scheme(), "http" | "https") {
            return None;
        }
        let mut scopes: Vec<_> =
            challenge.get("scope").unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
        if let (true, Some(repository)) = (scopes.is_empty(), repository) {
            scopes.push(format!("repository:{repository}:pull"));
        }
        let service = challenge.get("service").map(str::to_owned);
        Some(Self {
            registry: upstream.base().clone(),
            realm,
            service,
            scopes,
            reach: upstream.reach(),
            stranger: upstream.is_stranger(),
        })
    }

    /// The token service's name in messages.
    fn name(&self) -> String {
        format!("the token service {}", shown(&self.realm))
    }

    fn question(&self) -> Vec<(&str, &str)> {
        let service = self.service.iter().map(|service| ("service", service.as_str()));
        service.chain(self.scopes.iter().map(|scope| ("scope", scope.as_str()))).collect()
    }
}

impl Tokens {
    pub(super) fn new(http: HttpClient, clock: Arc<dyn Clock>) -> Self {
        Self { http, clock, kept: Mutex::default(), asking: Mutex::default() }
    }

    /// Forgets the token for this demand, since the registry no longer accepts it.
    pub(super) fn forget(&self, demand: &Arc<Demand>, login: Option<&Login>) {
        self.kept.lock().remove(&(demand.clone(), login.cloned()));
    }

    /// A kept or new token for the demand, or the token service's refusal to grant one. The caller waits `until` then.
    ///
    /// # Errors
    /// The token service can't be reached, or its answer is malformed.
    pub(super) async fn get(
        &self,
        demand: &Arc<Demand>,
        login: Option<&Login>,
        until: Option<Instant>,
    ) -> Result<Grant, OriginError> {
        if let Some(Login::RegistryToken(token)) = login {
            return Ok(Grant::Token(token.clone()));
        }
        let key = (demand.clone(), login.cloned());
        if let Some(token) = self.kept(&key) {
            return Ok(Grant::Token(token));
        }
        let asking = {
            let mut asking = self.asking.lock();
            // A turn that nobody holds or waits for is only in the table.
            asking.retain(|_, asked| Arc::strong_count(asked) > 1);
            Arc::clone(asking.entry(key.clone()).or_default())
        };
        let _one = match until {
            // The next asker may be able to wait for longer.
            Some(until) => {
                let waited = left_until(until);
                let entered = tokio::time::timeout(waited, asking.lock()).await;
                entered.map_err(|_| no_answer_in(waited, &demand.name()))?
            }
            None => asking.lock().await,
        };
        if let Some(token) = self.kept(&key) {
            return Ok(Grant::Token(token));
        }
        let now = self.clock.now();
        let (token, lifetime) = match self.ask(demand, login, until).await? {
            Answered::Granted(token, lifetime) => (token, lifetime),
            Answered::Refused(refusal) => return Ok(Grant::Refused(refusal)),
        };
        let lifetime = lifetime.unwrap_or(DEFAULT_LIFETIME).min(MAX_LIFETIME);
        let until = now + (lifetime - SLACK.min(lifetime / 2));
        let mut kept = self.kept.lock();
        if kept.len() >= MAX_TOKENS {
            kept.retain(|_, kept| now < kept.until);
            if kept.len() >= MAX_TOKENS {
                kept.clear();
            }
        }
        kept.insert(key, Kept { token: token.clone(), until });
        Ok(Grant::Token(token))
    }

    /// A kept token that is still valid.
    fn kept(&self, key: &TokenKey) -> Option<String> {
        let now = self.clock.now();
        self.kept.lock().get(key).filter(|kept| now < kept.until).map(|kept| kept.token.clone())
    }

    async fn ask(
        &self,
        demand: &Demand,
        login: Option<&Login>,
        until: Option<Instant>,
    ) -> Result<Answered, OriginError> {
        let what = demand.name();
        if login.is_some() && demand.realm.scheme() == "http" && demand.registry.scheme() == "https" {
            let text = format!("{what} would get the login in the clear: ask who runs the registry for an https realm");
            return Err(OriginError::new(ErrorKind::Protocol, text));
        }
        let mut request = request(demand, login)?;
        request.behalf = Some(demand.registry.clone());
        request.until = until;
        let response = self.http.send(request).await.map_err(|error| error.met_at(&what))?;
        let status = response.status();
        if !status.is_success() {
            let error = of_status(status, response.headers(), &what);
            if status.is_client_error() && !error.blame().may_pass() {
                tracing::debug!(error = %in_full(&error), "no token");
                return Ok(Answered::Refused(error));
            }
            return Err(error);
        }
        let named = status_text(status);
        let mut answer = Vec::new();
        let encoding = encoding::encoding_of(response.headers());
        let mut body = body::chunks_of(response, what.clone()).boxed();
        if let Some(encoding) = encoding {
            let unknown = || {
                OriginError::new(
                    ErrorKind::Protocol,
                    format!("{what} answers (HTTP {named}) in an encoding nobody asked for: ask who runs it"),
                )
            };
            body = encoding::decoded(body, encoding, what.clone()).ok_or_else(unknown)?;
        }
        let read = async {
            while let Some(chunk) = body.next().await {
                answer.extend_from_slice(&chunk?);
                if answer.len() > MAX_ANSWER {
                    return Err(OriginError::new(
                        ErrorKind::Protocol,
                        format!(
                            "{what} answers (HTTP {named}) with more than {MAX_ANSWER} bytes: check the registry's token realm"
                        ),
                    ));
                }
            }
            Ok(())
        };
        match until {
            Some(until) => tokio::time::timeout_at(until, read).await.unwrap_or_else(|_| {
                let text = format!("{what} began to answer (HTTP {named}) and did not send the rest: ask who runs it");
                Err(OriginError::new(ErrorKind::Timeout, text))
            })?,
            None => read.await?,
        }
        let granted = Granted::parse(&answer).map_err(|error| {
            let text = format!(
                "{what} answers (HTTP {named}) with something else than a JSON object: check the registry's token realm"
            );
            OriginError::new(ErrorKind::Protocol, text).caused_by(error)
        })?;
        let Some(token) = granted.token else {
            let text = format!("{what} gave no token (HTTP {named}): check the login, or ask who runs it");
            return Err(OriginError::new(ErrorKind::Protocol, text));
        };
        Ok(Answered::Granted(token, granted.lifetime))
    }
}

/// The request to the token service: GET, with Basic for a password and without for anonymous tokens; POST as in OAuth 2 for refresh tokens.
fn request(demand: &Demand, login: Option<&Login>) -> Result<Request, OriginError> {
    let mut request = Request::new(Method::GET, demand.realm.clone());
    (request.reach, request.stranger) = (demand.reach, demand.stranger);
    if let Some(Login::IdentityToken(refresh)) = login {
        request.method = Method::POST;
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("client_id", "darter");
        if let Some(service) = &demand.service {
            form.append_pair("service", service);
        }
        form.append_pair("scope", &demand.scopes.join(" ")).append_pair("refresh_token", refresh);
        request.body = Some(form.finish());
        return Ok(request);
    }
    let question = demand.question();
    if !question.is_empty() {
        request.url.query_pairs_mut().extend_pairs(question);
    }
    if let Some(Login::Password { user, password }) = login {
        request.credentials.insert(AUTHORIZATION, basic(user, password)?);
    }
    Ok(request)
}

/// The `Authorization` header for a user and a password.
pub(super) fn basic(user: &str, password: &str) -> Result<HeaderValue, OriginError> {
    secret(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

/// The user and password in an `Authorization` header, if it is a Basic one.
pub(super) fn login_of_basic(authorization: &HeaderValue) -> Option<Login> {
    let (scheme, encoded) = authorization.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Login::Password { user: user.to_owned(), password: password.to_owned() })
}

/// The `Authorization` header with a bearer token.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, OriginError> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Result<HeaderValue, OriginError> {
    let mut value = HeaderValue::from_str(text).map_err(|error| {
        OriginError::new(ErrorKind::Protocol, "a token has characters that can't be sent in a header").caused_by(error)
    })?;
    value.set_sensitive(true);
    Ok(value)
}
