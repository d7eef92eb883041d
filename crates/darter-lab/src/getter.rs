//! Gets over HTTP/1.1 at next to no cost: one connection, GET, bodies with a length. It is the same for every server that is measured.
//! (Agents' administration is asked by `darter-api`'s client.)

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How long a server may say nothing.
const SILENT_SERVER_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that are read of a body at a time.
const CHUNK: usize = 1 << 20;

/// A connection that stays open from one request to the next.
#[derive(Debug)]
pub struct Getter {
    stream: BufReader<TcpStream>,
    authority: String,
    buffer: Vec<u8>,
}

impl Getter {
    /// Connects, from the network namespace that this thread is in.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENT_SERVER_TIMEOUT))?;
        let stream = BufReader::with_capacity(64 * 1024, stream);
        Ok(Self { stream, authority: address.to_string(), buffer: vec![0; CHUNK] })
    }

    /// Gets what is at `path`, part by part; an error for any status but 200. Gives the body's length.
    pub fn get(&mut self, path: &str, mut take: impl FnMut(&[u8])) -> Result<u64> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.authority);
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line).with_context(|| format!("no answer to GET {path}"))?;
        ensure!(line.starts_with("HTTP/1.1 200"), "GET {path}: {}", line.trim());
        let mut length = None;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
        let length: u64 = length.with_context(|| format!("the answer to GET {path} has no length"))?;
        let mut left = length;
        while left > 0 {
            let most = left.min(CHUNK as u64) as usize;
            let read = self.stream.read(&mut self.buffer[..most])?;
            ensure!(read > 0, "the answer to GET {path} broke off {left} bytes before its end");
            take(&self.buffer[..read]);
            left -= read as u64;
        }
        Ok(length)
    }

    /// Gets a text.
    pub fn text(&mut self, path: &str) -> Result<String> {
        let mut bytes = Vec::new();
        self.get(path, |part| bytes.extend_from_slice(part))?;
        String::from_utf8(bytes).with_context(|| format!("{path} is no text"))
    }
}
