//! Control channels in use: order, ends, pressure, and signs of life.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use darter_core::{Blame, Blamed, BlobId, Fault, PieceIndex, Retry};
use darter_wire::{
    ControlConfig, ControlReceiver, ControlSender, Frame, MAX_MESSAGE, MemNetwork, Message, PeerStream, TcpTransport,
    Transport, Unknown, WireError, control,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

const BLOB: BlobId = BlobId([3; 32]);

async fn connected(transport: &dyn Transport, addr: &str) -> (PeerStream, PeerStream) {
    let listener = transport.listen(addr).await.unwrap();
    let target = listener.local_addr().to_string();
    let (here, there) = tokio::join!(transport.connect(&target), listener.accept());
    (here.unwrap(), there.unwrap())
}

async fn in_memory() -> (PeerStream, PeerStream) {
    connected(&MemNetwork::new().host([10, 0, 0, 1]), "10.0.0.1:0").await
}

fn start(stream: PeerStream) -> (ControlSender, ControlReceiver) {
    control::start(stream, &ControlConfig::default())
}

fn have(piece: u32) -> Message {
    Message::Have { blob: BLOB, pieces: vec![PieceIndex(piece)], known: 0 }
}

fn long() -> Message {
    Message::Dissolved { blob: BLOB, reason: "long".repeat(1_000_000) }
}

/// Lets every task run until it waits for something.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn messages_arrive_in_order_over_tcp_both_ways_and_then_the_end() {
    let (here, there) = connected(&TcpTransport::default(), "127.0.0.1:0").await;
    let ((to_there, mut at_here), (to_here, mut at_there)) = (start(here), start(there));
    let send = async move {
        for piece in 0..2_000 {
            to_there.send(&have(piece)).await.unwrap();
        }
        to_there.send(&long()).await.unwrap();
    };
    let receive = async move {
        for piece in 0..2_000 {
            assert_eq!(at_there.recv().await.unwrap(), Some(have(piece)));
        }
        assert_eq!(at_there.recv().await.unwrap(), Some(long()));
        assert_eq!(at_there.recv().await.unwrap(), None, "its senders are gone");
        to_here.send(&Message::Part { blob: BLOB }).await.unwrap();
    };
    tokio::join!(send, receive);
    assert_eq!(at_here.recv().await.unwrap(), Some(Message::Part { blob: BLOB }), "the way back was still open");
    assert_eq!(at_here.recv().await.unwrap(), None);
}

#[tokio::test]
async fn what_was_queued_goes_out_when_everything_here_is_dropped() {
    let (here, there) = in_memory().await;
    let (sender, receiver) = start(here);
    let (_keep, mut at_there) = start(there);
    sender.send(&have(1)).await.unwrap();
    sender.send_frame(Frame::encode(&long()).unwrap()).await.unwrap();
    drop((sender, receiver));
    assert_eq!(at_there.recv().await.unwrap(), Some(have(1)));
    assert_eq!(at_there.recv().await.unwrap(), Some(long()));
    assert_eq!(at_there.recv().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_stays_up() {
    let (here, there) = in_memory().await;
    let (sender, mut at_here) = start(here);
    let (_keep, mut at_there) = start(there);
    let both = async { tokio::join!(at_here.recv(), at_there.recv()) };
    assert!(tokio::time::timeout(Duration::from_secs(3_600), both).await.is_err(), "an hour of nothing to say");
    sender.send(&have(1)).await.unwrap();
    assert_eq!(at_there.recv().await.unwrap(), Some(have(1)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_noticed_and_senders_learn_of_it() {
    let (here, _there) = in_memory().await;
    let (sender, mut receiver) = start(here);
    let before = Instant::now();
    let error = receiver.recv().await.unwrap_err();
    assert!(matches!(error, WireError::Silent { .. }), "{error}");
    assert_eq!(before.elapsed().as_secs(), ControlConfig::default().silence.as_secs());
    drop(receiver);
    sender.closed().await;
    assert!(matches!(sender.send(&have(1)).await, Err(WireError::Closed { .. })));
    assert!(matches!(sender.try_send(&have(1)), Err(WireError::Closed { .. })));
}

#[tokio::test(start_paused = true)]
async fn who_stood_still_itself_listens_anew_before_it_judges() {
    let (here, _there) = in_memory().await;
    let (_keep, mut receiver) = start(here);
    let listening = tokio::spawn(async move {
        let error = receiver.recv().await.unwrap_err();
        (error, Instant::now())
    });
    settle().await;
    // No timer fires in between, as in a machine that is paused.
    tokio::time::advance(Duration::from_secs(60)).await;
    let awake = Instant::now();
    let (error, judged) = listening.await.unwrap();
    assert!(matches!(error, WireError::Silent { .. }), "{error}");
    assert_eq!((judged - awake).as_secs(), ControlConfig::default().silence.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_lives_but_takes_nothing_is_given_up() {
    let (here, mut there) = in_memory().await;
    let (sender, mut receiver) = start(here);
    tokio::spawn(async move {
        while there.writer.write_all(&[0; 4]).await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    });
    sender.send(&long()).await.unwrap();
    let error = receiver.recv().await.unwrap_err();
    assert!(matches!(error, WireError::Silent { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_message_is_no_silence() {
    let (here, mut there) = in_memory().await;
    let (_keep, mut receiver) = start(here);
    let slow = async {
        there.writer.write_all(&1_000u32.to_le_bytes()).await.unwrap();
        for _ in 0..20 {
            sleep(Duration::from_secs(4)).await;
            there.writer.write_all(&[0]).await.unwrap();
        }
        drop(there);
    };
    let (error, ()) = tokio::join!(receiver.recv(), slow);
    assert!(matches!(error, Err(WireError::Closed { .. })), "the end came within the message: {error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_says_so_and_waiting_is_possible() {
    let (here, there) = in_memory().await;
    let (sender, _receiver) = control::start(here, &ControlConfig { queue: 2, ..ControlConfig::default() });
    let mut queued = 0;
    while sender.try_send(&have(queued)).is_ok() {
        queued += 1;
    }
    assert!(matches!(sender.try_send(&have(queued)), Err(WireError::Full)));
    let (_keep, mut at_there) = start(there);
    let last = have(queued);
    let (sent, first) = tokio::join!(sender.send(&last), at_there.recv());
    sent.unwrap();
    assert_eq!(first.unwrap(), Some(have(0)));
}

#[tokio::test(start_paused = true)]
async fn receiving_can_be_given_up_at_any_moment_without_loss() {
    let bytes = {
        let (here, mut there) = in_memory().await;
        let (sender, _receiver) = start(here);
        for piece in 0..20 {
            sender.send(&have(piece)).await.unwrap();
        }
        drop(sender);
        let mut bytes = Vec::new();
        there.reader.read_to_end(&mut bytes).await.unwrap();
        bytes
    };
    let (here, mut there) = in_memory().await;
    let (_keep, mut receiver) = start(here);
    let drip = async {
        for byte in bytes {
            there.writer.write_all(&[byte]).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    };
    let receive = async {
        let mut got = Vec::new();
        while got.len() < 20 {
            tokio::select! {
                message = receiver.recv() => got.push(message.unwrap().unwrap()),
                () = sleep(Duration::from_millis(3)) => {}
            }
        }
        got
    };
    let ((), got) = tokio::join!(drip, receive);
    assert_eq!(got, (0..20).map(have).collect::<Vec<_>>());
}

#[tokio::test]
async fn garbage_and_lengths_over_the_limit_are_their_fault() {
    let too_long = (MAX_MESSAGE as u32 + 1).to_le_bytes().to_vec();
    let unknown = [5u32.to_le_bytes().as_slice(), &[0xff; 5]].concat();
    for said in [too_long, unknown] {
        let (here, mut there) = in_memory().await;
        let (_keep, mut receiver) = start(here);
        there.writer.write_all(&said).await.unwrap();
        let error = receiver.recv().await.unwrap_err();
        assert!(error.blame() == Blame::new(Fault::Peer, Retry::Elsewhere), "{error}");
    }
}

#[tokio::test]
async fn what_a_newer_agent_says_between_known_messages_is_skipped_and_counted() {
    let (here, mut there) = in_memory().await;
    let skipped = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&skipped);
    let count = move |unknown: Unknown| {
        counted.fetch_add(unknown.kind, Ordering::Relaxed);
    };
    let config = ControlConfig { skipped: Some(Arc::new(count)), ..ControlConfig::default() };
    let (_keep, mut receiver) = control::start(here, &config);
    let unknown = [&100_001u32.to_le_bytes()[..], &[100], &[0xff; 100_000]].concat();
    let say = async {
        for piece in 0..3 {
            there.writer.write_all(&unknown).await.unwrap();
            there.writer.write_all(Frame::encode(&have(piece)).unwrap().bytes()).await.unwrap();
        }
    };
    let hear = async {
        for piece in 0..3 {
            assert_eq!(receiver.recv().await.unwrap(), Some(have(piece)));
        }
    };
    tokio::join!(say, hear);
    assert_eq!(skipped.load(Ordering::Relaxed), 300);
}
