//! The failure of an origin or a registry, in the form in which agents send it to each other. The receiver judges it like the agent that met it: every
//! kind of failure is sent.

use std::time::Duration;

use darter_origin::{ErrorKind, OriginFailure};
use darter_wire::{Failure, FailureKind};

/// The message for a failure. If the origin asked for a pause, `challenge` contains its seconds.
pub fn told(failure: &OriginFailure) -> Failure {
    let kind = match &failure.kind {
        ErrorKind::NotFound => FailureKind::NotFound,
        ErrorKind::Unauthorized { .. } => FailureKind::Unauthorized,
        ErrorKind::Forbidden => FailureKind::Forbidden,
        ErrorKind::RateLimited { .. } => FailureKind::RateLimited,
        // The status is a separate field.
        ErrorKind::Unreachable | ErrorKind::Status(_) => FailureKind::Unreachable,
        ErrorKind::Timeout => FailureKind::Timeout,
        ErrorKind::Tls => FailureKind::Tls,
        ErrorKind::Changed => FailureKind::Changed,
        ErrorKind::Contradicted => FailureKind::Contradicted,
        ErrorKind::Truncated => FailureKind::Truncated,
        ErrorKind::RangeNotSatisfiable => FailureKind::RangeNotSatisfiable,
        ErrorKind::Protocol => FailureKind::Protocol,
        ErrorKind::Io => FailureKind::File,
        ErrorKind::OutOfReach => FailureKind::OutOfReach,
        ErrorKind::Encoded => FailureKind::Encoded,
        ErrorKind::UnknownName => FailureKind::UnknownName,
        ErrorKind::Proxy => FailureKind::Proxy,
        ErrorKind::Page => FailureKind::Page,
        ErrorKind::Unmountable => FailureKind::Unmountable,
    };
    let challenge = match &failure.kind {
        ErrorKind::Unauthorized { challenge } => Some(challenge.join("\n")),
        _ => failure.blame().retry.after().map(|wait| wait.as_secs().to_string()),
    };
    Failure { kind, status: failure.status, text: failure.text.clone(), challenge }
}

/// The failure in another agent's message. A failure of that agent itself (such as a full disk) says nothing about the origin: `None`.
pub fn heard(failure: Failure) -> Option<OriginFailure> {
    let Failure { kind, status, text, challenge } = failure;
    let is_challenge = kind == FailureKind::Unauthorized;
    let wait = challenge.as_ref().filter(|_| !is_challenge).and_then(|wait| wait.parse().ok());
    let retry_after = wait.map(Duration::from_secs);
    let kind = match kind {
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::Unauthorized => {
            ErrorKind::Unauthorized { challenge: challenge.unwrap_or_default().lines().map(str::to_owned).collect() }
        }
        FailureKind::Forbidden => ErrorKind::Forbidden,
        FailureKind::RateLimited => ErrorKind::RateLimited { retry_after },
        FailureKind::Unreachable => status.map_or(ErrorKind::Unreachable, ErrorKind::Status),
        FailureKind::Timeout => ErrorKind::Timeout,
        FailureKind::Tls => ErrorKind::Tls,
        FailureKind::Changed => ErrorKind::Changed,
        FailureKind::Contradicted => ErrorKind::Contradicted,
        FailureKind::Truncated => ErrorKind::Truncated,
        FailureKind::RangeNotSatisfiable => ErrorKind::RangeNotSatisfiable,
        FailureKind::Protocol => ErrorKind::Protocol,
        FailureKind::File => ErrorKind::Io,
        FailureKind::OutOfReach => ErrorKind::OutOfReach,
        FailureKind::Encoded => ErrorKind::Encoded,
        FailureKind::UnknownName => ErrorKind::UnknownName,
        FailureKind::Proxy => ErrorKind::Proxy,
        FailureKind::Page => ErrorKind::Page,
        FailureKind::Unmountable => ErrorKind::Unmountable,
        FailureKind::NoSpace | FailureKind::Other => return None,
    };
    Some(OriginFailure { kind, status, text, retry_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One failure of each kind. The compiler reports a kind that is missing here.
    fn each_kind() -> Vec<OriginFailure> {
        use ErrorKind::*;
        let wait = Some(Duration::from_secs(17));
        let mut kinds = vec![
            NotFound,
            Unauthorized { challenge: vec!["Basic realm=\"x\"".into(), "Bearer realm=\"y\"".into()] },
            Forbidden,
            RateLimited { retry_after: wait },
            Unreachable,
            Timeout,
            Tls,
            Changed,
            Contradicted,
            Truncated,
            RangeNotSatisfiable,
            Status(503),
            Protocol,
            Io,
            OutOfReach,
            Encoded,
            UnknownName,
            Proxy,
            Page,
            Unmountable,
        ];
        for kind in &kinds {
            match kind {
                NotFound | Unauthorized { .. } | Forbidden | RateLimited { .. } | Unreachable | Timeout | Tls => {}
                Changed | Contradicted | Truncated | RangeNotSatisfiable | Status(_) | Protocol | Io => {}
                OutOfReach | Encoded | UnknownName | Proxy | Page | Unmountable => {}
            }
        }
        kinds.extend([RateLimited { retry_after: None }, Status(451), Status(501)]);
        let mut failures: Vec<_> = kinds.into_iter().map(|kind| OriginFailure::new(kind, "why")).collect();
        failures.push(OriginFailure { retry_after: wait, ..OriginFailure::new(Status(503), "why") });
        failures.push(OriginFailure { retry_after: wait, ..OriginFailure::new(Unreachable, "why") });
        failures
    }

    #[test]
    fn what_is_heard_is_what_was_told_whatever_its_kind() {
        for failure in each_kind() {
            assert_eq!(heard(told(&failure)), Some(failure));
        }
    }

    /// An agent of an older release judges it as before there were more kinds.
    #[test]
    fn an_older_agent_hears_that_the_origin_could_not_be_read() {
        for failure in each_kind() {
            let told = told(&failure);
            let plain = heard(Failure { kind: told.kind.plain(), ..told }).unwrap();
            match failure.kind {
                ErrorKind::Io => assert_eq!(plain.kind, ErrorKind::NotFound),
                ErrorKind::RangeNotSatisfiable => assert_eq!(plain.kind, ErrorKind::Status(416)),
                kind if plain.kind == kind => {}
                kind => assert_eq!(plain.kind, ErrorKind::Unreachable, "{kind:?}"),
            }
        }
    }

    #[test]
    fn what_an_agent_could_not_do_itself_is_no_word_of_the_origin() {
        for kind in [FailureKind::NoSpace, FailureKind::Other] {
            assert_eq!(heard(Failure { kind, status: None, text: "why".into(), challenge: None }), None);
        }
    }
}
