//! The deadline of a client, kept for every request in one place.
//!
//! ```text
//!   request ─ grpc-timeout ─▶ until ─▶ services
//!   answer  ◀─ DEADLINE_EXCEEDED at the deadline, and the work behind is dropped
//! ```
//!
//! It answers by a margin early, so that the answer arrives before the client has given up by itself.

use std::{
    task::Poll,
    time::{Duration, Instant},
};

use holdfast_proto::metadata::TIMEOUT;
use http::{HeaderMap, HeaderValue, Response};
use tonic::{Status, body::Body};

use crate::limits;

/// Header of the status of an answer that is an error.
const GRPC_STATUS: &str = "grpc-status";
/// The status of work that gave up, as it stands in that header.
static UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// The time that a request allows, if it sets any.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    parse_timeout(headers.get(TIMEOUT)?.to_str().ok()?)
}

/// Up to eight digits and a unit.
pub(super) fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// When the client stops waiting, with a margin, if the request says so.
pub(super) fn of(headers: &HeaderMap) -> Option<Instant> {
    timeout(headers)
        .map(|allowed| allowed - limits::DEADLINE_MARGIN_MAX.min(allowed / 20))
        .and_then(|allowed| Instant::now().checked_add(allowed))
}

/// What `work` answers, or at the deadline that the time is up.
pub(super) async fn until<B: From<Body>, E>(
    deadline: Instant,
    work: impl Future<Output = Result<Response<B>, E>>,
) -> Result<Response<B>, E> {
    let mut work = std::pin::pin!(work);
    // Most requests are answered before anybody has to wait.
    let mut time_is_up = std::pin::pin!(None);
    std::future::poll_fn(|cx| {
        // The time first: what the work says at the deadline is about its own patience.
        if Instant::now() >= deadline {
            return Poll::Ready(Ok(exceeded()));
        }
        match work.as_mut().poll(cx) {
            // The time may have run out while the work looked at it.
            Poll::Ready(Ok(answer)) => {
                let gave_up = answer.headers().get(GRPC_STATUS) == Some(&UNAVAILABLE);
                let late = gave_up && Instant::now() >= deadline;
                return Poll::Ready(Ok(if late { exceeded() } else { answer }));
            }
            Poll::Ready(failed) => return Poll::Ready(failed),
            Poll::Pending => {}
        }
        if time_is_up.is_none() {
            time_is_up.set(Some(tokio::time::sleep_until(deadline.into())));
        }
        let timer = time_is_up.as_mut().as_pin_mut().expect("it was set above");
        timer.poll(cx).map(|()| Ok(exceeded()))
    })
    .await
}

/// etcd's answer to a request whose time is up.
fn exceeded<B: From<Body>>() -> Response<B> {
    Status::deadline_exceeded("etcdserver: context deadline exceeded")
        .into_http()
        .map(B::from)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use super::*;

    #[test]
    fn timeouts_are_read_as_the_grpc_protocol_writes_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(
            parse_timeout("99999999n"),
            Some(Duration::from_nanos(99_999_999))
        );
        for bad in ["", "S", "12", "123456789S", "1x", "-1S", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }

    fn deadline(timeout: &str) -> Instant {
        let mut headers = HeaderMap::new();
        headers.insert(TIMEOUT, timeout.parse().expect("it is ASCII"));
        of(&headers).expect("a timeout")
    }

    fn code(answer: &Response<Body>) -> Option<&str> {
        answer.headers().get("grpc-status")?.to_str().ok()
    }

    #[tokio::test]
    async fn a_request_whose_time_is_up_is_dropped_and_says_so() {
        let held = Arc::new(());
        let inner = held.clone();
        let work = async move {
            std::future::pending::<()>().await;
            drop(inner);
            Ok::<_, Infallible>(Response::new(Body::empty()))
        };
        let answer = until(deadline("20m"), work).await;
        assert_eq!(code(&answer.expect("infallible")), Some("4"));
        assert_eq!(Arc::strong_count(&held), 1, "the work is gone");
        assert_eq!(of(&HeaderMap::new()), None, "no deadline, no end");
    }

    #[tokio::test]
    async fn what_gives_up_at_the_deadline_exceeded_it() {
        let answers = |allowed: &'static str, says: fn() -> Response<Body>| async move {
            let work = async move {
                let begun = Instant::now();
                // It keeps its thread: nobody else can look at the time.
                while begun.elapsed() < Duration::from_millis(20) {
                    std::hint::spin_loop();
                }
                Ok::<_, Infallible>(says())
            };
            let answer = until(deadline(allowed), work).await;
            code(&answer.expect("infallible")).map(str::to_string)
        };
        let answered = || Response::new(Body::empty());
        let unavailable = || Status::unavailable("request timed out").into_http();
        assert_eq!(answers("1H", answered).await, None);
        assert_eq!(answers("1H", unavailable).await.as_deref(), Some("14"));
        assert_eq!(answers("10m", unavailable).await.as_deref(), Some("4"));
        assert_eq!(answers("0m", answered).await.as_deref(), Some("4"));
    }
}
