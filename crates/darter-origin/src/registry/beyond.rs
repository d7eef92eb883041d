//! Challenges of another registry to which a redirect led (for example from `lscr.io` to `ghcr.io`).

use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use url::Url;

use super::answer::Answer;
use super::client::{Met, RegistryClient, RequestPlace, Wanted, remember, repository_of, wanted_by};
use crate::client::Request;
use crate::error::OriginError;
use crate::registry::config::Login;

impl RegistryClient {
    /// Adds to the request the credentials for the registry to which redirects of this place led last, as that registry requires them. Returns what it
    /// requires, and why its token service refused if it did.
    pub(super) async fn prepare_beyond(
        &self,
        request: &mut Request,
        callers: bool,
        place: &RequestPlace,
    ) -> Result<Option<(Wanted, Option<OriginError>)>, OriginError> {
        let Some(beyond) = self.inner.beyond.lock().get(place).cloned() else { return Ok(None) };
        let Some(wanted) = self.inner.remembered.lock().get(&beyond).cloned() else { return Ok(None) };
        let login = self.login_beyond(request, &beyond, callers).await;
        match self.meet(&wanted, login.as_ref()).await? {
            Met::By(authorization) => {
                request.elsewhere = Some((beyond.0, HeaderMap::from_iter([(AUTHORIZATION, authorization)])));
                Ok(Some((wanted, None)))
            }
            Met::Not(refusal) => Ok(Some((wanted, refusal))),
        }
    }

    /// Answers the challenge of another registry, at `from`, to which a redirect led.
    pub(super) async fn send_beyond(
        &self,
        mut request: Request,
        callers: bool,
        place: RequestPlace,
        answer: Answer,
        from: &Url,
        sent: Option<(Wanted, Option<OriginError>)>,
    ) -> Result<Answer, OriginError> {
        // An address that is no registry's (an object store's) has no challenge that is ours to meet.
        let Some((base, path)) = registry_at(from) else { return Ok(answer) };
        let repository = repository_of(&path).map(str::to_owned);
        let beyond = (base.clone(), repository.clone());
        let login = self.login_beyond(&request, &beyond, callers).await;
        let upstream = self.inner.upstreams.at(&base).reached_by(request.reach, request.stranger);
        let Some(wanted) = wanted_by(&answer.headers, &upstream, repository.as_deref(), login.as_ref()) else {
            return Ok(answer);
        };
        if let Wanted::Token(demand) = &wanted
            && let Some((sent, refusal)) = sent
            && sent == wanted
        {
            if request.elsewhere.is_none() {
                return Ok(answer.without_token(refusal));
            }
            self.inner.tokens.forget(demand, login.as_ref());
        }
        let authorization = match self.meet(&wanted, login.as_ref()).await? {
            Met::By(authorization) => authorization,
            Met::Not(refusal) => return Ok(answer.without_token(refusal)),
        };
        request.elsewhere = Some((base.clone(), HeaderMap::from_iter([(AUTHORIZATION, authorization)])));
        let (second, _) = self.once(&request).await?;
        if second.status != StatusCode::UNAUTHORIZED {
            remember(&mut self.inner.remembered.lock(), beyond.clone(), wanted);
            remember(&mut self.inner.beyond.lock(), place, beyond);
        }
        Ok(second)
    }

    /// The configured login for a registry that the caller did not name. `None` for a caller with credentials of its own, and
    /// if a registry that is not configured redirects there: it would get content that requires that login.
    async fn login_beyond(&self, request: &Request, (base, repository): &RequestPlace, callers: bool) -> Option<Login> {
        if callers || request.stranger {
            return None;
        }
        self.login_of(&self.inner.upstreams.at_of(base, repository.as_deref())).await
    }
}

/// The base address of the registry that answers at `url`, and the requested path of its API.
fn registry_at(url: &Url) -> Option<(Url, String)> {
    let at = url.path().find("/v2/")?;
    let path = url.path()[at..].to_owned();
    let mut base = url.clone();
    base.set_path(&url.path()[..=at]);
    base.set_query(None);
    base.set_fragment(None);
    Some((base, path))
}
