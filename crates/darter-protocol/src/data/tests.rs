use proptest::prelude::*;

use super::*;

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![Just(Wanted::Any), (0..MAX_PIECES).prop_map(|piece| Wanted::Piece(PieceIndex(piece)))]
}

fn plain(id: u32) -> Request {
    Request { id, blob: BlobId([9; 32]), wanted: Wanted::Any, urgent: false, takes_packed: false }
}

proptest! {
    #[test]
    fn requests_decode_to_what_was_encoded(
        id: u32, blob: [u8; 32], wanted in wanted(), urgent: bool, takes_packed: bool,
    ) {
        let request = Ask::Request(Request { id, blob: BlobId(blob), wanted, urgent, takes_packed });
        prop_assert_eq!(Ask::decode(&request.encode()).unwrap(), Ok(request));
        let cancel = Ask::Cancel { id };
        prop_assert_eq!(Ask::decode(&cancel.encode()).unwrap(), Ok(cancel));
    }

    #[test]
    fn headers_decode_to_what_was_encoded(id: u32, piece in 0..MAX_PIECES, length: u32) {
        let data = Header::Data { id, piece: PieceIndex(piece), length };
        prop_assert_eq!(Header::decode(&data.encode()).unwrap(), data);
        let packed = Header::Packed { id, piece: PieceIndex(piece), length };
        prop_assert_eq!(Header::decode(&packed.encode()).unwrap(), packed);
        let reasons =
            [Refusal::NotHeld, Refusal::Busy, Refusal::Refused, Refusal::UnknownBlob, Refusal::Cancelled,
             Refusal::NotUnderstood, Refusal::Other];
        for reason in reasons {
            let none = Header::None { id, reason, skip: length % (MAX_PIECE_LENGTH + 1) };
            prop_assert_eq!(Header::decode(&none.encode()).unwrap(), none);
        }
    }

    #[test]
    fn arbitrary_frames_never_panic(ask: [u8; 32], rest: [u8; 12], header: [u8; HEADER_LENGTH]) {
        let mut frame = [0; ASK_LENGTH];
        frame[..12].copy_from_slice(&rest);
        frame[12..].copy_from_slice(&ask);
        let _ = Ask::decode(&frame);
        let _ = Header::decode(&header);
    }
}

#[test]
fn the_layout_is_as_documented() {
    let request = Request { urgent: true, wanted: Wanted::Piece(PieceIndex(5)), ..plain(0x0102_0304) };
    let mut expected = vec![4, 3, 2, 1, 0, 1, 0, 0, 5, 0, 0, 0];
    expected.extend_from_slice(&[9; 32]);
    assert_eq!(Ask::Request(request).encode().as_slice(), expected);
    let header = Header::Data { id: 1, piece: PieceIndex(2), length: 0x0001_0000 };
    assert_eq!(header.encode(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn what_is_not_known_is_refused_or_skipped_and_nonsense_is_neither() {
    let ask = |what: u8| {
        let mut frame = Ask::Request(plain(7)).encode();
        frame[4] = what;
        Ask::decode(&frame).unwrap()
    };
    assert_eq!(ask(1), Ok(Ask::Cancel { id: 7 }));
    assert_eq!([2, 127].map(ask), [Err(UnknownAsk { refuse: Some(7) }); 2]);
    assert_eq!([128, 255].map(ask), [Err(UnknownAsk { refuse: None }); 2]);
    let header = |status: u8, piece: u32, length: u32| {
        let mut header = Header::Data { id: 7, piece: PieceIndex(piece), length }.encode();
        header[4] = status;
        Header::decode(&header)
    };
    for (status, reason) in
        [(6, Refusal::NotUnderstood), (8, Refusal::Other), (200, Refusal::Other), (2, Refusal::Busy)]
    {
        assert_eq!(header(status, u32::MAX, 10).unwrap(), Header::None { id: 7, reason, skip: 10 });
    }
    assert!(matches!(header(77, 0, MAX_PIECE_LENGTH + 1), Err(ProtocolError::TooLong { .. })));
    for status in [0, 7] {
        assert!(matches!(header(status, MAX_PIECES, 1), Err(ProtocolError::Violation { .. })));
    }
}

#[test]
fn pieces_that_no_blob_has_are_not_asked_for_and_flags_of_the_future_are_skipped() {
    let mut frame = Ask::Request(plain(7)).encode();
    let mut with = |flags: u8, piece: u32| {
        frame[5] = flags;
        frame[8..12].copy_from_slice(&piece.to_le_bytes());
        Ask::decode(&frame)
    };
    for (flags, urgent, takes_packed) in
        [(0, false, false), (1, true, false), (2, false, true), (3, true, true), (4, false, false), (252, false, false)]
    {
        let Ok(Ok(Ask::Request(request))) = with(flags, MAX_PIECES - 1) else { panic!("{flags}") };
        assert_eq!((request.urgent, request.takes_packed), (urgent, takes_packed), "{flags}");
        assert_eq!(request.wanted, Wanted::Piece(PieceIndex(MAX_PIECES - 1)));
    }
    assert!(matches!(with(0, MAX_PIECES), Err(ProtocolError::Violation { .. })));
    assert!(matches!(with(0, u32::MAX - 1), Err(ProtocolError::Violation { .. })));
    let longest = Header::None { id: 7, reason: Refusal::Busy, skip: MAX_PIECE_LENGTH };
    assert_eq!(Header::decode(&longest.encode()).unwrap(), longest);
}
