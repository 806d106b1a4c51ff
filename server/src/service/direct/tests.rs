use std::collections::VecDeque;

use http_body::Body as _;
use http_body_util::BodyExt;
use proptest::prelude::*;

use super::*;

/// A body of frames that are there.
struct Frames(VecDeque<Result<Frame<Bytes>, Status>>);

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.0.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn frames(frames: &[&[u8]]) -> Frames {
    let data = |frame: &&[u8]| Ok(Frame::data(Bytes::copy_from_slice(frame)));
    Frames(frames.iter().map(data).collect())
}

fn flagged(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &length, message].concat()
}

async fn message(body: &mut Frames) -> Option<Bytes> {
    Seen::default().message(body, 100).await
}

#[test]
fn calls_are_known_by_their_whole_path() {
    for (method, call) in [
        ("Put", Some(Call::Put)),
        ("Range", Some(Call::Range)),
        ("Txn", Some(Call::Txn)),
        ("DeleteRange", Some(Call::DeleteRange)),
        ("Compact", None),
        ("Put/", None),
    ] {
        assert_eq!(Call::of(&format!("/etcdserverpb.KV/{method}")), call);
    }
    assert_eq!(Call::of("/etcdserverpb.KVs/Put"), None);
    assert_eq!(Call::of("etcdserverpb.KV/Put"), None);
}

#[tokio::test]
async fn a_message_that_is_all_there_is_taken_from_its_frame() {
    let whole = flagged(0, b"abc");
    let alone = message(&mut frames(&[&whole])).await;
    assert_eq!(alone.as_deref(), Some(&b"abc"[..]));
    let ended_apart = message(&mut frames(&[&whole, b""])).await;
    assert_eq!(ended_apart.as_deref(), Some(&b"abc"[..]));
    let empty = message(&mut frames(&[&flagged(0, b"")])).await;
    assert_eq!(empty.as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn whatever_else_is_for_the_library() {
    let whole = flagged(0, b"abc");
    let twice = [&whole[..], &whole].concat();
    for (what, cut) in [
        ("nothing", &[][..]),
        ("an empty frame", &[&b""[..]][..]),
        ("a prefix that is cut", &[&whole[..4]]),
        ("a message that is cut", &[&whole[..6], &whole[6..]]),
        ("two messages", &[&twice]),
        ("two frames", &[&whole, &whole]),
        ("a flag", &[&flagged(1, b"abc")]),
        ("a message that is too large", &[&flagged(0, &[0; 101])]),
    ] {
        assert_eq!(message(&mut frames(cut)).await, None, "{what}");
    }
    let mut with_trailers = frames(&[&whole]);
    let trailers = Frame::trailers(HeaderMap::new());
    with_trailers.0.push_back(Ok(trailers));
    assert_eq!(message(&mut with_trailers).await, None);
    let mut broken = frames(&[&whole]);
    broken.0.push_back(Err(Status::aborted("the stream broke")));
    assert_eq!(message(&mut broken).await, None);
}

proptest! {
    #[test]
    fn what_was_looked_at_is_not_lost(
        cut in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..8), 0..5),
        whole in any::<bool>(),
    ) {
        let mut cut = cut;
        if whole {
            cut.insert(0, flagged(0, b"abc"));
        }
        let all = cut.concat();
        let slices: Vec<&[u8]> = cut.iter().map(Vec::as_slice).collect();
        let mut rest = frames(&slices);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let replayed = runtime.block_on(async {
            let mut seen = Seen::default();
            seen.message(&mut rest, 100).await;
            let body = Replayed { seen, rest };
            prop_assert_eq!(body.is_end_stream(), cut.is_empty());
            Ok(body.collect().await.unwrap().to_bytes())
        })?;
        prop_assert_eq!(&replayed[..], &all[..]);
    }
}

#[tokio::test]
async fn an_answer_is_a_message_and_a_status() {
    let put = holdfast_proto::etcdserverpb::PutResponse::default();
    let answered = answer(Ok(tonic::Response::new(put.clone())));
    assert_eq!(answered.headers()[CONTENT_TYPE], "application/grpc");
    assert!(!answered.body().is_end_stream());
    assert_eq!(answered.body().size_hint().exact(), None);
    let all = answered.into_body().collect().await.unwrap();
    assert_eq!(all.trailers().unwrap()[GRPC_STATUS], "0");
    assert_eq!(all.to_bytes(), framed(&put).unwrap());
    let refused = answer::<holdfast_proto::etcdserverpb::PutResponse>(Err(Status::not_found("x")));
    assert_eq!(refused.headers()[GRPC_STATUS], "5");
    assert!(refused.body().is_end_stream());
}

/// Each request that is under way holds such a future, which is written and freed with it.
#[test]
fn what_a_call_takes_of_memory_is_bounded() {
    fn size<A, F>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }
    type Library = Direct<tonic::service::Routes>;
    let answer =
        size(|(direct, request): (&'static Library, Request<Frames>)| direct.answer(request));
    assert!(answer <= 4096, "{answer} bytes");
}
