//! HEAD if it works, otherwise GET.

use std::time::Duration;

use futures_util::future::{self, Either};

use crate::error::OriginError;

/// How long to wait for an answer to HEAD before GET is tried, too.
pub(super) const HEAD_ALONE_TIMEOUT: Duration = Duration::from_secs(3);

/// The answer to `head` if it succeeds, otherwise that to `get`. `get` begins when `head` does not succeed, fails, or has not been answered
/// for `patience`.
///
/// # Errors
/// Those of `get`.
pub(super) async fn either<T>(
    patience: Duration,
    head: impl Future<Output = Result<T, OriginError>> + Unpin,
    get: impl Future<Output = Result<T, OriginError>> + Unpin,
    is_yes: impl Fn(&T) -> bool,
) -> Result<T, OriginError> {
    let mut head = head;
    match tokio::time::timeout(patience, &mut head).await {
        Ok(Ok(answer)) if is_yes(&answer) => Ok(answer),
        Ok(_) => get.await,
        Err(_) => match future::select(head, get).await {
            Either::Left((Ok(answer), _)) if is_yes(&answer) => Ok(answer),
            Either::Left((_, get)) => get.await,
            Either::Right((got, _)) => got,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    async fn after(seconds: u64, answer: Result<u16, ErrorKind>) -> Result<u16, OriginError> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        answer.map_err(|kind| OriginError::new(kind, "no answer"))
    }

    async fn asked(head: (u64, Result<u16, ErrorKind>), get: (u64, Result<u16, ErrorKind>)) -> Result<u16, ErrorKind> {
        let (head, get) = (Box::pin(after(head.0, head.1)), Box::pin(after(get.0, get.1)));
        either(HEAD_ALONE_TIMEOUT, head, get, |status| *status == 200).await.map_err(|error| error.kind().clone())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_yes_counts_and_else_what_get_says() {
        let never = 1_000_000;
        assert_eq!(asked((0, Ok(200)), (never, Ok(404))).await, Ok(200));
        assert_eq!(asked((0, Ok(403)), (0, Ok(200))).await, Ok(200));
        assert_eq!(asked((0, Err(ErrorKind::Timeout)), (0, Ok(200))).await, Ok(200));
        assert_eq!(asked((0, Ok(405)), (0, Ok(404))).await, Ok(404));
        // HEAD hangs, or takes its time.
        assert_eq!(asked((never, Ok(200)), (1, Ok(200))).await, Ok(200));
        assert_eq!(asked((5, Ok(200)), (never, Ok(404))).await, Ok(200));
        assert_eq!(asked((5, Ok(500)), (9, Err(ErrorKind::Unreachable))).await, Err(ErrorKind::Unreachable));
    }
}
