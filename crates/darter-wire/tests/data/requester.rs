//! Promises of the receiving side: nothing but what was asked for, clean ends, and knowing how far things are.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use darter_core::{Blame, Blamed, Fault, Retry};
use darter_protocol::ProtocolError;
use darter_wire::{
    Answers, BufferPool, DataClient, Packer, PeerReader, PeerStream, Receiving, Refusal, Request, Unlimited, Unpacker,
    WireError,
};
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};
use tokio::time::{sleep, timeout};

use crate::world::*;

/// A requester that asked for piece 3 with id 1, and the holder's end of its connection for the test to play.
async fn asked() -> (DataClient, Answers, PeerStream) {
    let (here, there) = pair().await;
    let (client, answers) = DataClient::start(here, receiving());
    client.request(the_piece(1, 3), PIECE as u32).unwrap();
    (client, answers, there)
}

fn header(id: u32, status: u8, piece: u32, length: u32) -> Vec<u8> {
    let [id, piece, length] = [id, piece, length].map(u32::to_le_bytes);
    [id.as_slice(), &[status, 0, 0, 0], &piece, &length].concat()
}

#[tokio::test]
async fn a_holder_that_dies_within_a_piece_is_a_clean_error() {
    let (client, mut answers, mut holder) = asked().await;
    holder.writer.write_all(&header(1, 0, 3, PIECE as u32)).await.unwrap();
    holder.writer.write_all(&piece(3)[..PIECE / 2]).await.unwrap();
    drop(holder);
    assert!(matches!(answers.recv().await, Err(WireError::Closed { .. })));
    assert_eq!(client.unanswered(), [the_piece(1, 3)], "to be asked of somebody else");
    assert_eq!(client.arrived(1), Some(PIECE as u32 / 2));
    assert!(matches!(client.request(the_piece(2, 4), 1), Err(WireError::Closed { .. })));
    assert!(matches!(answers.recv().await, Ok(None)));
}

#[tokio::test]
async fn a_holder_that_leaves_owing_an_answer_is_an_error_and_else_the_end() {
    let (_client, mut answers, holder) = asked().await;
    drop(holder);
    assert!(matches!(answers.recv().await, Err(WireError::Closed { .. })));
    let (_client, mut answers, mut holder) = asked().await;
    holder.writer.write_all(&header(1, 1, u32::MAX, 0)).await.unwrap();
    drop(holder);
    assert!(matches!(answers.recv().await, Ok(Some(_))));
    assert!(matches!(answers.recv().await, Ok(None)));
}

#[tokio::test]
async fn only_what_was_asked_for_is_taken() {
    let too_long = header(1, 0, 3, PIECE as u32 + 1);
    let another_piece = header(1, 0, 4, PIECE as u32);
    let nobody_asked = header(2, 0, 3, PIECE as u32);
    let refuses_nothing = header(2, 1, u32::MAX, 0);
    let no_piece = header(1, 0, u32::MAX, 0);
    let endless_refusal = header(1, 9, 3, 0x0100_0001);
    let not_packed = [header(1, 7, 3, 9), vec![0; 9]].concat();
    for said in [not_packed, too_long, another_piece, nobody_asked, refuses_nothing, no_piece, endless_refusal] {
        let (client, mut answers, mut holder) = asked().await;
        holder.writer.write_all(&said).await.unwrap();
        let error = answers.recv().await.unwrap_err();
        assert!(error.blame() == Blame::new(Fault::Peer, Retry::Elsewhere), "{error}");
        assert!(client.is_closed());
    }
}

#[tokio::test]
async fn a_piece_over_the_protocols_limit_is_refused_whatever_was_allowed() {
    let (here, mut holder) = pair().await;
    let (client, mut answers) = DataClient::start(here, receiving());
    client.request(any_piece(1), u32::MAX).unwrap();
    holder.writer.write_all(&header(1, 0, 3, (1 << 24) + 1)).await.unwrap();
    let error = answers.recv().await.unwrap_err();
    assert!(matches!(error, WireError::Protocol(ProtocolError::TooLong { limit: 16_777_216, .. })), "{error}");
}

/// Counts the reads that gave bytes.
struct Counting {
    reader: Box<dyn PeerReader>,
    reads: Arc<AtomicUsize>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.reader).poll_read(cx, buffer);
        if read.is_ready() {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        read
    }
}

impl PeerReader for Counting {}

#[tokio::test]
async fn a_header_that_is_there_comes_with_the_piece_before_and_takes_no_read_of_its_own() {
    const LENGTH: usize = 1_000;
    let (mut here, mut holder) = pair().await;
    let reads = Arc::<AtomicUsize>::default();
    here.reader = Box::new(Counting { reader: here.reader, reads: Arc::clone(&reads) });
    let (client, mut answers) = DataClient::start(here, receiving());
    let mut said = Vec::new();
    for id in 1..=4 {
        client.request(the_piece(id, id), PIECE as u32).unwrap();
        said.extend_from_slice(&header(id, 0, id, LENGTH as u32));
        said.extend_from_slice(&piece(id)[..LENGTH]);
    }
    // The last header is cut into two.
    said.extend_from_slice(&header(5, 1, u32::MAX, 0)[..9]);
    client.request(the_piece(5, 5), PIECE as u32).unwrap();
    holder.writer.write_all(&said).await.unwrap();
    for id in 1..=4 {
        let answer = answers.recv().await;
        let Ok(Some(darter_wire::Answer::Data { id: of, data, .. })) = answer else { panic!("{answer:?}") };
        assert!(of == id && *plain(data) == piece(id)[..LENGTH]);
    }
    assert_eq!(reads.load(Ordering::Relaxed), 5, "the first header, and each piece");
    assert_eq!(client.received(), 4 * LENGTH as u64);
    holder.writer.write_all(&header(5, 1, u32::MAX, 0)[9..]).await.unwrap();
    let answer = answers.recv().await;
    assert!(matches!(answer, Ok(Some(darter_wire::Answer::None { id: 5, .. }))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn progress_is_known_and_receiving_can_be_given_up_at_any_moment() {
    let (client, mut answers, mut holder) = asked().await;
    let said = [header(1, 0, 3, PIECE as u32), piece(3)].concat();
    let drip = async {
        for part in said.chunks(1_007) {
            let (first, second) = part.split_at(5);
            holder.writer.write_all(first).await.unwrap();
            sleep(Duration::from_millis(10)).await;
            holder.writer.write_all(second).await.unwrap();
        }
    };
    let receive = async {
        let mut last = 0;
        loop {
            if let Ok(answer) = timeout(Duration::from_millis(3), answers.recv()).await {
                return (answer, last);
            }
            let arrived = client.arrived(1).unwrap();
            assert!(arrived >= last);
            last = arrived;
        }
    };
    let ((), (answer, last)) = tokio::join!(drip, receive);
    let Ok(Some(darter_wire::Answer::Data { data, .. })) = answer else { panic!("{answer:?}") };
    assert!(*plain(data) == piece(3));
    assert!(last > 0, "progress was seen on the way");
    assert_eq!(client.arrived(1), None);
}

/// A requester that asked for piece 3 with id 1 and takes it packed, and the holder's end.
async fn asked_for_packed() -> (DataClient, Answers, PeerStream) {
    let (here, there) = pair().await;
    let (client, answers) = DataClient::start(here, receiving());
    client.request(Request { takes_packed: true, ..the_piece(1, 3) }, PIECE as u32).unwrap();
    (client, answers, there)
}

#[tokio::test(start_paused = true)]
async fn of_a_packed_piece_the_part_has_come_that_came_of_its_bytes_on_the_wire() {
    let (client, mut answers, mut holder) = asked_for_packed().await;
    let packed = Packer::default().pack(&piece(3)).unwrap();
    let half = packed.length() as usize / 2;
    let early = timeout(Duration::from_millis(5), async {
        holder.writer.write_all(&header(1, 7, 3, packed.length())).await.unwrap();
        holder.writer.write_all(&packed.body()[..half]).await.unwrap();
        answers.recv().await
    });
    assert!(early.await.is_err());
    let arrived = client.arrived(1).unwrap();
    assert!(arrived.abs_diff(PIECE as u32 / 2) < 10, "{arrived}");
    holder.writer.write_all(&packed.body()[half..]).await.unwrap();
    let answer = answers.recv().await;
    let Ok(Some(darter_wire::Answer::Data { data, .. })) = answer else { panic!("{answer:?}") };
    assert_eq!((data.plain_length(), data.wire_length()), (PIECE as u32, packed.length()));
    assert_eq!(client.received(), u64::from(packed.length()));
    assert!(*plain(data) == piece(3));
}

#[tokio::test]
async fn a_packed_piece_that_says_to_be_longer_than_may_be_or_nothing_ends_the_connection_and_a_broken_one_is_an_error()
{
    let packed = Packer::default().pack(&piece(3)).unwrap();
    let body = |length: u32| [&length.to_le_bytes()[..], &packed.body()[4..]].concat();
    for (length, frame) in [(0, body(0)), (PIECE as u32 + 1, body(PIECE as u32 + 1)), (1, vec![1, 0, 0, 0])] {
        let (client, mut answers, mut holder) = asked_for_packed().await;
        let said = [header(1, 7, 3, frame.len() as u32), frame].concat();
        holder.writer.write_all(&said).await.unwrap();
        let error = answers.recv().await.unwrap_err();
        assert!(error.blame() == Blame::new(Fault::Peer, Retry::Elsewhere), "{length}: {error}");
        assert!(client.is_closed());
    }
    // Whoever unpacks it learns of these.
    for frame in [body(PIECE as u32 - 1), body(PIECE as u32)[..50].to_vec()] {
        let (_client, mut answers, mut holder) = asked_for_packed().await;
        let said = [header(1, 7, 3, frame.len() as u32), frame].concat();
        holder.writer.write_all(&said).await.unwrap();
        let answer = answers.recv().await;
        let Ok(Some(darter_wire::Answer::Data { data, .. })) = answer else { panic!("{answer:?}") };
        let error = data.unpack(&mut Unpacker::default()).unwrap_err();
        assert!(error.blame() == Blame::new(Fault::Peer, Retry::Elsewhere), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_meters_what_is_received() {
    let gate = Gate::shut();
    let (here, there) = pair().await;
    let _serving = serve(there, &Holder::of([1]), &sending(1, Arc::new(Unlimited)));
    let receiving = Receiving { budget: gate.clone(), buffers: BufferPool::default() };
    let (client, mut answers) = DataClient::start(here, receiving);
    ask_for(&client, [1]);
    gate.let_pass(70_000);
    assert!(timeout(Duration::from_secs(3_600), answers.recv()).await.is_err());
    assert_eq!(client.received(), 65_536, "one grain, the next is over the budget");
    gate.open();
    assert_eq!(next(&mut answers).await, (1, Ok(1)));
}

#[tokio::test]
async fn requests_have_a_bound_and_ids_of_their_own() {
    let (client, _answers) = requester(&Holder::of([]), &sending(1, Arc::new(Unlimited))).await;
    for id in 0..256 {
        client.request(any_piece(id), 1).unwrap();
        assert!(matches!(client.request(any_piece(id), 1), Err(WireError::InUse { .. } | WireError::Full)));
    }
    assert!(matches!(client.request(any_piece(256), 1), Err(WireError::Full)));
    client.close();
    assert!(matches!(client.request(any_piece(256), 1), Err(WireError::Closed { .. })));
}

#[tokio::test]
async fn closing_ends_a_wait_for_answers_and_the_holder_sees_it() {
    let (here, there) = pair().await;
    let serving = serve(there, &Holder::of([]), &sending(1, Arc::new(Unlimited)));
    let (client, mut answers) = DataClient::start(here, receiving());
    client.request(any_piece(1), 1).unwrap();
    let (end, ()) = tokio::join!(answers.recv(), async { client.close() });
    assert!(matches!(end, Ok(None)));
    drop(answers);
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn room_for_pieces_is_used_again_and_only_so_much_is_kept() {
    let buffers = BufferPool::new(PIECE * 3 / 2);
    let (here, there) = pair().await;
    let _serving = serve(there, &Holder::of(0..4), &sending(1, Arc::new(Unlimited)));
    let receiving = Receiving { budget: Arc::new(Unlimited), buffers: buffers.clone() };
    let (client, mut answers) = DataClient::start(here, receiving);
    // A piece, and the header behind it; and as much as it takes to begin at a page.
    const ROOM: usize = PIECE + 16 + 4096;
    let mut rooms = Vec::new();
    for index in 0..2 {
        ask_for(&client, [index]);
        let Ok(Some(darter_wire::Answer::Data { data, .. })) = answers.recv().await else { panic!("a piece") };
        rooms.push(plain(data).as_ptr());
    }
    assert_eq!(rooms[0], rooms[1]);
    assert_eq!(buffers.idle_bytes(), ROOM);
    ask_for(&client, [2, 3]);
    let both = [answers.recv().await.unwrap(), answers.recv().await.unwrap()];
    assert_eq!(buffers.idle_bytes(), 0);
    drop(both);
    assert_eq!(buffers.idle_bytes(), ROOM, "the second is over what the pool keeps");
    buffers.trim();
    assert_eq!(buffers.idle_bytes(), 0);
}

#[tokio::test]
async fn a_refusal_of_another_release_is_one_and_what_comes_with_it_is_skipped() {
    let (client, mut answers, mut holder) = asked().await;
    client.request(the_piece(2, 4), PIECE as u32).unwrap();
    client.request(the_piece(3, 5), PIECE as u32).unwrap();
    let said = [
        &header(900, 77, 0, 70_000),
        &vec![0xff; 70_000],
        &header(1, 77, u32::MAX, 10_000),
        &vec![0xff; 10_000],
        &header(2, 1, u32::MAX, 3),
        &b"why".to_vec(),
        &header(3, 0, 5, PIECE as u32),
        &piece(5),
    ];
    let say = async {
        for bytes in said {
            holder.writer.write_all(bytes).await.unwrap();
        }
    };
    let hear = async { [next(&mut answers).await, next(&mut answers).await, next(&mut answers).await] };
    let ((), heard) = tokio::join!(say, hear);
    assert_eq!(heard, [(1, Err(Refusal::Other)), (2, Err(Refusal::NotHeld)), (3, Ok(5))]);
    assert!(client.unanswered().is_empty() && !client.is_closed());
}
