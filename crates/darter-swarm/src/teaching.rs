//! Which hashes of pieces a lead sends to members without being asked, and when.
//!
//! In a small swarm the lead sends all members each hash, several in one message. In a large one, of the members that come at once, it sends
//! hashes to a few; the others ask each other ([`Learner`](crate::Learner)) and check the answers by the lead's signature. Otherwise each piece that
//! the origin gives would cost ten thousand messages (`docs/notes/hashes-between-members.md`).
//!
//! Invariant: in a small swarm every member was sent hashes `..told` or asks for them; when the swarm grows large, everyone is told to ask.

use darter_core::Moment;

use crate::Tuning;

/// Hashes that one message carries at most: 2 MiB of them.
pub const MAX_HASHES: u32 = 65_536;

/// Hashes that are sent without waiting: a member can take in no more pieces that come before their hashes.
const AT_ONCE: u32 = 4;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Teaching {
    tuning: Tuning,
    told: u32,
    /// When members were last sent hashes, and when those that became known too soon after that are to be sent.
    told_at: Moment,
    due: Option<Moment>,
    many: bool,
    /// When the count of newcomers began, and how many have come since.
    newcomers: (Moment, u32),
}

/// The hashes to send to members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Telling {
    /// The piece of the first hash.
    pub from: u32,
    /// How many hashes.
    pub count: u32,
    /// True if they are sent with the lead's signature over these hashes and all before.
    pub signed: bool,
}

impl Teaching {
    /// For a lead that knows `known` hashes when it begins.
    pub(crate) const fn new(known: u32, tuning: Tuning, now: Moment) -> Self {
        Self { tuning, told: known, told_at: Moment::ZERO, due: None, many: false, newcomers: (now, 0) }
    }

    /// True if members have to ask each other for hashes, as in a large swarm.
    pub(crate) const fn members_ask(&self) -> bool {
        self.many
    }

    /// When there are hashes to send that wait for their time.
    pub(crate) const fn due(&self) -> Option<Moment> {
        self.due
    }

    /// The hashes to send to all `members` members now that `known` hashes are known; `all` says that these are the hashes of the whole blob.
    /// `None` if there is nothing to send; a telling without hashes may say that members have to ask each other from now on.
    pub(crate) fn tell(&mut self, known: u32, all: bool, members: usize, now: Moment) -> Option<Telling> {
        let many = members >= self.tuning.few_members as usize;
        let become_many = !std::mem::replace(&mut self.many, many) && many;
        let next = self.told_at + self.tuning.tell_hashes;
        let (from, count) = (self.told, known.saturating_sub(self.told));
        self.due = Some(next).filter(|next| !many && (1..AT_ONCE).contains(&count) && !all && now < *next);
        if self.due.is_some() {
            return None;
        }
        self.told += count;
        if !become_many && (many || count == 0) {
            return None;
        }
        self.told_at = now;
        Some(Telling { from, count, signed: become_many })
    }

    /// The hashes to send to a newcomer that is admitted to a swarm of `members`. In a small swarm it is sent the list of hashes, and in a
    /// large one if few came lately; the others get the list from each other. To be called after [`Teaching::tell`].
    pub(crate) fn greet(&mut self, members: usize, now: Moment) -> Telling {
        let few = self.tuning.few_members;
        let lists = (u64::from(few).pow(2) / (members as u64).max(1)).max(self.tuning.lists.into());
        if now.since(self.newcomers.0) >= self.tuning.list_pause {
            self.newcomers = (now, 0);
        }
        self.newcomers.1 += 1;
        let gives_list = members < few as usize || u64::from(self.newcomers.1) <= lists;
        // Hashes that the others were not sent yet are sent to all members soon.
        let count = if gives_list { self.told } else { 0 };
        Telling { from: 0, count, signed: gives_list && self.many }
    }

    /// The answer to a member that asks for the hashes from the one of piece `from` on. A list that is too long for one message is sent in parts
    /// and without a signature, which is for all of it. There is no signature either for a member that knows more than the lead.
    pub(crate) const fn answer(known: u32, from: u32) -> Telling {
        let lacked = known.saturating_sub(from);
        let count = if lacked < MAX_HASHES { lacked } else { MAX_HASHES };
        Telling { from, count, signed: from <= known && lacked <= MAX_HASHES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_micros((1000 + millis) * 1000)
    }

    fn teaching(known: u32) -> Teaching {
        Teaching::new(known, Tuning::default(), at(0))
    }

    const fn telling(from: u32, count: u32, signed: bool) -> Telling {
        Telling { from, count, signed }
    }

    #[test]
    fn few_members_are_told_everything_and_several_hashes_at_a_time() {
        let mut teaching = teaching(2);
        assert_eq!(teaching.tell(2, false, 8, at(0)), None, "newcomers have these");
        assert_eq!(teaching.tell(3, false, 8, at(0)), Some(telling(2, 1, false)), "the first is told at once");
        assert_eq!(teaching.tell(4, false, 8, at(1)), None);
        assert_eq!(teaching.due(), Some(at(20)));
        assert_eq!(teaching.greet(9, at(1)).count, 3, "who comes is told what the others were");
        assert_eq!(teaching.tell(9, false, 8, at(3)), Some(telling(3, 6, false)), "many are told at once");
        assert_eq!(teaching.tell(10, false, 8, at(4)), None);
        assert_eq!(teaching.due(), Some(at(23)));
        assert_eq!(teaching.tell(10, false, 8, at(23)), Some(telling(9, 1, false)));
        assert_eq!(teaching.due(), None);
        assert_eq!(teaching.tell(11, true, 8, at(24)), Some(telling(10, 1, false)), "nothing comes after the last");
    }

    #[test]
    fn as_members_become_many_they_are_told_so_and_as_they_become_few_what_came_since() {
        let mut teaching = teaching(0);
        assert_eq!(teaching.tell(1, false, 63, at(0)), Some(telling(0, 1, false)));
        assert_eq!(teaching.tell(3, false, 64, at(1)), Some(telling(1, 2, true)), "without waiting");
        assert!(teaching.members_ask());
        assert_eq!(teaching.tell(5, false, 64, at(30)), None);
        assert_eq!(teaching.tell(5, false, 63, at(60)), None, "members ask for what was told to none");
        assert_eq!(teaching.tell(6, false, 63, at(90)), Some(telling(5, 1, false)));
        assert_eq!(teaching.tell(6, false, 64, at(91)), Some(telling(6, 0, true)));
    }

    #[test]
    fn of_many_that_come_at_once_the_first_are_given_a_list() {
        let lists = |moment: fn(u32) -> u64| {
            let mut teaching = teaching(100);
            assert!(teaching.tell(100, true, 64, at(0)).is_some());
            let greeted = |nth| teaching.greet(64 + nth as usize, at(moment(nth)));
            (0..200).map(greeted).filter(|greeted| *greeted == telling(0, 100, true)).count()
        };
        assert_eq!(lists(|_| 0), 39, "the fewer the more there are");
        assert_eq!(lists(|nth| u64::from(nth) * 100), 200, "ten a second");
    }

    #[test]
    fn who_asks_is_told_all_and_with_a_signature_as_far_as_a_message_reaches() {
        assert_eq!(Teaching::answer(5, 2), telling(2, 3, true));
        assert_eq!(Teaching::answer(5, 5), telling(5, 0, true));
        assert_eq!(Teaching::answer(5, 7), telling(7, 0, false), "it knows more than the lead");
        assert_eq!(Teaching::answer(MAX_HASHES + 2, 1), telling(1, MAX_HASHES, false));
        assert_eq!(Teaching::answer(MAX_HASHES + 2, 2), telling(2, MAX_HASHES, true));
    }
}
