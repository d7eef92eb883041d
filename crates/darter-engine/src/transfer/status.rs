//! What a transfer reports when asked: its progress, a line for `darter status`, and the explanation for `darter explain`.

use darter_api as api;
use darter_core::{Moment, PieceIndex, PieceSet, Source};
use darter_origin::Pause;

use super::dissolve::origin_of;
use super::{Lead, Transfer};

/// How many parts the map in [`Transfer::progress`] has.
const MAP_PARTS: u32 = 64;

/// The pause of a source's origin, as reported to programs.
pub fn waiting_for(source: &Source, pause: Pause) -> api::Waiting {
    let retry_in_seconds = pause.left.as_secs_f64().ceil() as u64;
    api::Waiting { origin: origin_of(source), reason: pause.reason, retry_in_seconds }
}

impl Transfer {
    /// The progress.
    pub fn progress(&self) -> api::Progress {
        let now = self.context.now();
        let held = self.stored.held();
        let held_bytes = self.stored.held_bytes();
        let (length, pieces) = (self.stored.length(), self.pieces());
        let mut state = self.state();
        api::Progress {
            blob: self.blob,
            name: state.journal.name().to_owned(),
            length,
            piece_length: self.piece_length.bytes(),
            pieces,
            held: held.len(),
            held_bytes,
            map: map_of(&held, self.pieces_so_far(), MAP_PARTS),
            rate: state.flows.rate(now),
            complete: state.is_complete(),
            elapsed: state.journal.elapsed(now),
            traffic: state.journal.traffic(),
            waiting: self.context.pauses.of(&self.source).map(|pause| waiting_for(&self.source, pause)),
        }
    }

    /// The traffic of this blob before a program's request at `asked`: none, if the transfer began for that program.
    pub fn traffic_before(&self, asked: Moment) -> api::Traffic {
        let state = self.state();
        if state.journal.began_by(asked) { state.journal.traffic() } else { api::Traffic::default() }
    }

    /// One line for `status`.
    pub fn status(&self) -> api::SwarmStatus {
        let progress = self.progress();
        let now = self.context.now();
        let mut state = self.state();
        let sent_rate = state.flows.sent_rate(now);
        api::SwarmStatus {
            blob: self.blob,
            leads: state.lead() == Lead::Me,
            origin_connections: u32::try_from(state.session.origin_readers()).unwrap_or(u32::MAX),
            members: state.members(),
            progress,
            sent_rate,
        }
    }

    /// The journal's account.
    pub fn explain(&self) -> api::Explanation {
        let manifest = self.stored.manifest();
        let now = self.context.now();
        let state = self.state();
        let mut explanation = state.journal.explain(self.blob, &manifest);
        explanation.waiting = self.waiting(&state, now);
        explanation
    }
}

/// The share held of each of up to `most` equal parts, as digits from 0 (none) to 8 (all).
pub(super) fn map_of(held: &PieceSet, pieces: u32, most: u32) -> String {
    let parts = pieces.min(most);
    (0..parts)
        .map(|part| {
            let of = |part: u32| (u64::from(part) * u64::from(pieces) / u64::from(parts)) as u32;
            let (from, to) = (of(part), of(part + 1));
            let have = (from..to).filter(|&piece| held.contains(PieceIndex(piece))).count();
            let eighths = have * 8 / (to - from) as usize;
            // A part with any piece is visible, however little of it is there.
            let digit = if have > 0 { eighths.max(1) } else { 0 };
            char::from(b'0' + digit as u8)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_shows_shares() {
        assert_eq!(map_of(&PieceSet::full(3), 4, 64), "8880");
        let map = map_of(&PieceSet::full(64), 128, 64);
        assert_eq!(map, format!("{}{}", "8".repeat(32), "0".repeat(32)));
        assert_eq!(map_of(&[PieceIndex(0)].into_iter().collect(), 6400, 64).chars().next(), Some('1'));
        assert_eq!(map_of(&PieceSet::new(), 0, 64), "");
    }
}
