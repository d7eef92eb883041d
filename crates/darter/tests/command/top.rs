//! The live view: what it measures of a real swarm, and that the terminal is given back.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;

use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;

use crate::support::web::Web;
use crate::support::{Daemon, Room, Running, content, wait_until};

const MEGABYTE: usize = 1_000_000;

fn look(room: &Room, words: &str) -> Value {
    room.run(&format!("top {words} --json")).succeeded().json()
}

/// The row of the peer at an address.
fn peer<'a>(top: &'a Value, addr: &str) -> Option<&'a Value> {
    top["swarm"]["peers"].as_array()?.iter().find(|peer| peer["addr"] == addr)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[test]
fn who_serves_whom_how_fast_and_from_how_near_is_told_while_a_swarm_runs() {
    let bytes = content(60 * MEGABYTE);
    let web = Web::serve(bytes);
    let (seed_room, near_room, far_room) = (Room::new(), Room::new(), Room::new());
    let seed = Daemon::start(&seed_room, "--upload-limit 4MB/s --label zone=a --label rack=1");
    let near = Daemon::node(&near_room, &seed.listen, "--upload-limit 4MB/s --label zone=a --label rack=1");
    let far = Daemon::node(&far_room, &seed.listen, "--upload-limit 4MB/s --label zone=a --label rack=2");
    let gets = [&near_room, &far_room].map(|room| Running::start(room.darter(&format!("get {} -o got", web.url))));

    let mut top = Value::Null;
    wait_until("the near node gets from the seed and from the far node, and gives to it", || {
        top = look(&near_room, "");
        let swarms = top["swarms"].as_array().unwrap();
        if swarms.is_empty() {
            return false;
        }
        top = look(&near_room, &web.url);
        let other = peer(&top, &far.listen).cloned().unwrap_or_default();
        let lead = peer(&top, &seed.listen).cloned().unwrap_or_default();
        let rates = &top["swarm"]["rates"]["received"];
        // All at one look: between two answers nothing may be open, and a rate is that of the last second.
        let moves = number(&lead["received"]) > 0 && number(&other["received"]) > 0 && number(&other["sent"]) > 0;
        let asks = number(&other["held"]) > 0 && number(&other["open"]) + number(&lead["open"]) > 0;
        let goes_on =
            number(&rates["host"]) > 0 && number(&rates["zone"]) > 0 && top["swarm"]["left"].as_f64() > Some(0.0);
        // Control and data with both.
        moves && asks && goes_on && number(&top["agent"]["connections"]) >= 4
    });
    let (lead, other) = (peer(&top, &seed.listen).unwrap(), peer(&top, &far.listen).unwrap());
    assert_eq!((&lead["tier"], &lead["leads"], &lead["seed"]), (&"host".into(), &true.into(), &true.into()));
    assert_eq!((&other["tier"], &other["leads"]), (&"zone".into(), &false.into()));
    assert!(other["last_received"].as_f64().unwrap() < 30.0);
    let rates = &top["swarm"]["rates"];
    assert_eq!((&rates["received"]["region"], &rates["origin"]), (&0.into(), &0.into()));
    assert_eq!(top["swarm"]["lead"]["addr"], seed.listen);
    assert_eq!((&top["agent"]["role"], &top["agent"]["peers"]), (&"node".into(), &2.into()));
    assert!(number(&top["agent"]["resident"]) > 1_000_000);

    wait_until("the seed gives to both, and reads the origin", || {
        top = look(&seed_room, &web.url);
        let gets = |addr| peer(&top, addr).is_some_and(|peer| number(&peer["sent"]) > 0);
        let moves = gets(&near.listen) && gets(&far.listen) && top["agent"]["cpu"].as_f64().unwrap() > 0.0;
        moves && number(&top["rates"]["sent"]["zone"]) > 0 && number(&top["rates"]["sent"]["host"]) > 0
    });
    assert_eq!((&top["swarm"]["leads"], &top["swarm"]["lead"]), (&true.into(), &Value::Null));
    let text = seed_room.run(&format!("top {}", web.url)).succeeded();
    for part in ["IN", "this agent", "led by this agent", &near.listen, &far.listen] {
        assert!(text.text().contains(part), "{part:?} is not in\n{}", text.text());
    }

    for get in gets {
        get.end().succeeded();
    }
}

#[test]
fn what_was_asked_of_agents_that_hang_is_late() {
    let web = Web::serve(content(150 * MEGABYTE));
    let (seed_room, room) = (Room::new(), Room::new());
    let mut seed = Daemon::start(&seed_room, "--upload-limit 12MB/s");
    let _node = Daemon::node(&room, &seed.listen, "");
    // A node that reads in order waits for a certain piece, and asks for it by name. A lead that has no piece to choose yet is never late.
    let get = Running::start(room.darter(&format!("get {} -o /dev/null", web.url)));
    let mut top = Value::Null;
    wait_until("pieces come at full rate", || {
        top = look(&room, "");
        number(&top["swarms"][0]["held"]) > 40
    });
    seed.process.signal(Signal::STOP);
    wait_until("they are late", || {
        top = look(&room, &web.url);
        let late = top["swarm"]["overdue"].as_array().unwrap();
        late.iter().any(|piece| piece["from"]["addr"] == seed.listen && piece["waited"].as_f64().unwrap() > 0.0)
    });
    assert!(number(&top["swarm"]["stalled"]) > 0, "{top}");
    seed.process.signal(Signal::CONT);
    get.end().succeeded();
}

#[test]
fn json_comes_in_lines_and_a_reader_that_goes_away_ends_it() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let mut process = Running::start(room.darter("top --json --interval 100ms"));
    for _ in 0..2 {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(process.read_stdout(1));
        }
        let top: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&top["agent"]["role"], &top["swarms"]), (&"seed".into(), &serde_json::json!([])));
    }
    process.close_stdout();
    assert_eq!(process.ended().code(), Some(0));
    assert!(room.run("top").succeeded().text().contains("cpu"), "a pipe gets text");
    room.run("top http://never/asked").failed_with(1, &["http://never/asked", "darter ls"]);
}

/// A terminal of 80×24: the end that a person sits at, and the program's.
pub(crate) fn terminal() -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    tcsetwinsize(&person, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    rustix::io::ioctl_fionbio(&person, true).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let program = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    (person.into(), program)
}

/// Reads what a program writes until this is in it.
pub(crate) fn read_until(screen: &mut File, what: &str) {
    let (mut shown, mut bytes) = (Vec::new(), [0; 4096]);
    wait_until(what, || {
        while let Ok(count) = screen.read(&mut bytes) {
            shown.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8_lossy(&shown).contains(what)
    });
}

#[test]
fn a_terminal_shows_the_view_and_is_given_back_on_sigterm_and_on_q() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    for key in [None, Some(b"q".as_slice())] {
        let (mut screen, program) = terminal();
        let mut command = room.darter("top");
        command.env("TERM", "xterm");
        command.stdin(Stdio::from(program.try_clone().unwrap())).stdout(Stdio::from(program.try_clone().unwrap()));
        let before = tcgetattr(&program).unwrap().local_modes;
        assert!(before.contains(LocalModes::ECHO | LocalModes::ICANON));
        let mut process = Running::start(command);
        read_until(&mut screen, "Nothing");
        assert!(!tcgetattr(&program).unwrap().local_modes.contains(LocalModes::ECHO), "keys are not echoed");
        match key {
            Some(key) => screen.write_all(key).unwrap(),
            None => process.signal(Signal::TERM),
        }
        // Leaves the alternate screen: what was there before is there again.
        read_until(&mut screen, "\u{1b}[?1049l");
        assert_eq!(process.ended().code(), Some(0));
        assert_eq!(tcgetattr(&program).unwrap().local_modes, before);
    }
}

#[test]
fn a_terminal_that_is_gone_is_an_error_and_no_crash() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let (mut screen, program) = terminal();
    let mut command = room.darter("top");
    let end = || Stdio::from(program.try_clone().unwrap());
    command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
    let mut process = Running::start(command);
    read_until(&mut screen, "Nothing");
    drop(program);
    drop(screen);
    assert_eq!(process.ended().code(), Some(1));
}

#[test]
fn a_terminal_that_can_not_be_drawn_on_gets_one_look_as_text() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    for (term, wide) in [("dumb", 80), ("xterm", 0)] {
        let (mut screen, program) = terminal();
        tcsetwinsize(&screen, Winsize { ws_row: 24, ws_col: wide, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let mut command = room.darter("top");
        command.env("TERM", term).stdin(Stdio::null()).stdout(Stdio::from(program.try_clone().unwrap()));
        let mut process = Running::start(command);
        read_until(&mut screen, "cpu");
        assert_eq!(process.ended().code(), Some(0), "{term} {wide}");
    }
}
