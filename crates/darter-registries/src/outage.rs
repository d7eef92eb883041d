//! When a registry counts as away, and for how long.
//!
//! A registry that refuses connections is asked every time: it costs nothing. One that does not answer at all costs
//! everybody who waits, and one that asks to slow down asks not to be asked: what is known is then the answer at once for a
//! while, where there is something known.
//!
//! Pure: time is an argument.

use std::time::Duration;

use darter_core::Moment;
use darter_core::recent::Recent;
use darter_oci::manifest::{self, Wrong};
use darter_origin::{ErrorKind, OriginFailure, is_page, status_text};
use http::header::RETRY_AFTER;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use url::Url;

use super::StaleTags;
use super::flights::Outcome;
use super::question::{About, Question, Reply};

/// A registry that did not answer in time is left alone for this long by those that have something else to go by.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// A registry that asks to slow down and does not say for how long is left alone for this long: each pull would else cost it two
/// requests for each manifest and layer.
const LIMITED_FOR: Duration = Duration::from_secs(10);
/// A registry that answers with an error of its own is left alone for this long.
const FAILING_FOR: Duration = Duration::from_secs(2);
/// Longest `Retry-After` that is kept to.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Registries remembered.
const MAX_REGISTRIES: u64 = 1000;

/// Why a registry's answer is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The registry asks to slow down.
    Limited { reason: String, retry_after: Option<Duration> },
    /// The registry can't be reached, or the connection broke.
    Away(String),
    /// The registry did not answer in time.
    Silent(String),
    /// The registry answers with an error of its own.
    Failing { reason: String, retry_after: Option<Duration> },
    /// Anything else that is no answer, such as a certificate that is not trusted, or a portal's page. A registry's own gateway shows a
    /// page that looks the same to callers that have to log in: so tags, which may be another's by now, stay closed by default.
    Broken(String),
}

impl Trouble {
    /// The trouble behind an outcome, if it is no answer to the question.
    pub(crate) fn of(question: &Question, outcome: &Outcome) -> Option<Self> {
        let reply = match outcome {
            Ok(reply) => reply,
            Err(failure) => return Some(Self::of_failure(failure)),
        };
        if reply.stale.is_some() {
            return None;
        }
        let reason = format!("HTTP {}", status_text(reply.status));
        let wait = reply.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = wait.map(Duration::from_secs);
        match reply.status {
            StatusCode::TOO_MANY_REQUESTS => Some(Self::Limited { reason, retry_after }),
            status if status.is_server_error() => Some(Self::Failing { reason, retry_after }),
            status if status.is_success() && is_of_another_kind(question, reply) => {
                let text = "it answers with something that is no manifest, such as a portal's page";
                Some(Self::Broken(text.to_owned()))
            }
            _ => None,
        }
    }

    fn of_failure(failure: &OriginFailure) -> Self {
        let reason = failure.text.clone();
        match &failure.kind {
            ErrorKind::RateLimited { retry_after } => Self::Limited { reason, retry_after: *retry_after },
            ErrorKind::Timeout => Self::Silent(reason),
            ErrorKind::Unreachable | ErrorKind::UnknownName | ErrorKind::Truncated => Self::Away(reason),
            ErrorKind::Status(500..) => Self::Failing { reason, retry_after: failure.retry_after },
            _ => Self::Broken(reason),
        }
    }

    /// The trouble, for people.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Limited { reason, .. }
            | Self::Away(reason)
            | Self::Silent(reason)
            | Self::Failing { reason, .. }
            | Self::Broken(reason) => reason,
        }
    }

    /// True if a tag may be answered as it was last seen.
    pub(crate) const fn opens_tags(&self, stale_tags: StaleTags) -> bool {
        match self {
            Self::Limited { .. } | Self::Away(_) | Self::Silent(_) => !matches!(stale_tags, StaleTags::Never),
            Self::Failing { .. } | Self::Broken(_) => matches!(stale_tags, StaleTags::Errors),
        }
    }

    fn lasts(&self) -> Option<Duration> {
        match self {
            Self::Limited { retry_after, .. } => Some(retry_after.unwrap_or(LIMITED_FOR)),
            Self::Failing { retry_after, .. } => Some(retry_after.unwrap_or(FAILING_FOR)),
            Self::Silent(_) => Some(SILENT_FOR),
            // To be told so costs nobody anything.
            Self::Away(_) | Self::Broken(_) => None,
        }
    }
}

/// True if a yes is about something else than a manifest, where one was asked for.
fn is_of_another_kind(question: &Question, reply: &Reply) -> bool {
    let expected = match question.about().1 {
        About::Manifest(digest) => Some(digest),
        About::Tag(_) => None,
        About::Blob(_) | About::Other => return false,
    };
    if reply.body.is_empty() && question.method == Method::HEAD {
        return is_page(&reply.headers);
    }
    matches!(manifest::check(&reply.headers, reply.body.clone(), expected), Err(Wrong::NoManifest))
}

/// Which registries are away.
pub(crate) struct Watch(Mutex<Recent<Url, (Trouble, Moment)>>);

impl Default for Watch {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(MAX_REGISTRIES)))
    }
}

impl Watch {
    /// Notes that a registry was in trouble.
    pub(crate) fn note(&self, base: &Url, trouble: &Trouble, now: Moment) {
        if let Some(lasts) = trouble.lasts() {
            self.0.lock().insert(base.clone(), (trouble.clone(), now + lasts.min(MAX_RETRY_AFTER)), 1);
        }
    }

    /// The trouble that a registry is in, if it need not be asked.
    pub(crate) fn trouble_with(&self, base: &Url, now: Moment) -> Option<Trouble> {
        self.0.lock().get(base).filter(|(_, until)| now < *until).map(|(trouble, _)| trouble.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: ErrorKind) -> Trouble {
        Trouble::of_failure(&OriginFailure::new(kind, "why"))
    }

    #[test]
    fn a_tag_goes_stale_by_default_only_where_the_registry_is_away_or_asks_for_less() {
        let limited = ErrorKind::RateLimited { retry_after: None };
        let away = [ErrorKind::Unreachable, ErrorKind::UnknownName, ErrorKind::Timeout, ErrorKind::Truncated];
        for kind in away.into_iter().chain([limited]) {
            assert!(failed(kind.clone()).opens_tags(StaleTags::Unreachable), "{kind:?}");
            assert!(!failed(kind).opens_tags(StaleTags::Never));
        }
        for kind in [ErrorKind::Status(503), ErrorKind::Tls, ErrorKind::Page] {
            assert!(!failed(kind.clone()).opens_tags(StaleTags::Unreachable), "{kind:?}");
            assert!(failed(kind).opens_tags(StaleTags::Errors));
        }
    }

    #[test]
    fn a_registry_is_let_alone_as_long_as_it_asked_for_or_while_asking_costs_it_or_us_something() {
        let (watch, base): (_, Url) = (Watch::default(), "https://registry.lab/".parse().unwrap());
        let at = |seconds| Moment::ZERO + Duration::from_secs(seconds);
        watch.note(&base, &failed(ErrorKind::Unreachable), at(0));
        assert_eq!(watch.trouble_with(&base, at(0)), None);
        let limited =
            |seconds: Option<u64>| failed(ErrorKind::RateLimited { retry_after: seconds.map(Duration::from_secs) });
        let cases = [
            (limited(Some(3600)), 60),
            (limited(Some(3)), 3),
            (limited(None), 10),
            (failed(ErrorKind::Timeout), 10),
            (failed(ErrorKind::Status(503)), 2),
        ];
        for (began, (trouble, lasts)) in (1..).map(|n| n * 1000).zip(cases) {
            watch.note(&base, &trouble, at(began));
            assert_eq!(watch.trouble_with(&base, at(began + lasts - 1)), Some(trouble.clone()));
            assert_eq!(watch.trouble_with(&base, at(began + lasts)), None, "{trouble:?}");
        }
    }
}
