//! A web server that answers as a test wants it to, and keeps an account.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_get(&self) -> bool {
        self.method == "GET"
    }

    /// The first byte asked for, and one past the last.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().map_or(usize::MAX, |last: usize| last + 1)))
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// True if a range is served.
    ranges: bool,
    /// True if the length is told; else the end of the connection ends the body.
    tells_length: bool,
    /// After so many bytes, waits until the gate is open.
    gate: Option<(usize, watch::Receiver<bool>)>,
    /// After so many bytes, breaks off.
    cut: Option<usize>,
    /// Never answers.
    hangs: bool,
}

impl Reply {
    pub(crate) fn ok(body: &[u8]) -> Self {
        let (headers, body) = (Vec::new(), body.to_vec());
        Self { status: 200, headers, body, ranges: true, tells_length: true, gate: None, cut: None, hangs: false }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::ok(b"") }
    }

    pub(crate) fn hanging() -> Self {
        Self { hangs: true, ..Self::ok(b"") }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn without_ranges(self) -> Self {
        Self { ranges: false, ..self }
    }

    pub(crate) fn without_length(self) -> Self {
        Self { tells_length: false, ..self }
    }

    /// The same bytes, under another status; never a part of them.
    pub(crate) fn under_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn gated(self, after: usize, gate: &watch::Receiver<bool>) -> Self {
        Self { gate: Some((after, gate.clone())), ..self }
    }

    pub(crate) fn cut(self, after: usize) -> Self {
        Self { cut: Some(after), ..self }
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A server on a port of its own.
pub(crate) struct Web {
    base: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Web {
    pub(crate) async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (seen, handler): (Arc<Mutex<Vec<Seen>>>, Handler) = (Arc::default(), Arc::new(handler));
        let kept = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, kept) = (Arc::clone(&handler), Arc::clone(&kept));
                // A client that goes away ends its connection.
                tokio::spawn(async move { serve(stream, &handler, &kept).await });
            }
        });
        Self { base, seen, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    /// How often this path was read, whole or in part; questions for one byte, or a sample, don't count.
    pub(crate) fn reads(&self, path: &str) -> usize {
        let is_sample = |seen: &Seen| seen.range().is_some_and(|(from, to)| to - from <= 1024);
        let reads = |seen: &&Seen| seen.is_get() && seen.path == path && !is_sample(seen);
        self.seen.lock().iter().filter(reads).count()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, handler: &Handler, account: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let mut words = lines[0].split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let header = |line: &String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let seen = Seen { method, path, headers: lines[1..].iter().filter_map(header).collect() };
        let reply = handler(&seen);
        account.lock().push(seen.clone());
        if !answer(&mut stream, &seen, reply).await? {
            return Ok(());
        }
    }
}

/// Returns true if the connection goes on.
async fn answer(stream: &mut BufReader<TcpStream>, seen: &Seen, reply: Reply) -> std::io::Result<bool> {
    if reply.hangs {
        std::future::pending::<()>().await;
    }
    let whole = reply.body.len();
    let range = seen.range().filter(|_| reply.ranges && reply.status == 200 && reply.tells_length);
    let (status, from, to) = match range {
        Some((from, to)) if from < whole => (206, from, to.min(whole)),
        Some(_) => (416, 0, 0),
        None => (reply.status, 0, whole),
    };
    let mut head = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    match status {
        206 => head += &format!("content-range: bytes {from}-{}/{whole}\r\n", to - 1),
        416 => head += &format!("content-range: bytes */{whole}\r\n"),
        _ => {}
    }
    if reply.tells_length {
        head += &format!("content-length: {}\r\n\r\n", to - from);
    } else {
        head += "connection: close\r\n\r\n";
    }
    stream.write_all(head.as_bytes()).await?;
    if seen.is_get() && status != 304 {
        let body = &reply.body[from..to];
        let end = reply.cut.map_or(body.len(), |cut| cut.min(body.len()));
        let stop = reply.gate.as_ref().map_or(end, |(after, _)| (*after).min(end));
        stream.write_all(&body[..stop]).await?;
        stream.flush().await?;
        if let Some((_, mut gate)) = reply.gate {
            let _ = gate.wait_for(|open| *open).await;
        }
        stream.write_all(&body[stop..end]).await?;
        stream.flush().await?;
        if end < body.len() {
            // The bytes must be on their way before the connection breaks.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            return Ok(false);
        }
    }
    stream.flush().await?;
    Ok(reply.tells_length)
}
