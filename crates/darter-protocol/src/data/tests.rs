use proptest::prelude::*;

use super::*;

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![Just(Wanted::Any), (0..MAX_PIECES).prop_map(|piece| Wanted::Piece(PieceIndex(piece)))]
}

proptest! {
    #[test]
    fn requests_decode_to_what_was_encoded(id: u32, blob: [u8; 32], wanted in wanted(), urgent: bool) {
        let request = Ask::Request(Request { id, blob: BlobId(blob), wanted, urgent });
        prop_assert_eq!(Ask::decode(&request.encode()).unwrap(), request);
        let cancel = Ask::Cancel { id };
        prop_assert_eq!(Ask::decode(&cancel.encode()).unwrap(), cancel);
    }

    #[test]
    fn headers_decode_to_what_was_encoded(id: u32, piece in 0..MAX_PIECES, length: u32) {
        let data = Header::Data { id, piece: PieceIndex(piece), length };
        prop_assert_eq!(Header::decode(&data.encode()).unwrap(), data);
        let reasons =
            [Refusal::NotHeld, Refusal::Busy, Refusal::Refused, Refusal::UnknownBlob, Refusal::Cancelled];
        for reason in reasons {
            let none = Header::None { id, reason };
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
    let request =
        Request { id: 0x0102_0304, blob: BlobId([9; 32]), wanted: Wanted::Piece(PieceIndex(5)), urgent: true };
    let mut expected = vec![4, 3, 2, 1, 0, 1, 0, 0, 5, 0, 0, 0];
    expected.extend_from_slice(&[9; 32]);
    assert_eq!(Ask::Request(request).encode().as_slice(), expected);
    let header = Header::Data { id: 1, piece: PieceIndex(2), length: 0x0001_0000 };
    assert_eq!(header.encode(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0]);
}
