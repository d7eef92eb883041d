//! How long a member has waited for bytes, and when it gives up the node that leads it.
//!
//! A lead that admits others, gives nothing, reads nothing and names nobody who gives would keep a blob that nobody else has from all of its
//! members: they follow it, and none of them reads the origin. So a member leaves its lead when nothing has come from any agent for longer than
//! an honest lead may need. A lead that waits for its origin on purpose says so, and is given that time: as much as the member itself would
//! wait for an origin, however often the lead says so.
//!
//! Non-goals: seeds, whose word counts and which are waited for until the blob counts as stalled; single requests ([`picker`](crate::picker)).

use std::time::Duration;

use darter_core::Moment;

/// How long a lead that is an ordinary node may give nothing of what it can give at once: it has read the pieces whose hashes it tells.
const MAX_MUTE: Duration = Duration::from_secs(8);

/// How long such a lead may give nothing otherwise: it may have to read the origin first, which may be slow to answer.
pub(crate) const MAX_MUTE_READER: Duration = Duration::from_secs(32);

/// Bytes of incomplete pieces count as a piece from this number on: a lead that gives a byte at a time gives nothing.
const MIN_MOVE: u64 = 4096;

/// The thing that a member waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// A piece that the lead can give at once: it has told the hash, or every hash is known and this would be the first piece.
    Given,
    /// A piece that may have to be read from the origin: how long that may take, if longer than [`MAX_MUTE_READER`].
    Read(Duration),
}

/// See the module's text.
#[derive(Debug)]
pub struct Vigil {
    /// When this member began to follow the lead.
    followed: Moment,
    /// When the lead first told hashes that were new.
    told: Option<Moment>,
    /// When bytes last came, from any agent.
    moved: Moment,
    /// Bytes of incomplete pieces that came since then, too few to count.
    crumbs: u64,
    /// Time since then that is not counted.
    excused: Duration,
    /// Time that was not counted while others led.
    excused_before: Duration,
}

impl Vigil {
    /// A vigil that begins now.
    pub const fn new(now: Moment) -> Self {
        Self {
            followed: now,
            told: None,
            moved: now,
            crumbs: 0,
            excused: Duration::ZERO,
            excused_before: Duration::ZERO,
        }
    }

    /// Another agent leads from now on.
    pub(crate) const fn follows(&mut self, now: Moment) {
        (self.followed, self.told) = (now, None);
        self.excused_before = self.excused_before.saturating_add(self.excused);
        self.excused = Duration::ZERO;
    }

    /// The lead told hashes that were new.
    pub(crate) fn told(&mut self, now: Moment) {
        self.told.get_or_insert(now);
    }

    /// True if the lead told hashes that were new.
    pub(crate) const fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// A piece came, or bytes from the origin.
    pub(crate) const fn moved(&mut self, now: Moment) {
        self.moved = now;
        self.crumbs = 0;
        (self.excused, self.excused_before) = (Duration::ZERO, Duration::ZERO);
    }

    /// `bytes` more of an incomplete piece came.
    pub(crate) const fn progressed(&mut self, bytes: u64, now: Moment) {
        self.crumbs = self.crumbs.saturating_add(bytes);
        if self.crumbs >= MIN_MOVE {
            self.moved(now);
        }
    }

    /// `time` of the time since bytes last came is not counted; all such time together is at most `most`.
    pub(crate) fn excuse(&mut self, time: Duration, most: Duration) {
        self.excused = self.excused.saturating_add(time).min(most.max(self.excused));
    }

    /// This agent did not run for `time` until now: no other could give it anything meanwhile.
    pub(crate) fn slept(&mut self, time: Duration, now: Moment) {
        self.followed = (self.followed + time).min(now);
        self.told = self.told.map(|told| (told + time).min(now));
        self.moved = (self.moved + time).min(now);
    }

    /// How much of the time since bytes last came is not counted.
    pub const fn excused(&self) -> Duration {
        self.excused
    }

    /// For how long nothing has come, without the time that is not counted.
    pub fn waited(&self, now: Moment) -> Duration {
        now.since(self.moved).saturating_sub(self.excused)
    }

    /// For how long nothing has come since the present lead, if any, began to lead.
    pub(crate) fn stood_still(&self, now: Moment) -> Duration {
        self.waited(now).min(now.since(self.followed))
    }

    /// For how long nothing has come, under all leads together.
    pub(crate) fn waited_in_all(&self, now: Moment) -> Duration {
        self.waited(now).saturating_sub(self.excused_before)
    }

    /// True if a lead has been followed for a while, and nothing came.
    pub(crate) fn is_in_vain(&self, now: Moment) -> bool {
        self.moved <= self.followed && now.since(self.followed) >= MAX_MUTE
    }

    /// When the member gives up its lead, unless bytes come before.
    pub(crate) fn gives_up_at(&self, awaited: Awaited) -> Moment {
        let (since, most) = match awaited {
            Awaited::Given => (self.told.unwrap_or_default(), MAX_MUTE),
            Awaited::Read(most) => (Moment::ZERO, most.max(MAX_MUTE_READER)),
        };
        self.moved.max(self.followed).max(since) + self.excused + most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + Duration::from_secs(seconds)
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_pause_on_purpose_is_no_stall_and_a_silent_origin_is() {
        let mut vigil = Vigil::new(at(0));
        assert_eq!(vigil.waited(at(20)).as_secs(), 20);
        vigil.excuse(Duration::from_secs(15), LONG);
        assert_eq!(vigil.waited(at(40)).as_secs(), 25);
        vigil.moved(at(41));
        assert_eq!(vigil.waited(at(51)).as_secs(), 10, "what came made up for all of it");
    }

    #[test]
    fn a_lead_that_gives_nothing_is_left_sooner_by_those_who_never_got_anything() {
        let mut vigil = Vigil::new(at(0));
        vigil.follows(at(5));
        assert_eq!(vigil.gives_up_at(Awaited::Given), at(13));
        assert_eq!(vigil.gives_up_at(Awaited::Read(Duration::from_secs(1))), at(37));
        assert_eq!(vigil.gives_up_at(Awaited::Read(Duration::from_secs(60))), at(65), "an origin may take that long");
        (1..30).for_each(|second| vigil.told(at(9 + second)));
        assert_eq!(vigil.gives_up_at(Awaited::Given), at(18), "from the first hash on, however many it tells");
        vigil.moved(at(20));
        assert_eq!(vigil.gives_up_at(Awaited::Read(Duration::ZERO)), at(52));
        vigil.follows(at(30));
        assert!(!vigil.is_told() && vigil.gives_up_at(Awaited::Given) == at(38));
        assert_eq!(vigil.gives_up_at(Awaited::Read(Duration::ZERO)), at(62), "the next one has its own time");
        assert_eq!(vigil.waited(at(31)).as_secs(), 11, "whoever reads waits all the same");
    }

    #[test]
    fn what_one_lead_after_the_other_does_not_give_adds_up() {
        let mut vigil = Vigil::new(at(0));
        for lead in 0..4 {
            vigil.follows(at(25 * lead));
            vigil.excuse(Duration::from_secs(5), LONG);
            assert!(!vigil.is_in_vain(at(25 * lead + 7)) && vigil.is_in_vain(at(25 * lead + 8)));
        }
        assert_eq!((vigil.stood_still(at(100)).as_secs(), vigil.waited_in_all(at(100)).as_secs()), (25, 80));
        vigil.moved(at(100));
        assert_eq!((vigil.waited_in_all(at(101)).as_secs(), vigil.is_in_vain(at(200))), (1, false));
    }

    #[test]
    fn a_byte_at_a_time_is_nothing() {
        let mut vigil = Vigil::new(at(0));
        for second in 1..30 {
            vigil.progressed(100, at(second));
        }
        assert_eq!(vigil.gives_up_at(Awaited::Read(Duration::ZERO)), at(32));
        vigil.progressed(MIN_MOVE, at(31));
        assert_eq!((vigil.waited(at(33)).as_secs(), vigil.gives_up_at(Awaited::Given)), (2, at(39)));
        vigil.progressed(MIN_MOVE - 1, at(34));
        assert_eq!(vigil.waited(at(34)).as_secs(), 3, "the crumbs before it are counted");
    }

    #[test]
    fn a_lead_that_says_for_ever_that_it_waits_is_waited_for_no_longer_than_an_origin() {
        let mut vigil = Vigil::new(at(0));
        for _ in 0..1000 {
            vigil.excuse(Duration::from_secs(2), Duration::from_secs(30));
        }
        assert_eq!((vigil.excused().as_secs(), vigil.gives_up_at(Awaited::Given)), (30, at(38)));
        vigil.excuse(Duration::from_secs(2), LONG);
        vigil.excuse(Duration::from_secs(2), Duration::from_secs(30));
        assert_eq!(vigil.excused().as_secs(), 32, "what a seed was given is not taken back");
        vigil.follows(at(50));
        assert_eq!(vigil.gives_up_at(Awaited::Given), at(58), "the next one has its own time");
    }
}
