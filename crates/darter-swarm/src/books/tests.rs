use std::time::Duration;

use darter_core::{PieceHash, PieceIndex};

use super::*;
use crate::facts::fixture::{BLOB, Known, hash};
use crate::hashes::Hashes;

fn node(name: u8) -> NodeId {
    NodeId([name; 16])
}

fn at(millis: u64) -> Moment {
    Moment::from_micros((1000 + millis) * 1000)
}

/// A lead and what it knows.
struct Leads {
    books: Books,
    known: Known,
    hashes: Hashes,
    verdict: Option<Verdict>,
    requests: u32,
}

impl Leads {
    fn knowing(known: Known, tuning: Tuning) -> Self {
        let held = PieceSet::new();
        let opening = Opening {
            me: node(0),
            place: Place::default(),
            start: Start::Fresh,
            held: &held,
            everything: true,
            wishes: &[],
            dropped: vec![node(66)],
            has_verdict: false,
            seed: 1,
            signer: Signer::draw(),
            tuning,
        };
        let books = Books::open(opening, &known, at(0));
        let hashes = Hashes::new(BLOB, known.piece_length(), &known.hashes_from(0, usize::MAX), 0, tuning);
        Self { books, known, hashes, verdict: None, requests: 0 }
    }

    fn reads(&mut self, until: u32) {
        self.known.known = PieceSet::full(until);
        self.hashes.catch_up(&self.known);
    }

    fn admit(&mut self, name: u8) {
        let whole = Some(vec![7]);
        self.requests += 1;
        let entering = Entering { node: node(name), request: self.requests, whole };
        self.books.admit(entering, Place::default(), &PieceSet::new(), true);
    }

    /// The messages that it sends now, and to whom: `+from..to` for hashes, with `!` where members ask each other and `*` for its
    /// signature.
    fn says(&mut self, millis: u64) -> Vec<(u8, String)> {
        let speech = self.books.speak(&self.known, self.hashes.chain(), self.verdict.as_ref(), at(millis));
        speech.messages.iter().map(|(to, message)| (to.0[0], self.text(message))).collect()
    }

    fn text(&self, message: &Message) -> String {
        let hashes = |from: u32, hashes: &[PieceHash], ask: bool, proof: Option<Proof>| {
            let end = from + hashes.len() as u32;
            assert_eq!(hashes, (from..end).map(hash).collect::<Vec<_>>());
            let mut chain = HashChain::new(BLOB, self.known.piece_length());
            chain.extend(&self.known.hashes_from(0, end as usize));
            assert!(proof.is_none_or(|proof| self.books.signer.key().proves(&chain, &proof)), "its word for these");
            let (ask, proof) = (if ask { "!" } else { "" }, if proof.is_some() { "*" } else { "" });
            format!("+{from}..{end}{ask}{proof}")
        };
        match message {
            Message::Joined { request, hashes: list, members_ask, proof, neighbours, verdict, whole, key, .. } => {
                assert_eq!(*key, self.books.signer.key());
                let neighbours: Vec<_> = neighbours.iter().map(|it| it.node.0[0]).collect();
                let verdict = if verdict.is_some() { " right" } else { "" };
                let whole = if whole.is_some() { " whole" } else { "" };
                format!("in {request} {neighbours:?} {}{verdict}{whole}", hashes(0, list, *members_ask, *proof))
            }
            Message::Grew { from, hashes: list, length, members_ask, proof, .. } => {
                let length = if length.is_some() { " length" } else { "" };
                hashes(*from, list, *members_ask, *proof) + length
            }
            Message::Neighbours { add, gone, .. } => {
                let add: Vec<_> = add.iter().map(|it| (it.node.0[0], it.addr.as_str())).collect();
                format!("{add:?} {:?}", gone.iter().map(|it| it.0[0]).collect::<Vec<_>>())
            }
            Message::Whole { .. } => "right".to_owned(),
            Message::Run { from, hashes, proof, .. } => {
                format!("run {from}+{}{}", hashes.len(), if proof.is_some() { "*" } else { "" })
            }
            other => panic!("{other:?}"),
        }
    }
}

fn said(list: &[(u8, &str)]) -> Vec<(u8, String)> {
    list.iter().map(|(to, text)| (*to, (*text).to_owned())).collect()
}

#[test]
fn members_are_told_news_before_a_newcomer_is_let_in_with_all_that_they_were_told() {
    let mut leads = Leads::knowing(Known::first(2), Tuning::default());
    assert_eq!(leads.says(0), [], "nobody is here");
    leads.admit(1);
    assert!(leads.books.has(node(1)) && leads.books.others().is_empty(), "it is coming in");
    assert_eq!(leads.says(1), said(&[(1, "in 1 [] +0..2")]));
    assert_eq!((leads.books.others(), leads.books.member_count()), (vec![node(1)], 2));
    leads.reads(3);
    leads.admit(2);
    let met = r#"[(2, "host-2:7400")] []"#;
    assert_eq!(leads.says(50), said(&[(1, "+2..3"), (1, met), (2, "in 2 [1] +0..3")]));
    leads.reads(4);
    assert_eq!(leads.says(51), [], "hashes are told several at a time");
    leads.admit(3);
    let met = r#"[(3, "host-3:7400")] []"#;
    assert_eq!(leads.says(52), said(&[(1, met), (2, met), (3, "in 3 [1, 2] +0..3")]), "it is told the rest with all");
    let due = leads.books.due().unwrap();
    assert_eq!(due, at(50) + Tuning::default().tell_hashes);
    assert_eq!(leads.says(90), said(&[(1, "+3..4"), (2, "+3..4"), (3, "+3..4")]));
    assert_eq!(leads.books.due(), None);
}

#[test]
fn length_and_verdict_are_told_once_and_with_the_answer_to_who_comes_later() {
    let mut leads = Leads::knowing(Known::first(0), Tuning::default());
    leads.admit(1);
    assert_eq!(leads.says(0), said(&[(1, "in 1 [] +0..0")]));
    leads.known.pieces = Some(2);
    assert_eq!(leads.says(1), said(&[(1, "+0..0 length")]));
    leads.reads(2);
    leads.verdict = Some(Verdict { root: hash(9), digest: None });
    assert_eq!(leads.says(2), said(&[(1, "+0..2 length"), (1, "right")]));
    leads.admit(2);
    let answer = leads.says(3).pop().unwrap();
    assert_eq!(answer, (2, "in 2 [1] +0..2 right whole".to_owned()), "few bytes go with the verdict, and not without");
    assert_eq!(leads.says(4), []);
}

#[test]
fn a_member_that_comes_again_forgets_first_whom_it_knew_and_meets_those_who_are_here() {
    let mut leads = Leads::knowing(Known::first(0), Tuning::default());
    (1..=3).for_each(|name| leads.admit(name));
    leads.says(0);
    leads.says(1000);
    leads.books.left(node(2));
    assert!(!leads.books.has(node(2)));
    leads.books.left(node(3));
    leads.admit(3);
    leads.admit(1);
    let said = leads.says(2000);
    let to_1: Vec<_> = said.iter().filter(|(to, _)| *to == 1).map(|(_, text)| text.as_str()).collect();
    assert_eq!(to_1, ["[] [2]", "in 5 [3] +0..0"], "3 came anew, and is not forgotten");
    assert_eq!(said.last().unwrap().0, 1, "in the order in which they came");
}

#[test]
fn as_members_become_many_they_are_told_to_ask_each_other_and_newcomers_get_a_list_with_the_leads_word() {
    let mut leads = Leads::knowing(Known::first(3), Tuning { few_members: 4, ..Tuning::default() });
    (1..=2).for_each(|name| leads.admit(name));
    leads.says(0);
    leads.admit(3);
    let said = leads.says(1000);
    assert_eq!(said[..2], [(1, "+3..3!*".to_owned()), (2, "+3..3!*".to_owned())]);
    assert_eq!(said.last().unwrap().1, "in 3 [1, 2] +0..3!*");
    assert!(leads.books.members_ask());
    leads.says(1500);
    leads.reads(5);
    assert_eq!(leads.says(2000), [], "they ask");
    let answer = leads.books.answer(2, &leads.known, leads.hashes.chain());
    assert_eq!(answer.iter().map(|it| leads.text(it)).collect::<Vec<_>>(), ["+2..5!*"]);
    let late = leads.hashes.answer(node(9), 2, Some(&mut leads.books), &leads.known, at(2000));
    assert!(matches!(&late.messages[..], [Message::Grew { hashes, .. }] if hashes.is_empty()), "it is no member");
    let reply = leads.hashes.answer(node(1), 2, Some(&mut leads.books), &leads.known, at(2000));
    assert_eq!(reply.messages, answer);
    assert_eq!(reply.question, None, "there is no word but its own");
}

#[test]
fn a_list_that_is_too_long_for_one_message_is_told_in_several_and_the_word_with_the_last() {
    let mut leads = Leads::knowing(Known::first(MAX_HASHES + 3), Tuning { few_members: 1, ..Tuning::default() });
    leads.admit(1);
    let (end, told) = (MAX_HASHES + 3, leads.says(0));
    assert_eq!(told, [(1, format!("in 1 [] +0..{MAX_HASHES}!")), (1, format!("+{MAX_HASHES}..{end}!*"))]);
}

#[test]
fn hashes_behind_gaps_are_told_to_all_where_they_are_few_and_where_they_are_many_to_who_waits() {
    let mut known = Known { pieces: Some(400), known: PieceSet::full(2), ..Known::default() };
    let wish = Wish { first: 130, end: 132, within: Duration::from_secs(1) };
    known.known.insert(PieceIndex(130));
    let mut few = Leads::knowing(known.clone(), Tuning::default());
    few.admit(1);
    assert_eq!(few.says(0), said(&[(1, "in 1 [] +0..2"), (1, "run 130+1")]));
    few.known.known.insert(PieceIndex(131));
    assert_eq!(few.says(1), said(&[(1, "run 131+1")]));
    assert_eq!(few.says(2), []);
    let mut many = Leads::knowing(known, Tuning { few_members: 1, ..Tuning::default() });
    (1..=2).for_each(|name| many.admit(name));
    many.says(0);
    many.says(500);
    many.books.lead_mut().wish(node(2), &[wish], at(0));
    assert_eq!(many.says(501), said(&[(2, "run 130+1*")]));
    many.known.known.insert(PieceIndex(131));
    assert_eq!(many.says(502), said(&[(2, "run 130+2*")]), "together, as its block is proven");
    assert_eq!(many.says(503), []);
}

#[test]
fn nobody_who_waits_is_let_in_once_the_blob_is_given_up_and_who_sent_wrong_pieces_is_no_neighbour() {
    let mut leads = Leads::knowing(Known::first(0), Tuning::default());
    leads.admit(1);
    leads.admit(66);
    leads.books.count_in(node(2), Place::default(), &PieceSet::full(4));
    assert!(!leads.books.has(node(2)), "it need not know");
    assert_eq!(leads.books.member_count(), 3, "without the one that is put aside");
    let waiting: Vec<_> = leads.books.take_entering().iter().map(|entering| entering.node).collect();
    assert_eq!(waiting, [node(1), node(66)]);
    assert!(leads.says(1000).iter().all(|(_, text)| !text.contains("in ") && !text.contains("66")));
}
