//! What an origin or a registry said no with, as agents tell each other of it. Whoever is told judges it as the one that was told no.

use std::time::Duration;

use darter_origin::{ErrorKind, OriginFailure};
use darter_wire::{Failure, FailureKind};

/// As it travels. Where the origin asked to wait, `challenge` says for how many seconds.
pub fn told(failure: &OriginFailure) -> Failure {
    let kind = match &failure.kind {
        ErrorKind::NotFound | ErrorKind::Io => FailureKind::NotFound,
        ErrorKind::Unauthorized { .. } => FailureKind::Unauthorized,
        ErrorKind::Forbidden => FailureKind::Forbidden,
        ErrorKind::RateLimited { .. } => FailureKind::RateLimited,
        ErrorKind::Changed => FailureKind::Changed,
        _ => FailureKind::Unreachable,
    };
    let challenge = match &failure.kind {
        ErrorKind::Unauthorized { challenge } => Some(challenge.join("\n")),
        _ => failure.blame().retry.after().map(|wait| wait.as_secs().to_string()),
    };
    Failure { kind, status: failure.status, text: failure.text.clone(), challenge }
}

/// As another agent told it. A failure of that agent's own (no room, say) is no word of the origin: `None`.
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
        FailureKind::Changed => ErrorKind::Changed,
        FailureKind::Unreachable => status.map_or(ErrorKind::Unreachable, ErrorKind::Status),
        FailureKind::NoSpace | FailureKind::Other => return None,
    };
    Some(OriginFailure { kind, status, text, retry_after })
}
