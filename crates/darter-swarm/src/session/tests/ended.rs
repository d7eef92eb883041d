//! Messages to others when a blob comes to its end here, or its origin asked for a pause.

use darter_protocol::{Failure, FailureKind};

use super::*;
use crate::{Entering, Leader, Output, Rejection};

fn polled(scene: &mut Scene) -> Vec<Output> {
    let mut outputs = Vec::new();
    scene.session.poll(&scene.known, scene.now, &mut outputs);
    outputs
}

/// One that leads members 2 and 4, which are in, and has counted in 6.
fn leading() -> Scene {
    let mut scene = Scene::new();
    scene.leads();
    [2, 4].iter().for_each(|member| scene.admits(*member));
    scene.hears(Input::CountsIn { node: node(6), place: Place::default(), held: PieceSet::full(PIECES) });
    polled(&mut scene);
    scene
}

fn said(outputs: &[Output], is: impl Fn(&Message) -> bool) -> Vec<NodeId> {
    let to = outputs.iter().filter_map(|it| match it {
        Output::Say { to, message } if is(message) => Some(to.clone()),
        _ => None,
    });
    let mut to: Vec<NodeId> = to.flatten().collect();
    to.sort_unstable();
    to
}

#[test]
fn whoever_leads_tells_everybody_in_its_books_that_it_gives_up_or_throws_the_blob_away() {
    let failure = Failure { kind: FailureKind::Unreachable, status: None, text: String::new(), challenge: None };
    let mut scene = leading();
    scene.hears(Input::GivesUp(failure));
    scene.hears(Input::Fails);
    let outputs = polled(&mut scene);
    assert_eq!(said(&outputs, |it| matches!(it, Message::Failed { .. })), [2, 4, 6].map(node));
    assert!(!scene.session.course.is_open());
    for tells in [true, false] {
        let mut scene = leading();
        assert!(scene.hears(Input::Dissolves { tells }));
        assert!(!scene.hears(Input::Dissolves { tells: true }), "it is being thrown away");
        let to = polled(&mut scene).into_iter().find_map(|it| match it {
            Output::SayDissolved { to } => Some(to),
            _ => None,
        });
        assert_eq!(to.is_some(), tells, "{to:?}");
    }
}

#[test]
fn whoever_leaves_says_so_to_its_lead_and_to_those_that_it_met_though_nothing_else_is_carried_out() {
    let mut scene = Scene::led(&[2, 4]);
    polled(&mut scene);
    assert!(scene.session.asked().next().is_some());
    scene.hears(Input::Resumes);
    scene.hears(Input::Leaves);
    let last = scene.session.end();
    assert_eq!(said(&last, |it| matches!(it, Message::Leave { .. })), [node(9)]);
    assert_eq!(said(&last, |it| matches!(it, Message::Part { .. })), [2, 4].map(node));
    assert!(last.iter().any(|it| matches!(it, Output::Withdraw { .. })) && scene.session.asked().next().is_none());
}

#[test]
fn nobody_is_let_in_whom_this_agent_follows_and_nobody_into_what_has_ended() {
    let answer = |scene: &mut Scene, member: u8| {
        let entering = Entering { node: node(member), request: 7, whole: None };
        let held = PieceSet::new();
        scene.hears(Input::Enters { entering, place: Place::default(), held, wants: true });
        polled(scene).into_iter().find_map(|it| match it {
            Output::Reject { node, request: 7, why } => Some((node, Some(why))),
            Output::Say { to, message: Message::Joined { request: 7, .. } } => Some((to[0], None)),
            _ => None,
        })
    };
    let mut scene = Scene::led(&[]);
    scene.hears(Input::OpensBooks(desk()));
    assert_eq!(answer(&mut scene, 9), Some((node(9), Some(Rejection::Follows))));
    assert_eq!(answer(&mut scene, 8), Some((node(8), None)), "others are led on");
    scene.session.course = Course::new(true);
    assert_eq!(answer(&mut scene, 9), Some((node(9), None)), "it waits for nobody");
    for end in [Input::Fails, Input::Dissolves { tells: true }] {
        let mut scene = leading();
        scene.hears(end);
        assert_eq!(answer(&mut scene, 8), Some((node(8), Some(Rejection::Ended))));
    }
    let mut scene = leading();
    scene.admits(8);
    scene.hears(Input::Fails);
    let reject = Output::Reject { node: node(8), request: 1, why: Rejection::Ended };
    assert!(polled(&mut scene).contains(&reject), "it was about to be let in");
}

#[test]
fn members_hear_every_two_seconds_that_their_lead_waits_for_its_origin_and_nobody_counts_that_time() {
    let mut scene = leading();
    let signs = |scene: &mut Scene, seconds: u64| {
        let began = scene.now;
        let mut signs = Vec::new();
        for tenth in 1..=seconds * 10 {
            scene.now = began + Duration::from_millis(100 * tenth);
            let is_sign = |it: &Message| matches!(it, Message::Grew { hashes, .. } if hashes.is_empty());
            let to = said(&polled(scene), is_sign);
            if !to.is_empty() {
                assert_eq!(to, [2, 4].map(node), "those that are in");
                signs.push(tenth);
            }
        }
        signs
    };
    assert_eq!(signs(&mut scene, 5), [0; 0]);
    let waited = scene.session.vigil.waited(scene.now);
    scene.hears(Input::OriginRests(Duration::from_secs(5)));
    assert_eq!(scene.session.rest_due(), Some(scene.now));
    // Another connection is told to wait, too.
    scene.hears(Input::OriginRests(Duration::from_secs(4)));
    assert_eq!(signs(&mut scene, 10), [1, 21, 41]);
    assert_eq!((scene.session.rest_due(), scene.session.leader()), (None, Leader::Me));
    let since = scene.session.vigil.waited(scene.now).saturating_sub(waited);
    assert_eq!(since, Duration::from_secs(5), "the pause is over for as long");
}

#[test]
fn members_hear_that_their_lead_waits_for_a_slow_origin_and_pass_it_on_to_their_own() {
    let is_sign = |it: &Message| matches!(it, Message::Grew { hashes, .. } if hashes.is_empty());
    let mut scene = leading();
    let mut signs = 0;
    let mut reads = |scene: &mut Scene| {
        for _ in 0..20 {
            scene.now = scene.now + Duration::from_secs(1);
            signs += usize::from(said(&polled(scene), is_sign) == [2, 4].map(node));
            scene.session.poll_origin(&scene.known, scene.now, &mut Vec::new());
        }
        std::mem::take(&mut signs)
    };
    assert!((8..=11).contains(&reads(&mut scene)));
    let due = scene.session.next_wakeup(scene.now).expect("it is woken for that");
    assert!(due <= scene.now + Duration::from_secs(2));
    scene.hears(Input::Fails);
    assert_eq!(reads(&mut scene), 0);
    let mut between = Scene::led(&[]);
    between.hears(Input::OpensBooks(desk()));
    between.admits(2);
    polled(&mut between);
    let mut waits = |by: u8| {
        between.hears(Input::LeadWaits { lead: node(by), most: Duration::from_secs(60) });
        said(&polled(&mut between), is_sign)
    };
    assert_eq!((waits(8), waits(9), waits(9)), (vec![], vec![node(2)], vec![]), "no more often than it is said");
}

#[test]
fn a_lead_that_says_that_it_waits_is_given_that_time_and_nobody_else() {
    let mut scene = Scene::led(&[]);
    let waits = |scene: &mut Scene, lead: u8| {
        let before = scene.session.vigil.excused();
        scene.hears(Input::LeadWaits { lead: node(lead), most: Duration::from_secs(3) });
        scene.session.vigil.excused() - before
    };
    assert_eq!([8, 9, 9].map(|lead| waits(&mut scene, lead).as_secs()), [0, 2, 1]);
}

#[test]
fn what_is_here_is_sealed_once_its_check_is_under_way_and_not_if_it_came_to_another_end() {
    let verdict = || darter_protocol::Verdict { root: darter_core::PieceHash([1; 32]), digest: None };
    let seals = |scene: &mut Scene| scene.hears(Input::Sealed { verdict: verdict(), by: CheckedBy::Here });
    let mut scene = Scene::new();
    scene.leads();
    (0..PIECES).for_each(|piece| scene.stores(piece, None));
    assert!(!seals(&mut scene), "nobody has checked it");
    assert!(polled(&mut scene).contains(&Output::Check));
    assert!(seals(&mut scene));
    assert_eq!(scene.session.verdict(), (Some(&verdict()), CheckedBy::Here));
    let mut scene = Scene::new();
    scene.leads();
    (0..PIECES).for_each(|piece| scene.stores(piece, None));
    polled(&mut scene);
    scene.hears(Input::Dissolves { tells: true });
    assert!(!seals(&mut scene) && scene.session.verdict().0.is_none());
}
