use darter_core::PieceIndex;
use darter_protocol::{ProtocolError, Wanted};

use super::*;

fn request(id: u32, wanted: Wanted, urgent: bool) -> Request {
    Request { id, blob: BlobId([7; 32]), wanted, urgent, takes_packed: false }
}

fn piece(id: u32) -> Request {
    request(id, Wanted::Piece(PieceIndex(id)), false)
}

fn any(id: u32) -> Request {
    request(id, Wanted::Any, false)
}

fn queue_of(requests: &[Request]) -> Queue {
    let mut queue = Queue::default();
    for request in requests {
        queue.take_in(Ask::Request(*request)).unwrap();
    }
    queue
}

/// Answers everything that has a turn and returns the ids in that order.
fn drain(queue: &mut Queue) -> Vec<u32> {
    std::iter::from_fn(|| {
        let next = queue.next()?.request;
        queue.settle(&next);
        Some(next.id)
    })
    .collect()
}

#[test]
fn urgent_requests_go_first_and_the_rest_in_the_order_they_came() {
    let urgent = |id| Request { urgent: true, ..piece(id) };
    let mut queue = queue_of(&[piece(1), piece(2), urgent(3), any(4), urgent(5)]);
    assert_eq!(drain(&mut queue), [3, 5, 1, 2, 4]);
}

#[test]
fn each_blob_gets_its_first_piece_before_others_get_more_and_then_they_take_turns() {
    let of = |blob, id, urgent| Request { blob: BlobId([blob; 32]), ..request(id, Wanted::Any, urgent) };
    let first = [of(1, 1, false), of(1, 2, false), of(1, 3, false), of(2, 4, false), of(2, 5, false)];
    let mut queue = queue_of(&first);
    queue.take_in(Ask::Request(of(3, 6, false))).unwrap();
    queue.take_in(Ask::Request(of(1, 7, true))).unwrap();
    assert_eq!(drain(&mut queue), [7, 4, 6, 1, 5, 2, 3]);
    for blob in 0..2 * MAX_TURNS as u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&blob.to_le_bytes());
        queue.settle(&Request { blob: BlobId(id), ..any(0) });
    }
    assert!(queue.turns.len() <= MAX_TURNS);
}

#[test]
fn what_goes_last_waits_for_all_others_and_is_forgotten_with_its_request() {
    let urgent = |id| Request { urgent: true, ..piece(id) };
    let mut queue = queue_of(&[urgent(1), piece(2), urgent(3), any(4)]);
    [urgent(1), urgent(3)].iter().for_each(|request| queue.put_last(request));
    assert_eq!(queue.next(), Some(Next { request: piece(2), is_last: false }));
    queue.take_in(Ask::Cancel { id: 3 }).unwrap();
    queue.take_in(Ask::Request(urgent(5))).unwrap();
    assert_eq!(drain(&mut queue), [5, 2, 4, 1]);
    queue.take_in(Ask::Request(piece(3))).unwrap();
    assert_eq!(queue.next(), Some(Next { request: piece(3), is_last: false }), "it is another request");
}

#[test]
fn a_parked_request_lets_others_pass_and_keeps_its_turn() {
    let mut queue = queue_of(&[any(1), piece(2), any(3)]);
    let first = queue.next().unwrap().request;
    assert_eq!(first.id, 1);
    queue.park(&first);
    assert_eq!(drain(&mut queue), [2], "the other request for any piece is parked with the first");
    queue.take_in(Ask::Request(any(4))).unwrap();
    assert_eq!(queue.next(), None, "and so is one that comes later");
    queue.unpark_all();
    assert_eq!(drain(&mut queue), [1, 3, 4]);
}

#[test]
fn a_cancelled_request_is_told_so_once_even_when_parked() {
    let mut queue = queue_of(&[any(1), piece(2)]);
    queue.park(&any(1));
    for id in [1, 1, 2, 9] {
        queue.take_in(Ask::Cancel { id }).unwrap();
    }
    assert_eq!(queue.next(), None);
    let told: Vec<_> = std::iter::from_fn(|| queue.take_refused()).collect();
    assert_eq!(told, [(1, Refusal::Cancelled), (2, Refusal::Cancelled)]);
}

#[test]
fn more_requests_than_allowed_break_the_protocol_also_when_cancelled() {
    let mut queue = Queue::default();
    for id in 0..MAX_UNANSWERED as u32 {
        queue.take_in(Ask::Request(piece(id))).unwrap();
        queue.take_in(Ask::Cancel { id }).unwrap();
    }
    let one_more = queue.take_in(Ask::Request(any(1_000)));
    assert!(matches!(one_more, Err(WireError::Protocol(ProtocolError::Violation { .. }))));
}
