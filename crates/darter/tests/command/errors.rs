//! The errors that users and programs read: the words of the origin or the system, whose fault it is, and whether asking again helps.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::support::web::Web;
use crate::support::{Daemon, Outcome, Room, content, free_address};

/// A server that answers each request with the status that its path names, as in `/404`, and a time to come back with 429 and 503.
fn statuses() -> String {
    serve(|request| {
        let path = request.split(' ').nth(1).unwrap_or_default();
        let status: u16 = path.trim_start_matches('/').parse().unwrap();
        let wait = if matches!(status, 429 | 503) { "Retry-After: 600\r\n" } else { "" };
        // The reason phrase is the server's own and may be missing: the status' name is looked up.
        format!("HTTP/1.1 {status} -\r\n{wait}Content-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    })
}

/// A server that answers whatever is said first like this, and hangs up.
fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let said = stream.read(&mut request).unwrap_or(0);
            // The client may be gone.
            let _ = stream.write_all(&answer(&String::from_utf8_lossy(&request[..said])));
        }
    });
    address
}

fn judged(row: &Value) -> Value {
    json!([row["fault"], row["retry"], row["retry_after_seconds"]])
}

/// By name, since that is what people search for, and the same with a daemon and without.
#[test]
fn every_status_of_an_origin_is_named_and_judged() {
    let origin = statuses();
    let cases = [
        ("401 Unauthorized", json!(["user", "never", null])),
        ("403 Forbidden", json!(["user", "never", null])),
        ("404 Not Found", json!(["user", "never", null])),
        ("410 Gone", json!(["user", "never", null])),
        ("418 I'm a teapot", json!(["user", "never", null])),
        ("429 Too Many Requests", json!(["user", "later", 600])),
        ("451 Unavailable For Legal Reasons", json!(["user", "never", null])),
        ("500 Internal Server Error", json!(["origin", "later", null])),
        ("501 Not Implemented", json!(["origin", "never", null])),
        ("502 Bad Gateway", json!(["origin", "later", null])),
        ("503 Service Unavailable", json!(["origin", "later", 600])),
        ("504 Gateway Timeout", json!(["origin", "later", null])),
        ("522", json!(["origin", "later", null])),
    ];
    let urls: Vec<_> = cases.iter().map(|(status, _)| format!("http://{origin}/{}", &status[..3])).collect();
    let rooms = [Room::new(), Room::new()];
    let _daemon = Daemon::start(&rooms[1], "");
    for room in &rooms {
        let told = room.run(&format!("get {} -o dir/ --parallel 16 --json", urls.join(" ")));
        assert_eq!((told.code, told.err.as_str()), (Some(1), ""), "some of them are final");
        for ((status, judgement), row) in cases.iter().zip(told.json().as_array().unwrap()) {
            let error = row["error"].as_str().unwrap();
            assert!(error.contains(&format!("HTTP {status}:")) && !error.contains("unknown"), "{error}");
            assert_eq!(judged(row), *judgement, "{error}");
        }
        let later = room.run(&format!("get http://{origin}/503 --json"));
        assert_eq!(later.code, Some(75), "the same command may succeed later");
        assert_eq!(judged(&later.json()), json!(["origin", "later", 600]));
        let never = room.run(&format!("get http://{origin}/404 --json"));
        assert_eq!((never.code, judged(&never.json())), (Some(1), json!(["user", "never", null])));
    }
}

/// Each host used to ask for itself what the origin had refused to a seed, unless it was refused with 401, 403 or 404.
#[test]
fn what_an_origin_refuses_costs_it_the_requests_of_one_host() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let origin = serve(move |request| {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = format!("HTTP/1.1 {} -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", &path[1..4]);
        noted.lock().unwrap().push(path);
        answer.into_bytes()
    });
    let requests = |path: &str| asked.lock().unwrap().iter().filter(|asked| *asked == path).count();
    let (seed_room, node_room) = (Room::new(), Room::new());
    let seed = Daemon::start(&seed_room, "");
    let _node = Daemon::node(&node_room, &seed.listen, "");
    for status in ["400", "405", "410", "418", "451"] {
        let (at_seed, at_node) = (format!("/{status}/seed"), format!("/{status}/node"));
        seed_room.run(&format!("get http://{origin}{at_seed}")).failed_with(1, &[&format!("HTTP {status} ")]);
        node_room.run(&format!("get http://{origin}{at_node}")).failed_with(1, &[&format!("HTTP {status} ")]);
        assert_eq!(requests(&at_node), requests(&at_seed), "{status}");
    }
}

#[test]
fn what_comes_in_the_way_of_an_answer_is_told_with_the_systems_own_words() {
    let (room, no_tls) = (Room::new(), serve(|_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    let no_http = serve(|_| b"SSH-2.0-OpenSSH_9.9\r\n".to_vec());
    let hangs_up = serve(|_| Vec::new());
    let nobody = free_address();
    let cases = [
        (format!("http://{nobody}/x"), "Connection refused", json!(["network", "later", null])),
        // No name server has to be asked for a label that is too long.
        (format!("http://{}/x", "x".repeat(64)), "check its spelling, and DNS", json!(["network", "elsewhere", null])),
        (format!("http://{no_http}/x"), "does not speak HTTP", json!(["origin", "never", null])),
        (format!("http://{hangs_up}/x"), "broke the connection off", json!(["network", "later", null])),
        (format!("https://{no_tls}/x"), "does not speak TLS", json!(["origin", "elsewhere", null])),
        (format!("https://{hangs_up}/x"), "during the TLS handshake", json!(["network", "later", null])),
    ];
    for (url, says, judgement) in cases {
        let told = room.run(&format!("get {url} --json")).json();
        assert!(told["error"].as_str().unwrap().contains(says), "{told}");
        assert_eq!(judged(&told), judgement, "{told}");
    }
}

/// It used to say no more than "check the disk and the permissions".
#[test]
fn a_data_directory_that_can_not_be_used_says_what_is_in_the_way() {
    let web = Web::serve(content(1000));
    let listen = format!("--listen {} --local {}", free_address(), free_address());
    for line in [format!("seed --log off --insecure {listen}"), format!("get {} -o file --keep", web.url)] {
        let room = Room::new();
        std::fs::create_dir(room.data_dir()).unwrap();
        std::fs::write(room.data_dir().join("blobs"), "").unwrap();
        let blobs = room.data_dir().join("blobs").display().to_string();
        let told = format!("could not open {blobs}: is no directory: remove it: Not a directory (os error 20)");
        room.run(&line).failed_with(1, &[&told]);
    }
    let room = Room::new();
    std::fs::write(room.path("file"), "").unwrap();
    let told =
        room.run(&format!("get {} -o file --keep --json --data-dir {}", web.url, room.path("file/data").display()));
    let told = told.json();
    let error = told["error"].as_str().unwrap();
    assert!(error.contains("file/data") && error.contains("Not a directory (os error 20)"), "{error}");
}

/// Go takes all of these, and curl most.
#[test]
fn what_no_proxy_names_is_reached_without_the_proxy_in_whatever_way_it_does() {
    let web = Web::serve(content(1000));
    for list in ["*", "a, *", &web.address, "127.0.0.0/8", "127.0.0.1"] {
        let room = Room::new();
        let mut get = room.darter(&format!("get {} -o file", web.url));
        get.env("http_proxy", "http://127.0.0.1:1").env("no_proxy", list);
        Outcome::of(get.output().unwrap()).succeeded();
    }
    let room = Room::new();
    let mut get = room.darter(&format!("get {} -o file", web.url));
    get.env("http_proxy", "http://127.0.0.1:1").env("no_proxy", "127.0.0.1:2,*.lab");
    Outcome::of(get.output().unwrap()).failed_with(75, &["no connection to the proxy 127.0.0.1:1"]);
}
