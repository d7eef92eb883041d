//! A lead is lost, and somebody else is found.

use darter_protocol::{Failure, FailureKind};

use super::*;
use crate::{Found, Guilt, Leader, Output};

fn polled(scene: &mut Scene) -> Vec<Output> {
    scene.now = scene.now + Duration::from_millis(1);
    let mut outputs = Vec::new();
    scene.session.poll(&scene.known, scene.now, &mut outputs);
    outputs
}

/// The consequence for a blob whose lead is lost like this.
#[derive(Debug, PartialEq, Eq)]
enum Follows {
    Search,
    NewBeginning(Guilt),
    EndOfTrust,
    Nothing,
}

fn follows(scene: &mut Scene) -> Follows {
    let outputs = polled(scene);
    let mut after = outputs.iter().skip_while(|it| !matches!(it, Output::LeadLost { .. })).skip(1);
    let is = |it: &&Output| matches!(it, Output::Seek(_) | Output::StartOver { .. } | Output::EndTrust { .. });
    match after.find(is) {
        Some(Output::Seek(_)) => Follows::Search,
        Some(Output::StartOver { guilt, .. }) => Follows::NewBeginning(*guilt),
        Some(_) => Follows::EndOfTrust,
        None => Follows::Nothing,
    }
}

#[test]
fn what_a_node_said_is_thrown_away_with_it_if_nothing_ever_bore_it_out() {
    let lost = |lead: u8, loss: Loss, change: fn(&mut Scene)| {
        let mut scene = Scene::new();
        scene.follows(lead, &[]);
        change(&mut scene);
        assert!(scene.loses(lead, loss));
        follows(&mut scene)
    };
    let nothing = |_: &mut Scene| {};
    let has_a_piece = |scene: &mut Scene| scene.stores(0, Some(9));
    assert_eq!(lost(9, Loss::Failed, nothing), Follows::NewBeginning(Guilt::Perhaps));
    assert_eq!(lost(9, Loss::Mute, nothing), Follows::NewBeginning(Guilt::Sure));
    assert_eq!(lost(9, Loss::Forgot, nothing), Follows::Search, "it says nothing of the content");
    assert_eq!(lost(100, Loss::Failed, nothing), Follows::Search, "a seed is believed");
    for loss in [Loss::Failed, Loss::Mute] {
        assert_eq!(lost(9, loss, has_a_piece), Follows::Search);
    }
    assert_eq!(lost(9, Loss::Failed, |scene| scene.known.known = PieceSet::new()), Follows::Search, "it said nothing");
    assert_eq!(
        lost(9, Loss::Failed, |scene| scene.session.course.arrives()),
        Follows::Search,
        "pieces are being stored"
    );
    assert_eq!(lost(100, Loss::Failed, |scene| scene.known.on_trust = true), Follows::EndOfTrust);
    assert_eq!(lost(9, Loss::Failed, |scene| scene.session.course = Course::new(true)), Follows::Nothing);
}

#[test]
fn a_search_asks_one_agent_at_a_time_and_ends_when_one_lets_this_agent_in() {
    let mut scene = Scene::led(&[2, 4]);
    scene.stores(0, Some(9));
    scene.meets(&[]);
    scene.loses(9, Loss::Failed);
    assert_eq!(scene.seeks(&[100], &[]), Step::Ask(node(100)));
    scene.loses(9, Loss::Failed);
    scene.hears(Input::Resumes);
    assert_eq!(scene.seeks(&[100, 101], &[]), Step::End, "that one has not answered");
    scene.hears(Input::Sought(Sought::Refused(node(100))));
    assert_eq!(scene.seeks(&[100, 101], &[]), Step::Ask(node(101)));
    assert!(scene.follows(101, &[]));
    scene.hears(Input::Sought(Sought::Done));
    assert_eq!((scene.seeks(&[], &[]), scene.session.leadership.is_searching()), (Step::End, false));
}

#[test]
fn whoever_finds_nobody_leads_and_knows_the_holders_that_it_found_once_somebody_else_does() {
    let info = || vec![super::info(6)];
    let sought = || Input::Sought(Sought::Found { found: Found::default(), holders: info() });
    let dials = |outputs: &[Output]| outputs.contains(&Output::Dial(info()));
    for leads in [true, false] {
        let mut scene = Scene::led(&[]);
        scene.stores(0, Some(9));
        scene.loses(9, Loss::Failed);
        polled(&mut scene);
        scene.hears(sought());
        let outputs = polled(&mut scene);
        assert!(outputs.contains(&Output::Seek(Step::Lead)) && !dials(&outputs), "{outputs:?}");
        if leads {
            scene.leads();
            assert_eq!(scene.seeks(&[], &[]), Step::End);
            assert!(
                !dials(&polled(&mut scene)),
                "they come by themselves, or are asked around for when the origin fails"
            );
        } else {
            scene.hears(Input::Sought(Sought::Done));
            assert!(!dials(&polled(&mut scene)), "nobody is followed yet");
            assert!(scene.follows(7, &[]));
            scene.hears(Input::Sought(Sought::Done));
            let outputs = polled(&mut scene);
            assert!(dials(&outputs) && scene.session.to_meet().is_empty(), "{outputs:?}");
        }
        assert!(!scene.session.leadership.is_searching());
    }
}

#[test]
fn nobody_is_looked_for_while_the_blob_is_thrown_away_and_once_it_has_ended() {
    let mut scene = Scene::led(&[]);
    scene.stores(0, Some(9));
    scene.session.course.dissolves();
    scene.loses(9, Loss::Failed);
    assert_eq!(scene.seeks(&[100], &[]), Step::End);
    assert!(scene.session.leadership.is_searching(), "what it comes to is not known");
    scene.session.course.fails();
    assert_eq!(scene.seeks(&[100], &[]), Step::End);
    assert!(!scene.session.leadership.is_searching());
}

#[test]
fn a_seed_that_comes_is_asked_to_lead_unless_one_does() {
    let asked = |lead: Option<u8>| {
        let mut scene = Scene::new();
        if let Some(lead) = lead {
            scene.follows(lead, &[]);
        }
        scene.hears(Input::SeedCame(node(101)));
        polled(&mut scene).contains(&Output::Return(node(101)))
    };
    assert_eq!([None, Some(9), Some(100)].map(asked), [true, true, false]);
}

#[test]
fn hashes_of_a_seed_that_gives_up_before_anybody_has_a_piece_go_with_it() {
    let given_up = |change: fn(&mut Scene)| {
        let mut scene = Scene::new();
        scene.follows(100, &[2]);
        change(&mut scene);
        let failure =
            Failure { kind: FailureKind::Unreachable, status: Some(502), text: "no".to_owned(), challenge: None };
        scene.hears(Input::Said { by: node(100), message: Message::Failed { blob: BLOB, failure } });
        follows(&mut scene)
    };
    assert_eq!(given_up(|_| {}), Follows::NewBeginning(Guilt::BlamesOrigin), "its origin may be away");
    assert_eq!(given_up(|scene| scene.stores(0, Some(100))), Follows::Search);
    assert_eq!(given_up(|scene| scene.met_by(2, &[3])), Follows::Search, "a neighbour has one that it has checked");
    assert_eq!(given_up(|scene| scene.met_by(2, &[])), Follows::NewBeginning(Guilt::BlamesOrigin));
}

#[test]
fn an_origin_that_asks_to_slow_down_is_left_alone_once_a_seed_and_the_lead_after_it_say_so() {
    let mut scene = Scene::new();
    for lead in [100, 101] {
        scene.follows(lead, &[]);
        scene.stores(u32::from(lead) - 100, Some(lead));
        let (kind, text) = (FailureKind::RateLimited, "slow down".to_owned());
        let failure = Failure { kind, status: Some(429), text, challenge: None };
        scene.hears(Input::Said { by: node(lead), message: Message::Failed { blob: BLOB, failure } });
    }
    let named = |it: &Output| matches!(it, Output::GiveUp(failure) if failure.text == "slow down, says host-101:7400");
    assert!(polled(&mut scene).iter().any(named));
}

#[test]
fn what_a_lead_says_at_its_end_is_believed_of_a_seed_and_held_against_a_node() {
    let said = |lead: u8, kind: FailureKind| {
        let mut scene = Scene::new();
        scene.follows(lead, &[]);
        scene.stores(0, Some(lead));
        let failure = Failure { kind, status: None, text: "its origin fails".to_owned(), challenge: None };
        scene.hears(Input::Said { by: node(lead), message: Message::Failed { blob: BLOB, failure } });
        (polled(&mut scene), scene.session.leader())
    };
    for lead in [100, 9] {
        let (outputs, leader) = said(lead, FailureKind::RateLimited);
        let gives_up = outputs.iter().any(|it| matches!(it, Output::GiveUp(_)));
        assert!(!gives_up && leader == Leader::Nobody, "it is one agent's word: the next one asks the origin");
    }
    assert_eq!(said(100, FailureKind::Unreachable).1, Leader::Nobody, "the next one may reach it");
    let thrown_away = |lead: u8| {
        let mut scene = Scene::new();
        scene.follows(lead, &[]);
        let message = Message::Dissolved { blob: BLOB, reason: "it is wrong".to_owned() };
        scene.hears(Input::Said { by: node(lead), message });
        polled(&mut scene).into_iter().find(|it| matches!(it, Output::Dissolve { .. } | Output::StartOver { .. }))
    };
    let reason = "it is wrong".to_owned();
    let named = format!("{reason}, says seed host-100:7400");
    assert_eq!(thrown_away(100), Some(Output::Dissolve { reason: named }));
    assert_eq!(thrown_away(9), Some(Output::StartOver { lead: node(9), guilt: Guilt::Sure, reason }));
}
