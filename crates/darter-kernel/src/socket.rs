//! Low-water marks of TCP sockets: how much must have happened before a sleeper is woken; and the rate at which what was sent arrives.
//! See socket(7) and tcp(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Lets a socket count as readable only when at least `bytes` have come (`SO_RCVLOWAT`), or its end has. The kernel caps it
/// at half the largest receive buffer, and takes 0 for 1. Data already there counts at once.
///
/// A read that does not wait still gives what there is.
///
/// # Errors
/// Those of `setsockopt`: none for an open TCP socket.
pub fn set_receive_low_water(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// Lets a socket count as writable only while fewer than `bytes` wait in it that were never sent (`TCP_NOTSENT_LOWAT`); a write
/// that does not wait takes no more than that, either. Bytes that were sent and not acknowledged are bounded by the connection's
/// window and not by this.
///
/// # Errors
/// Those of `setsockopt`: none for an open TCP socket.
pub fn set_unsent_low_water(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

/// Where the kernel's `struct tcp_info` has the rate, after 160 bytes of other fields; it never moves (Linux 4.9).
const DELIVERY_RATE: std::ops::Range<usize> = 160..168;

/// The rate at which the other end has acknowledged bytes of late, in bytes per second (`TCP_INFO`); `None` before anything was measured.
/// While the sender keeps the connection busy it is the connection's rate; what came of a pause is left out by the kernel.
///
/// # Errors
/// Those of `getsockopt`: none for an open TCP socket.
pub fn delivery_rate(socket: impl AsFd) -> io::Result<Option<u64>> {
    let mut info = [0_u8; DELIVERY_RATE.end];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes at most `length` bytes, all of which `info` has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let rate = info.get(DELIVERY_RATE).filter(|_| length as usize >= DELIVERY_RATE.end);
    let rate = rate.and_then(|rate| rate.first_chunk()).map_or(0, |rate| u64::from_ne_bytes(*rate));
    Ok(Some(rate).filter(|rate| *rate > 0))
}

fn set(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: u32) -> io::Result<()> {
    let value = libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel reads `length` bytes of an integer
    // that lives until the call is over.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    fn is_readable_within(milliseconds: i32, socket: &TcpStream) -> bool {
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry, which lives until the call is over.
        unsafe { libc::poll(&raw mut poll, 1, milliseconds) == 1 }
    }

    /// True if the socket becomes readable; a busy machine may take its time.
    fn is_readable(socket: &TcpStream) -> bool {
        is_readable_within(60_000, socket)
    }

    fn stays_silent(socket: &TcpStream) -> bool {
        !is_readable_within(200, socket)
    }

    #[test]
    fn a_connection_that_has_sent_something_has_a_rate() {
        let (mut sender, mut receiver) = pair();
        assert_eq!(delivery_rate(&sender).unwrap(), None);
        let taken = std::thread::spawn(move || receiver.read_to_end(&mut Vec::new()).unwrap());
        for _ in 0..64 {
            sender.write_all(&[7; 1 << 16]).unwrap();
        }
        // Of a connection over loopback: more than the slowest link, less than any memory.
        let rate = delivery_rate(&sender).unwrap().expect("much was acknowledged");
        assert!((1_000..1_000_000_000_000).contains(&rate), "{rate}");
        drop(sender);
        assert_eq!(taken.join().unwrap(), 64 << 16);
    }

    #[test]
    fn a_socket_is_readable_from_its_mark_on_and_a_read_gives_what_there_is() {
        let (mut sender, mut receiver) = pair();
        set_receive_low_water(&receiver, 1000).unwrap();
        sender.write_all(&[7; 999]).unwrap();
        assert!(stays_silent(&receiver));
        sender.write_all(&[7]).unwrap();
        assert!(is_readable(&receiver));
        assert_eq!(receiver.read(&mut [0; 600]).unwrap(), 600);
        assert!(stays_silent(&receiver));
        set_receive_low_water(&receiver, 400).unwrap();
        assert!(is_readable(&receiver));
        assert_eq!(receiver.read(&mut [0; 600]).unwrap(), 400);
        drop(sender);
        assert!(is_readable(&receiver), "the end counts, whatever the mark");
    }

    #[test]
    fn a_socket_takes_no_more_unsent_bytes_than_its_mark() {
        let accepted = |mark: Option<u32>| {
            let (mut sender, _receiver) = pair();
            sender.set_nonblocking(true).unwrap();
            if let Some(mark) = mark {
                set_unsent_low_water(&sender, mark).unwrap();
            }
            let mut taken = 0;
            while let Ok(bytes) = sender.write(&[0; 4096]) {
                taken += bytes;
            }
            taken
        };
        assert!(accepted(Some(16 * 1024)) < accepted(None));
    }
}
