//! Units in the names of JSON fields.
//!
//! The first release wrote `"uptime": 3.5`, and readers had to know that this is in seconds. A field that has a unit says so where it is
//! declared, `#[serde(flatten, with = "units::uptime_seconds")]`, and is written under both names: the long one, which
//! docs/api.md promises, and the short one, which scripts and the release before read, until 1.0. Either is read.
//!
//! Pure. Invariant: both names carry the same value; a field that is missing under both has its type's default.

/// For each field, a module by its long name, to be named in `with`.
macro_rules! fields {
    ($($long:ident = $short:literal, $name:literal;)*) => {$(
        #[doc = concat!("`", $short, "`, written as `", $name, "` as well.")]
        pub mod $long {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            #[derive(Serialize)]
            struct Both<'a, T> {
                #[serde(rename = $short)]
                short: &'a T,
                #[serde(rename = $name)]
                long: &'a T,
            }

            #[derive(Deserialize)]
            struct Either<T> {
                #[serde(rename = $short)]
                short: Option<T>,
                #[serde(rename = $name)]
                long: Option<T>,
            }

            /// Writes it under both names.
            ///
            /// # Errors
            /// The serializer's.
            pub fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
                Both { short: value, long: value }.serialize(serializer)
            }

            /// Reads it under either.
            ///
            /// # Errors
            /// The deserializer's.
            pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
            where
                T: Deserialize<'de> + Default,
                D: Deserializer<'de>,
            {
                let Either { short, long } = Either::<T>::deserialize(deserializer)?;
                Ok(long.or(short).unwrap_or_default())
            }
        }
    )*};
}

fields! {
    uptime_seconds = "uptime", "uptime_seconds";
    resident_bytes = "resident", "resident_bytes";
    used_bytes = "used", "used_bytes";
    quota_bytes = "quota", "quota_bytes";
    free_bytes = "free", "free_bytes";
    capacity_bytes = "capacity", "capacity_bytes";
    from_origin_bytes = "from_origin", "from_origin_bytes";
    from_seed_bytes = "from_seed", "from_seed_bytes";
    from_peers_bytes = "from_peers", "from_peers_bytes";
    to_peers_bytes = "to_peers", "to_peers_bytes";
    to_local_bytes = "to_local", "to_local_bytes";
    length_bytes = "length", "length_bytes";
    held_bytes = "held", "held_bytes";
    resumed_bytes = "resumed", "resumed_bytes";
    piece_length_bytes = "piece_length", "piece_length_bytes";
    rate_bytes_per_second = "rate", "rate_bytes_per_second";
    sent_bytes_per_second = "sent", "sent_bytes_per_second";
    received_bytes_per_second = "received", "received_bytes_per_second";
    elapsed_seconds = "elapsed", "elapsed_seconds";
    last_used_unix_seconds = "last_used", "last_used_unix_seconds";
    started_unix_seconds = "started", "started_unix_seconds";
    at_unix_seconds = "at", "at_unix_seconds";
    at_seconds = "at", "at_seconds";
    took_seconds = "seconds", "took_seconds";
    left_seconds = "left", "left_seconds";
    quiet_seconds = "quiet", "quiet_seconds";
    waited_seconds = "waited", "waited_seconds";
    last_received_seconds = "last_received", "last_received_seconds";
    last_sent_seconds = "last_sent", "last_sent_seconds";
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        name: String,
        #[serde(flatten, with = "super::length_bytes")]
        length: Option<u64>,
        #[serde(flatten, with = "super::took_seconds")]
        seconds: f64,
    }

    #[test]
    fn a_field_is_written_under_both_names_and_read_under_either() {
        let row = Row { name: "x".into(), length: None, seconds: 2.5 };
        let told = serde_json::to_value(&row).unwrap();
        let both = json!({
            "name": "x", "length": null, "length_bytes": null, "seconds": 2.5, "took_seconds": 2.5,
        });
        assert_eq!(told, both);
        assert_eq!(serde_json::from_value::<Row>(told).unwrap(), row);
        for one in
            [json!({ "name": "x", "seconds": 2.5 }), json!({ "name": "x", "length_bytes": null, "took_seconds": 2.5 })]
        {
            assert_eq!(serde_json::from_value::<Row>(one).unwrap(), row);
        }
    }
}
