//! Snapshots and keys, and the screens that follow.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use darter_agent::options::Role;
use darter_api::top::*;
use darter_api::{Progress, SeedStatus, StoreStatus, Traffic};
use darter_core::{BlobId, NodeId, Tier};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::state::{Order, Screen, Step};
use super::words::{self, History, Palette};
use super::{plain, view};

const MODEL: &str = "https://models.example.org/llama/model.bin";
const LAYER: &str = "docker.io/library/debian@sha256:3f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7081";

fn row(number: u8, name: &str, map: &str, rate: u64, sent: u64) -> SwarmRow {
    let complete = map.bytes().all(|digit| digit == b'8');
    let held = map.bytes().filter(|digit| *digit == b'8').count() as u64;
    let length = 1_000_000_000;
    let held_bytes = length * held / map.len() as u64;
    let progress = Progress {
        blob: BlobId([number; 32]),
        name: name.into(),
        length: Some(length),
        piece_length: 1 << 20,
        pieces: Some(954),
        held: (954 * held / map.len() as u64) as u32,
        held_bytes,
        map: map.into(),
        rate,
        complete,
        elapsed: 3.0,
        waiting: None,
        traffic: Traffic::default(),
    };
    SwarmRow {
        left: (rate > 0).then(|| (length - held_bytes) as f64 / rate as f64),
        progress,
        sent,
        leads: number == 2,
        lead: (number != 2).then(|| PeerName { node: NodeId([9; 16]), addr: "seed-1:7400".into() }),
        members: 9,
        stalled: 0,
        quiet: Some(0.2),
    }
}

fn peer(number: u8, received: u64, sent: u64) -> PeerRow {
    PeerRow {
        node: NodeId([number; 16]),
        addr: format!("10.0.0.{number}:7400"),
        tier: Some(if number == 1 { Tier::Zone } else { Tier::Rack }),
        seed: number == 1,
        leads: number == 1,
        held: (number != 1).then_some(477),
        received,
        sent,
        open: 4,
        overdue: u32::from(number == 3),
        last_received: Some(0.3),
        last_sent: None,
    }
}

fn top() -> Top {
    Top {
        at: 1_795_000_000,
        agent: AgentView {
            node: NodeId([0x3f; 16]),
            role: Role::Node,
            version: "0.1.0".into(),
            listen: Some("10.0.0.7:7400".into()),
            uptime: 3725.0,
            draining: false,
            cpu: 0.38,
            cores: 2,
            resident: 24_000_000,
            peers: 9,
            connections: 21,
            seeds: vec![SeedStatus { addr: "seed-1:7400".into(), up: true, node: None, at: None, reason: None }],
            store: StoreStatus {
                blobs: 3,
                used: 5_000_000_000,
                quota: Some(10_000_000_000),
                free: 7,
                capacity: 10_000_000_000,
                evicted: 0,
            },
        },
        rates: Rates {
            origin: 0,
            received: TierRates { rack: 13_300_000, zone: 12_000_000, ..TierRates::default() },
            sent: TierRates { rack: 40_100_000, ..TierRates::default() },
            local: 25_000_000,
        },
        traffic: Traffic { from_seed: 1_000_000, from_peers: 2_000_000, to_peers: 4_000_000, ..Traffic::default() },
        swarms: vec![
            row(1, MODEL, "8888888844440000", 25_300_000, 40_100_000),
            row(2, LAYER, "8888888888888888", 0, 0),
            SwarmRow { stalled: 2, ..row(3, "https://example.org/quiet.iso", "8000000000000000", 0, 0) },
        ],
        swarms_in_all: 3,
        swarm: None,
    }
}

/// The same, with the first swarm at a closer look.
fn closer() -> Top {
    let mut top = top();
    top.swarm = Some(SwarmDetail {
        row: SwarmRow { stalled: 1, ..top.swarms[0].clone() },
        fine_map: "8888888844440000".into(),
        rates: top.rates,
        peers: vec![peer(1, 12_000_000, 0), peer(2, 9_300_000, 40_000_000), peer(3, 4_000_000, 100_000)],
        peers_in_all: 3,
        overdue: vec![StalledPiece {
            piece: 900,
            from: PeerName { node: NodeId([3; 16]), addr: "10.0.0.3:7400".into() },
            waited: 3.2,
        }],
    });
    top
}

fn state(top: Top) -> Screen {
    Screen::new(top, Duration::from_secs(1), Palette { colours: true })
}

fn screen_of(state: &Screen, width: u16, height: u16) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, state)).unwrap();
    terminal.backend().clone()
}

/// The screen's lines.
fn screen(state: &Screen, width: u16, height: u16) -> Vec<String> {
    let text = screen_of(state, width, height).to_string();
    text.lines().map(|line| line.trim_matches('"').trim_end().to_owned()).collect()
}

#[test]
fn a_terminal_that_shows_ascii_alone_gets_nothing_else() {
    let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
    let state = state(top());
    let drawn = terminal.draw(|frame| {
        view::draw(frame, &state);
        super::terminal::in_ascii(frame.buffer_mut());
    });
    let text: String = drawn.unwrap().buffer.content.iter().map(|cell| cell.symbol().to_owned()).collect();
    assert!(text.is_ascii() && text.contains('#'), "{text}");
}

fn press(state: &mut Screen, code: KeyCode) -> Step {
    state.press(KeyEvent::new(code, KeyModifiers::NONE))
}

#[track_caller]
fn assert_has(lines: &[String], parts: &[&str]) {
    let text = lines.join("\n");
    assert!(lines.iter().any(|line| parts.iter().all(|part| line.contains(part))), "no line with {parts:?} in\n{text}");
}

#[test]
fn eighty_by_twenty_four_shows_the_agent_its_rates_and_its_swarms() {
    let lines = screen(&state(top()), 80, 24);
    assert_has(&lines[..1], &["darter node 3f3f3f3f", "10.0.0.7:7400", "up 1h02m"]);
    assert_has(&lines[1..2], &["cpu", "38%", "mem 24.0 MB", "disk 5.0 GB of 10.0 GB", "9 peers"]);
    assert_has(&lines[2..3], &["origin", "host", "rack", "zone", "region", "far", "local"]);
    assert_has(&lines[3..4], &["in", "25.3M", "13.3M  12.0M"]);
    assert_has(&lines[4..5], &["out", "65.1M", "40.1M", "25.0M"]);
    assert_has(&lines, &["SWARM", "SIZE", "HELD", "IN", "OUT", "PEERS", "LATE", "LEFT"]);
    assert_has(&lines, &["model.bin", "1.0 GB", "50%", "██", "▄", "·", "25.3M", "40.1M", "9", "20s"]);
    assert_has(&lines, &["* ", "3f2a1b4c5d6e", "100%", "done"]);
    assert_has(&lines, &["quiet.iso", "6%", "2", "idle"]);
    assert_has(&lines[23..], &["Enter open", "? help", "q quit", "s sort: rate", "every 1s"]);
    assert!(lines.iter().all(|line| line.chars().count() <= 80));
}

#[test]
fn an_open_swarm_shows_pieces_who_serves_whom_and_what_is_late() {
    let lines = screen(&state(closer()), 80, 24);
    assert_has(&lines, &[MODEL]);
    assert_has(&lines, &["1.0 GB", "477 of 954 pieces", "led by seed-1:7400", "20s left"]);
    let map = lines.iter().find(|line| line.starts_with('█')).expect("a map");
    assert_eq!((map.chars().filter(|cell| *cell == '█').count(), map.find('!').is_some()), (40, true));
    assert_has(&lines, &["1 late: 900 of 10.0.0.3:7400 3.2s"]);
    assert_has(&lines, &["10.0.0.1:7400", "zone lead", "▼ 12.0M"]);
    assert_has(&lines, &["10.0.0.2:7400", "rack", "50%", "▼ 9.3M", "▲ 40.0M", "4", "0.3s"]);
    assert_has(&lines[23..], &["Esc back", "sort: rate"]);
}

#[test]
fn every_size_from_sixty_by_twelve_on_fills_its_last_line_and_no_more() {
    let mut help = state(top());
    press(&mut help, KeyCode::Char('?'));
    for state in [state(top()), state(closer()), help] {
        for (width, height) in [(60, 12), (61, 13), (80, 24), (120, 40), (300, 100)] {
            let lines = screen(&state, width, height);
            assert_eq!(lines.len(), usize::from(height));
            assert!(lines.last().unwrap().contains('q'), "the keys are there at {width}×{height}: {lines:?}");
        }
    }
}

#[test]
fn the_help_fits_into_eighty_by_twenty_four() {
    let mut state = state(top());
    press(&mut state, KeyCode::Char('?'));
    let lines = screen(&state, 80, 24);
    assert_has(&lines, &["Enter", "open the swarm"]);
    assert_has(&lines, &["origin local", "programs of this host"]);
    assert!(!lines.join("").contains('…'), "{lines:?}");
}

#[test]
fn sixty_by_twelve_still_shows_what_matters() {
    let lines = screen(&state(top()), 60, 12);
    assert_has(&lines, &["model.bin", "50%", "25.3M", "20s"]);
    assert_has(&lines, &["out", "65.1M"]);
    let lines = screen(&state(closer()), 60, 12);
    assert_has(&lines, &["1 late: 900"]);
    assert_has(&lines, &["10.0.0.3:7400", "▼ 4.0M"]);
}

#[test]
fn a_larger_terminal_shows_longer_names_and_maps() {
    let lines = screen(&state(top()), 120, 40);
    assert_has(&lines, &["models.example.org/llama/model.bin", &"█".repeat(10)]);
    let lines = screen(&state(closer()), 120, 40);
    assert_has(&lines, &[&"█".repeat(60)]);
}

#[test]
fn a_terminal_that_is_too_small_says_so() {
    for (width, height) in [(59, 24), (80, 11), (28, 3), (1, 1)] {
        let lines = screen(&state(top()), width, height);
        assert!(width < 28 || lines[0].contains("too small"), "{lines:?}");
    }
}

#[test]
fn the_choice_stays_with_its_swarm_when_rows_change_places() {
    let mut state = state(top());
    press(&mut state, KeyCode::Char('j'));
    let chosen = state.swarms()[state.selected()].progress.blob;
    let mut next = top();
    next.swarms.iter_mut().find(|row| row.progress.blob == chosen).unwrap().sent = 90_000_000;
    state.take(next);
    assert_eq!(state.selected(), 0);
    assert_eq!(state.swarms()[0].progress.blob, chosen);
    press(&mut state, KeyCode::End);
    assert_eq!(state.selected(), 2);
    press(&mut state, KeyCode::Down);
    assert_eq!(state.selected(), 2);
}

#[test]
fn the_chosen_row_is_on_the_screen_however_many_there_are() {
    let mut many = top();
    many.swarms = (0..200).map(|n| row(n, &format!("https://h/file-{n:03}"), "80", 0, 0)).collect();
    many.swarms_in_all = 1000;
    let mut state = state(many);
    press(&mut state, KeyCode::Char('G'));
    let lines = screen(&state, 80, 24);
    assert_has(&lines, &["file-199"]);
    assert_has(&lines, &["and 800 more"]);
    press(&mut state, KeyCode::Char('g'));
    assert_has(&screen(&state, 80, 24), &["file-000"]);
}

#[test]
fn swarms_are_sorted_by_what_s_says() {
    let mut state = state(top());
    let names = |state: &Screen| state.swarms().iter().map(|row| row.progress.blob.0[0]).collect::<Vec<_>>();
    assert_eq!((state.order, names(&state)), (Order::Rate, vec![1, 3, 2]));
    press(&mut state, KeyCode::Char('s'));
    assert_eq!((state.order, names(&state)), (Order::Name, vec![2, 3, 1]));
    press(&mut state, KeyCode::Char('s'));
    assert_eq!((state.order, names(&state)), (Order::Left, vec![3, 1, 2]));
    press(&mut state, KeyCode::Char('s'));
    assert_eq!((state.order, names(&state)), (Order::Late, vec![3, 1, 2]));
}

#[test]
fn a_swarm_is_opened_followed_and_left() {
    let mut state = state(top());
    assert_eq!((press(&mut state, KeyCode::Enter), state.wanted()), (Step::Look, Some(BlobId([1; 32]))));
    assert_has(&screen(&state, 80, 24), &["477 of 954 pieces"]);
    state.take(closer());
    assert_has(&screen(&state, 80, 24), &["10.0.0.2:7400"]);
    state.take(top());
    assert_has(&screen(&state, 80, 24), &["put away by the agent"]);
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.wanted(), None);
    assert_has(&screen(&state, 80, 24), &["SWARM"]);
}

#[test]
fn peers_scroll_and_their_number_is_told() {
    let mut many = closer();
    let swarm = many.swarm.as_mut().unwrap();
    swarm.peers = (2..102).map(|n| peer(n, 0, 0)).collect();
    swarm.peers_in_all = 5000;
    let mut state = state(many);
    assert_has(&screen(&state, 80, 24), &["1 to 12 of 5000 peers"]);
    press(&mut state, KeyCode::PageDown);
    assert_has(&screen(&state, 80, 24), &["11 to 22 of 5000 peers"]);
    press(&mut state, KeyCode::End);
    assert_has(&screen(&state, 80, 24), &["10.0.0.101:7400"]);
}

#[test]
fn a_daemon_that_goes_away_is_said_and_its_return_too() {
    let mut state = state(top());
    state.miss("the daemon is gone".into());
    let lines = screen(&state, 80, 24);
    assert_has(&lines[23..], &["the daemon is gone", "trying again"]);
    assert_has(&lines, &["model.bin"]);
    state.take(top());
    assert_has(&screen(&state, 80, 24)[23..], &["Enter open"]);
}

#[test]
fn a_silent_seed_and_a_pause_stand_in_the_head() {
    let mut top = top();
    top.agent.seeds[0].up = false;
    let mut state = state(top);
    press(&mut state, KeyCode::Char('p'));
    assert_has(&screen(&state, 80, 24)[..2], &["PAUSED"]);
    assert_has(&screen(&state, 80, 24)[..2], &["1 of 1 seeds silent"]);
    assert_eq!(press(&mut state, KeyCode::Char('p')), Step::Look);
}

#[test]
fn keys_that_end_end_and_the_shell_gets_its_own() {
    let mut state = state(top());
    let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
    assert_eq!(press(&mut state, KeyCode::Char('q')), Step::Quit);
    assert_eq!(state.press(control('c')), Step::Quit);
    assert_eq!(state.press(control('z')), Step::Suspend);
    press(&mut state, KeyCode::Char('?'));
    assert_eq!(press(&mut state, KeyCode::Char('x')), Step::Stay);
    assert!(!state.help);
}

#[test]
fn without_colours_there_are_none() {
    for colours in [true, false] {
        let state = Screen::new(closer(), Duration::from_secs(1), Palette { colours });
        let backend = screen_of(&state, 80, 24);
        let coloured = backend.buffer().content.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(coloured, colours);
    }
}

#[test]
fn names_from_elsewhere_give_the_terminal_no_orders() {
    let mut top = closer();
    let swarm = top.swarm.as_mut().unwrap();
    swarm.peers[0].addr = "10.0.0.1\u{1b}[2J:7400".into();
    assert!(plain::describe(&top).chars().all(|letter| letter == '\n' || !letter.is_control()));
    assert!(screen(&state(top), 80, 24).iter().all(|line| !line.contains('\u{1b}')));
}

#[test]
fn plain_text_tells_the_same() {
    let text = plain::describe(&closer());
    for part in [
        "node 3f3f",
        "38 % (2 cores)",
        "24.0 MB",
        "in        25.3 MB/s: rack 13.3 MB/s, zone 12.0 MB/s",
        "out       65.1 MB/s: local 25.0 MB/s, rack 40.1 MB/s",
        "this agent",
        MODEL,
        "477 of 954 pieces held, led by seed-1:7400",
        "late: piece 900 of 10.0.0.3:7400, 3.20 s",
        "10.0.0.2:7400  rack",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn numbers_take_few_columns() {
    let rates = [0, 5, 999, 1000, 99_949, 99_950, 999_499, 999_500, 12_300_000, 999_500_000, 1_500_000_000];
    let told: Vec<String> = rates.into_iter().map(words::rate).collect();
    assert_eq!(told, ["-", "5", "999", "1.0k", "99.9k", "100k", "999k", "1.0M", "12.3M", "1.0G", "1.5G"]);
    let times = [0.0, 3.21, 9.4, 42.0, 100.0, 3599.0, 3600.0, 86_400.0, 864_000.0];
    let told: Vec<String> = times.into_iter().map(words::time).collect();
    assert_eq!(told, ["0.0s", "3.2s", "9.4s", "42s", "1m40s", "59m59s", "1h00m", "24h00m", "10d"]);
}

#[test]
fn names_keep_what_tells_them_apart() {
    assert_eq!(words::short_name(MODEL, 16), "…llama/model.bin");
    assert_eq!(words::short_name(LAYER, 30), "…o/library/debian@3f2a1b4c5d6e");
    assert_eq!(words::short_name(LAYER, 12), "3f2a1b4c5d6e");
    assert_eq!(words::short_name("https://a/b", 16), "a/b");
}

#[test]
fn maps_and_sparklines_show_some_and_all_truly() {
    assert_eq!(words::piece_map("0188", 4), "·▁██");
    assert_eq!(words::piece_map("8887", 2), "█▇");
    assert_eq!(words::piece_map("80", 6), "███···");
    assert_eq!(words::piece_map("", 2), "  ");
    let mut history = History::default();
    for value in [0.0, 1.0, 4.0, 8.0] {
        history.push(value);
    }
    assert_eq!(history.sparkline(6, 0.0), "   ▁▄█");
    assert_eq!(history.sparkline(2, 16.0), "▂▄");
}
