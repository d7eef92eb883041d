//! What goes when the quota is full, and what is refused.

use super::*;

scenarios! {
    eviction_takes_the_least_recently_used
    what_is_spared_is_neither_evicted_nor_removed_until_it_is_not_spared_any_more
    pinned_and_used_blobs_survive_any_pressure
    whoever_rests_on_a_blob_does_not_keep_it_from_being_evicted
    a_refusal_says_what_is_kept_and_names_the_flag
    a_blob_that_cannot_fit_is_refused_at_once
    room_promised_to_open_blobs_is_not_promised_twice
    a_full_store_refuses_pieces_and_goes_on_reading
}

fn eviction_takes_the_least_recently_used(make: Make<'_>) {
    let store = make(config(Some(10 * PIECE)));
    let contents: Vec<Content> = (1..=4).map(|seed| Content::new(seed, 2 * PIECE)).collect();
    for content in &contents {
        content.fill(&*store);
    }
    store.touch(contents[0].id);
    drop(store.open(contents[1].id).unwrap());
    // Eight pieces are held; four more need the room of one blob. The third is the one used least recently.
    let fifth = Content::new(5, 4 * PIECE);
    let _blob = fifth.open(&*store);
    let left = ids(&*store);
    assert_eq!(left, [fifth.id, contents[1].id, contents[0].id, contents[3].id]);
    assert_eq!(store.usage().used, 6 * PIECE);
}

fn pinned_and_used_blobs_survive_any_pressure(make: Make<'_>) {
    let store = make(config(Some(6 * PIECE)));
    let pinned = Content::new(1, 2 * PIECE);
    pinned.fill(&*store);
    store.pin(pinned.id, true).unwrap();
    let used = Content::new(2, 2 * PIECE);
    let held_open = used.fill(&*store);
    for seed in 3..10 {
        drop(Content::new(seed, 2 * PIECE).fill(&*store));
    }
    let left = ids(&*store);
    assert!(left.contains(&pinned.id) && left.contains(&used.id));
    used.check_held(&*held_open);
    pinned.check_held(&*store.open(pinned.id).unwrap().unwrap());
    assert!(store.usage().used <= 6 * PIECE);
}

fn what_is_spared_is_neither_evicted_nor_removed_until_it_is_not_spared_any_more(make: Make<'_>) {
    let store = make(config(Some(6 * PIECE)));
    let spared = Content::new(1, 2 * PIECE);
    // Also before it is stored.
    store.spare(spared.id, true);
    assert_eq!(store.path(spared.id), None);
    drop(spared.fill(&*store));
    // Others each time: those of the last time may not be evicted yet.
    let fill = |seeds: Range<u8>| seeds.for_each(|seed| drop(Content::new(seed, 2 * PIECE).fill(&*store)));
    fill(3..10);
    assert!(ids(&*store).contains(&spared.id));
    assert!(matches!(store.remove(spared.id), Err(StoreError::InUse(_))));
    let is_pinned = store.list().iter().any(|line| line.pinned);
    assert!(!is_pinned, "people have not pinned it");
    if let Some(path) = store.path(spared.id) {
        assert_eq!(std::fs::metadata(path).unwrap().len(), 2 * PIECE);
    }
    // On a slow disk it may still be on its way there, and what is being saved is evicted last.
    store.flush().unwrap();
    store.spare(spared.id, false);
    fill(13..20);
    assert!(!ids(&*store).contains(&spared.id));
}

fn whoever_rests_on_a_blob_does_not_keep_it_from_being_evicted(make: Make<'_>) {
    // No high water mark: only who needs room evicts here, not the thread in the background, which would take what is not read any more
    // whenever it comes to it.
    let store = make(StoreConfig { high_water: 1.0, ..config(Some(6 * PIECE)) });
    let (old, kept, new) = (Content::new(1, 2 * PIECE), Content::new(2, 2 * PIECE), Content::new(3, 4 * PIECE));
    let resting = old.fill(&*store);
    let second = store.open(old.id).unwrap().unwrap();
    resting.rest();
    let refused =
        |content: &Content| store.open_or_create(content.id, content.info(), content.manifest.clone()).is_err();
    let reading = kept.fill(&*store);
    assert!(refused(&new), "the other holder does not rest");
    second.rest();
    assert!(!store.list().iter().any(|line| line.id == old.id && line.in_use));
    store.flush().unwrap();
    assert!(second.wake(), "saved, and still the same");
    old.check_held(&*second);
    second.rest();
    drop(new.fill(&*store));
    assert_eq!(ids(&*store), [new.id, kept.id]);
    assert!(resting.is_discarded() && !resting.wake() && !second.wake());
    assert!(matches!(resting.put(PieceIndex(0), old.piece(0)), Err(StoreError::Discarded(_))));
    let usage = store.usage();
    assert_eq!((usage.evicted_blobs, usage.evicted_bytes, usage.used), (1, 2 * PIECE, 6 * PIECE));
    // The name is free for a new one while the old handle is still about.
    drop(reading);
    old.check_held(&*old.fill(&*store));
    drop((resting, second));
    store.flush().unwrap();
    old.check_held(&*store.open(old.id).unwrap().unwrap());
}

fn a_refusal_says_what_is_kept_and_names_the_flag(make: Make<'_>) {
    let store = make(config(Some(6 * PIECE)));
    let (first, second) = (Content::new(1, 4 * PIECE), Content::new(2, 3 * PIECE));
    let _reading = first.fill(&*store);
    let refused = store.open_or_create(second.id, second.info(), second.manifest).unwrap_err().to_string();
    let said = "49.2 kB do not fit: 65.5 kB of 98.3 kB (--quota) are pinned, being read or on their way; wait, `darter unpin` \
                something, or raise --quota";
    assert_eq!(refused, said);
}

fn a_blob_that_cannot_fit_is_refused_at_once(make: Make<'_>) {
    let store = make(config(Some(4 * PIECE)));
    let small = Content::new(1, PIECE);
    small.fill(&*store);
    let large = Content::new(2, 5 * PIECE);
    match store.open_or_create(large.id, large.info(), large.manifest) {
        Err(error @ StoreError::Full { needed, free, limit }) => {
            assert_eq!((needed, free, limit), (5 * PIECE, 4 * PIECE, Limit::Quota(4 * PIECE)));
            assert_eq!(error.to_string(), "81.9 kB do not fit into 65.5 kB (--quota): raise --quota");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ids(&*store), [small.id], "nothing is evicted in vain");
}

fn room_promised_to_open_blobs_is_not_promised_twice(make: Make<'_>) {
    let store = make(config(Some(6 * PIECE)));
    let first = Content::new(1, 4 * PIECE);
    let second = Content::new(2, 3 * PIECE);
    let blob = first.open(&*store);
    let refused = store.open_or_create(second.id, second.info(), second.manifest.clone());
    assert!(matches!(refused, Err(StoreError::Full { .. })));
    drop(blob);
    second.fill(&*store);
}

fn a_full_store_refuses_pieces_and_goes_on_reading(make: Make<'_>) {
    let store = make(config(Some(3 * PIECE)));
    let content = Content::new(1, 5 * PIECE);
    let blob = store.open_or_create(content.id, content.info(), Manifest::new(content.manifest.piece_length(), None));
    let blob = blob.unwrap();
    blob.extend(0, content.manifest.hashes()).unwrap();
    for piece in 0..3 {
        content.put(&*blob, piece);
    }
    for piece in 3..5 {
        assert!(matches!(blob.put(PieceIndex(piece), content.piece(piece)), Err(StoreError::Full { .. })));
    }
    assert_eq!(blob.held().len(), 3);
    content.check_held(&*blob);
    assert_eq!(store.usage().used, 3 * PIECE);
}
