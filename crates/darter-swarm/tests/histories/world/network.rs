//! The network of a world: connections between agents, what is said on them, and its delays and losses.

use darter_core::NodeId;

use super::{Event, Said, World};

impl World {
    pub(super) fn may_reach(&self, one: usize, other: usize) -> bool {
        let side = |at: usize| self.parted >> at & 1;
        let is_open = !self.walls.contains(&(one.min(other), one.max(other)));
        is_open && self.agents[one].alive && self.agents[other].alive && side(one) == side(other)
    }

    pub(crate) fn connection(&self, one: usize, other: usize) -> Option<u32> {
        self.connected.get(&(one.min(other), one.max(other))).map(|(connection, _)| *connection)
    }

    /// Connects two, if they can reach each other; whether they are connected.
    pub(super) fn connect(&mut self, one: usize, other: usize) -> bool {
        if one == other || !self.may_reach(one, other) {
            return false;
        }
        if self.connection(one, other).is_some() {
            return true;
        }
        if self.breaking.get(&(one.min(other), one.max(other))).is_some_and(|sides| *sides > 0) {
            return false;
        }
        self.connections += 1;
        self.connected.insert((one.min(other), one.max(other)), (self.connections, [self.now; 2]));
        for (agent, seed) in [(one, other), (other, one)] {
            self.seed_came(agent, seed);
            self.advance_soon(agent);
        }
        true
    }

    /// Ends a connection. If the network is silent, both notice late.
    pub(super) fn disconnect(&mut self, one: usize, other: usize, silently: bool) {
        if self.connected.remove(&(one.min(other), one.max(other))).is_none() {
            return;
        }
        *self.breaking.entry((one.min(other), one.max(other))).or_default() += 2;
        for (agent, peer) in [(one, other), (other, one)] {
            let late = if silently { self.random.millis(1000, 5000) } else { self.random.millis(1, 20) };
            let life = self.agents[agent].life;
            self.put(self.now + late, Event::Gone { agent, life, peer });
        }
    }

    /// Agents try again and again to reach a seed.
    pub(super) fn keep_connected(&mut self, agent: usize, seed: usize) {
        if !self.connect(agent, seed) {
            let (life, again) = (self.agents[agent].life, self.random.millis(500, 2000));
            self.put(self.now + again, Event::Redial { agent, life, seed });
        }
    }

    pub(crate) fn say(&mut self, from: usize, to: NodeId, what: Said) -> bool {
        let to = self.at(to);
        let delay = self.random.millis(0, 60);
        let Some((connection, last)) = self.connected.get_mut(&(from.min(to), from.max(to))) else { return false };
        let (connection, last) = (*connection, &mut last[usize::from(from < to)]);
        let at = (self.now + delay).max(*last);
        *last = at;
        if self.loses_one_in > 0 && self.random.one_in(self.loses_one_in) {
            self.disconnect(from, to, true);
        } else {
            self.put(at, Event::Said { to, from, connection, what });
        }
        true
    }
}
