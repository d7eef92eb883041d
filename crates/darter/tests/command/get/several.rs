//! Several downloads of one command, side by side.

use super::*;

#[test]
fn four_without_a_daemon_run_side_by_side() {
    let (room, bytes) = (Room::new(), content(4 * MEGABYTE));
    let webs: Vec<_> = (0..4).map(|_| Web::serve(bytes.clone())).collect();
    let running: Vec<_> = webs
        .iter()
        .enumerate()
        .map(|(number, web)| {
            web.hold_at(MEGABYTE);
            Running::start(room.darter(&format!("get {} -o {number}", web.url)))
        })
        .collect();
    // Each is under way before any is done.
    wait_until("all read", || webs.iter().all(|web| web.sent() >= MEGABYTE as u64));
    for web in &webs {
        web.let_go();
    }
    for process in running {
        process.end().succeeded();
    }
    assert_eq!(room.files(), ["0", "1", "2", "3"]);
    assert!((0..4).all(|number| room.read(&number.to_string()) == bytes));
    assert_eq!(saved(&room.data_dir()), 0, "no second copy");
}

#[test]
fn several_side_by_side_and_each_failure_by_name() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes.clone());
    let at = |path: &str| format!("http://{}{path}", web.address);
    room.run(&format!("get {} {} -o dir/", at("/file1"), at("/file2"))).succeeded();
    assert!(room.read("dir/file1") == bytes && room.read("dir/file2") == bytes);

    let digest = sha256(&bytes);
    let list = format!("# a list\n{} {digest} one\n\n{}\n{} two\n", at("/file1"), at("/missing"), at("/file2"));
    std::fs::write(room.path("list"), list).unwrap();
    let line = format!("get -i {} -o listed/", room.path("list").display());
    let outcome = room.run(&line);
    assert_eq!(outcome.code, Some(1));
    let missing = format!("error: {}: ", at("/missing"));
    assert!(outcome.err.contains(&missing) && outcome.err.contains("1 of 3 downloads failed"), "{}", outcome.err);
    assert!(room.read("listed/one") == bytes && room.read("listed/two") == bytes);

    let told = room.run(&format!("{line} --json"));
    assert_eq!((told.code, told.err.as_str()), (Some(1), ""));
    let told = told.json();
    assert_eq!((&told[0]["placed"], &told[1]["url"]), (&"kept".into(), &at("/missing").into()));
    assert!(told[1]["error"].as_str().unwrap().contains("404"));
}

#[test]
fn one_download_under_several_names_is_a_file_under_each() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes.clone());
    let list: String = ["one", "two", "three"].map(|name| format!("{} {name}\n", web.url)).concat();
    std::fs::write(room.path("list"), list).unwrap();
    room.run(&format!("get -i {}", room.path("list").display())).succeeded();
    assert_eq!(room.files(), ["one", "three", "two"]);
    assert!(room.files().iter().all(|name| room.read(name) == bytes));
    assert_eq!(saved(&room.data_dir()), 0, "and none is kept besides");

    // Beside the store's own files: the first that was moved out of it is not moved on.
    let list: String = ["four", "five", "six"].map(|name| format!("{}?other {name}\n", web.url)).concat();
    std::fs::write(room.path("list"), list).unwrap();
    room.run(&format!("get {} -o kept --keep --data-dir .", web.url)).succeeded();
    room.run(&format!("get -i {} --data-dir .", room.path("list").display())).succeeded();
    assert!(["four", "five", "six"].iter().all(|name| room.read(name) == bytes), "{:?}", room.files());
}

#[test]
fn two_origins_that_give_one_name_do_not_undo_each_other() {
    let room = Room::new();
    let webs = [Web::serve(content(1000)), Web::serve(content(2000))];
    for web in &webs {
        web.tell("Content-Disposition: attachment; filename=model.bin");
    }
    let outcome = room.run(&format!("get -J {} {}", webs[0].url, webs[1].url));
    assert_eq!(outcome.code, Some(1), "{}", outcome.err);
    assert!(outcome.err.contains("another of these downloads writes to model.bin"), "{}", outcome.err);
    assert_eq!(room.files(), ["model.bin"]);

    // By two names that the file has had before.
    std::fs::hard_link(room.path("out/model.bin"), room.path("out/twin")).unwrap();
    std::fs::write(room.path("list"), format!("{} model.bin\n{} twin\n", webs[0].url, webs[1].url)).unwrap();
    let list = room.path("list");
    let told = room.run(&format!("get -i {}", list.display()));
    assert_eq!(told.code, Some(1), "{}", told.err);
    assert!(told.err.contains("another of these downloads writes to"), "{}", told.err);
    std::fs::write(&list, format!("{} model.bin\n{} twin\n", webs[0].url, webs[0].url)).unwrap();
    room.run(&format!("get -i {}", list.display())).succeeded();
    assert!(room.read("twin") == content(1000), "one content may have them all");
}

#[test]
fn several_for_one_standard_output_are_refused() {
    let room = Room::new();
    room.run("get http://a/x http://a/y -o -").failed_with(2, &["-o DIR/"]);
    room.run("get -i - -H @-").failed_with(2, &["standard input"]);
    let both = room.run("get http://a/x --json -o /dev/stdout");
    assert!(both.code == Some(2) && both.text().contains("-o FILE"), "{both:?}");
    assert_eq!(room.run("get").code, Some(2));
}

#[test]
fn a_list_of_local_files_needs_no_daemon() {
    let (room, bytes) = (Room::new(), content(1000));
    std::fs::write(room.path("here"), &bytes).unwrap();
    let _daemon = crate::support::Daemon::start(&room, "");
    std::fs::write(room.path("list"), format!("file://{} copy\n", room.path("here").display())).unwrap();
    let told = room.run(&format!("get -i {}", room.path("list").display())).succeeded();
    assert!(told.err.contains("a local file"), "{}", told.err);
    assert!(room.read("copy") == bytes);
}
