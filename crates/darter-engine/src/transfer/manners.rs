//! Remembers from earlier blobs which origins refuse several connections, and which are no faster with several. So further connections to a
//! registry are not tried again for each layer of an image.
//!
//! Bounded, and forgotten after a while: origins are repaired, and links change. Decided without I/O; time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use darter_core::Moment;
use darter_origin::{ErrorKind, OriginError};
use parking_lot::Mutex;

/// How long an origin that refused several connections is read by one, unless it asks for a longer time itself.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// How long no further connections are tried after they were no faster.
const NO_GAIN_FOR: Duration = Duration::from_secs(60);

const MAX_ORIGINS: usize = 1024;

/// How long a further connection may send nothing.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(2);

/// True if the origin wants fewer requests, or none for a while.
pub(super) fn limits(error: &OriginError) -> bool {
    let is_busy = matches!(error.kind(), ErrorKind::RateLimited { .. } | ErrorKind::Status(503));
    is_busy || error.retry_after().is_some()
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Manners(Mutex<HashMap<String, OriginManners>>);

#[derive(Clone, Copy, Debug, Default)]
struct OriginManners {
    /// Until when it is read by one connection for each blob.
    alone_until: Moment,
    /// Until when no further connections are tried for other blobs.
    known_until: Moment,
}

impl OriginManners {
    fn ends(self) -> Moment {
        self.alone_until.max(self.known_until)
    }
}

impl Manners {
    /// An origin does not want several connections; `asked` is the pause that it asked for.
    pub(crate) fn refused(&self, origin: &str, asked: Option<Duration>, now: Moment) {
        let until = now + asked.unwrap_or_default().clamp(REFUSED_FOR, REFUSED_FOR * 24);
        self.change(origin, now, |known| known.alone_until = until);
    }

    /// Several connections to an origin were no faster than one.
    pub(crate) fn gained_nothing(&self, origin: &str, now: Moment) {
        self.change(origin, now, |known| known.known_until = now + NO_GAIN_FOR);
    }

    /// True if an origin is to be read by one connection for each blob.
    pub(crate) fn is_alone(&self, origin: &str, now: Moment) -> bool {
        self.0.lock().get(origin).is_some_and(|known| now < known.alone_until)
    }

    /// Until when it is known that several connections are no faster than one.
    pub(crate) fn known_until(&self, origin: &str, now: Moment) -> Option<Moment> {
        let known = self.0.lock().get(origin).copied()?;
        Some(known.known_until).filter(|until| now < *until)
    }

    fn change(&self, origin: &str, now: Moment, change: impl FnOnce(&mut OriginManners)) {
        let mut origins = self.0.lock();
        if origins.len() >= MAX_ORIGINS && !origins.contains_key(origin) {
            origins.retain(|_, known| now < known.ends());
            let first = origins.iter().min_by_key(|(_, known)| known.ends()).map(|(origin, _)| origin.clone());
            if let Some(first) = first.filter(|_| origins.len() >= MAX_ORIGINS) {
                origins.remove(&first);
            }
        }
        change(origins.entry(origin.to_owned()).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn what_an_origin_refused_for_one_blob_is_not_asked_for_another_until_it_may_have_changed() {
        let manners = Manners::default();
        manners.refused("registry", None, at(10));
        assert!(manners.is_alone("registry", at(11)) && !manners.is_alone("other", at(11)));
        assert!(!manners.is_alone("registry", at(611)));
        manners.refused("registry", Some(Duration::from_secs(3600)), at(700));
        assert!(manners.is_alone("registry", at(4000)), "it asked for an hour");
        manners.refused("registry", Some(Duration::MAX), at(5000));
        assert!(!manners.is_alone("registry", at(40_000)), "but not for ever");
    }

    #[test]
    fn what_brought_nothing_a_moment_ago_is_not_tried_for_the_next_blob() {
        let manners = Manners::default();
        manners.gained_nothing("registry", at(10));
        assert_eq!(manners.known_until("registry", at(12)), Some(at(70)));
        assert_eq!(manners.known_until("registry", at(70)), None);
        assert!(!manners.is_alone("registry", at(12)));
    }

    #[test]
    fn what_is_known_is_bounded_and_the_oldest_goes() {
        let manners = Manners::default();
        (0..3000).for_each(|origin| manners.gained_nothing(&origin.to_string(), at(10 + origin / 1000)));
        assert_eq!(manners.0.lock().len(), MAX_ORIGINS);
        assert!(manners.known_until("2999", at(13)).is_some());
    }
}
