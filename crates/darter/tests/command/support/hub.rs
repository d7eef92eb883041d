//! A model hub that speaks as much of Hugging Face's API as is asked for: what a revision has, and its files, large ones by a redirection to another server that
//! stores them and is not to see anybody's token.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::json;

use super::sha256;

/// The commit that every branch is.
pub(crate) const COMMIT: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

/// The answer at a path.
enum Reply {
    Content(Vec<u8>),
    Elsewhere(String),
}

/// A hub of the one private repository `org/model`.
pub(crate) struct Hub {
    /// The repository's address.
    pub(crate) url: String,
}

impl Hub {
    /// With these small files, and large ones of which each is at a URL of another server. Only this token opens it.
    pub(crate) fn start(small: &[(&str, &[u8])], large: &[(&str, &[u8], &str)], token: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/org/model", listener.local_addr().unwrap());
        let mut replies = BTreeMap::new();
        let mut siblings = Vec::new();
        let at = |path: &str| format!("/org/model/resolve/{COMMIT}/{}", path.replace(' ', "%20"));
        for (path, content) in small {
            siblings.push(json!({ "rfilename": path, "size": content.len(), "blobId": "1" }));
            replies.insert(at(path), Reply::Content(content.to_vec()));
        }
        for (path, content, stored) in large {
            let digest = sha256(content).replace("sha256:", "");
            let lfs = json!({ "sha256": digest, "size": content.len(), "pointerSize": 130 });
            siblings.push(json!({ "rfilename": path, "size": content.len(), "blobId": "2", "lfs": lfs }));
            replies.insert(at(path), Reply::Elsewhere((*stored).to_owned()));
        }
        let answer = json!({ "id": "org/model", "sha": COMMIT, "private": true, "siblings": siblings });
        let question = "/api/models/org/model/revision/main?blobs=true".to_owned();
        replies.insert(question, Reply::Content(answer.to_string().into_bytes()));
        let (replies, required) = (Arc::new(replies), format!("\r\nauthorization: bearer {token}\r\n"));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (replies, required) = (Arc::clone(&replies), required.clone());
                // A client that goes away ends its connection, which is no event.
                thread::spawn(move || answer_all(&stream, &replies, &required));
            }
        });
        Self { url }
    }
}

fn answer_all(mut stream: &TcpStream, replies: &BTreeMap<String, Reply>, required: &str) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let mut words = head.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let refused = |status: &str| (format!("{status}\r\n"), Vec::new());
        let (status, content) = match replies.get(path) {
            _ if !head.to_lowercase().contains(&required.to_lowercase()) => refused("401 Unauthorized"),
            None => refused("404 Not Found"),
            Some(Reply::Elsewhere(url)) => (format!("302 Found\r\nlocation: {url}\r\n"), Vec::new()),
            Some(Reply::Content(content)) => ("200 OK\r\netag: \"1\"\r\n".to_owned(), content.clone()),
        };
        write!(stream, "HTTP/1.1 {status}content-length: {}\r\n\r\n", content.len()).ok()?;
        if method != "HEAD" {
            stream.write_all(&content).ok()?;
        }
    }
}
