use darter_core::Signer;

use super::*;
use crate::facts::fixture::{BLOB, Known, hash};

fn node(name: u8) -> NodeId {
    NodeId([name; 16])
}

fn list(pieces: std::ops::Range<u32>) -> Vec<PieceHash> {
    pieces.map(hash).collect()
}

fn chain(pieces: std::ops::Range<u32>) -> HashChain {
    let mut chain = HashChain::begin(BLOB, PieceLength::UNKNOWN_BLOB, pieces.start);
    chain.extend(&list(pieces));
    chain
}

/// A member that follows a lead, knows `count` hashes with proof, and asks neighbour 1 for more.
fn asking(lead: &mut Signer, count: u32) -> Hashes {
    let mut hashes = Hashes::new(BLOB, PieceLength::UNKNOWN_BLOB, &[], 0, Tuning::default());
    assert_eq!(hashes.shown(), 0);
    hashes.lead_changed(Some(lead.key()));
    hashes.members_ask(true);
    let known = Known::first(count);
    let tells = hashes.lead_told(0, count, Some(lead.prove(&chain(0..count))), &known);
    assert_eq!(tells, count > 0, "others ask for these");
    assert_eq!(hashes.shown(), count);
    assert!(hashes.showed(node(1), 9, std::iter::empty(), &known));
    assert_eq!(hashes.ask(Moment::ZERO), Some(Teacher::Neighbour(node(1))));
    hashes
}

fn answer(member: &Hashes, from: u32, hashes: &[PieceHash], proof: Option<Proof>) -> HashAnswer {
    member.check_for(node(1)).unwrap().prove(from, hashes, proof)
}

/// The answer to neighbour 2, or another, that asks: how many hashes, and by what proof; and whether the lead is asked for one.
fn told(member: &mut Hashes, peer: u8, from: u32, now: Moment) -> Option<(usize, Option<Proof>, bool)> {
    let known = Known::first(member.count());
    let Reply { messages, question } = member.answer(node(peer), from, None, &known, now);
    match messages.last()? {
        Message::Grew { from: first, hashes, members_ask: true, length: None, proof, .. } => {
            assert_eq!((*first, &hashes[..]), (from, &list(from..from + hashes.len() as u32)[..]));
            Some((hashes.len(), *proof, question.is_some()))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_is_looked_at_if_it_was_asked_for_and_taken_with_the_leads_word() {
    let (mut lead, mut other) = (Signer::draw(), Signer::draw());
    let mut member = asking(&mut lead, 2);
    assert!(member.check_for(node(2)).is_none(), "nobody asked that one");
    let word = lead.prove(&chain(0..4));
    let right = Some(word);
    assert!(matches!(answer(&member, 1, &list(1..4), None), HashAnswer::Useless), "without a proof");
    let foreign = Some(other.prove(&chain(0..4)));
    assert!(matches!(answer(&member, 1, &list(1..4), foreign), HashAnswer::Useless), "another lead's");
    assert!(matches!(answer(&member, 1, &list(2..5), right), HashAnswer::Useless), "other hashes");
    assert!(matches!(answer(&member, 3, &list(3..4), right), HashAnswer::Useless), "a gap");
    assert!(
        matches!(answer(&member, 0, &list(0..2), Some(lead.prove(&chain(0..2)))), HashAnswer::Stale),
        "nothing new"
    );
    let proven = answer(&member, 1, &list(1..4), right);
    assert!(matches!(proven, HashAnswer::Proven(Proven { at: 1, known: 2, .. })), "the first of the three is known");
    assert!(!member.answered(node(1), proven, Moment::ZERO), "neighbours heard of the first ones");
    assert_eq!(member.count(), 4);
    assert_eq!(told(&mut member, 2, 1, Moment::ZERO), Some((3, right, false)), "and can be passed on");
    assert_eq!(told(&mut member, 2, 4, Moment::ZERO), Some((0, None, false)), "there is nothing to prove");
    assert!(member.check_for(node(1)).is_none(), "one answer for a question");
}

#[test]
fn neighbours_hear_of_the_first_hashes_that_a_member_is_told() {
    let mut lead = Signer::draw();
    let mut member = asking(&mut lead, 0);
    let proven = answer(&member, 0, &list(0..2), Some(lead.prove(&chain(0..2))));
    assert!(member.answered(node(1), proven, Moment::ZERO), "the first ones");
    let mut member = asking(&mut lead, 0);
    assert!(!member.answered(node(1), HashAnswer::Useless, Moment::ZERO), "there are none yet");
    assert!(member.catch_up(&Known::first(2)) && !member.catch_up(&Known::first(3)));
}

#[test]
fn what_one_lead_vouched_for_is_not_passed_on_as_the_nexts() {
    let (mut lead, mut next) = (Signer::draw(), Signer::draw());
    let mut member = asking(&mut lead, 2);
    let late = answer(&member, 2, &list(2..3), Some(lead.prove(&chain(0..3))));
    member.lead_changed(Some(next.key()));
    assert!(member.check_for(node(1)).is_none(), "what was asked before is void");
    member.answered(node(1), late, Moment::ZERO);
    assert_eq!(member.count(), 3);
    assert_eq!(told(&mut member, 2, 0, Moment::ZERO), Some((0, None, true)), "the lead is asked for its word");
    assert_eq!(told(&mut member, 3, 0, Moment::ZERO), Some((0, None, false)), "once in a while");
    let word = Some(next.prove(&chain(0..3)));
    assert!(!member.lead_told(3, 0, word, &Known::first(3)));
    assert_eq!(told(&mut member, 4, 0, Moment::ZERO), Some((3, word, false)));
    member.lead_changed(None);
    assert_eq!(member.shown(), 0, "without a lead nothing can be proven");
}

#[test]
fn a_lead_that_tells_hashes_behind_others_is_asked_for_those_in_front_of_them() {
    let mut lead = Signer::draw();
    let mut member = Hashes::new(BLOB, PieceLength::UNKNOWN_BLOB, &list(0..2), 0, Tuning::default());
    member.lead_changed(Some(lead.key()));
    member.members_ask(true);
    member.lead_told(5, 2, Some(lead.prove(&chain(0..7))), &Known::first(2));
    assert_eq!(member.ask(Moment::ZERO), Some(Teacher::Lead));
    assert_eq!(told(&mut member, 2, 0, Moment::ZERO), Some((0, None, true)), "its word for seven is none for two");
}

#[test]
fn the_same_question_is_answered_once_in_a_while() {
    let mut member = asking(&mut Signer::draw(), 2);
    let soon = Moment::from_micros(1000);
    let mut answers = |peer, from, now| told(&mut member, peer, from, now).is_some();
    assert!(answers(2, 0, Moment::ZERO) && !answers(2, 0, soon));
    assert!(answers(3, 0, soon), "another asks");
    assert!(answers(2, 1, soon), "it learned something");
    assert!(!answers(2, 1, soon));
    assert!(answers(2, 1, soon + Tuning::default().hash_patience), "who waited in vain asks again");
    member.catch_up(&Known::first(3));
    assert!(told(&mut member, 3, 0, soon).is_some(), "there is more to tell");
    member.left(node(3));
    assert!(told(&mut member, 3, 0, soon).is_some(), "it left and came again");
}

#[test]
fn a_run_is_taken_of_the_lead_or_with_its_word_of_a_neighbour_that_was_asked_and_then_passed_on() {
    let (mut lead, mut other) = (Signer::draw(), Signer::draw());
    let mut member = asking(&mut lead, 2);
    let (run, word) = (list(70..73), lead.prove(&chain(70..73)));
    let takes = |member: &Hashes, from: u8, is_lead: bool, first: u32, proof: Option<Proof>| {
        member.check_run(node(from), is_lead, first).prove(&run, proof)
    };
    assert!(takes(&member, 9, true, 70, None).is_some(), "the lead's word is its own");
    assert!(takes(&member, 2, false, 70, Some(word)).is_none(), "nobody asked that one");
    for (first, proof) in [(70, None), (70, Some(other.prove(&chain(70..73)))), (71, Some(word))] {
        assert!(takes(&member, 1, false, first, proof).is_none(), "{first} {proof:?}");
    }
    let taken = takes(&member, 1, false, 70, Some(word)).unwrap();
    let mut known = Known::first(2);
    for piece in 70..73 {
        known.known.insert(PieceIndex(piece));
    }
    assert!(!member.took_run(node(1), taken, &known));
    assert_eq!(member.count(), 2, "a gap is before it");
    let passed_on = |member: &mut Hashes, peer, from| {
        let told = member.answer(node(peer), from, None, &known, Moment::ZERO).messages;
        told.iter().filter(|it| matches!(it, Message::Run { from: 70, proof, .. } if *proof == Some(word))).count()
    };
    assert_eq!([passed_on(&mut member, 2, 2), passed_on(&mut member, 3, 72), passed_on(&mut member, 4, 73)], [1, 1, 0]);
    member.lead_changed(Some(other.key()));
    assert_eq!(passed_on(&mut member, 5, 2), 0, "the next lead did not say so");
}

#[test]
fn neighbours_whose_pieces_need_hashes_that_are_lacked_are_asked_for_them() {
    let mut lead = Signer::draw();
    let known = Known::first(2);
    let pieces = |range: std::ops::Range<u32>| range.map(PieceIndex);
    let mut member = asking(&mut lead, 2);
    assert!(!member.showed(node(2), 2, pieces(0..2), &known), "it has nothing that is lacked");
    assert!(member.showed(node(2), 2, pieces(5..6), &known), "it holds a piece behind a gap");
    assert!(!member.showed(node(2), 2, pieces(5..6), &known), "which was said before");
    assert!(member.showed(node(3), 0, pieces(5..6), &known), "it knows no hashes, but somebody does");
    assert!(member.showed(node(4), 3, pieces(0..3), &known), "it knows one more");
}
