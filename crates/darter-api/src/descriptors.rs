//! Descriptors over unix sockets: each travels with the first byte of a frame.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// `file`, open for reading only and with a position of its own.
pub(crate) fn read_only(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Sends a frame with a descriptor. A frame is short: a socket's buffer takes it whole or not at all.
pub(crate) async fn send_with(stream: &UnixStream, frame: &[u8], file: &File) -> io::Result<()> {
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let descriptors = [file.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
            Ok(sendmsg(stream, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    // The descriptor went with the first byte.
    if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Fills `buffer`, and returns the descriptor that came with it.
pub(crate) async fn fill(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Option<OwnedFd>> {
    let (mut filled, mut found) = (0, None);
    while filled < buffer.len() {
        let (bytes, descriptor) = receive(stream, &mut buffer[filled..]).await?;
        filled += bytes;
        found = descriptor.or(found);
    }
    Ok(found)
}

/// Receives some bytes, at least one, and the descriptor that came with the last of them.
pub(crate) async fn receive(stream: &UnixStream, into: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let (bytes, descriptor) = stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut vectors = [IoSliceMut::new(into)];
            let got = recvmsg(stream, &mut vectors, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let descriptor = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            Ok((got.bytes, descriptor))
        })
        .await?;
    if bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((bytes, descriptor))
}
