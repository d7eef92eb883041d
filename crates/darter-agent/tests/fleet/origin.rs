//! An origin that answers each GET as a test wants it to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use darter_agent::{Agent, FetchError, Part};
use darter_core::source::Credentials;
use darter_core::{Digest, Source};
use futures_util::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// How a GET is answered.
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
    /// True to tell the length, and to serve ranges.
    pub(crate) tells_length: bool,
    /// After so many bytes nothing more comes, and the connection stays open.
    pub(crate) hangs_at: Option<usize>,
    /// Breaks off after the body, if its length is not told.
    pub(crate) breaks: bool,
}

impl Answer {
    pub(crate) fn of(body: &[u8]) -> Self {
        Self { body: body.to_vec(), tells_length: true, hangs_at: None, breaks: false }
    }
}

/// The answer to the n-th GET of this path; HEAD counts as none.
type Script = dyn Fn(u32, &str) -> Answer + Send + Sync;

pub(crate) struct Origin {
    /// `HOST:PORT`.
    pub(crate) address: String,
    gets: Arc<AtomicU32>,
}

impl Origin {
    pub(crate) async fn start(script: impl Fn(u32, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (gets, script): (_, Arc<Script>) = (Arc::new(AtomicU32::new(0)), Arc::new(script));
        let counter = Arc::clone(&gets);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counter, script) = (Arc::clone(&counter), Arc::clone(&script));
                // A client that goes away ends its connection, which is no event.
                tokio::spawn(async move { connection(stream, &counter, &*script).await });
            }
        });
        Self { address, gets }
    }

    /// How many GETs came so far.
    pub(crate) fn gets(&self) -> u32 {
        self.gets.load(Ordering::Relaxed)
    }

    /// A blob of it, as of a registry.
    pub(crate) fn blob(&self, content: &[u8]) -> Source {
        let registry = format!("http://{}/", self.address).parse().unwrap();
        Source::Registry { registry, repository: "lab/app".into(), digest: Digest::sha256(content) }
    }

    /// A file of it, of which no digest is known.
    pub(crate) fn file(&self) -> Source {
        Source::from_url(format!("http://{}/file", self.address).parse().unwrap(), &[], None).0
    }
}

async fn connection(stream: TcpStream, gets: &AtomicU32, script: &Script) -> Option<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).await.ok()? == 0 {
                return None;
            }
        }
        let head = head.to_lowercase();
        let is_get = head.starts_with("get ");
        let nth = if is_get { gets.fetch_add(1, Ordering::Relaxed) } else { gets.load(Ordering::Relaxed) };
        let Answer { body, tells_length, hangs_at, breaks } = script(nth, head.split(' ').nth(1)?);
        if !tells_length {
            // In chunks, so that an end that is none can be told from one.
            writer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
            if is_get && !body.is_empty() {
                writer.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.ok()?;
                writer.write_all(&body).await.ok()?;
                writer.write_all(b"\r\n").await.ok()?;
            }
            if is_get && !breaks {
                writer.write_all(b"0\r\n\r\n").await.ok()?;
            }
            return None;
        }
        let range = head.split_once("\r\nrange: bytes=").and_then(|(_, rest)| rest.lines().next()?.split_once('-'));
        let length = body.len();
        let head = match range {
            Some((from, to)) => {
                let (from, to) = (from.parse().ok()?, to.trim().parse().map_or(length, |to: usize| to + 1).min(length));
                let head = format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{length}", to - 1);
                (head, from..to)
            }
            None => ("200 OK".to_owned(), 0..length),
        };
        let (status, range) = head;
        let text = format!("HTTP/1.1 {status}\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n", range.len());
        writer.write_all(text.as_bytes()).await.ok()?;
        if is_get {
            let bytes = &body[range];
            writer.write_all(&bytes[..hangs_at.unwrap_or(bytes.len()).min(bytes.len())]).await.ok()?;
            if hangs_at.is_some() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// All bytes of a source as an agent gives them, in parts of files as the registry mirror asks for them.
pub(crate) async fn read(agent: &Agent, source: &Source) -> Result<Vec<u8>, FetchError> {
    let download = agent.open(source.clone(), Credentials::none()).await?;
    let mut parts = download.parts(None);
    let mut read = Vec::new();
    while let Some(part) = parts.next().await.transpose()? {
        match part {
            Part::Bytes(bytes) => read.extend_from_slice(&bytes),
            Part::File(part) => {
                let mut bytes = vec![0; part.range.len() as usize];
                std::os::unix::fs::FileExt::read_exact_at(&*part.file, &mut bytes, part.range.start()).unwrap();
                read.append(&mut bytes);
            }
        }
    }
    Ok(read)
}
