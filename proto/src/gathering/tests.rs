//! What was written arrives, in order, and small writes arrive together.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
};

use proptest::prelude::*;

use super::*;

/// A socket that takes as many bytes at a time as it is told to; none means that it is full.
#[derive(Default)]
struct Socket {
    writes: Vec<Vec<u8>>,
    takes: VecDeque<usize>,
    is_shut: bool,
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = self.takes.pop_front().unwrap_or(usize::MAX).min(buf.len());
        if taken == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.writes.push(buf[..taken].to_vec());
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn write(connection: &mut Gathering<Socket>, bytes: &[u8]) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(written) = Pin::new(&mut *connection).poll_write(&mut cx, bytes) {
            return written.unwrap();
        }
    }
}

fn flush(connection: &mut Gathering<Socket>) {
    let mut cx = Context::from_waker(Waker::noop());
    while Pin::new(&mut *connection).poll_flush(&mut cx).is_pending() {}
}

#[test]
fn what_is_written_before_the_turn_comes_again_goes_out_in_one_piece() {
    let mut connection = Gathering::new(Socket::default());
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    assert_eq!(write(&mut connection, b"one "), 4);
    let first = Pin::new(&mut connection).poll_flush(&mut cx);
    assert!(first.is_pending());
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "it has another turn");
    write(&mut connection, b"two ");
    write(&mut connection, b"three");
    assert!(connection.inner.writes.is_empty());
    let second = Pin::new(&mut connection).poll_flush(&mut cx);
    assert!(matches!(second, Poll::Ready(Ok(()))));
    assert_eq!(connection.inner.writes, [b"one two three"]);
    assert_eq!(connection.held.capacity(), 0, "no memory is held");
    let empty = Pin::new(&mut connection).poll_flush(&mut cx);
    assert!(matches!(empty, Poll::Ready(Ok(()))), "nothing waits");
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
}

#[test]
fn what_is_large_goes_out_as_it_comes_and_after_what_came_before() {
    let mut connection = Gathering::new(Socket::default());
    let large = vec![7; GATHERED_BYTES_MAX + 1];
    write(&mut connection, b"small");
    write(&mut connection, &large);
    assert_eq!(connection.inner.writes, [&b"small"[..], &large]);
    // No more is held than may be.
    for _ in 0..3 {
        write(&mut connection, &large[..GATHERED_BYTES_MAX / 2]);
    }
    assert_eq!(connection.inner.writes[2].len(), GATHERED_BYTES_MAX);
    assert_eq!(connection.held.len(), GATHERED_BYTES_MAX / 2);
}

#[test]
fn what_is_held_goes_out_before_the_connection_ends() {
    let mut connection = Gathering::new(Socket::default());
    write(&mut connection, b"last");
    let mut cx = Context::from_waker(Waker::noop());
    let shut = Pin::new(&mut connection).poll_shutdown(&mut cx);
    assert!(matches!(shut, Poll::Ready(Ok(()))));
    assert_eq!(connection.inner.writes, [b"last"]);
    assert!(connection.inner.is_shut);
}

proptest! {
    #[test]
    fn every_byte_arrives_in_order(
        sizes in prop::collection::vec((0..GATHERED_BYTES_MAX * 2, any::<bool>()), 0..20),
        takes in prop::collection::vec(0_usize..30_000, 0..60),
    ) {
        let takes = takes.into();
        let mut connection = Gathering::new(Socket { takes, ..Socket::default() });
        let mut sent = Vec::new();
        for (number, (size, flushes)) in sizes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..size).map(|at| (number + at) as u8).collect();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let written = write(&mut connection, rest);
                rest = &rest[written..];
            }
            sent.extend(bytes);
            if flushes {
                flush(&mut connection);
            }
        }
        flush(&mut connection);
        prop_assert_eq!(connection.inner.writes.concat(), sent);
    }
}
