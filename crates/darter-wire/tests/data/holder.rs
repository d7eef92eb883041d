//! Promises of the sending side: order, late binding, slots, and a report of every piece.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_core::BlobId;
use darter_protocol::ProtocolError;
use darter_wire::{DataClient, Packer, Refusal, Request, Unlimited, WireError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::world::*;

#[tokio::test]
async fn many_requests_in_flight_bring_the_right_bytes_over_tcp() {
    let holder = Holder::of(0..64);
    let (here, there) = tcp_pair().await;
    let serving = serve(there, &holder, &sending(4, Arc::new(Unlimited)));
    let (client, mut answers) = DataClient::start(here, receiving());
    ask_for(&client, 0..64);
    assert_eq!(next_pieces(&mut answers, 64).await, (0..64).collect::<Vec<_>>());
    assert_eq!(client.received(), 64 * PIECE as u64);
    drop(answers);
    serving.await.unwrap().unwrap();
    assert_eq!(*holder.log.lock(), (0..64).map(|index| (index, true)).collect::<Vec<_>>());
}

#[tokio::test]
async fn pieces_go_packed_to_requests_that_take_them_so_and_what_crossed_the_wire_is_counted() {
    let holder = Holder::of(0..8);
    let (here, there) = tcp_pair().await;
    let serving = serve(there, &holder, &sending(4, Arc::new(Unlimited)));
    let (client, mut answers) = DataClient::start(here, receiving());
    for index in 0..8 {
        let request = Request { takes_packed: index < 4, ..the_piece(index, index) };
        client.request(request, PIECE as u32).unwrap();
    }
    assert_eq!(next_pieces(&mut answers, 8).await, (0..8).collect::<Vec<_>>());
    let wire = client.received();
    let packed: u32 = (0..4).map(|index| Packer::default().pack(&piece(index)).unwrap().length()).sum();
    assert!(packed < 3 * PIECE as u32 && wire == u64::from(packed) + 4 * PIECE as u64, "{packed}, {wire}");
    drop(answers);
    serving.await.unwrap().unwrap();
    assert_eq!(holder.wire.load(Ordering::Relaxed), wire);
}

#[tokio::test(start_paused = true)]
async fn urgent_requests_overtake_those_that_wait() {
    let gate = Gate::shut();
    let (client, mut answers) = requester(&Holder::of(0..9), &sending(1, gate.clone())).await;
    ask_for(&client, 0..4);
    settle().await;
    client.request(Request { urgent: true, ..the_piece(8, 8) }, PIECE as u32).unwrap();
    settle().await;
    gate.open();
    assert_eq!(next_pieces(&mut answers, 5).await, [0, 8, 1, 2, 3], "piece 0 was under way");
}

#[tokio::test(start_paused = true)]
async fn a_request_called_back_costs_nothing_unless_it_is_under_way() {
    let gate = Gate::shut();
    let holder = Holder::of(0..9);
    let (client, mut answers) = requester(&holder, &sending(1, gate.clone())).await;
    ask_for(&client, 0..3);
    settle().await;
    for id in [0, 1, 1, 77] {
        client.cancel(id);
    }
    settle().await;
    gate.open();
    assert_eq!(next(&mut answers).await, (0, Ok(0)));
    assert_eq!(next(&mut answers).await, (1, Err(Refusal::Cancelled)));
    assert_eq!(next(&mut answers).await, (2, Ok(2)));
    assert!(client.unanswered().is_empty());
    assert_eq!(*holder.log.lock(), [(0, true), (2, true)]);
}

#[tokio::test(start_paused = true)]
async fn any_piece_is_chosen_when_there_is_room_to_send_it() {
    let gate = Gate::shut();
    let holder = Holder::of([0]);
    let sending = sending(1, gate.clone());
    let (busy, mut to_busy) = requester(&holder, &sending).await;
    ask_for(&busy, [0]);
    settle().await;
    let (client, mut answers) = requester(&holder, &sending).await;
    client.request(any_piece(1), PIECE as u32).unwrap();
    settle().await;
    holder.gain(7);
    gate.open();
    assert_eq!(next(&mut to_busy).await, (0, Ok(0)));
    assert_eq!(next(&mut answers).await, (1, Ok(7)), "not piece 0, which was all there was when it asked");
}

#[tokio::test(start_paused = true)]
async fn any_piece_waits_without_a_slot_and_in_nobodys_way() {
    let holder = Holder::of([]);
    let sending = sending(1, Arc::new(Unlimited));
    let (client, mut answers) = requester(&holder, &sending).await;
    let (other, mut to_other) = requester(&holder, &sending).await;
    client.request(any_piece(1), PIECE as u32).unwrap();
    client.request(any_piece(2), PIECE as u32).unwrap();
    settle().await;
    client.request(the_piece(3, 3), PIECE as u32).unwrap();
    other.request(the_piece(4, 4), PIECE as u32).unwrap();
    assert_eq!(next(&mut answers).await, (3, Err(Refusal::NotHeld)));
    assert_eq!(next(&mut to_other).await, (4, Err(Refusal::NotHeld)));
    client.cancel(2);
    assert_eq!(next(&mut answers).await, (2, Err(Refusal::Cancelled)));
    settle().await;
    holder.gain(6);
    assert_eq!(next(&mut answers).await, (1, Ok(6)));
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_is_not_ready_holds_up_its_own_requester_alone() {
    let (holder, disk) = (Holder::of(0..9), Gate::shut());
    holder.unready.lock().extend([(3, disk.clone()), (5, disk.clone()), (6, Gate::shut())]);
    let sending = sending(1, Arc::new(Unlimited));
    let (client, mut answers) = requester(&holder, &sending).await;
    let (other, mut to_other) = requester(&holder, &sending).await;
    ask_for(&client, [3, 5]);
    settle().await;
    ask_for(&other, [4]);
    assert_eq!(next(&mut to_other).await, (4, Ok(4)), "there is one slot, and nobody has it");
    disk.let_pass(1);
    assert_eq!(next(&mut answers).await, (3, Ok(3)));
    client.cancel(5);
    settle().await;
    disk.let_pass(1);
    assert_eq!(next(&mut answers).await, (5, Err(Refusal::Cancelled)));
    assert_eq!(
        *holder.log.lock(),
        [(4, true), (3, true), (5, false)],
        "it was bound, and called back before it was ready"
    );
    ask_for(&client, [6]);
    settle().await;
    drop((client, answers));
    settle().await;
    assert_eq!(holder.log.lock().len(), 3, "what was never ready was never bound");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_nothing_costs_its_slot_alone_and_that_not_for_ever() {
    let holder = Holder::of(0..64);
    let sending = sending(2, Arc::new(Unlimited));
    let (here, there) = pair().await;
    let serving = serve(there, &holder, &sending);
    let (stuck, _never_read) = DataClient::start(here, receiving());
    ask_for(&stuck, 0..20);
    settle().await;
    let (client, mut answers) = requester(&holder, &sending).await;
    ask_for(&client, 20..64);
    next_pieces(&mut answers, 44).await;
    assert!(matches!(serving.await.unwrap(), Err(WireError::Silent { .. })));
    let broken: Vec<_> = holder.log.lock().iter().filter(|(_, delivered)| !delivered).copied().collect();
    assert_eq!(broken, [(2, false)], "two pieces fit the pipe");
}

/// There is one slot. Pieces with odd numbers are sent from a file.
#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_keeps_the_slot_for_a_moment_that_becomes_shorter_whatever_connections_it_makes() {
    let holder = Holder::of(0..64);
    let sending = sending(1, Arc::new(Unlimited));
    let (client, mut answers) = requester(&holder, &sending).await;
    let (mut stuck, mut waited) = (Vec::new(), Vec::new());
    for first in [0, 1, 0, 1] {
        let (here, there) = pair().await;
        serve_to(OTHER, there, &holder, &sending);
        let (greedy, never_read) = DataClient::start(here, receiving());
        // They wait for the third one, as two fit the pipe.
        ask_for(&greedy, (first..20).step_by(2));
        stuck.push((greedy, never_read));
        settle().await;
        let before = tokio::time::Instant::now();
        let own = 20 + 4 * waited.len() as u32;
        ask_for(&client, own..own + 4);
        next_pieces(&mut answers, 4).await;
        waited.push(before.elapsed());
    }
    assert!(waited.iter().all(|waited| *waited < sending.stall / 2), "{waited:?}");
    assert!(waited[2] < waited[0] / 2 && waited[3] < waited[1] / 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_its_pieces_slowly_gets_them_all() {
    let holder = Holder::of(0..64);
    let sending = sending(1, Arc::new(Unlimited));
    let (here, there) = pair().await;
    serve_to(OTHER, there, &holder, &sending);
    let (mut reader, mut writer) = (here.reader, here.writer);
    for id in 0..8_u32 {
        let request = [&id.to_le_bytes()[..], &[0; 4], &id.to_le_bytes(), &BLOB.0].concat();
        writer.write_all(&request).await.unwrap();
    }
    for _ in 0..8 {
        tokio::time::sleep(sending.stall / 2).await;
        let mut header = [0; 16];
        reader.read_exact(&mut header).await.unwrap();
        let index = u32::from_le_bytes(header[8..12].try_into().unwrap());
        let mut got = vec![0; PIECE];
        reader.read_exact(&mut got).await.unwrap();
        assert!(header[4] == 0 && got == piece(index));
    }
}

#[tokio::test(start_paused = true)]
async fn a_piece_is_reported_once_when_the_requester_leaves_or_the_task_is_dropped() {
    let holder = Holder::of([3]);
    let sending = sending(1, Gate::shut());
    for task_is_dropped in [false, true] {
        let (here, there) = pair().await;
        let serving = serve(there, &holder, &sending);
        let (client, answers) = DataClient::start(here, receiving());
        ask_for(&client, [3]);
        settle().await;
        assert!(holder.log.lock().is_empty());
        match task_is_dropped {
            true => serving.abort(),
            false => drop(answers),
        }
        let _ = serving.await;
        assert_eq!(std::mem::take(&mut *holder.log.lock()), [(3, false)]);
    }
}

#[tokio::test]
async fn every_refusal_comes_as_itself() {
    let (client, mut answers) = requester(&Holder::of([]), &sending(1, Arc::new(Unlimited))).await;
    let expected = [Refusal::UnknownBlob, Refusal::Refused, Refusal::Busy, Refusal::NotHeld];
    for id in 0..4 {
        client.request(Request { blob: BlobId([id as u8; 32]), ..the_piece(id, 9) }, PIECE as u32).unwrap();
    }
    for (id, reason) in (0..).zip(expected) {
        assert_eq!(next(&mut answers).await, (id, Err(reason)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_goes_with_the_first_bytes_of_its_piece_and_when_they_may() {
    let gate = Gate::shut();
    let (here, there) = pair().await;
    let (there, notes) = noting(there, Duration::ZERO);
    serve(there, &Holder::of(0..2), &sending(1, gate.clone()));
    let (client, mut answers) = DataClient::start(here, receiving());
    ask_for(&client, 0..2);
    settle().await;
    assert!(notes.heads.lock().is_empty(), "a head by itself would be held back, and then be a packet of its own");
    gate.open();
    assert_eq!(next_pieces(&mut answers, 2).await, [0, 1]);
    assert_eq!(*notes.heads.lock(), [16, 16]);
}

#[tokio::test(start_paused = true)]
async fn the_budget_meters_what_is_sent() {
    let gate = Gate::shut();
    let (here, there) = pair().await;
    let _serving = serve(there, &Holder::of([1]), &sending(1, gate.clone()));
    let (mut reader, mut writer) = (here.reader, here.writer);
    let request_for_piece_1 = [[0; 8].as_slice(), &1u32.to_le_bytes(), &BLOB.0].concat();
    writer.write_all(&request_for_piece_1).await.unwrap();
    gate.let_pass(70_000);
    let mut got = vec![0; 16 + 65_536];
    reader.read_exact(&mut got).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(3_600), reader.read_u8()).await.is_err(), "no budget left");
    gate.open();
    let mut rest = vec![0; PIECE - 65_536];
    reader.read_exact(&mut rest).await.unwrap();
    assert!([&got[16..], &rest].concat() == piece(1));
}

#[tokio::test]
async fn a_requester_that_breaks_the_protocol_is_cut_off() {
    let far = [[0; 8].as_slice(), &0x0100_0000u32.to_le_bytes(), &[5; 32]].concat();
    let too_many = [[0; 8].as_slice(), &[0xff; 4], &[5; 32]].concat().repeat(257);
    for said in [far, too_many] {
        let (mut here, there) = pair().await;
        let serving = serve(there, &Holder::of([]), &sending(1, Arc::new(Unlimited)));
        here.writer.write_all(&said).await.unwrap();
        let end = serving.await.unwrap();
        assert!(matches!(end, Err(WireError::Protocol(ProtocolError::Violation { .. }))), "{end:?}");
    }
}

#[tokio::test]
async fn a_requester_of_another_release_is_told_what_is_not_understood_and_served_on() {
    let (mut here, there) = pair().await;
    let _serving = serve(there, &Holder::of([1]), &sending(1, Arc::new(Unlimited)));
    let frame = |id: u32, what: u8, flags: u8, piece: u32| {
        [&id.to_le_bytes()[..], &[what, flags, 0xff, 0xff], &piece.to_le_bytes(), &BLOB.0].concat()
    };
    let a_note = frame(5, 200, 0, u32::MAX);
    // More of them than there may be unanswered requests.
    here.writer.write_all(&a_note.repeat(300)).await.unwrap();
    here.writer.write_all(&frame(6, 7, 0, u32::MAX)).await.unwrap();
    let mut header = [0; 16];
    here.reader.read_exact(&mut header).await.unwrap();
    assert_eq!(header, [6, 0, 0, 0, 6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    here.writer.write_all(&frame(7, 0, 0b1111_1100, 1)).await.unwrap();
    here.reader.read_exact(&mut header).await.unwrap();
    assert_eq!(header[..5], [7, 0, 0, 0, 0], "flags and fields that nobody knows yet are skipped");
    let mut got = vec![0; PIECE];
    here.reader.read_exact(&mut got).await.unwrap();
    assert!(got == piece(1));
}

/// How many bytes might wait in a connection's socket, from its beginning on, while it took pieces of a file one after the other.
async fn held_ahead(byte: Duration) -> Vec<u32> {
    let (here, there) = pair().await;
    let (there, notes) = noting(there, byte);
    serve(there, &Holder::of(0..64), &sending(4, Arc::new(Unlimited)));
    let (client, mut answers) = DataClient::start(here, receiving());
    let of_the_file: Vec<_> = (0..64).filter(|index| index % 2 == 1).collect();
    ask_for(&client, of_the_file.iter().copied());
    assert_eq!(next_pieces(&mut answers, of_the_file.len()).await, of_the_file);
    notes.ahead.lock().clone()
}

#[tokio::test(start_paused = true)]
async fn a_socket_holds_little_ahead_of_a_slow_cable_and_more_of_a_fast_one_and_is_told_seldom() {
    assert_eq!(held_ahead(Duration::from_micros(2)).await, [16 << 10], "500 kB/s");
    let fast = held_ahead(Duration::from_nanos(40)).await;
    assert_eq!((fast.first(), fast.last()), (Some(&(16 << 10)), Some(&(128 << 10))), "25 MB/s");
    assert!(fast.len() <= 4, "told {fast:?}");
}
