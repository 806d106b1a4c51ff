use std::time::Duration;

use super::*;

fn verdict(code: Code, message: &str) -> Verdict {
    judge(&Status::new(code, message))
}

/// What etcd says, and what it means for a write.
#[test]
fn statuses_of_etcd() {
    let cases = [
        (
            Code::InvalidArgument,
            "key is not provided",
            "EmptyKey",
            Effect::None,
            false,
        ),
        (
            Code::InvalidArgument,
            "key not found",
            "KeyNotFound",
            Effect::None,
            false,
        ),
        (
            Code::InvalidArgument,
            "value is provided",
            "ValueProvided",
            Effect::None,
            false,
        ),
        (
            Code::InvalidArgument,
            "lease is provided",
            "LeaseProvided",
            Effect::None,
            false,
        ),
        (
            Code::NotFound,
            "requested lease not found",
            "LeaseNotFound",
            Effect::None,
            false,
        ),
        (
            Code::InvalidArgument,
            "too many operations in txn request",
            "TooManyOperations",
            Effect::None,
            false,
        ),
        (
            Code::InvalidArgument,
            "duplicate key given in txn request",
            "DuplicateKey",
            Effect::None,
            false,
        ),
        (
            Code::InvalidArgument,
            "invalid sort option",
            "InvalidSort",
            Effect::None,
            false,
        ),
        (
            Code::InvalidArgument,
            "request is too large",
            "TooLarge",
            Effect::None,
            false,
        ),
        (
            Code::OutOfRange,
            "mvcc: required revision has been compacted",
            "Compacted",
            Effect::None,
            false,
        ),
        (
            Code::OutOfRange,
            "mvcc: required revision is a future revision",
            "FutureRevision",
            Effect::None,
            false,
        ),
        (
            Code::ResourceExhausted,
            "mvcc: database space exceeded",
            "NoSpace",
            Effect::None,
            false,
        ),
        (
            Code::ResourceExhausted,
            "too many requests",
            "Overloaded",
            Effect::None,
            true,
        ),
        (
            Code::Unavailable,
            "no leader",
            "NoLeader",
            Effect::None,
            true,
        ),
        (
            Code::FailedPrecondition,
            "not leader",
            "NoLeader",
            Effect::None,
            true,
        ),
        (
            Code::Unavailable,
            "server stopped",
            "Stopping",
            Effect::Unknown,
            true,
        ),
        (
            Code::Unavailable,
            "leader changed",
            "Interrupted",
            Effect::Unknown,
            true,
        ),
        (
            Code::Unavailable,
            "request timed out",
            "Interrupted",
            Effect::Unknown,
            true,
        ),
        (
            Code::DeadlineExceeded,
            "context deadline exceeded",
            "Interrupted",
            Effect::Unknown,
            true,
        ),
        (
            Code::PermissionDenied,
            "permission denied",
            "Denied",
            Effect::None,
            false,
        ),
        (
            Code::DataLoss,
            "corrupt cluster",
            "Corrupt",
            Effect::Unknown,
            false,
        ),
        (
            Code::FailedPrecondition,
            "bad leader transferee",
            "Refused",
            Effect::None,
            false,
        ),
    ];
    for (code, message, kind, effect, again) in cases {
        let verdict = verdict(code, &format!("etcdserver: {message}"));
        let name = format!("{:?}", verdict.kind);
        assert!(name.starts_with(kind), "{message}: {name}");
        assert_eq!(
            (verdict.effect, verdict.again),
            (effect, again),
            "{message}"
        );
    }
}

#[test]
fn statuses_of_holdfast() {
    let forgotten = verdict(
        Code::Aborted,
        "holdfast: request 1 may belong to a forgotten life",
    );
    assert!(matches!(forgotten.kind, ErrorKind::RetryForgotten(_)));
    assert_eq!(
        (forgotten.effect, forgotten.again),
        (Effect::Unknown, false)
    );
    let outside = verdict(
        Code::Unavailable,
        "holdfast: this node stays out: it lost its data",
    );
    assert_eq!((outside.effect, outside.again), (Effect::None, true));
    let keyspace = verdict(Code::NotFound, "holdfast: keyspace \"x\" does not exist");
    assert!(matches!(keyspace.kind, ErrorKind::KeyspaceNotFound(_)));
    let text = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
    assert!(matches!(
        verdict(Code::OutOfRange, text).kind,
        ErrorKind::TooLarge
    ));
}

#[test]
fn a_failure_the_server_does_not_explain_leaves_the_effect_unknown() {
    for code in [Code::Internal, Code::Unknown] {
        let verdict = verdict(code, "panic");
        assert_eq!((verdict.effect, verdict.again), (Effect::Unknown, false));
    }
}

#[tokio::test]
async fn a_connection_that_was_never_made_has_no_effect() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .expect("URL")
        .connect_lazy();
    let mut kv = holdfast_proto::etcdserverpb::kv_client::KvClient::new(channel);
    let status = kv
        .put(holdfast_proto::etcdserverpb::PutRequest::default())
        .await
        .unwrap_err();
    let verdict = judge(&status);
    assert!(
        matches!(verdict.kind, ErrorKind::Unreachable(_)),
        "{verdict:?}"
    );
    assert_eq!(
        (verdict.effect, verdict.again, verdict.fault),
        (Effect::None, true, Fault::Down)
    );
}

#[test]
fn the_text_of_an_error_says_where_and_whether_the_effect_is_known() {
    let lost = verdict(Code::Unavailable, "etcdserver: leader changed").into_error(
        Effect::Unknown,
        "http://10.0.0.1:2379".into(),
        2,
    );
    assert_eq!(
        lost.to_string(),
        "etcdserver: leader changed [http://10.0.0.1:2379] \
         (effect unknown: the request may have been carried out)"
    );
    let late = Error::deadline(Duration::from_secs(5), Some(lost), Effect::Unknown, 3);
    assert!(late.is_retryable());
    assert_eq!(
        (late.attempts(), late.endpoint()),
        (3, Some("http://10.0.0.1:2379"))
    );
}

#[test]
fn only_holdfast_itself_says_that_nothing_was_appended_or_that_all_is_settled() {
    let judged = |code, message: &str, said: Option<&'static str>| {
        let mut status = Status::new(code, message);
        if let Some(said) = said {
            let value = tonic::metadata::MetadataValue::from_static(said);
            status.metadata_mut().insert(OUTCOME, value);
        }
        let verdict = judge(&status);
        (verdict.effect, verdict.settled)
    };
    let stopped = "etcdserver: server stopped";
    assert_eq!(
        judged(Code::Unavailable, stopped, None),
        (Effect::Unknown, false)
    );
    assert_eq!(
        judged(Code::Unavailable, stopped, Some(outcome::NOT_APPENDED)),
        (Effect::None, false)
    );
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(
        judged(Code::OutOfRange, compacted, None),
        (Effect::None, false)
    );
    assert_eq!(
        judged(Code::OutOfRange, compacted, Some(outcome::REFUSED)),
        (Effect::None, true)
    );
}
