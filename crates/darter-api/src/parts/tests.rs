use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use super::*;

const WITHIN: Duration = Duration::from_secs(7);

fn range() -> ByteRange {
    ByteRange::new(3, 9)
}

/// One end asks, the other answers as `answer` does.
async fn with_answers<F>(answer: impl FnOnce(Frames, Arc<UnixStream>) -> F + Send + 'static) -> Asker
where
    F: Future<Output = ()> + Send + 'static,
{
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = Arc::new(theirs);
    tokio::spawn(answer(Frames::over(Arc::clone(&theirs)), theirs));
    Asker::begin(ours)
}

async fn asked(stream: &UnixStream) -> (Ask, PartAsk) {
    let (ask, _) = receive::<Ask>(stream).await.unwrap();
    let (Ask::Read(part) | Ask::Fetch(part)) = ask.clone() else { panic!("{ask:?}") };
    (ask, part)
}

#[tokio::test]
async fn a_part_comes_as_a_descriptor_that_travels_once_and_answers_may_come_in_any_order() {
    let asker = with_answers(|mut frames, stream| async move {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let file = Arc::new(file);
        let (first, one) = asked(&stream).await;
        let (_, two) = asked(&stream).await;
        assert_eq!(first, Ask::Read(one));
        assert_eq!((one.range(), one.within()), (range(), WITHIN));
        for part in [two, one] {
            assert!(frames.send_file(&file).await.unwrap());
            let hashes = hashes_told(&[PieceHash([7; 32])]);
            frames.send(&PartReply::Here { id: part.id, hashes }).await.unwrap();
        }
    })
    .await;
    let (one, two) = tokio::join!(asker.part(Ask::Read, range(), WITHIN), asker.part(Ask::Read, range(), WITHIN));
    let (Ok(Answer::Here(Some(one), hashes)), Ok(Answer::Here(Some(two), _))) = (one, two) else { panic!() };
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!(hashes, [PieceHash([7; 32])]);
    let mut bytes = [0; 6];
    two.read_exact_at(&mut bytes, range().start()).unwrap();
    assert_eq!(&bytes, b"345678");
}

#[tokio::test]
async fn bytes_come_inline_and_a_question_that_nobody_waits_for_is_forgotten() {
    let asker = with_answers(|mut frames, stream| async move {
        let (_, dropped) = asked(&stream).await;
        let (_, part) = asked(&stream).await;
        frames.send_bytes(dropped.id, b"nobody").await.unwrap();
        // A newer release's message in between.
        frames.send(&serde_json::json!({ "told": "weather", "fine": true })).await.unwrap();
        frames.send_bytes(part.id, b"345678").await.unwrap();
    })
    .await;
    let impatient = asker.part(Ask::Read, range(), WITHIN);
    assert!(tokio::time::timeout(Duration::from_millis(20), impatient).await.is_err());
    let Ok(Answer::Bytes(bytes)) = asker.part(Ask::Read, range(), WITHIN).await else { panic!() };
    assert_eq!(&bytes[..], b"345678");
}

#[tokio::test]
async fn who_waits_learns_of_the_end_and_why() {
    use darter_core::{Blame, Fault, Retry};
    let problem = Problem::new("wrong content", Blame::new(Fault::Origin, Retry::Never));
    let told = problem.clone();
    let asker = with_answers(|mut frames, stream| async move {
        asked(&stream).await;
        frames.send(&PartReply::Over { problem: told, wrong: true }).await.unwrap();
    })
    .await;
    assert_eq!(asker.part(Ask::Fetch, range(), WITHIN).await.unwrap_err(), Ended);
    assert_eq!(asker.over().await, Over { problem: Some(problem), wrong: true });
    assert_eq!(asker.part(Ask::Fetch, range(), WITHIN).await.unwrap_err(), Ended);
    // A daemon that is killed says nothing.
    let asker = with_answers(|_, stream| async move {
        asked(&stream).await;
    })
    .await;
    assert_eq!(asker.part(Ask::Fetch, range(), WITHIN).await.unwrap_err(), Ended);
    assert_eq!(asker.over().await, GONE);
}
