use std::time::Duration;

use super::*;
use crate::random::Random;

fn node(name: u8) -> NodeId {
    NodeId([name; 16])
}

fn at(millis: u64) -> Moment {
    Moment::from_micros(millis * 1000)
}

/// One that knows nothing, where members ask each other.
fn learner() -> (Learner, Tuning) {
    let mut learner = Learner::new(0, 0);
    learner.members_ask(true);
    (learner, Tuning::default())
}

#[test]
fn who_shows_that_it_knows_more_is_asked_and_one_at_a_time() {
    let (mut learner, tuning) = learner();
    assert!(!learner.showed(node(1), 0));
    assert_eq!(learner.ask(at(0), &tuning), None, "nobody knows anything");
    assert!(learner.showed(node(2), 3));
    assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Neighbour(node(2))));
    assert!(learner.showed(node(1), 5) && !learner.showed(node(1), 6), "that one knows more is news once");
    assert_eq!(learner.ask(at(1), &tuning), None, "a question is open");
    assert!(learner.was_asked(node(2)) && !learner.was_asked(node(1)));
    learner.learned(3);
    learner.answered(node(2), true, at(2), &tuning);
    assert_eq!(learner.ask(at(2), &tuning), Some(Teacher::Neighbour(node(1))));
    learner.learned(6);
    assert_eq!(learner.ask(at(3), &tuning), None);
}

#[test]
fn a_neighbour_that_holds_pieces_behind_a_gap_is_asked_once_until_it_holds_more() {
    let (mut learner, tuning) = learner();
    assert!(learner.showed_gap(node(1)) && !learner.showed_gap(node(1)));
    assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Neighbour(node(1))));
    learner.told_run(node(1));
    learner.answered(node(1), true, at(1), &tuning);
    assert_eq!(learner.ask(at(1), &tuning), None, "it told all that it can");
    assert!(learner.showed_gap(node(1)));
    assert_eq!(learner.ask(at(2), &tuning), Some(Teacher::Neighbour(node(1))), "it was of use");
    learner.answered(node(1), true, at(3), &tuning);
    learner.showed_gap(node(1));
    assert_eq!(learner.ask(at(4), &tuning), Some(Teacher::Lead), "it told nothing: the lead can");
}

#[test]
fn a_lead_that_reads_behind_a_gap_is_not_asked_again_for_what_lies_before_it() {
    let (mut learner, tuning) = learner();
    learner.lead_showed(900);
    assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Lead));
    learner.lead_answered(0);
    assert_eq!(learner.ask(at(60_000), &tuning), None, "it has read nothing before piece 899");
    learner.lead_showed(901);
    assert_eq!(learner.ask(at(60_000), &tuning), Some(Teacher::Lead));
}

#[test]
fn who_fails_or_is_silent_or_leaves_is_followed_by_others_and_at_last_the_lead() {
    let (mut learner, tuning) = learner();
    for name in 1..=3 {
        learner.showed(node(name), 4);
    }
    let mut asked = Vec::new();
    let mut now = at(0);
    for attempt in 0..3 {
        let Some(Teacher::Neighbour(one)) = learner.ask(now, &tuning) else { panic!("there are neighbours left") };
        asked.push(one);
        match attempt {
            0 => now = learner.next_wakeup().unwrap(),
            1 => learner.answered(one, false, now, &tuning),
            _ => learner.left(one),
        }
    }
    assert!(learner.was_asked(asked[0]), "a late answer is as good as any");
    asked.sort_unstable();
    assert_eq!(asked, [1, 2, 3].map(node), "each once");
    assert_eq!(learner.ask(now, &tuning), Some(Teacher::Lead));
    assert_eq!(learner.ask(now, &tuning), None, "it was asked just now");
    learner.showed(node(9), 4);
    assert_eq!(learner.ask(now, &tuning), Some(Teacher::Neighbour(node(9))), "a slow lead hinders nobody");
    learner.left(node(9));
    let later = now + tuning.hash_patience_with_lead;
    learner.ask(now, &tuning);
    assert_eq!(learner.next_wakeup(), Some(later));
}

#[test]
fn whoever_claims_more_than_it_can_tell_is_asked_ever_more_seldom_and_the_lead_as_often_as_before() {
    let (mut learner, tuning) = learner();
    let (mut liar_asked, mut lead_asked) = (0, 0);
    let mut now = at(0);
    let end = at(60_000);
    while now < end {
        learner.showed(node(1), u32::MAX);
        match learner.ask(now, &tuning) {
            Some(Teacher::Neighbour(_)) => liar_asked += 1,
            Some(Teacher::Lead) => lead_asked += 1,
            None => now = learner.next_wakeup().unwrap(),
        }
    }
    assert!(liar_asked <= 6, "{liar_asked}");
    assert!((20..=30).contains(&lead_asked), "{lead_asked}");
    learner.set_total(0);
    assert_eq!(learner.ask(now, &tuning), None, "there are no more");
}

#[test]
fn the_lead_is_asked_in_time_though_neighbours_come_and_go_and_answer_with_nothing() {
    let (mut learner, tuning) = learner();
    let mut now = at(0);
    let mut lead_asked = 0;
    for _ in 0..1000 {
        learner.showed(node(1), u32::MAX);
        match learner.ask(now, &tuning) {
            // It leaves with what is held against it, and comes again.
            Some(Teacher::Neighbour(liar)) => {
                learner.answered(liar, true, now, &tuning);
                learner.left(liar);
            }
            Some(Teacher::Lead) => lead_asked += 1,
            None => {}
        }
        now = now + std::time::Duration::from_millis(10);
    }
    assert!((4..=5).contains(&lead_asked), "once in two of ten seconds, not {lead_asked} times");
    learner.lead_showed(1);
    learner.left(node(1));
    assert_eq!(learner.ask(now, &tuning), Some(Teacher::Lead), "it is sending a piece, and so knows more");
}

#[test]
fn where_the_lead_tells_everybody_it_is_waited_for_and_then_asked() {
    let (mut learner, tuning) = (Learner::new(0, 0), Tuning::default());
    learner.showed(node(1), 2);
    assert_eq!(learner.ask(at(5), &tuning), None);
    assert_eq!(learner.next_wakeup(), Some(at(5) + tuning.hash_patience));
    learner.learned(2);
    assert_eq!(learner.ask(at(6), &tuning), None);
    assert_eq!(learner.next_wakeup(), None, "it told");
    learner.showed(node(1), 3);
    assert_eq!(learner.ask(at(1000), &tuning), None, "the wait begins anew");
    assert_eq!(learner.ask(at(1000) + tuning.hash_patience, &tuning), Some(Teacher::Lead));
}

#[test]
fn a_piece_of_the_leads_whose_hash_is_lacked_is_reason_enough() {
    let (mut learner, tuning) = learner();
    learner.lead_showed(7);
    assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Lead));
    learner.lead_changed();
    assert_eq!(learner.ask(at(0), &tuning), None);
}

#[test]
fn pieces_of_neighbours_that_tell_no_hashes_are_reason_enough_after_a_while() {
    let (mut learner, tuning) = learner();
    learner.showed_pieces(7);
    assert_eq!(learner.ask(at(0), &tuning), None, "others may tell soon");
    assert_eq!(learner.ask(learner.next_wakeup().unwrap(), &tuning), Some(Teacher::Lead));
}

#[test]
fn what_is_known_never_becomes_less_and_only_more_of_it_ends_the_wait() {
    let (mut learner, tuning) = learner();
    learner.learned(3);
    learner.learned(2);
    assert_eq!(learner.known, 3);
    learner.showed(node(1), 9);
    learner.showed(node(2), 9);
    assert!(learner.ask(at(0), &tuning).is_some());
    learner.learned(3);
    assert_eq!(learner.ask(at(1), &tuning), None, "the question is still open");
    learner.learned(4);
    assert!(learner.ask(at(1), &tuning).is_some());
}

#[test]
fn what_neighbours_show_is_news_when_they_overtake_this_member_and_not_again() {
    let (mut learner, _) = learner();
    learner.learned(5);
    assert!(!learner.showed_pieces(5), "these are known");
    assert!(learner.showed_pieces(6) && !learner.showed_pieces(7), "enough to look for somebody once");
    assert!(!learner.showed(node(1), 5));
    assert!(learner.showed(node(1), 6) && !learner.showed(node(1), 7));
    assert!(learner.showed(node(2), 6), "another");
    learner.learned(7);
    assert!(!learner.showed_pieces(7));
    assert!(learner.showed_pieces(8), "again as much more");
    assert!(!learner.showed(node(1), 7) && learner.showed(node(1), 8));
}

#[test]
fn a_piece_of_the_leads_whose_hash_is_known_is_no_reason_to_ask_it_again() {
    let (mut learner, tuning) = learner();
    learner.lead_showed(4);
    assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Lead));
    learner.lead_showed(3);
    learner.lead_showed(4);
    assert_eq!(learner.ask(at(1), &tuning), None, "it was asked when it had shown as much");
    learner.lead_showed(5);
    assert_eq!(learner.ask(at(2), &tuning), Some(Teacher::Lead));
    learner.learned(6);
    learner.showed(node(1), 9);
    assert_eq!(learner.ask(at(3), &tuning), Some(Teacher::Neighbour(node(1))));
    learner.left(node(1));
    assert_eq!(learner.ask(at(4), &tuning), None);
    assert_eq!(learner.next_wakeup(), None, "nothing is lacked");
}

#[test]
fn an_answer_of_the_lead_ends_what_it_showed_only_where_it_was_asked_and_had_nothing() {
    let (mut learner, tuning) = learner();
    learner.lead_showed(4);
    learner.lead_answered(0);
    assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Lead), "nobody had asked it");
    learner.lead_answered(2);
    assert_eq!(learner.ask(at(60_000), &tuning), Some(Teacher::Lead), "it knows some");
}

#[test]
fn whether_members_ask_each_other_is_the_leads_word_and_another_lead_may_say_otherwise() {
    let mut learner = Learner::new(0, 0);
    assert!(!learner.do_members_ask());
    learner.members_ask(true);
    assert!(learner.do_members_ask());
    learner.lead_changed();
    assert!(!learner.do_members_ask());
}

#[test]
fn another_lead_makes_nobody_forget_what_neighbours_know_and_clears_those_that_failed() {
    let (mut learner, tuning) = learner();
    learner.showed(node(1), 4);
    assert_eq!(learner.ask(at(0), &tuning), Some(Teacher::Neighbour(node(1))));
    learner.answered(node(1), false, at(1), &tuning);
    learner.lead_changed();
    learner.members_ask(true);
    assert_eq!(learner.ask(at(1), &tuning), Some(Teacher::Neighbour(node(1))));
    learner.lead_changed();
    assert!(!learner.was_asked(node(1)), "for the last lead's word");
}

#[test]
fn a_neighbour_that_leaves_ends_the_question_to_it_and_no_other() {
    let (mut learner, tuning) = learner();
    for name in 1..=3 {
        learner.showed(node(name), 4);
    }
    let Some(Teacher::Neighbour(asked)) = learner.ask(at(0), &tuning) else { panic!("three know more") };
    let [other, last] = [1, 2, 3].map(node).into_iter().filter(|it| *it != asked).collect::<Vec<_>>()[..] else {
        panic!()
    };
    learner.left(other);
    learner.answered(other, true, at(1), &tuning);
    assert_eq!(learner.ask(at(1), &tuning), None, "the question is open");
    learner.left(asked);
    assert_eq!(learner.ask(at(1), &tuning), Some(Teacher::Neighbour(last)));
}

#[test]
fn who_is_of_no_use_is_left_alone_for_longer_each_time_until_it_is_of_use() {
    let (mut learner, tuning) = learner();
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        learner.showed(node(1), u32::MAX);
        let began = now;
        while learner.ask(now, &tuning) != Some(Teacher::Neighbour(node(1))) {
            now = now + Duration::from_millis(50);
        }
        pauses.push(now - began);
        learner.answered(node(1), false, now, &tuning);
    }
    assert!(pauses[0].is_zero() && pauses.windows(2).all(|two| two[1] > two[0]), "{pauses:?}");
}

#[test]
fn the_leads_word_is_asked_for_when_others_lack_it_and_not_at_every_question() {
    let tuning = Tuning::default();
    let mut learner = Learner::new(5, 0);
    assert!(!learner.needs_proof(5, at(0), &tuning), "they know as much");
    assert!(learner.needs_proof(4, at(0), &tuning) && !learner.needs_proof(4, at(1), &tuning));
    let later = at(0) + tuning.hash_patience;
    assert!(learner.needs_proof(0, later, &tuning));
    learner.lead_changed();
    assert!(learner.needs_proof(0, later, &tuning), "another lead has another word");
}

/// Whatever happened before: nobody is to be asked sooner than was said.
#[test]
fn whatever_time_alone_brings_was_announced() {
    for number in 0..500 {
        let (mut learner, tuning) = learner();
        let (mut random, mut now) = (Random::new(number), at(0));
        for _ in 0..200 {
            let (name, count) = (node(random.below(5) as u8), random.below(40) as u32);
            match random.below(9) {
                0 | 1 => drop(learner.showed(name, count)),
                2 => drop(learner.showed_gap(name)),
                3 => learner.answered(name, random.below(2) == 0, now, &tuning),
                4 => learner.learned(count),
                5 => learner.lead_showed(count),
                6 if random.below(9) == 0 => learner.lead_changed(),
                7 if random.below(3) == 0 => learner.members_ask(random.below(4) > 0),
                _ => drop(learner.showed_pieces(count)),
            }
            while learner.ask(now, &tuning).is_some() {}
            let announced = learner.next_wakeup();
            let most = announced.map_or(Duration::from_secs(3), |at| at.since(now));
            now = now + most.mul_f64(random.below(1000) as f64 / 1000.0);
            let asked = learner.ask(now, &tuning);
            assert_eq!(asked, None, "history {number}: at {now:?}, though {announced:?} was said");
        }
    }
}
