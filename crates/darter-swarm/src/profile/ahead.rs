//! Limits how much an agent prefetches because of profiles, for one opened layer and for all together. Pure.
//!
//! Open blobs can't be evicted, and a lead may send another list whenever the last one was fetched. So there is a limit for each opening,
//! whatever lists it is sent, and a limit for all openings in progress.

use super::MAX_BYTES;

/// One part in this of what the store may hold is fetched ahead at a time, so that starts do not push out all else that is kept.
const STORE_PART: u64 = 4;

/// How many bytes of the store the openings under way have taken.
#[derive(Debug, Default)]
pub struct Ahead {
    taken: u64,
}

impl Ahead {
    /// Takes `bytes` for an opening that has already taken `own` bytes. Returns false, and takes nothing, if there is no room in a store of this
    /// `capacity`.
    pub const fn take(&mut self, own: &mut u64, bytes: u64, capacity: u64) -> bool {
        let room = capacity / STORE_PART;
        let (one, all) = (own.saturating_add(bytes), self.taken.saturating_add(bytes));
        if one > MAX_BYTES || all > room {
            return false;
        }
        (*own, self.taken) = (one, all);
        true
    }

    /// An opening that had taken `own` bytes has ended.
    pub const fn give_back(&mut self, own: u64) {
        self.taken = self.taken.saturating_sub(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn neither_one_opening_nor_all_together_get_more_than_their_part_however_often_they_ask() {
        let mut ahead = Ahead::default();
        let (mut one, mut other) = (0, 0);
        let large = 1 << 40;
        assert_eq!((0..1000).filter(|_| ahead.take(&mut one, MIB, large)).count(), 256, "of one opening");
        assert!(ahead.take(&mut other, MIB, large), "of another one");
        ahead.give_back(one);
        ahead.give_back(other);
        // A store of 1 GiB, and three large layers.
        let mut owns = [0; 3];
        let mut got = 0;
        for _ in 0..300 {
            got += owns.iter_mut().filter_map(|own| ahead.take(own, MIB, 1 << 30).then_some(())).count();
        }
        assert_eq!(got, 256, "a quarter, whoever asks");
        let gone = owns[0];
        ahead.give_back(gone);
        assert!(ahead.take(&mut owns[1], gone, 1 << 30) && !ahead.take(&mut owns[1], MIB, 1 << 30));
        assert!(!ahead.take(&mut owns[2], u64::MAX, u64::MAX));
    }
}
