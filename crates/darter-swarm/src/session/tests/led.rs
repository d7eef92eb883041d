//! The lead, and the consequences when it changes.

use super::*;

#[test]
fn who_leads_is_asked_as_the_lead_and_not_as_a_neighbour() {
    let mut scene = Scene::led(&[1, 2]);
    [1, 2].iter().for_each(|peer| scene.met_by(*peer, &[0]));
    assert!(scene.loses(9, Loss::Failed) && !scene.loses(9, Loss::Failed), "nobody is followed");
    assert_eq!((scene.session.leader(), scene.session.hashes.shown()), (Leader::Nobody, 0), "nobody could prove them");
    assert!(scene.follows(1, &[2]));
    let neighbours = |scene: &Scene| scene.session.picker.holdings().map(|(peer, _)| peer).collect::<Vec<_>>();
    assert_eq!((scene.session.following(), neighbours(&scene)), (Some(node(1)), vec![node(2)]));
    assert_eq!(scene.session.hashes.shown(), PIECES);
    scene.met_by(1, &[0, 1]);
    assert_eq!(neighbours(&scene), [node(2)], "not though it says what it holds");
    assert!(scene.polls().iter().any(|it| matches!(it, Action::Ask { lead, .. } if *lead == node(1))));
}

#[test]
fn what_was_asked_of_the_former_lead_as_the_lead_is_called_back() {
    let mut scene = Scene::led(&[]);
    let asks = |actions: Vec<Action>| -> Vec<_> {
        actions.into_iter().filter_map(|it| if let Action::Ask { id, .. } = it { Some(id) } else { None }).collect()
    };
    let asked = asks(scene.polls());
    assert!(!asked.is_empty());
    scene.loses(9, Loss::Forgot);
    let void: Vec<Action> = asked.iter().map(|id| Action::Cancel { id: *id, peer: node(9) }).collect();
    let mut actions = scene.polls();
    actions.sort_by_key(|it| if let Action::Cancel { id, .. } = it { *id } else { RequestId(u64::MAX) });
    assert_eq!(actions, void);
    scene.follows(8, &[]);
    assert!(scene.polls().iter().all(|it| matches!(it, Action::Ask { lead, .. } if *lead == node(8))), "once");
}

#[test]
fn of_two_that_let_each_other_in_one_leads() {
    let mut scene = Scene::led(&[]);
    scene.loses(9, Loss::Failed);
    scene.leads();
    scene.admits(8);
    assert!(!scene.follows(8, &[]), "the lower one");
    assert_eq!(scene.session.leader(), Leader::Me);
    assert!(scene.follows(7, &[]), "one that was not let in is followed");
    let mut higher = Scene::new();
    higher.leads();
    higher.admits(2);
    assert!(higher.follows(2, &[]));
}

#[test]
fn a_search_goes_by_the_neighbours_that_are_met_and_connected() {
    let mut scene = Scene::led(&[2, 4, 6]);
    scene.stores(0, Some(9));
    scene.meets(&[6]);
    scene.loses(9, Loss::Failed);
    let mut other = Leadership::new(node(ME), BlobId([1; 32]), BLOB, true);
    other.begin_search();
    assert_eq!(scene.seeks(&[], &[]), other.next(&[], &[node(2), node(4)]));
    assert_eq!(scene.seeks(&[], &[]), Step::End, "one step at a time");
    scene.hears(Input::Sought(Sought::Done));
    assert_eq!(scene.seeks(&[], &[2, 4]), Step::Survey, "nobody is known to be there");
}

#[test]
fn a_lead_that_forgets_this_agent_again_and_again_is_asked_no_more_unless_pieces_come_in_between() {
    let forgets = |scene: &mut Scene, times: u32| {
        for _ in 0..times {
            assert!(scene.follows(9, &[]) && scene.loses(9, Loss::Forgot));
        }
        scene.session.leadership.failed().next().is_some()
    };
    assert!(forgets(&mut Scene::new(), 5));
    let mut scene = Scene::new();
    assert!(!forgets(&mut scene, 4));
    scene.stores(0, Some(9));
    assert!(!forgets(&mut scene, 4), "it knows this agent after all");
    assert!(forgets(&mut scene, 1));
}

#[test]
fn of_too_many_wishes_those_are_told_whose_readers_can_wait_least() {
    let mut scene = Scene::led(&[]);
    let wish = |at: u32, within| Wish { first: at % PIECES, end: at % PIECES + 1, within: Duration::from_secs(within) };
    let many = darter_protocol::MAX_WISHES as u32;
    for reader in 0..many + 5 {
        scene.hears(Input::Wish { reader: ReaderId(reader.into()), wish: Some(wish(reader, 60)) });
    }
    scene.hears(Input::Wish { reader: ReaderId(u64::from(many) + 9), wish: Some(wish(1, 2)) });
    let Some(Message::Want { wishes, .. }) = scene.session.tell_wants(BLOB) else { panic!("news") };
    assert_eq!((wishes.len(), wishes[0].within_ms), (many as usize, 2000));
}

#[test]
fn the_lead_is_told_what_is_waited_for_here_and_each_change_once() {
    let mut scene = Scene::led(&[]);
    let told = |scene: &mut Scene| match scene.session.tell_wants(BLOB) {
        Some(Message::Want { everything, wishes, .. }) => {
            Some((everything, wishes.iter().map(|wish| wish.first).collect::<Vec<_>>()))
        }
        _ => None,
    };
    assert_eq!(told(&mut scene), None, "a lead takes it that everything is wanted");
    let mut scene = Scene::led(&[]);
    scene.session.wants_parts(scene.now);
    assert!(scene.session.is_at_rest() && !scene.session.is_all_wanted());
    let wish = |first| Some(Wish { first, end: first + 2, within: Duration::from_secs(1) });
    assert!(scene.session.wish(ReaderId(1), wish(4), scene.now));
    assert!(!scene.session.wish(ReaderId(1), wish(4), scene.now), "it was said before");
    assert_eq!((told(&mut scene), told(&mut scene)), (Some((false, vec![4])), None));
    assert!(!scene.session.is_at_rest());
    scene.loses(9, Loss::Failed);
    scene.follows(8, &[]);
    assert_eq!(told(&mut scene), Some((false, vec![4])), "another lead knows nothing of it");
    assert!(scene.session.wish(ReaderId(1), None, scene.now));
    assert_eq!(told(&mut scene), Some((false, vec![])));
    assert!(scene.session.wants_all(false, scene.now) && !scene.session.wants_all(false, scene.now));
    assert_eq!(told(&mut scene), Some((true, vec![])));
}

#[test]
fn what_members_wait_for_is_asked_for_first_by_whoever_follows_another_lead() {
    let mut scene = Scene::led(&[1]);
    scene.session.wants_parts(scene.now);
    scene.meets(&[]);
    scene.met_by(1, &[0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(scene.hears(Input::OpensBooks(desk())));
    scene.admits_with(3, &[], false);
    let wishes = [darter_protocol::Wish { first: 5, end: 6, within_ms: 0 }];
    scene.session.member_wants(node(4), false, &wishes, scene.now);
    assert!(scene.session.is_at_rest(), "that one was not let in");
    scene.session.member_wants(node(3), false, &wishes, scene.now);
    assert!(!scene.session.is_at_rest() && !scene.session.is_all_wanted());
    scene.session.read_for_members(scene.now);
    let asked = |scene: &mut Scene| {
        let pieces = scene.polls().into_iter();
        pieces
            .filter_map(|it| if let Action::Request { piece, .. } = it { Some(piece.0) } else { None })
            .collect::<Vec<_>>()
    };
    assert_eq!(asked(&mut scene), [5]);
    scene.session.member_wants(node(3), true, &[], scene.now);
    assert!(scene.session.is_all_wanted(), "everything is wanted by somebody who is led");
}
