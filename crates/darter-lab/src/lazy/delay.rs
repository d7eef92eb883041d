//! Lets each request to a registry take a while, as one over a long way does, whatever the rate of the cable.
//!
//! A relay of bytes. It need not know HTTP: a puller sends nothing but heads of requests, one at a time on a connection, and each waits here.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Host;

const PORT: u16 = 5004;
/// The end of a request's head.
const END: &[u8] = b"\r\n\r\n";

/// A running relay. Ends with this value, but for connections that are open.
#[derive(Debug)]
pub struct Delay {
    authority: String,
    door: TcpStream,
}

impl Delay {
    /// Stands before the registry at `target` (`ADDRESS:PORT`) on a host.
    pub fn start(host: &Host, target: &str, delay: Duration) -> Result<Self> {
        let (address, target) = (host.address(), target.to_owned());
        // A socket is of the network in which it was made, and so are those of threads that begin there.
        let door = host.enter(|| {
            let listener = TcpListener::bind((address, PORT)).context("listen for requests that are delayed")?;
            let door = listener.try_clone().context("share a socket")?;
            thread::spawn(move || serve(&listener, &target, delay));
            Ok(TcpStream::from(OwnedFd::from(door)))
        })?;
        Ok(Self { authority: format!("{address}:{PORT}"), door })
    }

    /// `ADDRESS:PORT` on the hosts' network.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The address at which agents and engines reach it.
    pub fn url(&self) -> String {
        format!("http://{}", self.authority)
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        // The thread that accepts gets an error, and ends.
        let _ = self.door.shutdown(Shutdown::Both);
    }
}

fn serve(listener: &TcpListener, target: &str, delay: Duration) {
    while let Ok((client, _)) = listener.accept() {
        let target = target.to_owned();
        // A connection that breaks is for its two ends to notice.
        thread::spawn(move || relay(&client, &target, delay));
    }
}

fn relay(client: &TcpStream, target: &str, delay: Duration) -> io::Result<()> {
    let registry = TcpStream::connect(target)?;
    for side in [client, &registry] {
        side.set_nodelay(true)?;
    }
    let (mut answers, mut back) = (registry.try_clone()?, client.try_clone()?);
    let answering = thread::spawn(move || {
        let copied = io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
        copied
    });
    let asked = forward(client, &registry, delay);
    let _ = registry.shutdown(Shutdown::Both);
    let _ = answering.join();
    asked
}

/// Hands bytes on; those that end a head only after `delay`.
fn forward(mut from: impl Read, mut to: impl Write, delay: Duration) -> io::Result<()> {
    let (mut buffer, mut last) = (vec![0; 64 << 10], Vec::new());
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        last.extend_from_slice(&buffer[..read]);
        let kept = last.len().saturating_sub(END.len());
        last.drain(..kept);
        if last == END {
            thread::sleep(delay);
        }
        to.write_all(&buffer[..read])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_core::{Clock as _, SystemClock};

    /// Gives its parts one by one.
    struct Parts(Vec<&'static [u8]>);

    impl Read for Parts {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            buffer[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    #[test]
    fn each_head_waits_and_nothing_is_changed() {
        let delay = Duration::from_millis(30);
        let clock = SystemClock::start();
        let start = clock.now();
        let mut out = Vec::new();
        let parts = vec![&b"GET /a\r\nx: y\r\n"[..], b"\r", b"\n", b"GET /b\r\n\r\n"];
        let all = parts.concat();
        forward(Parts(parts), &mut out, delay).unwrap();
        assert_eq!(out, all);
        assert!(clock.now().since(start) >= delay * 2);
    }
}
