use std::io::Write as _;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use darter_core::manifest::hash_piece;
use darter_core::{BlobId, Moment, PieceIndex, PieceLength};
use tokio::time::Instant;

use super::*;
use crate::supply::{End, Supplier};

const LIMIT: Duration = Duration::from_secs(60);
/// When a hole is filled.
const MENDED_AFTER: Duration = Duration::from_millis(300);

const PIECE: u64 = 1 << 17;
const LENGTH: u64 = 40 * PIECE + 77;

/// The runtime's time, which stands still in tests until all wait.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment::ZERO + self.0.elapsed()
    }

    fn unix(&self) -> u64 {
        0
    }
}

fn content(blob: u8) -> Content {
    let pieces = PieceLength::from_log2(17).unwrap();
    Content { blob: BlobId([blob; 32]), length: LENGTH, pieces, modified: None }
}

fn bytes() -> Vec<u8> {
    // One page of zeros is content.
    (0..LENGTH).map(|at| if at / PAGE == 40 { 0 } else { (at % 251) as u8 | 1 }).collect()
}

/// An agent that holds everything, in a file that may be someone else's.
struct Agent {
    file: Arc<File>,
    asked: Mutex<Vec<(&'static str, ByteRange)>>,
    refuses: AtomicBool,
    is_other: AtomicBool,
    /// It keeps no profiles.
    takes_no_touches: AtomicBool,
    end: watch::Sender<Option<End>>,
}

impl Agent {
    fn new() -> Arc<Self> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes()).unwrap();
        let end = watch::channel(None).0;
        Arc::new(Self {
            file: Arc::new(file),
            asked: Mutex::default(),
            refuses: AtomicBool::new(false),
            is_other: AtomicBool::new(false),
            takes_no_touches: AtomicBool::new(false),
            end,
        })
    }

    fn hashes(range: ByteRange) -> Vec<PieceHash> {
        let (all, pieces) = (bytes(), content(1).pieces);
        let hash = |piece| {
            let range = pieces.range(PieceIndex(piece), LENGTH);
            hash_piece(pieces, PieceIndex(piece), &all[range.start() as usize..range.end() as usize], false)
        };
        pieces.pieces_of(range).map(hash).collect()
    }

    fn ends(&self, end: End) {
        self.end.send_replace(Some(end));
    }

    fn asked(&self, what: &str) -> Vec<ByteRange> {
        self.asked.lock().iter().filter(|(kind, _)| *kind == what).map(|(_, range)| *range).collect()
    }
}

#[async_trait]
impl Supply for Agent {
    async fn read(&self, range: ByteRange, within: Duration) -> Result<Given, Refusal> {
        self.asked.lock().push(("read", range));
        tokio::task::yield_now().await;
        if self.end.borrow().is_some() {
            return Err(Refusal::Now("gone".into()));
        }
        if self.refuses.load(Ordering::Relaxed) {
            tokio::time::sleep(within).await;
            return Err(Refusal::Late);
        }
        Ok(Given::File(Arc::clone(&self.file), Self::hashes(range)))
    }

    async fn fetch(&self, range: ByteRange, _: Duration) -> Result<Vec<PieceHash>, Refusal> {
        self.asked.lock().push(("fetch", range));
        if self.is_other.load(Ordering::Relaxed) {
            return Ok(Self::hashes(range).iter().map(|_| PieceHash([9; 32])).collect());
        }
        Ok(Self::hashes(range))
    }

    async fn everything(&self) {
        self.asked.lock().push(("everything", ByteRange::new(0, LENGTH)));
    }

    async fn touched(&self, ranges: &[ByteRange]) {
        self.asked.lock().extend(ranges.iter().map(|range| ("touched", *range)));
    }

    fn takes_touches(&self) -> bool {
        !self.takes_no_touches.load(Ordering::Relaxed)
    }

    async fn progress(&self) -> Option<(u64, bool)> {
        let fetched = self.asked("fetch").last().map_or(0, |range| range.end());
        Some((fetched, fetched == LENGTH || !self.asked("everything").is_empty()))
    }

    async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        let end = end.wait_for(Option::is_some).await.unwrap();
        end.clone().unwrap()
    }
}

/// Opens what it was given, one after the other.
struct Agents(Mutex<Vec<(Content, Arc<Agent>)>>);

#[async_trait]
impl Supplier for Agents {
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String> {
        let next = self.0.lock().pop();
        next.map(|(content, agent)| (content, agent as Arc<dyn Supply>)).ok_or_else(|| "no daemon".to_owned())
    }
}

struct Mounted {
    file: Arc<MountedFile>,
    agents: Arc<Agents>,
    ended: tokio::task::JoinHandle<Condition>,
}

fn mount(agent: &Arc<Agent>, fill: Fill) -> Mounted {
    mount_with(agent, fill, false)
}

fn mount_with(agent: &Arc<Agent>, fill: Fill, has_digest: bool) -> Mounted {
    let settings = Settings { limit: LIMIT, fill, fill_rate: None, has_digest, pages: Pages::Mounted };
    let supply = Arc::clone(agent) as Arc<dyn Supply>;
    let file = MountedFile::new(content(1), supply, settings, Arc::new(TestClock(Instant::now())));
    let agents = Arc::new(Agents(Mutex::default()));
    let (keeps, opens) = (Arc::clone(&file), Arc::clone(&agents));
    let ended = tokio::spawn(async move { keeps.keep(&*opens).await });
    Mounted { file, agents, ended }
}

impl Mounted {
    /// Reads, and compares.
    async fn reads(&self, offset: u64, size: u32) -> bool {
        let Ok(read) = self.file.read(offset, size).await else { return false };
        let end = (offset + u64::from(size)).min(LENGTH) as usize;
        assert!(read == bytes()[(offset as usize).min(end)..end], "{offset} {size}");
        true
    }
}

#[tokio::test(start_paused = true)]
async fn every_byte_is_right_also_zeros_that_are_content_and_the_end() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    for (offset, size) in [(0, 4096), (40 * PAGE, 8192), (39 * PAGE + 5, 9000), (LENGTH - 10, 4096), (LENGTH, 5)] {
        assert!(mounted.reads(offset, size).await, "{offset}");
    }
    // A fresh piece is not asked for again.
    let asked = agent.asked("read").len();
    assert!(mounted.reads(7, 9).await && agent.asked("read").len() == asked);
    assert!(agent.asked("fetch").is_empty(), "nobody read on");
}

#[tokio::test(start_paused = true)]
async fn a_hole_in_the_agents_file_is_never_given() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    assert!(mounted.reads(10 * PIECE, 4096).await);
    let (start, zeros) = (10 * PIECE, vec![0; PIECE as usize]);
    agent.file.write_all_at(&zeros, start).unwrap();
    let mending = Arc::clone(&agent.file);
    tokio::spawn(async move {
        tokio::time::sleep(MENDED_AFTER).await;
        let range = start as usize..(start + PIECE) as usize;
        mending.write_all_at(&bytes()[range], start).unwrap();
    });
    let before = mounted.file.clock.now();
    assert!(mounted.reads(start + PAGE, 4096).await);
    assert!(mounted.file.clock.now().since(before) >= MENDED_AFTER, "it waited for the bytes");
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_its_limit_and_no_longer_and_works_again_afterwards() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    agent.refuses.store(true, Ordering::Relaxed);
    let before = mounted.file.clock.now();
    assert!(!mounted.reads(0, 4096).await);
    let waited = mounted.file.clock.now().since(before);
    assert!((LIMIT..LIMIT * 2).contains(&waited), "{waited:?}");
    // The kernel tries a page once more.
    assert!(!mounted.reads(0, 4096).await);
    assert!(mounted.file.clock.now().since(before) < LIMIT + Duration::from_secs(1));
    agent.refuses.store(false, Ordering::Relaxed);
    assert!(mounted.reads(0, 4096).await);
}

#[tokio::test(start_paused = true)]
async fn reads_wait_while_the_agent_is_away_and_what_was_read_needs_none() {
    let (first, second) = (Agent::new(), Agent::new());
    let mounted = mount(&first, Fill::Never);
    assert!(mounted.reads(3 * PIECE, 100).await);
    first.ends(End::Gone("killed".into()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(mounted.file.glance().await.condition, Condition::Waiting(_)));
    // Not fresh any more, so it is verified.
    mounted.file.kept.lock().another_file();
    assert!(mounted.reads(3 * PIECE + 50, 1000).await);
    assert!(!mounted.reads(9 * PIECE, 100).await, "it is in vain within the limit");
    let agents = Arc::clone(&mounted.agents);
    tokio::spawn(async move {
        tokio::time::sleep(LIMIT / 2).await;
        agents.0.lock().push((content(1), second));
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(mounted.reads(9 * PIECE, 100).await);
    assert_eq!(mounted.file.glance().await.condition, Condition::Open);
}

/// Hangs the first time that it is asked.
struct Hangs(Agents, AtomicBool);

#[async_trait]
impl Supplier for Hangs {
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String> {
        if !self.1.swap(true, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.0.open().await
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_while_it_opens_the_content_again_is_asked_anew() {
    let (first, second) = (Agent::new(), Agent::new());
    let settings =
        Settings { limit: LIMIT, fill: Fill::Never, fill_rate: None, has_digest: false, pages: Pages::Mounted };
    let supply = Arc::clone(&first) as Arc<dyn Supply>;
    let file = MountedFile::new(content(1), supply, settings, Arc::new(TestClock(Instant::now())));
    let agents = Hangs(Agents(Mutex::new(vec![(content(1), second)])), AtomicBool::new(false));
    let keeps = Arc::clone(&file);
    let _keeping = tokio::spawn(async move { keeps.keep(&agents).await });
    first.ends(End::Gone("killed".into()));
    assert!(file.read(0, 100).await.is_err(), "it hangs");
    let comes_again = async { while file.read(0, 100).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(24 * 3600), comes_again).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_says_after_its_connection_ended_vouches_for_nothing() {
    let (first, second) = (Agent::new(), Agent::new());
    let mounted = mount(&first, Fill::Never);
    let piece = ByteRange::new(3 * PIECE, 4 * PIECE);
    let came = |agent: &Arc<Agent>| {
        let by = Arc::clone(agent) as Arc<dyn Supply>;
        mounted.file.came(&by, &agent.file, piece, &Agent::hashes(piece))
    };
    first.ends(End::Gone("killed".into()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!came(&first), "nobody answers now");
    mounted.agents.0.lock().push((content(1), Arc::clone(&second)));
    while mounted.file.glance().await.condition != Condition::Open {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(!came(&first) && mounted.file.at_hand(piece).is_none());
    assert!(came(&second) && mounted.file.at_hand(piece).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_piece_is_not_given_without_an_agent() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    assert!(mounted.reads(3 * PIECE, 100).await);
    agent.ends(End::Gone("killed".into()));
    mounted.file.kept.lock().another_file();
    agent.file.write_all_at(b"!", 3 * PIECE + 5).unwrap();
    assert!(!mounted.reads(3 * PIECE, 4).await);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_of_content_that_was_found_to_be_wrong() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    assert!(mounted.reads(0, 100).await);
    agent.ends(End::Wrong("wrong content from origin".into()));
    let condition = mounted.ended.await.unwrap();
    assert_eq!(condition, Condition::Tainted("wrong content from origin".into()));
    let before = mounted.file.clock.now();
    assert_eq!(mounted.file.read(0, 100).await, Err(Unread));
    assert_eq!(mounted.file.read(5 * PIECE, 100).await, Err(Unread));
    assert_eq!(mounted.file.clock.now(), before, "at once");
}

#[tokio::test(start_paused = true)]
async fn another_version_is_never_mixed_in_and_what_was_read_of_this_one_stays() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    assert!(mounted.reads(0, 100).await);
    mounted.agents.0.lock().push((content(2), Agent::new()));
    agent.ends(End::Gone("killed".into()));
    assert!(matches!(mounted.ended.await.unwrap(), Condition::Changed(_)));
    is_frozen(&mounted.file).await;
}

#[tokio::test(start_paused = true)]
async fn other_bytes_under_the_same_name_are_never_mixed_in() {
    for tells_later in [false, true] {
        let (agent, other) = (Agent::new(), Agent::new());
        other.is_other.store(true, Ordering::Relaxed);
        let mounted = mount(&agent, Fill::Never);
        assert!(mounted.reads(0, 100).await);
        if tells_later {
            // The agent itself finds it.
            agent.ends(End::Changed("changed while it was read".into()));
        } else {
            mounted.agents.0.lock().push((content(1), other));
            agent.ends(End::Gone("killed".into()));
        }
        assert!(matches!(mounted.ended.await.unwrap(), Condition::Changed(_)));
        is_frozen(&mounted.file).await;
    }
}

/// Pieces that were read can be read, and nothing else.
async fn is_frozen(file: &Arc<MountedFile>) {
    let before = file.clock.now();
    assert!(file.read(5 * PIECE, 100).await.is_err());
    assert_eq!(file.clock.now(), before, "at once");
    assert_eq!(&file.read(0, 100).await.unwrap()[..], &bytes()[..100]);
}

#[tokio::test(start_paused = true)]
async fn what_is_here_is_not_asked_for_ahead_of_who_reads_it_again() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    let asked = || (agent.asked("fetch").len(), agent.asked("read").len());
    let mut first = (0, 0);
    for _ in 0..2 {
        for at in (0..LENGTH).step_by(PIECE as usize) {
            assert!(mounted.reads(at, PIECE as u32).await);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(first == (0, 0) && asked().0 > 0 || first == asked(), "{first:?} {:?}", asked());
        first = asked();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_waited_for_is_asked_for_before_what_is_read_ahead() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    for number in 0..10 {
        assert!(mounted.reads(number * PIECE, PIECE as u32).await);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(!agent.asked("fetch").is_empty(), "it reads on");
    let asked = agent.asked.lock();
    let first = asked.iter().position(|(kind, _)| *kind == "fetch").unwrap();
    assert!(asked[..first].iter().any(|(kind, range)| *kind == "read" && range.end() >= asked[first].1.start()));
}

#[tokio::test(start_paused = true)]
async fn the_rest_is_fetched_as_it_is_to_be_and_then_no_agent_is_needed() {
    for (fill, everything) in [(Fill::Always, true), (Fill::Idle, true), (Fill::Never, false)] {
        let agent = Agent::new();
        let mounted = mount(&agent, fill);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(!agent.asked("everything").is_empty(), everything, "{fill}");
        assert_eq!(mounted.file.glance().await.whole, everything, "{fill}");
        agent.ends(End::Gone("killed".into()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(mounted.reads(33 * PIECE, 100).await, everything, "{fill}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_with_an_emptier_store_takes_nothing_from_a_mount_that_was_whole() {
    let (first, emptier) = (Agent::new(), Agent::new());
    let mounted = mount(&first, Fill::Always);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(mounted.file.glance().await.alone);
    let name = |named: Content| mounted.agents.0.lock().push((named, Arc::clone(&emptier)));
    let longer = PieceLength::from_log2(18).unwrap();
    name(content(1));
    name(Content { pieces: longer, ..content(1) });
    emptier.refuses.store(true, Ordering::Relaxed);
    first.ends(End::Gone("killed".into()));
    let before = mounted.file.clock.now();
    // In other pieces, at first.
    assert!(mounted.reads(33 * PIECE, 100).await);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(mounted.file.glance().await.condition, Condition::Open);
    assert!(mounted.reads(34 * PIECE, 100).await);
    // It names its file, which has a hole.
    emptier.refuses.store(false, Ordering::Relaxed);
    mounted.file.kept.lock().another_file();
    assert!(mounted.reads(0, 100).await);
    emptier.refuses.store(true, Ordering::Relaxed);
    assert!(Arc::ptr_eq(&mounted.file.files.lock().now().unwrap(), &emptier.file));
    emptier.file.write_all_at(&vec![0; PIECE as usize], 35 * PIECE).unwrap();
    mounted.file.kept.lock().another_file();
    assert!(mounted.reads(35 * PIECE - 10, 100).await);
    let waited = mounted.file.clock.now().since(before);
    assert!(waited < Duration::from_secs(32), "an agent that gives nothing is not waited for: {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_file_is_alone_only_once_it_is_whole() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    assert!(mounted.reads(0, 5).await);
    let all = ByteRange::new(0, LENGTH);
    assert!(mounted.file.learn(all, &Agent::hashes(all)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(mounted.file.kept.lock().knows_all());
    assert!(!mounted.file.glance().await.alone);
    agent.everything().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(mounted.file.glance().await.alone);
}

#[tokio::test(start_paused = true)]
async fn other_bytes_of_content_with_a_digest_taint_it_and_another_blob_does_not() {
    for (blob, is_tainted) in [(1, true), (2, false)] {
        let (agent, other) = (Agent::new(), Agent::new());
        other.is_other.store(true, Ordering::Relaxed);
        let mounted = mount_with(&agent, Fill::Never, true);
        assert!(mounted.reads(0, 100).await);
        mounted.agents.0.lock().push((content(blob), other));
        agent.ends(End::Gone("killed".into()));
        assert_eq!(matches!(mounted.ended.await.unwrap(), Condition::Tainted(_)), is_tainted);
        assert_eq!(mounted.file.read(0, 100).await.is_err(), is_tainted);
    }
}

#[tokio::test(start_paused = true)]
async fn zeros_that_are_content_are_compared_once() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    assert!(mounted.reads(40 * PAGE, 4096).await);
    agent.ends(End::Gone("killed".into()));
    // Its piece matches no more.
    agent.file.write_all_at(&[0; PAGE as usize], 41 * PAGE).unwrap();
    assert!(mounted.reads(40 * PAGE, 4096).await);
    assert!(!mounted.reads(41 * PAGE, 4096).await, "this page is none of them");
}

#[tokio::test(start_paused = true)]
async fn what_is_touched_first_is_told_to_the_agent_with_what_was_there_already_and_at_the_end() {
    let agent = Agent::new();
    let mounted = mount(&agent, Fill::Never);
    let piece = |number: u64| ByteRange::new(number * PIECE, (number + 1) * PIECE);
    // The second read waits for nothing.
    for offset in [30 * PIECE, 30 * PIECE + 4096, 2 * PIECE] {
        assert!(mounted.reads(offset, 4096).await);
    }
    tokio::time::sleep(LOOK_EVERY * 2).await;
    assert_eq!(agent.asked("touched"), [piece(30), piece(2)]);
    agent.asked.lock().clear();
    assert!(mounted.reads(7 * PIECE, 4096).await);
    mounted.file.hand_over().await;
    assert_eq!(agent.asked("touched"), [piece(30), piece(2), piece(7)]);
    agent.asked.lock().clear();
    mounted.file.hand_over().await;
    assert!(agent.asked("touched").is_empty(), "nothing new");
}

#[tokio::test(start_paused = true)]
async fn touches_are_reported_to_the_next_agent_if_the_first_one_keeps_no_profiles() {
    let (first, second) = (Agent::new(), Agent::new());
    first.takes_no_touches.store(true, Ordering::Relaxed);
    let mounted = mount(&first, Fill::Never);
    assert!(mounted.reads(3 * PIECE, 4096).await);
    tokio::time::sleep(LOOK_EVERY * 2).await;
    mounted.file.hand_over().await;
    assert!(first.asked("touched").is_empty());
    mounted.agents.0.lock().push((content(1), Arc::clone(&second)));
    first.ends(End::Gone("started again with profiles".into()));
    while second.asked("touched").is_empty() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert_eq!(second.asked("touched"), [ByteRange::new(3 * PIECE, 4 * PIECE)]);
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_vouched_for_is_not_asked_for_again_while_it_is_there() {
    let (agent, next) = (Agent::new(), Agent::new());
    let mounted = mount(&agent, Fill::Never);
    assert!(mounted.reads(3 * PIECE, 100).await && mounted.reads(40 * PAGE, 4096).await);
    // As if a lot had come since.
    let fresh_no_more = |mounted: &Mounted| mounted.file.kept.lock().forget_fresh();
    fresh_no_more(&mounted);
    let asked = agent.asked("read").len();
    assert!(mounted.reads(3 * PIECE + 50, 1000).await && mounted.reads(40 * PAGE, 4096).await);
    assert_eq!(agent.asked("read").len(), asked);
    // A hole is seen all the same.
    agent.file.write_all_at(&[0; PAGE as usize], 3 * PIECE).unwrap();
    agent.refuses.store(true, Ordering::Relaxed);
    assert!(!mounted.reads(3 * PIECE, 4).await);
    // Another agent may have thrown it away meanwhile.
    mounted.agents.0.lock().push((content(1), Arc::clone(&next)));
    agent.ends(End::Gone("killed".into()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(mounted.reads(40 * PAGE, 100).await);
    assert_eq!(next.asked("read").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_rest_is_left_alone_while_a_program_waits_for_another_file_of_the_same_mount() {
    let (idle, waited_for) = (Agent::new(), Agent::new());
    waited_for.refuses.store(true, Ordering::Relaxed);
    let (waits, clock) = (Waits::new(), Arc::new(TestClock(Instant::now())));
    let begin = |agent: &Arc<Agent>, fill| {
        let settings = Settings { limit: LIMIT, fill, fill_rate: None, has_digest: false, pages: Pages::Mounted };
        let supply = Arc::clone(agent) as Arc<dyn Supply>;
        let file = MountedFile::among(content(1), supply, settings, clock.clone(), waits.clone());
        let keeps = Arc::clone(&file);
        tokio::spawn(async move { keeps.keep(&Agents(Mutex::default())).await });
        file
    };
    let (_idle, other) = (begin(&idle, Fill::Idle), begin(&waited_for, Fill::Never));
    assert_eq!(other.read(0, 100).await, Err(Unread));
    assert!(idle.asked("fetch").is_empty(), "a program waited for {LIMIT:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!idle.asked("fetch").is_empty());
}
