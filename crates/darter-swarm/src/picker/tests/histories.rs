//! Random histories of a picker. After each step: the picker's tables are what they are said to be, it asks holders for what it lacks, and it ends
//! once a peer gives everything.

use super::polls::Before;
use super::*;

const HISTORIES: u64 = 200;
const STEPS: u32 = 300;
const TOTAL: u32 = 80;
/// No more time passes from one poll to the next.
const MAX_STEP: Duration = Duration::from_millis(500);
const LEAD: u8 = 9;
/// Joins in the end, and answers.
const HONEST: u8 = 50;

struct History {
    picker: Picker,
    random: Random,
    now: Moment,
}

impl History {
    fn new(number: u64) -> Self {
        let mut picker = Picker::new(node(0), MIB, Tuning::default(), number);
        picker.handle(Event::ManifestGrew { known: 0..20, total: None }, Moment::ZERO);
        Self { picker, random: Random::new(number), now: Moment::ZERO }
    }

    fn piece(&mut self) -> PieceIndex {
        PieceIndex(self.random.below(TOTAL as usize) as u32)
    }

    /// Something that may happen.
    fn event(&mut self) -> Option<Event> {
        let (peer, piece) = (node(1 + self.random.below(8) as u8), self.piece());
        let request = self.picker.requests.get(self.random.below(self.picker.requests.len())).copied();
        Some(match self.random.below(26) {
            0..3 => {
                let tier = [Tier::Rack, Tier::Zone, Tier::Far][self.random.below(3)];
                let held = (0..self.random.below(60)).map(|_| self.piece()).collect();
                Event::PeerJoined { peer, tier, wants: self.random.below(4) > 0, held }
            }
            3 => Event::PeerLeft { peer },
            4 => Event::PeerLost { peer, piece },
            5 => Event::LeadChanged { lead: (self.random.below(4) > 0).then_some(node(LEAD)) },
            6 => {
                let end = piece.0 + self.random.below(30) as u32;
                Event::ManifestGrew { known: piece.0..end.min(TOTAL), total: Some(TOTAL) }
            }
            7..12 | 22..26 => match request? {
                Request { id, piece: Some(piece), .. } => Event::Received { request: Some(id), piece, bytes: MIB },
                Request { id, piece: None, .. } => Event::Started { request: id, piece },
            },
            12 => Event::Progress { request: request?.id, bytes: MIB / 2 },
            13 => Event::Failed { request: request?.id },
            14 if self.random.below(10) == 0 => {
                let Request { id, peer, .. } = request?;
                Event::Corrupt { peer, request: Some(id), piece }
            }
            14 => Event::Received { request: None, piece, bytes: MIB },
            15 => {
                let patience = Duration::from_millis(self.random.below(1000) as u64);
                Event::ReaderAt { reader: ReaderId(1), piece, count: 1 + self.random.below(3) as u32, patience }
            }
            16 => Event::ReaderGone { reader: ReaderId(1) },
            17 => Event::Wants(self.random.below(4) > 0),
            18 => Event::Lost { piece },
            19 => {
                let (reader, by) = (ReaderId(1 + self.random.below(2) as u64), Foresight::Profile);
                Event::Foreseen { reader, piece, count: 1 + self.random.below(9) as u32, by }
            }
            20 => {
                self.picker.lead_gives_parts(self.random.below(3) > 0);
                return None;
            }
            _ => {
                self.picker.peer_has(peer, &[piece]);
                return None;
            }
        })
    }

    fn poll(&mut self) -> Vec<Action> {
        let (mut actions, held) = (Vec::new(), self.picker.held.clone());
        let before = Before::of(&self.picker);
        self.picker.poll(self.now, &mut actions);
        before.check(&self.picker, &actions, self.now);
        for action in &actions {
            let Action::Request { peer, piece, .. } = action else { continue };
            assert!(self.picker.known.contains(*piece) && !held.contains(*piece), "{piece}");
            let holder = self.picker.neighbours.iter().find(|neighbour| neighbour.id == *peer);
            assert!(
                holder.map_or(*peer == node(LEAD), |holder| holder.held.contains(*piece)),
                "{peer} has not {piece}"
            );
        }
        actions
    }

    /// Polls before the time that the picker named, once it has nothing more to do now: whatever time alone brings was announced.
    fn poll_early(&mut self) {
        let is_still = (0..9).any(|_| self.poll().is_empty());
        assert!(is_still, "each poll of one moment does something");
        let most = self.picker.next_wakeup().map_or(MAX_STEP, |wakeup| wakeup.since(self.now)).min(MAX_STEP);
        let early = most.mul_f64(self.random.below(1000) as f64 / 1000.0);
        self.now = self.now + early;
        let announced = self.picker.next_wakeup();
        if announced.is_none_or(|at| self.now < at) {
            let actions = self.poll();
            assert_eq!(actions, [], "at {:?}, though it was to be polled at {announced:?}", self.now);
        }
    }

    /// Counts anew what the tables must say.
    fn check(&self) {
        let (picker, requests) = (&self.picker, &self.picker.requests);
        let mut to_be_had = false;
        for piece in (0..TOTAL).map(PieceIndex) {
            let holders = picker.neighbours.iter().filter(|neighbour| neighbour.held.contains(piece)).count();
            assert_eq!(usize::from(picker.rarity.holders(piece)), holders, "{piece}");
            let is_coming = requests.iter().any(|it| it.piece == Some(piece) && it.is_relied_on());
            assert_eq!(picker.in_flight(piece), is_coming, "{piece}");
            let lacks = picker.known.contains(piece) && !picker.held.contains(piece);
            let is_wanted = picker.wants || picker.sought.contains(piece);
            assert_eq!(picker.rarity.open().contains(piece), is_wanted && lacks && !is_coming, "{piece}");
            let reads = |reader: &Reader| (reader.at.0..reader.at.0 + reader.count.max(1)).contains(&piece.0);
            let is_read =
                picker.readers.values().any(reads) || picker.foreseen.values().any(|run| run.contains(&piece.0));
            assert!(picker.wants || picker.sought.contains(piece) == is_read, "{piece}");
            to_be_had |= picker.rarity.open().contains(piece) && holders > 0;
        }
        assert_eq!(picker.rarity.any_to_be_had(), to_be_had);
        for (at, neighbour) in picker.neighbours.iter().enumerate() {
            let of_it = requests.iter().filter(|request| request.neighbour == Some(at));
            assert!(of_it.clone().all(|request| request.peer == neighbour.id));
            assert_eq!(neighbour.meter.open as usize, of_it.count());
            assert!(!picker.is_banned(neighbour.id));
        }
        let of_lead = requests.iter().filter(|request| request.neighbour.is_none());
        assert_eq!(picker.lead.as_ref().map_or(0, |lead| lead.meter.open as usize), of_lead.clone().count());
        let Counts { open, standing, bound, aside } = picker.counts;
        assert_eq!(open, requests.iter().filter(|it| it.piece.is_some() && it.overdue.is_none()).count());
        assert_eq!(standing, of_lead.clone().filter(|it| it.piece.is_none()).count());
        assert_eq!(bound, of_lead.filter(|it| it.piece.is_some()).count());
        assert_eq!(aside, requests.iter().filter(|it| !it.is_relied_on()).count());
        assert_eq!(picker.prefix, picker.held.first_missing_from(PieceIndex(0)));
        assert_eq!(picker.known_prefix, picker.known.first_missing_from(PieceIndex(0)).0);
        assert_eq!(picker.known_end, picker.known.iter().last().map_or(0, |last| last.0 + 1));
        assert_eq!(picker.is_complete(), picker.total == Some(picker.held.len()));
    }
}

#[test]
fn whatever_happens_the_tables_are_right_and_in_the_end_all_is_there() {
    for number in 0..HISTORIES {
        let mut history = History::new(number);
        for _ in 0..STEPS {
            if let Some(event) = history.event() {
                history.picker.handle(event, history.now);
                history.check();
            }
            if history.random.below(3) == 0 {
                history.now = history.now + MAX_STEP.mul_f64(history.random.below(500) as f64 / 500.0);
                history.poll();
                history.check();
                if history.random.below(3) == 0 {
                    history.poll_early();
                    history.check();
                }
            }
        }
        let everything = PieceSet::full(TOTAL);
        for event in [
            Event::ManifestGrew { known: 0..TOTAL, total: Some(TOTAL) },
            Event::Wants(true),
            Event::PeerJoined { peer: node(HONEST), tier: Tier::Rack, wants: false, held: everything },
        ] {
            history.picker.handle(event, history.now);
        }
        let began = history.now;
        while !history.picker.is_complete() {
            let mut came = false;
            for action in history.poll() {
                if let Action::Request { id, peer, piece, .. } = action
                    && peer == node(HONEST)
                {
                    history.picker.handle(Event::Received { request: Some(id), piece, bytes: MIB }, history.now);
                    came = true;
                }
            }
            history.check();
            if !came {
                let wakeup = history.picker.next_wakeup().expect("nothing else happens, and pieces are lacking");
                history.now = wakeup.max(history.now + Duration::from_millis(1));
            }
            assert!(history.now < began + Duration::from_secs(120), "history {number} does not end");
        }
    }
}

#[test]
fn the_picker_wakes_by_itself_when_a_holder_that_failed_may_be_asked_again() {
    for slow in [false, true] {
        let mut scene = Scene::new(1);
        scene.join(1, Tier::Rack, PieceSet::full(1));
        let first = scene.requests(0)[0].0;
        if slow {
            scene.picker.neighbours[0].slow_until = Some(scene.now + Duration::from_secs(3));
            scene.picker.slow_check = scene.now + Duration::from_secs(3);
        }
        scene.tell(Event::Failed { request: first });
        assert_eq!(scene.requests(0), []);
        let mut asked = Vec::new();
        for _ in 0..5 {
            let wakeup = scene.picker.next_wakeup().expect("nothing else happens");
            asked = scene.requests(wakeup.since(scene.now).as_millis() as u64);
            if !asked.is_empty() {
                break;
            }
        }
        assert_eq!(asked.len(), 1);
    }
}

/// What is on its way already, but late, is asked of another holder as soon as that may be asked.
#[test]
fn the_picker_wakes_by_itself_when_another_holder_of_what_is_late_may_be_asked_again() {
    for reads in [false, true] {
        let mut scene = Scene::new(64);
        let lacked = PieceIndex(63);
        scene.join(1, Tier::Rack, PieceSet::full(64));
        (0..63).for_each(|piece| scene.tell(Event::Received { request: None, piece: PieceIndex(piece), bytes: MIB }));
        assert_eq!(scene.requests(0).len(), 1);
        scene.join(2, Tier::Rack, PieceSet::full(64));
        if reads {
            scene.tell(Event::ReaderAt { reader: ReaderId(1), piece: lacked, count: 1, patience: Duration::ZERO });
            let mut failing = PeerRecord::default();
            (0..5).for_each(|_| failing.failed(scene.now, &Tuning::default()));
            scene.picker.neighbours[1].meter.failures = failing.failures;
        } else {
            let until = scene.now + Duration::from_millis(1600);
            (scene.picker.neighbours[1].slow_until, scene.picker.slow_check) = (Some(until), until);
        }
        assert_eq!(scene.requests(1200), [], "the first is late, and the second is left alone");
        let wakeup = scene.picker.next_wakeup().expect("nothing else happens").since(scene.now).as_millis();
        assert!(wakeup <= 400, "{wakeup} ms");
        let asked = scene.requests(400);
        assert!(matches!(asked[..], [(_, peer, 63)] if peer == node(2)), "{asked:?}");
    }
}
