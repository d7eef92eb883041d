//! Every constant of the swarm in one place, each with its reason. Measurements are in the project's design notes:
//! a lab of eight nodes in network namespaces, and the simulator.

use std::time::Duration;

/// The constants of picker and lead. The defaults suit data centres from 100 Mbit/s to 10 Gbit/s.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Requests open at one holder, at most, for all blobs of a node, urgent ones aside: enough to cover a round trip and its four upload
    /// slots. Twice as many where a blob has none open; with many neighbours fewer for each blob: they are spread. More would bind a node
    /// to who had a piece first, though others have it by the time its turn comes: of sixty-four blobs without such a limit up to sixty
    /// requests stood at one holder, and one node of eight was late.
    pub per_holder: u32,
    /// How long a picker waits for room at the holders when it shares them with other blobs.
    pub room_pause: Duration,
    /// Requests open in all. Each node's requests stand in the others' queues: more of them make the way of a new piece
    /// slower, fewer leave links idle. The curve is in `docs/simulation.md`.
    pub in_all: u32,
    /// Bytes in flight in all (memory of a node), as far as [`Tuning::at_least`] allows.
    pub bytes_in_flight: u64,
    /// Requests open in all, however large pieces are.
    pub at_least: u32,
    /// Asks open at the lead, in a small swarm.
    pub asks: u32,
    /// In a swarm too large for a full mesh every other member, by chance, makes its first ask at some moment within this time, and the
    /// others at once. All at once, in the second in which all join, would be more than the lead of ten thousand should hear, which
    /// never answers most of them; and of the smallest such swarm, eighteen members, half keep their lead as busy as all.
    pub ask_late: Duration,
    /// Weight of the newest sample in a holder's average rate.
    pub rate_weight: f64,
    /// Samples before a holder's rate is believed.
    pub rate_samples: u32,
    /// A holder slower than this part of the median only receives. With a quarter instead of a half p99 of 400 nodes is 1.22
    /// instead of 1.15: who has many neighbours is slow because of that, and is better left alone.
    pub slow_below: f64,
    /// At most one holder in so many only receives: where all are about as fast, some seem slow for a while by chance, and a node
    /// that leaves half of its holders alone becomes the straggler itself.
    pub slow_most: usize,
    /// For how long a holder found slow is left alone before it is tried again.
    pub slow_for: Duration,
    /// A request without progress for this many times its expected time is given to someone else.
    pub overdue_factor: u32,
    /// No request is overdue sooner than this.
    pub overdue_floor: Duration,
    /// An overdue request that does not move for this much longer is withdrawn.
    pub abandon: Duration,
    /// What a piece is expected to take while nobody's rate is known.
    pub first_guess: Duration,
    /// The last so many pieces may be asked for twice.
    pub endgame: u32,
    /// How long a peer that refused or failed is left alone, doubling up to [`Tuning::retry_most`].
    pub retry_least: Duration,
    /// Longest pause after failures.
    pub retry_most: Duration,
    /// How long each next node in a group waits for the designated fetcher of a piece from another rack, in usual piece times, when
    /// it is busy. Shorter turns cost copies, longer ones time; the curve is in `docs/simulation.md`.
    pub fetcher_factor: u32,
    /// The same for a piece from another zone or region, which takes longer to be heard of everywhere.
    pub fetcher_factor_beyond: u32,
    /// A turn is never shorter than this many times what a piece from afar takes now: where the link between racks is full, others'
    /// fetches stand in its queue. With two 1.12 to 1.14 copies cross the link of the lab's `two-racks`, with four 1.01.
    pub fetcher_patience: u32,
    /// The same, at least.
    pub fetcher_floor: Duration,
    /// Wrong pieces from the lead itself before it is no longer asked.
    pub lead_strikes: u32,
    /// A reader in order is behind when more bytes than this were received that lie behind a piece which it lacks.
    pub reader_lag: u64,
    /// The same as a part of the blob: one piece in so many. The larger of both holds.
    pub reader_lag_part: u32,
    /// Pieces before a reader that is behind among which the rarest comes first. With 16 holders have none of them too often, and the lag
    /// is larger; with 64 it is larger again, since the first of them comes the later. The curve is in `docs/simulation.md`.
    pub reader_window: u32,
    /// A lead that gives a node less than this part of what it gets is asked whether readers are behind or not: its pieces far ahead
    /// are few, and others need them.
    pub reader_lead_share: f32,
    /// Neighbours of a member; a swarm of one more, or fewer, is a full mesh. With fewer the holders of a piece are found less often, with
    /// more each new piece is asked of its few holders by too many. The curve is in `docs/simulation.md`.
    pub neighbours: u32,
    /// Members with fewer are given new ones.
    pub neighbours_least: u32,
    /// One neighbour in so many stands outside the rack.
    pub one_in_anywhere: u32,
    /// One member in so many of a rack has one of these outside the zone: every such link brings copies into the zone.
    pub one_in_beyond: u32,
    /// How long a lead that takes over listens to what members hold before it asks the origin.
    pub settle: Duration,
    /// A piece is sent by the lead again only after this many usual delivery times, so that peers can spread it.
    pub copy_factor: u32,
    /// The same, at least.
    pub copy_floor: Duration,
    /// The pause is so many times longer while the lead itself still waits for pieces of the origin.
    pub copy_factor_while_reading: u32,
    /// While the lead's part in all that members get is below this, members feed each other, and its copies matter little.
    pub copy_share: f32,
    /// The pause is so many times longer then.
    pub copy_factor_when_minor: u32,
    /// A member that takes this many times the usual time to confirm what the lead sent is slow: for [`Tuning::slow_for`] others are
    /// given what nobody has, for whoever receives it has to pass it on.
    pub slow_delivery: u32,
    /// A piece that the lead sent counts as lost when its receiver did not confirm it within so many usual delivery times.
    pub delivery_factor: u32,
    /// The same, at least: a member that is slow, or told to be brief, confirms late.
    pub delivery_floor: Duration,
    /// How long a node gathers news of its pieces before it tells its neighbours, for each of them: see [`Tuning::tell_pause`].
    pub tell_each: Duration,
    /// With few neighbours it gathers for twice as long, up to this.
    pub tell_few: Duration,
    /// How often a node tells the lead of its pieces in a small swarm.
    pub tell_lead_soon: Duration,
    /// The same in a large one. At ten thousand nodes the lead hears ten thousand messages a second.
    pub tell_lead_late: Duration,
    /// How long the lead of a large swarm gathers for a member what changed among its neighbours, for each member: see
    /// [`Tuning::tell_links_pause`].
    pub tell_links_each: Duration,
    /// The same, at most.
    pub tell_links_most: Duration,
    /// In a swarm of fewer members the lead tells all of them the hashes of the pieces; in a larger one members ask each other. Ten thousand
    /// times the list of a thousand hashes is a third of a copy of a blob in pieces of a mebibyte.
    pub few_members: u32,
    /// The pause between two tellings of hashes by the lead of few members.
    pub tell_hashes: Duration,
    /// Of the members of a large swarm that come within this time only the first [`Tuning::few_members`] are given the list of hashes as
    /// they come; the others ask their neighbours.
    pub list_pause: Duration,
    /// How long an answer to a question for hashes may take before another is asked.
    pub hash_patience: Duration,
    /// The same for an answer of the lead, which is asked when nobody else can tell, perhaps by everybody.
    pub hash_patience_with_lead: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            per_holder: 4,
            room_pause: Duration::from_millis(50),
            in_all: 12,
            bytes_in_flight: 32 << 20,
            at_least: 4,
            asks: 4,
            ask_late: Duration::from_secs(4),
            rate_weight: 0.25,
            rate_samples: 3,
            slow_below: 0.5,
            slow_most: 4,
            slow_for: Duration::from_secs(10),
            overdue_factor: 3,
            overdue_floor: Duration::from_millis(500),
            abandon: Duration::from_secs(5),
            first_guess: Duration::from_secs(1),
            endgame: 8,
            retry_least: Duration::from_millis(100),
            retry_most: Duration::from_secs(5),
            fetcher_factor: 4,
            fetcher_factor_beyond: 8,
            fetcher_patience: 4,
            fetcher_floor: Duration::from_millis(150),
            lead_strikes: 3,
            reader_lag: 10 << 20,
            reader_lag_part: 64,
            reader_window: 32,
            reader_lead_share: 1.0 / 40.0,
            neighbours: 16,
            neighbours_least: 10,
            one_in_anywhere: 3,
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
            tell_each: Duration::from_micros(2500),
            tell_few: Duration::from_millis(40),
            tell_lead_soon: Duration::from_millis(10),
            tell_lead_late: Duration::from_secs(1),
            tell_links_each: Duration::from_micros(20),
            tell_links_most: Duration::from_millis(250),
            few_members: 64,
            list_pause: Duration::from_secs(5),
            tell_hashes: Duration::from_millis(20),
            hash_patience: Duration::from_millis(250),
            hash_patience_with_lead: Duration::from_secs(2),
        }
    }
}

impl Tuning {
    /// How long a node with so many neighbours gathers news of its pieces before it tells them. The first news after a pause is told at
    /// once.
    ///
    /// Each piece is news to every neighbour that lacks it, so that messages about pieces are far more than pieces. This way a node
    /// sends no more than 400 of them a second, and 200 if its neighbours are few. Later costs time at the start, when a new piece lies
    /// idle where nobody knows of it: 1,000 nodes with sixteen neighbours lose 0.008 of p99 by 40 ms instead of 10, and as much again
    /// by 80. But messages cost CPU: eight nodes at 800 Mbit/s take 6 % less with 40 ms than with 20, and no less with 80.
    pub fn tell_pause(&self, neighbours: usize) -> Duration {
        let pause = self.tell_each.saturating_mul(u32::try_from(neighbours).unwrap_or(u32::MAX));
        pause.max(self.tell_few.min(pause.saturating_mul(2)))
    }

    /// How long a node with so many neighbours gathers news of its pieces before it tells the lead.
    ///
    /// The lead chooses by this news what to send, so in a small swarm, where that decides the time, it comes at once. A node
    /// with many neighbours is in a swarm in which members feed each other, and thousands telling at once would be all
    /// that the lead does: there it counts holders, for copies that are hardly ever sent, and for a successor of a dead holder.
    pub const fn tell_lead_pause(&self, neighbours: usize) -> Duration {
        if neighbours < self.neighbours_least as usize { self.tell_lead_soon } else { self.tell_lead_late }
    }

    /// How long the lead of so many members gathers news of one's neighbours before it tells it: so that it tells no more than 50,000
    /// members in a second.
    ///
    /// Ten thousand that come within a second are half a million links made and undone. Told one by one that is as many messages. But
    /// who hears late that a neighbour is none any more has one more to tell its news, tells it the later, and has asked it for pieces
    /// meanwhile, which it asks elsewhere again: with a whole second the p99 of 1,000 nodes rises from 1.08 to 1.15, with a tenth not
    /// at all, but two hundred that want 2 MB are then done after 180 ms instead of 110.
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
}
