use darter_core::{BlobId, PieceLength, Signer};

use super::*;

fn node(name: u8) -> NodeId {
    NodeId([name; 16])
}

fn list(names: std::ops::Range<u8>) -> Vec<PieceHash> {
    names.map(|name| PieceHash([name; 32])).collect()
}

fn chain(count: u8) -> HashChain {
    let mut chain = HashChain::new(BlobId([5; 32]), PieceLength::UNKNOWN_BLOB);
    chain.extend(&list(0..count));
    chain
}

/// A member that follows a lead, knows so many hashes with proof, and asks a neighbour for more.
fn asking(lead: &mut Signer, count: u8) -> Hashes {
    let mut hashes = Hashes::new(chain(0), 0, Tuning::default());
    assert_eq!(hashes.shown(), 0);
    hashes.lead_changed(Some(lead.key()));
    hashes.members_ask(true);
    assert!(hashes.learned(&list(0..count)), "others ask for these");
    assert_eq!(hashes.shown(), u32::from(count));
    hashes.vouched(lead.prove(&chain(count)));
    hashes.showed(node(1), 9, 0);
    assert_eq!(hashes.ask(Moment::ZERO), Some(Teacher::Neighbour(node(1))));
    hashes
}

fn proven(answer: Answer) -> Proven {
    match answer {
        Answer::Proven(proven) => proven,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_is_looked_at_if_it_was_asked_for_and_taken_with_the_leads_word() {
    let (mut lead, mut other) = (Signer::draw(), Signer::draw());
    let mut member = asking(&mut lead, 2);
    assert!(member.check_for(node(2)).is_none(), "nobody asked that one");
    let word = lead.prove(&chain(4));
    let right = Some(word);
    {
        let check = |from, hashes: &[PieceHash], proof| member.check_for(node(1)).unwrap().prove(from, hashes, proof);
        assert!(matches!(check(1, &list(1..4), None), Answer::Useless), "without a proof");
        assert!(matches!(check(1, &list(1..4), Some(other.prove(&chain(4)))), Answer::Useless), "another lead's");
        assert!(matches!(check(1, &list(2..5), right), Answer::Useless), "other hashes");
        assert!(matches!(check(3, &list(3..4), right), Answer::Useless), "a gap");
        assert!(matches!(check(0, &list(0..2), Some(lead.prove(&chain(2)))), Answer::Stale), "nothing new");
    }
    let proven = proven(member.check_for(node(1)).unwrap().prove(1, &list(1..4), right));
    assert_eq!((proven.at, proven.known), (1, 2), "the first of the three is known");
    assert!(!member.took(node(1), proven, Moment::ZERO), "neighbours heard of the first ones");
    assert_eq!(member.count(), 4);
    assert_eq!(member.answer(1), Some((3, word)), "and can be passed on");
    assert_eq!(member.answer(4), None);
    assert!(member.check_for(node(1)).is_none(), "one answer for a question");
}

#[test]
fn what_one_lead_vouched_for_is_not_passed_on_as_the_nexts() {
    let (mut lead, mut next) = (Signer::draw(), Signer::draw());
    let mut member = asking(&mut lead, 2);
    let late = proven(member.check_for(node(1)).unwrap().prove(2, &list(2..3), Some(lead.prove(&chain(3)))));
    member.lead_changed(Some(next.key()));
    assert!(member.check_for(node(1)).is_none(), "what was asked before is void");
    member.took(node(1), late, Moment::ZERO);
    assert_eq!((member.count(), member.answer(0)), (3, None));
    assert!(member.needs_proof(0, Moment::ZERO) && !member.needs_proof(0, Moment::ZERO), "once in a while");
    member.vouched(next.prove(&chain(3)));
    assert_eq!(member.answer(0), Some((3, next.prove(&chain(3)))));
    member.lead_changed(None);
    assert_eq!(member.shown(), 0, "without a lead nothing can be proven");
}

#[test]
fn the_same_question_is_answered_once_in_a_while() {
    let mut member = asking(&mut Signer::draw(), 2);
    let soon = Moment::from_micros(1000);
    assert!(member.may_answer(node(2), 0, 2, Moment::ZERO) && !member.may_answer(node(2), 0, 2, soon));
    assert!(member.may_answer(node(3), 0, 2, soon), "another asks");
    assert!(member.may_answer(node(2), 1, 2, soon), "it learned something");
    assert!(!member.may_answer(node(2), 1, 2, soon));
    assert!(member.may_answer(node(2), 1, 3, soon), "there is more to tell");
    assert!(member.may_answer(node(2), 1, 3, soon + Tuning::default().hash_patience), "who waited in vain asks again");
}
