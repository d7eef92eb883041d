use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn hello() -> Hello {
    Hello {
        node: NodeId([1; 16]),
        listen: "10.0.0.1:7400".into(),
        place: Place { region: "eu".into(), ..Place::default() },
        role: Role::Seed,
        program: "0.1.0".into(),
        run: 300,
        versions: Versions { lowest: 2, highest: 4 },
        capabilities: Capabilities::from_bits(0b1_0000_0001),
    }
}

/// The hello's own bytes, behind the eight that precede it.
fn written(form: u8, hello: &Hello) -> Vec<u8> {
    encode(form, ConnectionKind::Data, hello).unwrap().split_off(8)
}

#[test]
fn the_layout_is_as_documented() {
    let bytes = encode(3, ConnectionKind::Data, &hello()).unwrap();
    let node = [1; 16];
    let expected: [&[u8]; 10] = [
        b"DRTR\x03\x02",
        &[50, 0],
        &node,
        b"\x0d10.0.0.1:7400",
        b"\x02eu\0\0\0",
        b"\0",
        b"\x050.1.0",
        &[0xac, 2],
        &[2, 4],
        &[2, 1, 1],
    ];
    assert_eq!(hex::encode(bytes), hex::encode(expected.concat()));
}

#[test]
fn what_is_not_told_has_the_value_of_its_time_and_what_is_new_is_skipped() {
    let all = written(3, &hello());
    let behind_run = all.len() - 5;
    let read = |bytes: &[u8]| decode_hello(3, bytes).unwrap();
    assert_eq!(read(&all), hello());
    let mut longer = all.clone();
    longer.extend_from_slice(b"a field of the future");
    assert_eq!(read(&longer), hello());
    let without_capabilities = Hello { capabilities: Capabilities::NONE, ..hello() };
    assert_eq!(read(&all[..all.len() - 3]), without_capabilities);
    let of_version_3 = Hello { versions: Versions::exactly(3), ..without_capabilities };
    assert_eq!(read(&all[..behind_run]), of_version_3);
    assert_eq!(read(&all[..behind_run - 2]), Hello { run: 0, ..of_version_3.clone() });
    for cut in [behind_run + 1, all.len() - 1, behind_run - 1, 10] {
        assert!(matches!(decode_hello(3, &all[..cut]), Err(ProtocolError::Malformed { .. })), "cut within a field");
    }
    let oldest = written(2, &hello());
    assert_eq!(oldest, all[..behind_run - 2]);
    let of_version_2 = Hello { run: 0, versions: Versions::exactly(2), ..of_version_3 };
    assert_eq!(decode_hello(2, &oldest).unwrap(), of_version_2);
    assert_eq!(decode_hello(2, &longer).unwrap(), of_version_2, "nothing behind the program counts in this form");
}

#[test]
fn versions_that_contradict_the_form_are_no_hello() {
    let read = |form, lowest, highest| {
        let versions = Versions { lowest, highest };
        decode_hello(form, &written(3, &Hello { versions, ..hello() })).map(|read| read.versions == versions)
    };
    for (form, lowest, highest) in [(3, 2, 4), (5, 5, 7), (9, 2, 255), (255, 255, 255), (3, 1, 2), (3, 1, 1)] {
        assert_eq!(read(form, lowest, highest).ok(), Some(true), "form {form}, versions {lowest} to {highest}");
    }
    for (form, lowest, highest) in
        [(255, 0, 0), (255, 2, 4), (9, 9, 3), (3, 0, 0), (3, 0, 2), (3, 2, 1), (4, 1, 2), (3, 5, 7)]
    {
        let refused = matches!(read(form, lowest, highest), Err(ProtocolError::Violation { .. }));
        assert!(refused, "form {form}, versions {lowest} to {highest}");
    }
}

#[test]
fn a_role_that_nobody_knows_yet_is_a_nodes() {
    let mut bytes = written(3, &hello());
    assert_eq!(bytes[36], 0, "a seed");
    bytes[36] = 77;
    assert_eq!(decode_hello(3, &bytes).unwrap(), Hello { role: Role::Node, ..hello() });
}

#[test]
fn the_form_is_one_that_the_other_side_can_judge_by() {
    let speaks = |lowest, highest| Versions { lowest, highest };
    assert_eq!(form_of(Versions::SPOKEN), 3, "agents of version 3 take it for the one version that is spoken");
    assert_eq!(form_of(speaks(5, 7)), 5, "they learn that 3 is not spoken any more");
    assert_eq!([2, 3, 4].map(|asked| form_of_answer(Versions::SPOKEN, asked)), [2, 3, 4]);
    assert_eq!(form_of_answer(Versions::SPOKEN, 9), 3);
    assert_eq!(form_of_answer(speaks(5, 7), 3), 5);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(form: u8, bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_hello(form, &bytes);
    }

    #[test]
    fn a_damaged_hello_never_panics(at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = written(3, &hello());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode_hello(3, &bytes);
        let _ = decode_hello(3, &bytes[..at]);
    }
}

#[test]
fn what_is_not_darters_is_told_by_its_first_bytes() {
    for begins in [&b""[..], b"D", b"DRT", b"DRTR", b"DRTR\x03"] {
        assert!(Head::may_begin_with(begins), "{begins:?}");
    }
    for begins in [&b"G"[..], b"DRTX", b"GET / HTTP/1.1", b"DX"] {
        assert!(!Head::may_begin_with(begins), "{begins:?}");
    }
    assert_eq!(Head::decode(b"DRTR\x03\x02"), Some(Head { form: 3, kind: 2 }));
    assert_eq!(Head::decode(b"HTTP\x03\x02"), None);
    assert_eq!(
        [0, 1, 2, 3].map(ConnectionKind::from_number),
        [None, Some(ConnectionKind::Control), Some(ConnectionKind::Data), None]
    );
}

#[test]
fn an_introduction_has_a_bound_that_is_told_before_it_is_read() {
    let longest = MAX_HELLO as u16;
    assert_eq!(hello_length(longest.to_le_bytes()).unwrap(), MAX_HELLO);
    assert!(matches!(hello_length((longest + 1).to_le_bytes()), Err(ProtocolError::TooLong { length: 4097, .. })));
    let with = |program: usize| encode(3, ConnectionKind::Control, &Hello { program: "x".repeat(program), ..hello() });
    // Of that the program of five letters takes six bytes, and one of thousands two bytes more than its letters.
    let room = MAX_HELLO - (written(3, &hello()).len() - 6) - 2;
    assert_eq!(with(room).unwrap().len(), 8 + MAX_HELLO);
    assert!(matches!(with(room + 1), Err(ProtocolError::TooLong { length: 4097, .. })));
    assert!(with(1 << 17).is_err());
}
