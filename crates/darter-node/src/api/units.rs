//! Units in the names of JSON fields.
//!
//! The first release wrote `"uptime": 3.5`, and readers had to know that this is in seconds. [`named`] adds, beside each such field, one whose
//! name ends with its unit; these names are what docs/api.md promises. The short names stay until 1.0, since
//! scripts and the release before read them.
//!
//! Pure; objects are walked at any depth. Invariant: a field that is there is never overwritten.

use serde::Serialize;
use serde_json::{Map, Value};

/// Short name and name with a unit.
const NAMES: [(&str, &str); 23] = [
    ("uptime", "uptime_seconds"),
    ("resident", "resident_bytes"),
    ("used", "used_bytes"),
    ("quota", "quota_bytes"),
    ("free", "free_bytes"),
    ("capacity", "capacity_bytes"),
    ("from_origin", "from_origin_bytes"),
    ("from_seed", "from_seed_bytes"),
    ("from_peers", "from_peers_bytes"),
    ("to_peers", "to_peers_bytes"),
    ("to_local", "to_local_bytes"),
    ("length", "length_bytes"),
    ("piece_length", "piece_length_bytes"),
    ("rate", "rate_bytes_per_second"),
    ("elapsed", "elapsed_seconds"),
    ("last_used", "last_used_unix_seconds"),
    ("started", "started_unix_seconds"),
    ("seconds", "took_seconds"),
    ("left", "left_seconds"),
    ("quiet", "quiet_seconds"),
    ("waited", "waited_seconds"),
    ("last_received", "last_received_seconds"),
    ("last_sent", "last_sent_seconds"),
];

/// A value as JSON, with a unit in the name of every field that has one.
///
/// # Errors
/// When `value` can't be written as JSON.
pub fn named(value: &impl Serialize) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(value)?;
    name_units(&mut value);
    Ok(value)
}

fn name_units(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(name_units),
        Value::Object(fields) => {
            fields.values_mut().for_each(name_units);
            let mut renamed = Map::new();
            for (short, long) in NAMES {
                if let Some(value) = fields.get(short).filter(|value| value.is_number() || value.is_null()) {
                    renamed.insert(long.to_owned(), value.clone());
                }
            }
            for (long, value) in renamed {
                fields.entry(long).or_insert(value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn units_are_added_at_any_depth_and_nothing_goes() {
        let told = named(&json!({ "uptime": 3.5, "swarms": [{ "progress": { "length": null, "rate": 7 } }] })).unwrap();
        assert_eq!(told["uptime"], told["uptime_seconds"]);
        let progress = &told["swarms"][0]["progress"];
        assert_eq!((&progress["rate"], &progress["rate_bytes_per_second"]), (&json!(7), &json!(7)));
        assert!(progress["length_bytes"].is_null() && progress.get("length_bytes").is_some());
    }

    #[test]
    fn what_has_no_unit_or_a_value_of_its_own_stays_as_it_is() {
        let value = json!({ "quota": "80 %", "left": 3, "left_seconds": 4 });
        assert_eq!(named(&value).unwrap(), value);
    }
}
