//! Introductions: right ones, and everything that is not one.

use std::error::Error;
use std::io::{self, ErrorKind};

use darter_core::{Blame, Blamed, Fault, NodeId, Place, PublicKey, Retry};
use darter_protocol::ProtocolError;
use darter_wire::preface::{greet, open};
use darter_wire::{
    Capabilities, ConnectionKind, Greeted, Hello, MemNetwork, Result, Role, TcpTransport, Transport, Versions,
    WireError,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn hello(node: u8, listen: &str) -> Hello {
    let place = Place { region: "eu".into(), zone: "a".into(), rack: "7".into(), host: format!("h{node}") };
    Hello {
        node: NodeId([node; 16]),
        listen: listen.into(),
        place,
        role: Role::Node,
        program: "0.1.0".into(),
        run: 7,
        versions: Versions::SPOKEN,
        capabilities: Capabilities::OWN,
    }
}

/// An agent of another release: what it speaks, and a capability of its own.
fn of_release(node: u8, lowest: u8, highest: u8) -> Hello {
    let capabilities = Capabilities::from_bits(u64::MAX);
    Hello { versions: Versions { lowest, highest }, capabilities, ..hello(node, "10.0.0.2:7400") }
}

/// Node 1 connects to node 2; what each sees.
async fn meet(one: &Hello, two: &Hello, kind: ConnectionKind) -> (Result<Greeted>, Result<Greeted>) {
    let network = MemNetwork::new();
    let listener = network.host([10, 0, 0, 2]).listen("0.0.0.0:7400").await.unwrap();
    let caller = network.host([10, 0, 0, 1]);
    tokio::join!(open(&caller, "10.0.0.2:7400", kind, one), async {
        greet(listener.accept().await.unwrap(), two).await
    })
}

/// A caller's error from a listener that answers with `answer`, whatever it is told.
async fn answered_with(answer: Vec<u8>) -> WireError {
    let network = MemNetwork::new();
    let listener = network.host([10, 0, 0, 2]).listen("0.0.0.0:7400").await.unwrap();
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap();
        stream.writer.write_all(&answer).await.unwrap();
        stream.reader.read_to_end(&mut Vec::new()).await.unwrap();
    });
    open(&network.host([10, 0, 0, 1]), "10.0.0.2:7400", ConnectionKind::Control, &hello(1, "")).await.unwrap_err()
}

/// A listener's error from a caller that says `said`.
async fn approached_with(said: &[u8], hangs_up: bool) -> WireError {
    let network = MemNetwork::new();
    let listener = network.host([10, 0, 0, 2]).listen("0.0.0.0:7400").await.unwrap();
    let mut stream = network.host([10, 0, 0, 1]).connect("10.0.0.2:7400").await.unwrap();
    stream.writer.write_all(said).await.unwrap();
    let kept = (!hangs_up).then_some(stream);
    let error = greet(listener.accept().await.unwrap(), &hello(2, "")).await.unwrap_err();
    drop(kept);
    error
}

fn preface(version: u8, kind: u8, length: u16, rest: &[u8]) -> Vec<u8> {
    [b"DRTR", [version, kind].as_slice(), &length.to_le_bytes(), rest].concat()
}

#[tokio::test]
async fn two_nodes_learn_who_the_other_is_and_how_to_reach_it() {
    let (one, two) = (hello(1, "0.0.0.0:7401"), hello(2, "node2.example:7400"));
    for kind in [ConnectionKind::Control, ConnectionKind::Data] {
        let (at_one, at_two) = meet(&one, &two, kind).await;
        let (mut at_one, mut at_two) = (at_one.unwrap(), at_two.unwrap());
        assert_eq!((at_one.kind, at_two.kind), (kind, kind));
        assert_eq!(at_one.hello, two, "a name is left as it is");
        assert_eq!(at_two.hello, Hello { listen: "10.0.0.1:7401".into(), ..one.clone() });
        at_one.stream.writer.write_all(b"next").await.unwrap();
        let mut next = [0; 4];
        at_two.stream.reader.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"next", "what follows the preface is untouched");
    }
}

#[tokio::test]
async fn a_node_that_reaches_itself_notices_on_both_ends() {
    let me = hello(1, "");
    let (caller, listener) = meet(&me, &me, ConnectionKind::Control).await;
    assert!(matches!(caller, Err(WireError::Oneself { addr }) if addr == "10.0.0.2:7400"));
    assert!(matches!(listener, Err(WireError::Oneself { .. })));
}

#[tokio::test]
async fn a_web_server_is_not_darter() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 512]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    });
    let error = open(&TcpTransport::default(), &addr, ConnectionKind::Control, &hello(1, "")).await.unwrap_err();
    assert!(matches!(&error, WireError::NotDarter { addr: named } if *named == addr), "{error}");
    assert!(error.blame().retry == Retry::Never);
}

#[tokio::test(start_paused = true)]
async fn silence_and_hanging_up_may_be_a_darter_in_trouble() {
    let too_little = preface(3, 1, 0, &[])[..3].to_vec();
    for said in [vec![], too_little] {
        let error = answered_with(said.clone()).await;
        assert!(matches!(error, WireError::NoAnswer { .. }) && error.blame().retry.is_later(), "{error}");
        assert!(matches!(approached_with(&said, false).await, WireError::NoAnswer { .. }));
        assert!(matches!(approached_with(&said, true).await, WireError::HungUp { .. }));
    }
    let request = b"GET / HTTP/1.1\r\n\r\n";
    assert!(matches!(answered_with(request.to_vec()).await, WireError::NotDarter { .. }));
    assert!(matches!(approached_with(request, false).await, WireError::NotDarter { .. }));
}

/// Listens and closes each connection at once: a load balancer with nothing behind it, or an agent of the first version.
#[tokio::test]
async fn what_hangs_up_without_a_word_is_tried_again_later() {
    let network = MemNetwork::new();
    let listener = network.host([10, 0, 0, 2]).listen("0.0.0.0:7400").await.unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let error =
        open(&network.host([10, 0, 0, 1]), "10.0.0.2:7400", ConnectionKind::Control, &hello(1, "")).await.unwrap_err();
    assert!(matches!(error, WireError::HungUp { .. }) && error.blame().retry.is_later(), "{error}");
}

/// A host that dies, or a device on the way that drops the connection: nothing says that another release is there.
#[tokio::test]
async fn a_connection_that_is_reset_says_so_and_names_no_release() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Closed with bytes unread: TCP resets it.
            let _ = stream.readable().await;
        }
    });
    let error = open(&TcpTransport::default(), &addr, ConnectionKind::Control, &hello(1, "")).await.unwrap_err();
    let causes = std::iter::successors(Some(&error as &dyn Error), |error| (*error).source());
    let told: Vec<_> = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind).collect();
    assert!(told == [ErrorKind::ConnectionReset] || told == [ErrorKind::BrokenPipe], "{error:?}");
    assert!(error.to_string().contains(&addr) && !error.to_string().contains("release"), "{error}");
    assert_eq!((error.blame().fault, error.blame().retry.is_later()), (Fault::Network, true));
}

/// An agent that speaks only version 2. With `loses_its_answer`, the answer to a version that it does not speak gets
/// lost, as it does where TCP resets a connection that was closed with bytes unread.
async fn serve_as_version_2(listener: Box<dyn darter_wire::Listener>, loses_its_answer: bool) {
    while let Ok(mut stream) = listener.accept().await {
        let mut head = [0; 8];
        stream.reader.read_exact(&mut head).await.unwrap();
        let mut theirs = vec![0; usize::from(u16::from_le_bytes([head[6], head[7]]))];
        if head[4] != 2 && loses_its_answer {
            continue;
        }
        stream.reader.read_exact(&mut theirs).await.unwrap();
        stream.writer.write_all(&preface(2, head[5], HELLO_2.len() as u16, HELLO_2)).await.unwrap();
        if head[4] == 2 {
            stream.writer.write_all(b"next").await.unwrap();
            stream.reader.read_to_end(&mut Vec::new()).await.unwrap();
        }
    }
}

/// The hello of an agent of version 2: node, listen, place, role, program.
const HELLO_2: &[u8] = b"\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x0d10.0.0.2:7400\x02eu\x01a\x017\x02h2\x01\x050.1.0";

#[tokio::test]
async fn an_agent_of_the_version_before_is_spoken_to_in_its_own() {
    for (host, loses_its_answer) in [(2, false), (3, true)] {
        let network = MemNetwork::new();
        let listener = network.host([10, 0, 0, host]).listen("0.0.0.0:7400").await.unwrap();
        tokio::spawn(serve_as_version_2(listener, loses_its_answer));
        let (caller, addr) = (network.host([10, 0, 0, 1]), format!("10.0.0.{host}:7400"));
        let mut greeted = open(&caller, &addr, ConnectionKind::Control, &hello(1, "")).await.unwrap();
        assert_eq!(greeted.version, 2);
        let (versions, capabilities) = (Versions::exactly(2), Capabilities::NONE);
        assert_eq!(greeted.hello, Hello { run: 0, versions, capabilities, ..hello(2, "10.0.0.2:7400") });
        let mut next = [0; 4];
        greeted.stream.reader.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"next", "what follows the preface is untouched");
    }
}

#[tokio::test]
async fn an_agent_of_the_version_before_is_answered_in_its_own() {
    let network = MemNetwork::new();
    let listener = network.host([10, 0, 0, 2]).listen("0.0.0.0:7400").await.unwrap();
    let mut stream = network.host([10, 0, 0, 1]).connect("10.0.0.2:7400").await.unwrap();
    stream.writer.write_all(&preface(2, 1, HELLO_2.len() as u16, HELLO_2)).await.unwrap();
    let me = hello(1, "10.0.0.2:7400");
    let greeted = greet(listener.accept().await.unwrap(), &me).await.unwrap();
    assert_eq!((greeted.version, greeted.hello.node), (2, NodeId([2; 16])));
    let mut answer = vec![0; 8 + HELLO_2.len()];
    stream.reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer[..6], b"DRTR\x02\x01");
    drop(greeted);
    let mut rest = Vec::new();
    stream.reader.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "nothing that version 2 does not know: {rest:?}");
}

#[tokio::test]
async fn two_agents_with_one_id_are_told_from_one_that_reaches_itself() {
    let (one, other) = (hello(1, ""), Hello { run: 8, listen: "10.0.0.2:7400".into(), ..hello(1, "") });
    let (at_one, at_other) = meet(&one, &other, ConnectionKind::Control).await;
    assert!(matches!(at_one, Err(WireError::SameId { addr, .. }) if addr == "10.0.0.2:7400"));
    assert!(matches!(at_other, Err(WireError::SameId { .. })));
}

#[tokio::test]
async fn agents_of_neighbouring_releases_speak_the_highest_version_that_both_know() {
    for (lowest, highest, common) in [(3, 9, 4), (4, 5, 4), (3, 3, 3), (1, 3, 3)] {
        let (ours, theirs) = (hello(1, ""), of_release(2, lowest, highest));
        let (here, there) = meet(&ours, &theirs, ConnectionKind::Control).await;
        let (here, there) = (here.unwrap(), there.unwrap());
        assert_eq!((here.version, there.version), (common, common), "{lowest} to {highest}, connected to");
        assert_eq!((here.hello.versions, here.hello.capabilities), (theirs.versions, theirs.capabilities));
        let (there, here) = meet(&Hello { listen: String::new(), ..theirs }, &hello(1, ""), ConnectionKind::Data).await;
        assert_eq!(
            (here.unwrap().version, there.unwrap().version),
            (common, common),
            "{lowest} to {highest}, connects"
        );
    }
}

#[tokio::test]
async fn where_no_version_is_common_both_ends_name_both_ranges_and_which_is_to_be_upgraded() {
    for (lowest, highest, here_is_old) in [(5, 7, true), (9, 9, true), (1, 1, false)] {
        let (ours, theirs) =
            (Hello { versions: Versions { lowest: 3, highest: 4 }, ..hello(1, "") }, of_release(2, lowest, highest));
        let (at_caller, at_listener) = meet(&ours, &theirs, ConnectionKind::Control).await;
        let (from_there, to_here) = meet(&theirs, &ours, ConnectionKind::Data).await;
        for (error, is_here) in [(at_caller, true), (at_listener, false), (from_there, false), (to_here, true)]
            .map(|(it, is_here)| (it.unwrap_err(), is_here))
        {
            let told = error.to_string();
            assert!(matches!(error, WireError::Version { .. }), "{told}");
            assert!(told.contains(&theirs.versions.to_string()) && told.contains("versions 3 to 4"), "{told}");
            let place = if is_here == here_is_old { "here" } else { "there" };
            assert!(told.ends_with(&format!("(upgrade Darter {place})")), "{told}");
        }
    }
}

/// Agents of version 3 write this, and read answers so: they read no range, and demand the form that they used.
#[tokio::test]
async fn an_agent_of_the_last_release_is_understood_and_understands() {
    let hello_3 = [HELLO_2, b"\x07"].concat();
    let network = MemNetwork::new();
    let listener = network.host([10, 0, 0, 2]).listen("0.0.0.0:7400").await.unwrap();
    let said = preface(3, 1, hello_3.len() as u16, &hello_3);
    let answer = said.clone();
    let it_accepts = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap();
        let mut head = [0; 8];
        stream.reader.read_exact(&mut head).await.unwrap();
        assert_eq!(&head[..6], b"DRTR\x03\x01");
        let mut theirs = vec![0; usize::from(u16::from_le_bytes([head[6], head[7]]))];
        stream.reader.read_exact(&mut theirs).await.unwrap();
        stream.writer.write_all(&answer).await.unwrap();
        listener
    });
    let greeted =
        open(&network.host([10, 0, 0, 1]), "10.0.0.2:7400", ConnectionKind::Control, &hello(1, "")).await.unwrap();
    let (versions, capabilities) = (Versions::exactly(3), Capabilities::NONE);
    let of_the_last_release = Hello { versions, capabilities, ..hello(2, "10.0.0.2:7400") };
    assert_eq!((greeted.version, greeted.hello), (3, of_the_last_release.clone()));
    let listener = it_accepts.await.unwrap();
    let mut stream = network.host([10, 0, 0, 1]).connect("10.0.0.2:7400").await.unwrap();
    stream.writer.write_all(&said).await.unwrap();
    let greeted = greet(listener.accept().await.unwrap(), &hello(1, "")).await.unwrap();
    assert_eq!((greeted.version, greeted.hello), (3, of_the_last_release));
    let mut head = [0; 6];
    stream.reader.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"DRTR\x03\x01");
}

#[tokio::test]
async fn another_version_is_named_on_both_ends_whatever_follows() {
    let future = preface(9, 77, 65_535, b"a form that nobody knows yet");
    for error in [answered_with(future.clone()).await, approached_with(&future, false).await] {
        assert!(matches!(error, WireError::Version { theirs, .. } if theirs == Versions::exactly(9)), "{error}");
    }
    // A hello all the same, of versions that it can't be of: "version 0" was named, the field's zeros.
    for (form, hello) in [(255, vec![0; 64]), (9, vec![4; 64])] {
        let impossible = preface(form, 1, 64, &hello);
        for error in [answered_with(impossible.clone()).await, approached_with(&impossible, false).await] {
            assert!(matches!(error, WireError::Version { theirs, .. } if theirs == Versions::exactly(form)), "{error}");
        }
    }
    let network = MemNetwork::new();
    let listener = network.host([10, 0, 0, 2]).listen("0.0.0.0:7400").await.unwrap();
    let mut stream = network.host([10, 0, 0, 1]).connect("10.0.0.2:7400").await.unwrap();
    stream.writer.write_all(&future).await.unwrap();
    greet(listener.accept().await.unwrap(), &hello(2, "")).await.unwrap_err();
    let mut answer = [0; 5];
    stream.reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"DRTR\x03", "the one that is refused can tell why");
}

#[tokio::test(start_paused = true)]
async fn garbage_behind_a_right_beginning_is_refused() {
    assert!(matches!(
        approached_with(&preface(3, 3, 0, &[]), false).await,
        WireError::Protocol(ProtocolError::Violation { .. })
    ));
    assert!(matches!(answered_with(preface(3, 2, 0, &[])).await, WireError::Protocol(ProtocolError::Violation { .. })));
    let long = approached_with(&preface(3, 1, 4097, &[]), false).await;
    assert!(matches!(long, WireError::Protocol(ProtocolError::TooLong { length: 4097, limit: 4096, .. })), "{long}");
    assert!(matches!(
        approached_with(&preface(3, 1, 64, &[0xff; 64]), false).await,
        WireError::Protocol(ProtocolError::Malformed { .. })
    ));
    assert!(matches!(approached_with(&preface(3, 1, 64, &[0; 5]), true).await, WireError::Closed { .. }));
    assert!(matches!(approached_with(&preface(3, 1, 64, &[0; 5]), false).await, WireError::NoAnswer { .. }));
}

#[tokio::test]
async fn a_hello_that_no_one_would_accept_is_not_sent() {
    let endless = Hello { program: "x".repeat(5_000), ..hello(1, "") };
    let (caller, _) = meet(&endless, &hello(2, ""), ConnectionKind::Control).await;
    assert!(matches!(caller, Err(WireError::Protocol(ProtocolError::TooLong { .. }))));
}

/// Node 1 connects to node 2 over a transport that makes both prove these keys; what each sees.
async fn meet_proving(one: (&Hello, PublicKey), two: (&Hello, PublicKey)) -> (Result<Greeted>, Result<Greeted>) {
    let network = MemNetwork::new();
    let listener = network.host([10, 0, 0, 2]).proving(two.1).listen("0.0.0.0:7400").await.unwrap();
    let caller = network.host([10, 0, 0, 1]).proving(one.1);
    tokio::join!(open(&caller, "10.0.0.2:7400", ConnectionKind::Control, one.0), async {
        greet(listener.accept().await.unwrap(), two.0).await
    })
}

#[tokio::test]
async fn a_node_is_called_what_the_key_says_that_its_transport_proved() {
    let [key_one, key_two] = [1, 2].map(|seed| PublicKey([seed; 32]));
    let [one, two] = [key_one, key_two].map(|key| Hello { node: key.node(), ..hello(1, "") });
    let (at_one, at_two) = meet_proving((&one, key_one), (&two, key_two)).await;
    let (at_one, at_two) = (at_one.unwrap(), at_two.unwrap());
    assert_eq!((at_one.stream.proven(), at_one.hello.node), (Some(key_two), two.node));
    assert_eq!((at_two.stream.proven(), at_two.hello.node), (Some(key_one), one.node));
    let other = PublicKey([3; 32]);
    for (liar_listens, (at_one, at_two)) in [
        (true, meet_proving((&one, key_one), (&two, other)).await),
        (false, meet_proving((&one, other), (&two, key_two)).await),
    ] {
        let (refused, claimed) = if liar_listens { (at_one, two.node) } else { (at_two, one.node) };
        let error = refused.unwrap_err();
        assert!(error.blame() == Blame::new(Fault::Peer, Retry::Elsewhere), "{error}");
        let told = error.to_string();
        assert!(told.contains(&claimed.to_string()) && told.contains(&other.node().to_string()), "{told}");
    }
}

#[tokio::test]
async fn over_plain_tcp_nobody_proves_anything() {
    let transport = TcpTransport::default();
    let listener = transport.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().to_string();
    let (here, there) = (hello(1, ""), hello(2, ""));
    let accept = async { greet(listener.accept().await.unwrap(), &there).await };
    let (at_here, at_there) = tokio::join!(open(&transport, &addr, ConnectionKind::Control, &here), accept);
    assert_eq!([at_here, at_there].map(|greeted| greeted.unwrap().stream.proven()), [None, None]);
}
