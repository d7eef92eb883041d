//! The place of a node, and how near two nodes are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A node's place in the building and on the map, from its labels. An empty field means "not said".
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Region, the widest.
    pub region: String,
    /// Availability zone within the region.
    pub zone: String,
    /// Rack or switch within the zone.
    pub rack: String,
    /// The machine, so that two agents on one host know each other.
    pub host: String,
}

/// How far apart two nodes are, nearest first. Unsaid labels are equal to unsaid ones, so a fleet without labels is
/// one rack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The same machine.
    Host,
    /// The same rack or switch.
    Rack,
    /// The same zone.
    Zone,
    /// The same region.
    Region,
    /// Anywhere else.
    Far,
}

impl Place {
    /// A place from `KEY=VALUE` labels; keys other than `region`, `zone`, `rack` and `host` say nothing of place.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let get = |key| labels.get(key).cloned().unwrap_or_default();
        Self { region: get("region"), zone: get("zone"), rack: get("rack"), host: get("host") }
    }

    /// How far `other` is from here.
    pub fn tier_to(&self, other: &Self) -> Tier {
        if self.region != other.region {
            Tier::Far
        } else if self.zone != other.zone {
            Tier::Region
        } else if self.rack != other.rack {
            Tier::Zone
        } else if self.host.is_empty() || self.host != other.host {
            Tier::Rack
        } else {
            Tier::Host
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_label_that_differs_decides() {
        let place = |region: &str, zone: &str, rack: &str| Place {
            region: region.into(),
            zone: zone.into(),
            rack: rack.into(),
            host: String::new(),
        };
        let here = place("eu", "a", "1");
        assert_eq!(here.tier_to(&place("eu", "a", "1")), Tier::Rack);
        assert_eq!(here.tier_to(&place("eu", "a", "2")), Tier::Zone);
        assert_eq!(here.tier_to(&place("eu", "b", "1")), Tier::Region);
        assert_eq!(here.tier_to(&place("us", "a", "1")), Tier::Far);
        assert_eq!(Place::default().tier_to(&Place::default()), Tier::Rack);
    }
}
