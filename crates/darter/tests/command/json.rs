//! docs/api.md says what `--json` prints: all of it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

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
                // Labels have names that operators choose.
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
    std::fs::write(node.path("out").join("empty.tar"), [0; 1024]).unwrap();
    look("image expand empty.tar empty.erofs --json".to_owned());
    // The settings are those of the configuration file.
    found.retain(|name| !name.starts_with("config.") || name.matches('.').count() > 1);
    assert_eq!(found, [""; 0], "not in docs/api.md");
}

/// As docs/api.md promises: any other status than 2xx comes with a problem.
#[test]
fn every_refusal_of_the_socket_is_a_problem() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let get = |kind: &str, body: &str| {
        let length = body.len();
        format!("POST /v1/get HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {length}|{body}")
    };
    let json = "application/json";
    for (request, status, error) in [
        ("GET /v1/nonsense HTTP/1.1|".to_owned(), "404", "docs/api.md"),
        ("POST /v1/status HTTP/1.1|".to_owned(), "405", "Allow"),
        ("GET /v1/explain HTTP/1.1|".to_owned(), "400", "name"),
        ("DELETE /v1/blobs/%FF HTTP/1.1|".to_owned(), "400", "UTF-8"),
        (get(json, "{"), "400", "JSON"),
        (get(json, "{}"), "422", "url"),
        (get("text/plain", "{}"), "415", "application/json"),
        (get(json, "{\"url\":\"http://a/\",\"range\":\"b\"}"), "422", "range"),
    ] {
        let (head, body) = request.split_once('|').unwrap();
        let mut stream = UnixStream::connect(room.data_dir().join("darter.sock")).unwrap();
        stream.write_all(format!("{head}\r\nHost: darter\r\nConnection: close\r\n\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(head.split(' ').nth(1), Some(status), "{request}: {answer}");
        let told: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{request}: {answer}"));
        assert!(told["error"].as_str().unwrap().contains(error) && told["fault"] == "user", "{request}: {told}");
        assert!(status != "405" || head.contains("allow: GET"), "{head}");
    }
}
