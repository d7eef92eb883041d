//! docs/api.md says what `--json` prints: all of it.

use serde_json::Value;

use crate::support::web::Web;
use crate::support::{Daemon, Room, content, wait_until};

/// Every object's fields that the page does not name: neither by this name, nor by one that says the unit as well.
fn unnamed(page: &str, value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| unnamed(page, value, path, found)),
        Value::Object(fields) => {
            let named = |name: &str| page.contains(&format!("`{name}`")) || page.contains(&format!("`{name}[]`"));
            for (name, value) in fields {
                // The first release's name for what another says with its unit.
                let is_short = |other: &String| {
                    let unit = other.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('_'));
                    (unit || (name == "seconds" && other == "took_seconds")) && fields[other] == *value && named(other)
                };
                if !named(name) && !fields.keys().any(is_short) {
                    found.push(format!("{path}.{name}"));
                }
                // What operators name.
                if name != "labels" {
                    unnamed(page, value, &format!("{path}.{name}"), found);
                }
            }
        }
        _ => {}
    }
}

#[test]
fn every_field_stands_in_the_page() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md")).unwrap();
    let (rooms, web) = ([Room::new(), Room::new()], Web::serve(content(3_000_000)));
    let seed = Daemon::start(&rooms[0], "--label rack=1");
    let _node = Daemon::node(&rooms[1], &seed.listen, "--label rack=1");
    let node = &rooms[1];
    let joined = || node.run("status --json").json()["seeds"][0]["up"] == true;
    wait_until("the seed is met", joined);
    let mut found = Vec::new();
    let mut look = |line: String| {
        let told = node.run(&line).succeeded().json();
        unnamed(&page, &told, line.split(' ').next().unwrap(), &mut found);
    };
    look(format!("get {} --json", web.url));
    look("status --json".to_owned());
    look("ls --json".to_owned());
    look(format!("explain {} --json", web.url));
    look(format!("top {} --json", web.url));
    look("config --json".to_owned());
    look(format!("pin {} --json", web.url));
    // The settings are those of the configuration file.
    found.retain(|name| !name.starts_with("config.") || name.matches('.').count() > 1);
    assert_eq!(found, [""; 0], "not in docs/api.md");
}
