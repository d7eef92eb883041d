//! The demo, small enough for a test: real processes, real bytes.

use std::os::unix::fs::FileExt as _;

use crate::support::{Room, sha256};

#[test]
fn a_swarm_gets_right_bytes_with_one_reading_of_the_origin() {
    let (room, bytes) = (Room::new(), crate::support::content(6_000_000));
    std::fs::write(room.path("image"), &bytes).unwrap();
    let rooms = room.path("rooms");
    std::fs::create_dir(&rooms).unwrap();
    let mut command = room.darter(&format!("demo {} --nodes 3 --rate 5MB/s --json", room.path("image").display()));
    command.env("TMPDIR", &rooms);
    let told = crate::support::Outcome::of(command.output().unwrap()).succeeded().json();
    assert_eq!(told["digest"], sha256(&bytes));
    assert_eq!((&told["digests_checked"], &told["digests_right"]), (&6.into(), &6.into()));
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    assert!((number(&told["bound"]) - 1.2).abs() < 1e-6);
    assert!((number(&told["swarm"]["origin_copies"]) - 1.0).abs() < 0.05, "{told}");
    assert!((number(&told["plain"]["origin_copies"]) - 3.0).abs() < 0.05, "{told}");
    // Three if they did not share. A node that begins late gets from the seed what the others have already.
    assert!(number(&told["seed_copies"]) < 2.5, "the nodes share: {told}");
    assert_eq!(std::fs::read_dir(&rooms).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn the_lazy_demo_reads_a_file_that_has_not_come() {
    if !crate::mount::can_mount() {
        return;
    }
    let room = Room::new();
    // Nothing but what is read is there, each page another one.
    let (file, length) = (std::fs::File::create(room.path("file")).unwrap(), 200_000_000_u64);
    file.set_len(length).unwrap();
    for place in 0..16 {
        file.write_all_at(&[place as u8 + 1; 4096], (length - 4096) / 15 * place).unwrap();
    }
    let (file, picture) = (room.path("file"), room.path("lazy.svg"));
    let line = format!("demo {} --lazy --rate 50MB/s --json --plot {}", file.display(), picture.display());
    let told = room.run(&line).succeeded().json();
    assert_eq!((&told["places"], &told["places_right"]), (&16.into(), &16.into()));
    let number = |name: &str| told[name].as_f64().unwrap();
    // It is read at both ends long before that much can have come.
    assert!(number("came_bytes") > 0.0 && number("came_bytes") < number("bytes") / 2.0, "{told}");
    assert!(
        number("all_seconds") < number("download_seconds") && number("first_seconds") <= number("all_seconds"),
        "{told}"
    );
    let drawn = std::fs::read_to_string(picture).unwrap();
    assert!(drawn.contains("the first page is read") && drawn.contains("all of the file is here"), "{drawn}");
}

#[test]
fn the_lazy_demo_runs_a_container_of_an_image_that_has_not_come() {
    let has = |program: &str| std::process::Command::new(program).arg("--version").output().is_ok();
    if !crate::mount_image::can_mount() || !(has("runc") || has("crun")) {
        eprintln!("skipped: images can't be mounted here, or there is neither runc nor crun");
        return;
    }
    let room = Room::new();
    let rooms = room.path("rooms");
    std::fs::create_dir(&rooms).unwrap();
    let mut command = room.darter("demo --lazy --size 100MB --rate 5MB/s --json");
    command.env("TMPDIR", &rooms);
    let told = crate::support::Outcome::of(command.output().unwrap()).succeeded().json();
    assert_eq!((&told["places"], &told["places_right"]), (&16.into(), &16.into()));
    let number = |name: &str| told[name].as_f64().unwrap();
    assert!(number("first_came_bytes") > 0.0 && number("came_bytes") < number("bytes") / 2.0, "{told}");
    assert!(
        number("mounted_seconds") < number("first_seconds") && number("first_seconds") < number("all_seconds"),
        "{told}"
    );
    // The process that keeps the mount ends a moment after it is taken away.
    crate::support::wait_until("nothing is left behind", || std::fs::read_dir(&rooms).unwrap().count() == 0);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*rooms.to_string_lossy()), "{mounts}");
}

#[test]
fn content_that_is_not_there_is_told() {
    Room::new().run("demo /nowhere/image").failed_with(1, &["can't read /nowhere/image"]);
}

/// A terminal that closes sends SIGHUP: the demo ends its agents and removes their directories.
#[test]
fn a_closed_terminal_leaves_nothing_behind() {
    let room = Room::new();
    let rooms = room.path("rooms");
    std::fs::create_dir(&rooms).unwrap();
    let mut command = room.darter("demo --nodes 2 --rate 5MB/s --size 100MB --json");
    command.env("TMPDIR", &rooms).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut demo = command.spawn().unwrap();
    let begun = || std::fs::read_dir(&rooms).unwrap().flatten().any(|room| room.path().join("node-2").exists());
    while !begun() {
        assert!(demo.try_wait().unwrap().is_none(), "the demo ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(1), "the demo says that it did not come to its end");
    assert_eq!(std::fs::read_dir(&rooms).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn the_quick_demo_says_how_it_went_and_draws_it() {
    let room = Room::new();
    let picture = room.path("demo.svg");
    let told =
        room.run(&format!("demo --quick --nodes 2 --rate 5MB/s --size 2MB --plot {}", picture.display())).succeeded();
    let text = told.text();
    assert!(text.contains("times the theoretical best and read the origin"), "{text}");
    assert!(text.contains("darter up") && !text.contains("plain downloads"), "{text}");
    let drawn = std::fs::read_to_string(picture).unwrap();
    assert_eq!(drawn.matches("<polyline").count(), 2, "a line for each node");
}

#[test]
fn a_picture_that_can_not_be_drawn_is_told_before_anything_runs() {
    let room = Room::new();
    let told = room.run("demo --quick --nodes 2 --plot no/such/place.svg").failed_with(1, &["no/such/place.svg"]);
    assert!(!told.err.contains("from an origin"), "{}", told.err);
}
