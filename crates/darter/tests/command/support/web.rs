//! A web server that counts: one resource, with entity tag and ranges, that stops in its middle until it is let go.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;

const CHUNK: usize = 32 * 1024;

/// A web server with one resource.
pub(crate) struct Web {
    /// The resource's address.
    pub(crate) url: String,
    /// `ADDR:PORT`.
    pub(crate) address: String,
    shared: Arc<Shared>,
}

struct Shared {
    content: Mutex<(u32, Arc<Vec<u8>>)>,
    /// True: no length is told and no range is served.
    plain: AtomicBool,
    /// A header line that a request must have.
    required: Option<String>,
    /// Header lines of every answer with content.
    told: Mutex<String>,
    /// Content bytes that may go out in all.
    allowed: AtomicU64,
    sent: AtomicU64,
    /// How often what was being sent was broken off.
    breaks: AtomicU64,
    heads: Mutex<Vec<String>>,
}

impl Web {
    pub(crate) fn serve(content: Vec<u8>) -> Self {
        Self::start(content, None)
    }

    /// A server that refuses requests without this header line, with 401.
    pub(crate) fn requiring(content: Vec<u8>, header: &str) -> Self {
        Self::start(content, Some(header.to_owned()))
    }

    fn start(content: Vec<u8>, required: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            content: Mutex::new((1, Arc::new(content))),
            plain: AtomicBool::new(false),
            required,
            told: Mutex::default(),
            allowed: AtomicU64::new(u64::MAX),
            sent: AtomicU64::new(0),
            breaks: AtomicU64::new(0),
            heads: Mutex::default(),
        });
        let served = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let served = served.clone();
                // A client that goes away ends its connection, which is no event.
                thread::spawn(move || served.connection(&stream));
            }
        });
        Self { url: format!("http://{address}/file.bin"), address, shared }
    }

    /// From now on, so much content goes out in all and then hardly any: a byte a second, so that nobody is done before
    /// [`let_go`](Self::let_go), however long that takes, and nobody gives the server up.
    pub(crate) fn hold_at(&self, bytes: usize) {
        self.shared.allowed.store(bytes as u64, Ordering::Relaxed);
    }

    /// Breaks off what is being sent.
    pub(crate) fn break_off(&self) {
        self.shared.breaks.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on, everything goes out.
    pub(crate) fn let_go(&self) {
        self.shared.allowed.store(u64::MAX, Ordering::Relaxed);
    }

    /// From now on, the resource is this, under a new entity tag.
    pub(crate) fn change_to(&self, content: Vec<u8>) {
        let mut current = self.shared.content.lock().unwrap();
        *current = (current.0 + 1, Arc::new(content));
    }

    /// From now on, answers tell no length, no entity tag, and serve no ranges.
    pub(crate) fn tell_nothing(&self) {
        self.shared.plain.store(true, Ordering::Relaxed);
    }

    /// From now on, answers say this, too: a header line.
    pub(crate) fn tell(&self, line: &str) {
        self.shared.told.lock().unwrap().push_str(&format!("{line}\r\n"));
    }

    /// Content bytes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Heads of all requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }
}

impl Shared {
    fn connection(&self, stream: &TcpStream) -> Option<()> {
        // Bytes that wait in the kernel count as sent, whether anybody is going to read them or not.
        set_socket_send_buffer_size(stream, 2 * CHUNK).ok()?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).ok()? == 0 {
                    return None;
                }
            }
            self.heads.lock().unwrap().push(head.clone());
            self.answer(stream, &head)?;
        }
    }

    fn answer(&self, mut stream: &TcpStream, head: &str) -> Option<()> {
        let (method, path) = head.split_once(' ')?;
        let lower = head.to_lowercase();
        let allowed =
            self.required.as_ref().is_none_or(|line| lower.contains(&format!("\r\n{}\r\n", line.to_lowercase())));
        let refusal = match (allowed, path.starts_with("/file")) {
            (false, _) => Some("401 Unauthorized"),
            (true, false) => Some("404 Not Found"),
            (true, true) => None,
        };
        if let Some(refusal) = refusal {
            return write!(stream, "HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n").ok();
        }
        let (tag, content) = self.content.lock().unwrap().clone();
        let length = content.len();
        if self.plain.load(Ordering::Relaxed) {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok()?;
            if method != "HEAD" {
                self.send(stream, &content)?;
            }
            return None;
        }
        if lower.contains(&format!("\r\nif-none-match: \"{tag}\"\r\n")) {
            return write!(stream, "HTTP/1.1 304 Not Modified\r\nETag: \"{tag}\"\r\n\r\n").ok();
        }
        let (status, from, to) = match range(&lower) {
            Some((from, to)) => ("206 Partial Content", from, to.map_or(length, |to| (to + 1).min(length))),
            None => ("200 OK", 0, length),
        };
        write!(stream, "HTTP/1.1 {status}\r\nETag: \"{tag}\"\r\nAccept-Ranges: bytes\r\n").ok()?;
        write!(stream, "{}Content-Length: {}\r\n", self.told.lock().unwrap(), to - from).ok()?;
        if status.starts_with("206") {
            write!(stream, "Content-Range: bytes {from}-{}/{length}\r\n", to - 1).ok()?;
        }
        stream.write_all(b"\r\n").ok()?;
        if method == "HEAD" {
            return Some(());
        }
        self.send(stream, &content[from..to])
    }

    fn send(&self, mut stream: &TcpStream, mut bytes: &[u8]) -> Option<()> {
        let breaks = self.breaks.load(Ordering::Relaxed);
        while !bytes.is_empty() {
            if self.breaks.load(Ordering::Relaxed) > breaks {
                return None;
            }
            let room = usize::try_from(self.room()).unwrap();
            let (chunk, rest) = bytes.split_at(bytes.len().min(CHUNK).min(room.max(1)));
            stream.write_all(chunk).ok()?;
            self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            bytes = rest;
            for _ in 0..50 {
                if self.room() > 0 {
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Some(())
    }

    /// How much content may go out now.
    fn room(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed).saturating_sub(self.sent.load(Ordering::Relaxed))
    }
}

fn range(lower_head: &str) -> Option<(usize, Option<usize>)> {
    let (_, rest) = lower_head.split_once("\r\nrange: bytes=")?;
    let (from, to) = rest.lines().next()?.split_once('-')?;
    Some((from.parse().ok()?, to.trim().parse().ok()))
}
