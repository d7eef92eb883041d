//! Every constant of the swarm in one place, each with its reason. Measurements, and trials that were not taken, are in `docs/notes`.

use std::time::Duration;

/// The constants of picker and lead. The defaults suit data centres from 100 Mbit/s to 10 Gbit/s.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Requests that a node has open at one holder, at most, for all its blobs, not counting urgent ones: enough to cover a round trip and the
    /// holder's four upload slots. Twice as many for a blob that has none open there; with many neighbours fewer for each blob, since its
    /// requests are spread. A higher limit queues requests at the first holder of a piece although others have it by then (`docs/notes/many-blobs.md`).
    pub per_holder: u32,
    /// How long a picker waits for room at holders whose limit other blobs have used up.
    pub room_pause: Duration,
    /// Requests open at all holders together. Each node's requests stand in the others' queues: with more of them a new piece spreads more
    /// slowly, with fewer links are idle (`docs/notes/neighbours-and-requests.md`).
    pub in_all: u32,
    /// The same in a swarm too large for a full mesh. What a node asks for waits on its own cable where the others could give more than that takes, and what a
    /// reader needs next waits behind it: with twelve open, a twelfth longer (`docs/notes/readers-window.md`).
    pub in_all_large: u32,
    /// Bytes in flight from all holders together (they take memory of the node), as far as [`Tuning::at_least`] allows.
    pub bytes_in_flight: u64,
    /// Bytes in flight while it is known which pieces will be needed: what a fast link carries in a long round trip.
    pub foreseen_in_flight: u64,
    /// The limit of open requests is never below this number, however large pieces are.
    pub at_least: u32,
    /// Asks open at the lead, in a small swarm. With eight neighbours half as many, and a third in a swarm too large for a full mesh.
    pub asks: u32,
    /// In a swarm too large for a full mesh every other member, by chance, makes its first ask at some moment within this time, and the
    /// others at once. Spreads the first asks: ten thousand in one second would flood the lead, which never answers most of them. With 18
    /// members, half of them keep the lead busy (`docs/notes/first-asks.md`).
    pub ask_late: Duration,
    /// Weight of the newest sample in a holder's average rate.
    pub rate_weight: f64,
    /// Samples before a holder's rate counts.
    pub rate_samples: u32,
    /// A holder slower than this part of the median only receives: a holder with many neighbours is slow because of them, and is better
    /// left alone (`docs/notes/choosing-holders.md`).
    pub slow_below: f64,
    /// At most one holder in `slow_most` only receives: where all are about as fast, some seem slow for a while by chance, and a node
    /// that leaves half of its holders alone becomes the straggler itself.
    pub slow_most: usize,
    /// How long a holder that was found slow is left alone before it is tried again.
    pub slow_for: Duration,
    /// A request without progress for this many times its expected time is made to another holder.
    pub overdue_factor: u32,
    /// A holder that was slow before is given at most this many times what the other holders take: a holder that answers late, or byte
    /// by byte, does not decide how long it is waited for. More than [`Tuning::overdue_factor`], since an honest holder may be eight times
    /// slower, and a request repeated elsewhere costs a second copy. A holder that failed since it last answered in time is given only the latter.
    pub overdue_factor_of_others: u32,
    /// No request is overdue before this time.
    pub overdue_floor: Duration,
    /// An overdue request that does not move for this much longer is withdrawn.
    pub abandon: Duration,
    /// The time that a piece is expected to take while nobody's rate is known.
    pub first_guess: Duration,
    /// The last `endgame` pieces may be requested twice.
    pub endgame: u32,
    /// How long a peer that refused or failed is left alone, doubling up to [`Tuning::retry_most`].
    pub retry_least: Duration,
    /// Longest pause after failures.
    pub retry_most: Duration,
    /// A peer that failed this many times in a row is asked for one piece at a time until it answers, and others may be asked for the same
    /// piece meanwhile.
    pub failures_of_a_bad_one: u32,
    /// A peer may take back this many requested pieces in a row; each further one is a failure.
    pub may_take_back: u32,
    /// How long each next node in a group waits for the designated fetcher of a piece from another rack, in usual piece times, when
    /// it is busy. Shorter turns cost copies, longer ones time (`docs/notes/locality.md`).
    pub fetcher_factor: u32,
    /// How long each next node waits for the designated fetcher of a piece from another zone or region, in usual piece times: all members
    /// learn of it later.
    pub fetcher_factor_beyond: u32,
    /// A turn is never shorter than this many times what a piece from another rack or zone takes now: where the link between racks is
    /// full, others' fetches stand in its queue (`docs/notes/locality.md`).
    pub fetcher_patience: u32,
    /// A turn is never shorter than this, either.
    pub fetcher_floor: Duration,
    /// If several start the same, a request is not overdue sooner than this: a whole start takes about a second
    /// (`docs/notes/starters.md`).
    pub parts_floor: Duration,
    /// Bytes per second that are then expected of a peer while nobody's rate is known.
    pub parts_rate: f64,
    /// How long a reader then waits, at least, for a piece that goes to others first, before the lead is asked for it by name.
    pub parts_patience: Duration,
    /// How long it then takes, besides the piece's own time, until others know that a member has a piece.
    pub parts_turn: Duration,
    /// A member that wants parts and has received nothing for this time is sent copies of pieces that others hold and pass on. Before that, the
    /// others give them, and the member asks by name for pieces that can't wait.
    pub parts_starved: Duration,
    /// How long after this node met a neighbour, or last heard that it holds more, the neighbour counts as one that starts the same program.
    pub starters_for: Duration,
    /// How long after a reader last began to wait for a piece the pieces that others come to hold are fetched, too.
    pub hints_for: Duration,
    /// A neighbour may hold this many more pieces for which no reader here waited than pieces for which one did, before the pieces that it
    /// comes to hold no longer count as hints.
    pub hints_free: usize,
    /// The number of wrong pieces from the lead itself after which it is no longer asked.
    pub lead_strikes: u32,
    /// A reader in order is behind when more than this many bytes were received that lie behind a piece which it lacks.
    pub reader_lag: u64,
    /// A reader in order is behind when more than one part in this of the blob was received behind a piece that it lacks, if that is more than
    /// `reader_lag`.
    pub reader_lag_part: u32,
    /// How many of the very next pieces of a reader that is behind are requested first and in order: the piece that it waits for is seldom the
    /// rarest, and would come late among more pieces (`docs/notes/readers-window.md`).
    pub reader_near: u32,
    /// A near piece that was asked of a holder which has never answered yet is asked of another, too, when its answer has not begun after this many
    /// times what the holder's queue would take elsewhere.
    pub reader_hurry: u32,
    /// A near piece is asked of another holder for that reason after this at the soonest.
    pub reader_hurry_floor: Duration,
    /// From how many of its next pieces the rarest is requested for a reader that is behind. With fewer, holders often have none of them;
    /// with more, the first of them comes later (`docs/notes/readers-window.md`).
    pub reader_window: u32,
    /// The same in a swarm too large for a full mesh.
    pub reader_window_large: u32,
    /// If the lead sends a node less than this part of what the node receives, the node asks it whether readers are behind or not: the lead's
    /// pieces from far ahead are few then, and others need them.
    pub reader_lead_share: f32,
    /// Neighbours of a member where all are in one rack; a swarm of at most `neighbours + 1` members is a full mesh. With fewer neighbours the holders of a piece are
    /// found less often, with more too many members request each new piece from its few holders (`docs/notes/neighbours-and-requests.md`).
    pub neighbours: u32,
    /// A member with fewer neighbours is in a small swarm, and tells the lead soon what it holds.
    pub neighbours_few: u32,
    /// Neighbours of a member within its rack in a swarm of several racks: with fewer of them more members fetch each piece from other racks,
    /// since they do not know of each other (`docs/notes/locality.md`).
    pub neighbours_inside: u32,
    /// Neighbours of a member outside its rack in such a swarm: with fewer of them pieces come later, with more they come in several copies.
    pub neighbours_outside: u32,
    /// One member in `one_in_beyond` of a rack has one of these neighbours outside its zone: every such link brings copies into the zone.
    pub one_in_beyond: u32,
    /// How long a lead that takes over listens to what members hold before it asks the origin.
    pub settle: Duration,
    /// A piece is sent by the lead again only after this many usual delivery times, so that peers can spread it.
    pub copy_factor: u32,
    /// A piece is sent by the lead again after this at the soonest.
    pub copy_floor: Duration,
    /// The pause between two copies is this many times longer while the lead itself still waits for pieces of the origin.
    pub copy_factor_while_reading: u32,
    /// While the lead sends less than this part of all that members receive, members feed each other, and its copies matter little.
    pub copy_share: f32,
    /// The pause between two copies is then this many times longer.
    pub copy_factor_when_minor: u32,
    /// A member that takes this many times the usual time to confirm what the lead sent is slow: for [`Tuning::slow_for`] the lead sends
    /// pieces that nobody has to others, since their receiver has to pass them on.
    pub slow_delivery: u32,
    /// A piece that the lead sent counts as lost when its receiver did not confirm it within this many usual delivery times.
    pub delivery_factor: u32,
    /// A piece that the lead sent counts as lost after this at the soonest: a member that is slow, or told to be brief, confirms late.
    pub delivery_floor: Duration,
    /// A member that holds alone what the lead gave it, and passed on nothing of all that it was given for this many times what the
    /// first copy usually takes, keeps it to itself: others are given it, and the member gets little that nobody has.
    pub keeping_factor: u32,
    /// A member is taken to keep pieces to itself after this at the soonest; in a swarm of many members, which tell the lead late, four times as long.
    pub keeping_floor: Duration,
    /// A member that never told of any of this many pieces that the lead sent it, however lately, waits behind others for pieces that it names (`docs/notes/liars.md`).
    pub untold: u32,
    /// The same of a member that told of pieces before, and of pieces sent long ago: a slow one may be late with as many as it asks for at a time.
    pub untold_of_one_that_told: u32,
    /// A member may name this many pieces that others have, and one more for each that it passed on; then it waits behind others for pieces that it names, while
    /// there are some that the lead never sent (`docs/notes/liars.md`).
    pub copies_named: u32,
    /// How long a lead that lacks pieces waits for the members that hold them while nothing comes, before it reads the origin.
    pub holders_patience: Duration,
    /// How long a node gathers news of its pieces before it tells its neighbours, times their number: see [`Tuning::tell_pause`].
    pub tell_each: Duration,
    /// A node with few neighbours gathers news for twice as long, but no longer than this.
    pub tell_few: Duration,
    /// In a large swarm, of at least [`Tuning::few_members`] in one rack, a piece is common when this many of a node's neighbours hold it
    /// (`docs/notes/news-pauses.md`).
    pub common_holders: u16,
    /// The same in a smaller swarm, in any number of racks.
    pub common_holders_in_small: u16,
    /// News of common pieces waits for this many pauses.
    pub common_pauses: u32,
    /// How often a node tells the lead of its pieces in a small swarm.
    pub tell_lead_soon: Duration,
    /// How often a node tells the lead of its pieces in a large swarm. At ten thousand nodes the lead hears ten thousand messages a second.
    pub tell_lead_late: Duration,
    /// How long the lead of a large swarm gathers the changes of a member's neighbours before it tells them, times the number of members: see
    /// [`Tuning::tell_links_pause`].
    pub tell_links_each: Duration,
    /// The longest time for which the lead gathers the changes of a member's neighbours.
    pub tell_links_most: Duration,
    /// In a swarm of fewer members the lead tells all of them the hashes of the pieces; in a larger one members ask each other: ten thousand
    /// lists of a thousand hashes are a third of a copy of a blob in pieces of 1 MiB (`docs/notes/hashes-between-members.md`).
    pub few_members: u32,
    /// The pause between two messages with hashes from the lead of a small swarm.
    pub tell_hashes: Duration,
    /// How many members of a large swarm, of those that arrive within [`Tuning::list_pause`], are given the list of hashes on arrival; in a swarm
    /// that is just large enough it is [`Tuning::few_members`]. The others ask their neighbours. The list of a thousand hashes is 32 KiB,
    /// which the lead sends before anything else.
    pub lists: u32,
    /// See [`Tuning::lists`].
    pub list_pause: Duration,
    /// How long an answer to a question for hashes may take before another agent is asked.
    pub hash_patience: Duration,
    /// How long the lead may take to answer a question for hashes: it is asked when nobody else can answer, perhaps by all members.
    pub hash_patience_with_lead: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            per_holder: 4,
            room_pause: Duration::from_millis(50),
            in_all: 12,
            in_all_large: 11,
            bytes_in_flight: 32 << 20,
            foreseen_in_flight: 4 << 20,
            at_least: 4,
            asks: 4,
            ask_late: Duration::from_secs(4),
            rate_weight: 0.25,
            rate_samples: 3,
            slow_below: 0.5,
            slow_most: 4,
            slow_for: Duration::from_secs(10),
            overdue_factor: 3,
            overdue_factor_of_others: 12,
            overdue_floor: Duration::from_millis(500),
            abandon: Duration::from_secs(5),
            first_guess: Duration::from_secs(1),
            endgame: 8,
            retry_least: Duration::from_millis(100),
            retry_most: Duration::from_secs(5),
            failures_of_a_bad_one: 2,
            may_take_back: 3,
            fetcher_factor: 4,
            fetcher_factor_beyond: 8,
            fetcher_patience: 4,
            fetcher_floor: Duration::from_millis(150),
            parts_floor: Duration::from_millis(150),
            parts_rate: 6.25e6,
            parts_patience: Duration::from_millis(150),
            parts_turn: Duration::from_millis(8),
            parts_starved: Duration::from_secs(1),
            starters_for: Duration::from_secs(5),
            hints_for: Duration::from_secs(1),
            hints_free: 16,
            lead_strikes: 3,
            reader_lag: 10 << 20,
            reader_lag_part: 48,
            reader_near: 8,
            reader_hurry: 2,
            reader_hurry_floor: Duration::from_millis(200),
            reader_window: 32,
            reader_window_large: 36,
            reader_lead_share: 1.0 / 40.0,
            neighbours: 14,
            neighbours_few: 10,
            neighbours_inside: 11,
            neighbours_outside: 5,
            one_in_beyond: 4,
            settle: Duration::from_millis(300),
            copy_factor: 4,
            copy_floor: Duration::from_millis(200),
            copy_factor_while_reading: 4,
            copy_share: 1.0 / 16.0,
            copy_factor_when_minor: 64,
            slow_delivery: 3,
            delivery_factor: 8,
            delivery_floor: Duration::from_secs(3),
            keeping_factor: 4,
            keeping_floor: Duration::from_secs(1),
            untold: 2,
            untold_of_one_that_told: 12,
            copies_named: 4,
            holders_patience: Duration::from_secs(2),
            tell_each: Duration::from_micros(2500),
            tell_few: Duration::from_millis(40),
            common_holders: 3,
            common_holders_in_small: 1,
            common_pauses: 2,
            tell_lead_soon: Duration::from_millis(10),
            tell_lead_late: Duration::from_secs(1),
            tell_links_each: Duration::from_micros(20),
            tell_links_most: Duration::from_millis(250),
            few_members: 64,
            lists: 16,
            list_pause: Duration::from_millis(1250),
            tell_hashes: Duration::from_millis(20),
            hash_patience: Duration::from_millis(250),
            hash_patience_with_lead: Duration::from_secs(2),
        }
    }
}

impl Tuning {
    /// How long a node with `neighbours` neighbours gathers news of its pieces before it tells them. The first news after a pause is told
    /// at once.
    ///
    /// Each piece is news to every neighbour that lacks it, so that there are far more messages about pieces than pieces. With this pause a node
    /// sends at most 400 of them a second, and 200 if its neighbours are few. A longer pause costs time at the start, when a new piece
    /// is not requested because nobody knows of it; a shorter one costs CPU (`docs/notes/news-pauses.md`).
    pub fn tell_pause(&self, neighbours: usize) -> Duration {
        let pause = self.tell_each.saturating_mul(u32::try_from(neighbours).unwrap_or(u32::MAX));
        pause.max(self.tell_few.min(pause.saturating_mul(2)))
    }

    /// How long a node with `neighbours` neighbours gathers news of common pieces only.
    pub fn tell_common_pause(&self, neighbours: usize) -> Duration {
        self.tell_pause(neighbours).saturating_mul(self.common_pauses)
    }

    /// Neighbours of a member of a swarm of several racks, or of one.
    pub(crate) const fn neighbours_with(&self, several_racks: bool) -> usize {
        if several_racks {
            (self.neighbours_inside + self.neighbours_outside) as usize
        } else {
            self.neighbours as usize
        }
    }

    /// True if a node with `neighbours` neighbours is taken to be in a swarm too large for a full mesh: it has all that a member is to have.
    pub const fn is_large(&self, neighbours: usize) -> bool {
        neighbours >= self.neighbours as usize
    }

    /// How long a node with `neighbours` neighbours gathers news of its pieces before it tells the lead.
    ///
    /// The lead chooses by this news which pieces to send. In a small swarm that decides the time, and the lead is told at once. In a large swarm
    /// members feed each other and the lead only counts holders; the news of thousands would take all of its time.
    pub const fn tell_lead_pause(&self, neighbours: usize) -> Duration {
        if neighbours < self.neighbours_few as usize { self.tell_lead_soon } else { self.tell_lead_late }
    }

    /// How long the lead of `members` members gathers the changes of a member's neighbours before it tells that member: it tells no more
    /// than 50,000 members in a second.
    ///
    /// Ten thousand members that arrive within a second are half a million links made and undone: one message each would flood the lead.
    /// But a member that learns late of a lost neighbour keeps sending it news (which lengthens its pause) and requests (which it must
    /// repeat elsewhere), so the pause is short (`docs/notes/link-notices.md`).
    pub fn tell_links_pause(&self, members: usize) -> Duration {
        if members < self.few_members as usize {
            return Duration::ZERO;
        }
        let pause = self.tell_links_each.saturating_mul(u32::try_from(members).unwrap_or(u32::MAX));
        pause.min(self.tell_links_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_waits_longer_for_each_neighbour_and_twice_as_long_where_they_are_few() {
        let pauses =
            [0, 1, 2, 8, 12, 16, 20, 40].map(|neighbours| Tuning::default().tell_pause(neighbours).as_millis());
        assert_eq!(pauses, [0, 5, 10, 40, 40, 40, 50, 100]);
    }

    #[test]
    fn the_lead_is_told_seldom_where_a_member_has_as_many_neighbours_as_in_a_large_swarm() {
        let tuning = Tuning::default();
        let least = tuning.neighbours_few as usize;
        assert_eq!(tuning.tell_lead_pause(0), tuning.tell_lead_pause(least - 1));
        assert_eq!(tuning.tell_lead_pause(least), tuning.tell_lead_pause(16));
        assert!(tuning.tell_lead_pause(least) > tuning.tell_lead_pause(least - 1));
    }

    #[test]
    fn few_members_are_told_of_neighbours_at_once_and_of_many_so_many_a_second() {
        let tuning = Tuning::default();
        let few = tuning.few_members as usize;
        assert!(tuning.tell_links_pause(few - 1).is_zero() && !tuning.tell_links_pause(few).is_zero());
        for members in [few, 1000, 10_000] {
            let a_second = members as f64 / tuning.tell_links_pause(members).as_secs_f64();
            assert!((40_000.0..=50_001.0).contains(&a_second), "{members} members: {a_second}");
        }
        assert_eq!(tuning.tell_links_pause(usize::MAX), tuning.tell_links_most, "nobody waits for ever");
    }
}
