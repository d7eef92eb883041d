//! A map of limited weight: past its limit, what was used longest ago goes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Values by key, each with a weight. Invariants: the weights' sum is at most `limit`; `by_use` has exactly one entry
/// for each entry of `slots`.
#[derive(Debug)]
pub struct Recent<K, V> {
    slots: HashMap<K, Slot<V>>,
    by_use: BTreeMap<u64, K>,
    next_use: u64,
    weight: u64,
    limit: u64,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    weight: u64,
    used: u64,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// An empty map for weights up to `limit` in all.
    pub fn new(limit: u64) -> Self {
        Self { slots: HashMap::new(), by_use: BTreeMap::new(), next_use: 0, weight: 0, limit }
    }

    /// Sets a value and returns the keys that had to go for it; what weighs more than the limit goes at once.
    pub fn insert(&mut self, key: K, value: V, weight: u64) -> Vec<K> {
        self.replace(key, value, weight).into_iter().map(|(key, _)| key).collect()
    }

    /// Sets a value and returns the entries that had to go for it; what weighs more than the limit goes at once.
    pub fn replace(&mut self, key: K, value: V, weight: u64) -> Vec<(K, V)> {
        self.remove(&key);
        self.next_use += 1;
        self.weight += weight;
        self.by_use.insert(self.next_use, key.clone());
        self.slots.insert(key, Slot { value, weight, used: self.next_use });
        let mut gone = Vec::new();
        while self.weight > self.limit {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            let oldest = oldest.clone();
            if let Some(value) = self.remove(&oldest) {
                gone.push((oldest, value));
            }
        }
        gone
    }

    /// A value, which counts as a use.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        let slot = self.slots.get_mut(key)?;
        self.by_use.remove(&slot.used);
        self.next_use += 1;
        slot.used = self.next_use;
        self.by_use.insert(slot.used, key.clone());
        Some(&slot.value)
    }

    /// A value that may be changed, which counts as a use; its weight stays.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.get(key)?;
        self.slots.get_mut(key).map(|slot| &mut slot.value)
    }

    /// A value, which does not count as a use.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.slots.get(key).map(|slot| &slot.value)
    }

    /// All keys, the one that was used longest ago first. No use of any.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.by_use.values()
    }

    /// Removes a value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.slots.remove(key)?;
        self.by_use.remove(&slot.used);
        self.weight -= slot.weight;
        Some(slot.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut map = Recent::new(3);
        for key in ["a", "b", "c"] {
            assert!(map.insert(key, key.len(), 1).is_empty());
        }
        assert_eq!(map.get(&"a"), Some(&1));
        assert_eq!(map.insert("d", 1, 1), ["b"]);
        assert_eq!(map.insert("e", 1, 2), ["c", "a"]);
        assert_eq!(map.get(&"d"), Some(&1));
    }

    #[test]
    fn what_weighs_more_than_everything_is_not_kept_and_a_new_value_replaces_the_old() {
        let mut map = Recent::new(3);
        map.insert("a", 1, 2);
        map.insert("a", 2, 3);
        assert_eq!(map.get(&"a"), Some(&2));
        assert_eq!(map.replace("b", 3, 4), [("a", 2), ("b", 3)]);
        assert_eq!(map.get(&"b"), None);
    }
}
