//! A session that lacks something is looked at.

use darter_protocol::Wanted;

use super::*;
use crate::vigil::MAX_MUTE_READER;
use crate::{Leader, Output, Seen};

const SEEN: Seen = Seen { is_idle: false, stall: None, origin: Duration::ZERO };

/// The output to which `seen` leads within `seconds`, and when.
fn seen_to(scene: &mut Scene, seen: Seen, seconds: u64) -> Option<(u64, Output)> {
    let began = scene.now;
    scene.session.outputs.clear();
    (1..=seconds).find_map(|second| {
        scene.now = began + Duration::from_secs(second);
        scene.session.look(seen, &scene.known, scene.now);
        let outputs = std::mem::take(&mut scene.session.outputs);
        let is_told = |it: &Output| !matches!(it, Output::Say { .. });
        outputs.into_iter().find(is_told).map(|output| (second, output))
    })
}

/// When the lead is lost that gives nothing, within a minute.
fn left_after(scene: &mut Scene, seen: Seen) -> Option<u64> {
    let (second, output) = seen_to(scene, seen, 60)?;
    assert!(matches!(output, Output::LeadLost { lead, loss: Loss::Mute, .. } if lead == node(9)), "{output:?}");
    Some(second)
}

#[test]
fn somebody_sees_to_it_when_nobody_has_led_for_two_seconds() {
    let mut scene = Scene::new();
    assert_eq!(seen_to(&mut scene, SEEN, 5), Some((3, Output::Unattended)), "nobody leads");
    assert_eq!(scene.seeks(&[], &[]), Step::Survey, "somebody is looked for");
    assert_eq!(seen_to(&mut scene, SEEN, 20), None, "and being found");
    scene.leads();
    assert_eq!(seen_to(&mut scene, SEEN, 20), None, "this agent reads");
}

#[test]
fn a_node_that_leads_and_gives_nothing_is_left_and_a_seed_is_waited_for() {
    let mute = |lead: u8, held: bool| {
        let mut scene = Scene::new();
        scene.follows(lead, &[]);
        if held {
            scene.stores(0, None);
        }
        left_after(&mut scene, SEEN)
    };
    assert_eq!(mute(9, false), Some(8), "all hashes are known, and nothing was ever given");
    assert_eq!(mute(9, true), Some(MAX_MUTE_READER.as_secs()));
    assert_eq!(mute(100, false), None);
    let told = |taken: Option<u32>, stored: &[u32]| {
        let mut scene = Scene::led(&[]);
        scene.known.known = pieces(&[0, 1]);
        stored.iter().for_each(|piece| scene.stores(*piece, None));
        assert_eq!(seen_to(&mut scene, SEEN, 15), None, "it may be reading the first piece");
        scene.hears(Input::LeadTold { first: 1, count: 1, proof: None, members_ask: None, taken });
        left_after(&mut scene, SEEN)
    };
    assert_eq!((told(Some(1), &[]), told(Some(1), &[0])), (Some(8), Some(8)), "it has read what it tells hashes of");
    assert_eq!((told(Some(0), &[]), told(None, &[])), (Some(17), Some(17)), "it told nothing new");
    assert_eq!(told(Some(1), &[0, 1]), Some(17), "what it told is here");
    let mut scene = Scene::new();
    scene.follows(100, &[]);
    let stall = Some(Duration::from_secs(40));
    let (second, output) = seen_to(&mut scene, Seen { stall, ..SEEN }, 60).expect("but not for ever");
    assert!(matches!(output, Output::LeadLost { lead, loss: Loss::Stalled, .. } if lead == node(100)), "{output:?}");
    assert_eq!(second, 40);
    let mut scene = Scene::new();
    scene.follows(100, &[]);
    scene.hears(Input::LeadWaits { lead: node(100), most: Duration::from_secs(60) });
    let (second, output) = seen_to(&mut scene, Seen { stall, ..SEEN }, 60).expect("once its time is over");
    assert!(matches!(output, Output::LeadLost { loss: Loss::Mute, .. }), "{output:?}");
    assert_eq!(second, 42);
    let mut scene = Scene::led(&[]);
    let origin = Duration::from_secs(45);
    scene.stores(0, None);
    assert_eq!(left_after(&mut scene, Seen { origin, ..SEEN }), Some(45), "its origin may take so long");
    let mut scene = Scene::led(&[]);
    scene.session.course.dissolves();
    assert_eq!(seen_to(&mut scene, SEEN, 60), None, "it is being thrown away");
}

#[test]
fn leads_that_go_before_they_are_left_keep_nobody_for_ever() {
    let mut scene = Scene::new();
    scene.stores(0, None);
    let stall = Some(Duration::from_secs(30));
    for lead in 9..13 {
        scene.follows(lead, &[]);
        assert_eq!(seen_to(&mut scene, Seen { stall, ..SEEN }, 25), None);
        scene.loses(lead, Loss::Failed);
        let let_down = |it: &Output| matches!(it, Output::LeadLost { lets_down: true, .. });
        assert!(scene.session.outputs.iter().any(let_down), "it was followed in vain");
    }
    scene.follows(13, &[]);
    assert_eq!(seen_to(&mut scene, Seen { stall, ..SEEN }, 25), Some((20, Output::EndStalled)));
}

#[test]
fn a_blob_of_which_nothing_comes_for_too_long_ends_unless_nobody_waits_for_it() {
    let stall = Some(Duration::from_secs(5));
    let mut scene = Scene::new();
    scene.leads();
    assert_eq!(seen_to(&mut scene, Seen { stall, is_idle: true, ..SEEN }, 7), None);
    assert_eq!(seen_to(&mut scene, Seen { stall, ..SEEN }, 10), Some((5, Output::EndStalled)));
    let mut complete = Scene::new();
    complete.session.course = Course::new(true);
    assert_eq!((seen_to(&mut complete, Seen { stall, ..SEEN }, 60), complete.session.look_due()), (None, None));
    assert_eq!(complete.session.leader(), Leader::Nobody);
    complete.session.course.lacks();
    assert_eq!(seen_to(&mut complete, Seen { stall, ..SEEN }, 2), None, "its time begins now");
}

#[test]
fn a_lead_that_gives_what_is_here_over_and_over_is_left() {
    let mut scene = Scene::led(&[]);
    scene.stores(0, Some(9));
    let gives_if = |scene: &mut Scene, by: u8, times: u32, named: bool| {
        scene.session.outputs.clear();
        for time in 0..times {
            let request = RequestId(time.into());
            // Only the lead is asked for whatever it chooses.
            let wanted = if by == 9 && !named { Wanted::Any } else { Wanted::Piece(PieceIndex(0)) };
            scene.session.asked.insert(request, PendingRequest::new(node(by), wanted));
            let came = Came { piece: PieceIndex(0), bytes: 1 << 20, request: Some(request), from: Some(node(by)) };
            scene.hears(Input::Again(came));
        }
        scene.session.outputs.iter().any(|it| matches!(it, Output::LeadLost { loss: Loss::Mute, .. }))
    };
    let gives = |scene: &mut Scene, by: u8, times: u32| gives_if(scene, by, times, false);
    assert!(!gives_if(&mut scene, 9, 1000, true), "it was asked for them by name");
    assert!(!gives(&mut scene, 9, 63));
    scene.hears(Input::Stored(Came { piece: PieceIndex(1), bytes: 1 << 20, request: None, from: Some(node(1)) }));
    assert!(!gives(&mut scene, 9, 63) && !gives(&mut scene, 1, 1000), "others are asked by name");
    assert!(gives(&mut scene, 9, 1));
}

#[test]
fn time_in_which_this_agent_did_not_run_is_held_against_nobody() {
    let stall = Some(Duration::from_secs(30));
    for lead in [9, 100] {
        let mut scene = Scene::new();
        scene.follows(lead, &[]);
        scene.stores(0, None);
        assert_eq!(seen_to(&mut scene, Seen { stall, ..SEEN }, 20), None);
        for _ in 0..4 {
            scene.now = scene.now + Duration::from_secs(3600);
            assert_eq!(seen_to(&mut scene, Seen { stall, ..SEEN }, 1), None, "its host slept, and is just awake");
        }
        let (second, output) = seen_to(&mut scene, Seen { stall, ..SEEN }, 60).expect("what it had waited counts");
        assert!(matches!(output, Output::LeadLost { .. }) && second < 10, "{second}: {output:?}");
    }
}
