//! Who is let in, who has to go, and that every place is given back.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::service::http2::{ACK, PREFACE, SETTINGS, frame};

/// What a client has sent that has finished its handshake: the preface, and the settings of the server
/// acknowledged.
fn handshake() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, ACK, &[])].concat()
}

fn enter(door: &Arc<Door>) -> Option<(Connection<DuplexStream>, DuplexStream)> {
    let (near, far) = duplex(1024);
    let connection = door.enter(near)?;
    Some((connection, far))
}

async fn settled(door: &Arc<Door>) -> (Connection<DuplexStream>, DuplexStream) {
    let (mut connection, mut far) = enter(door).unwrap();
    let handshake = handshake();
    far.write_all(&handshake).await.unwrap();
    let mut read = vec![0; handshake.len()];
    connection.read_exact(&mut read).await.unwrap();
    (connection, far)
}

/// A door at which strangers do not stay long, though long enough to show who they are.
fn impatient(settles: Settles) -> Door {
    Door {
        patience: Duration::from_secs(2),
        ..Door::new("test", 3, settles)
    }
}

fn counts(door: &Door) -> (usize, usize, usize) {
    let inside = door.inside.lock();
    (inside.open, inside.leaving, inside.strangers.len())
}

#[tokio::test]
async fn a_newcomer_takes_the_place_of_the_oldest_stranger_and_of_nobody_else() {
    let door = Arc::new(Door::new("test", 3, Settles::ByHandshake));
    let _first = settled(&door).await;
    let (mut old, _old) = enter(&door).unwrap();
    let (young, _young) = enter(&door).unwrap();
    assert_eq!(counts(&door), (3, 0, 2));

    let newcomer = enter(&door).unwrap();
    assert_eq!(counts(&door), (4, 1, 2));
    let told = old.read_u8().await.unwrap_err();
    assert_eq!(told.kind(), io::ErrorKind::ConnectionAborted);
    drop(old);
    assert_eq!(counts(&door), (3, 0, 2));

    // All are settled: now the newcomer has to go.
    young.guest.settle();
    newcomer.0.guest.settle();
    assert!(enter(&door).is_none());
    drop(young);
    assert_eq!(counts(&door), (2, 0, 0));
    assert!(enter(&door).is_some());
}

#[tokio::test]
async fn those_who_were_told_to_go_are_bounded_too() {
    let door = Arc::new(Door::new("test", 100, Settles::ByHandshake));
    let inside: Vec<_> = (0..100).map(|_| enter(&door).unwrap()).collect();
    let more: Vec<_> = (0..100).filter_map(|_| enter(&door)).collect();
    assert_eq!(more.len(), limits::EVICTIONS_MAX);
    drop(inside);
    drop(more);
    assert_eq!(counts(&door), (0, 0, 0));
}

#[tokio::test]
async fn a_stranger_goes_in_time_and_a_settled_connection_stays() {
    let door = Arc::new(impatient(Settles::ByHandshake));
    let (mut guest, mut far) = settled(&door).await;
    let (mut silent, _silent) = enter(&door).unwrap();
    let (mut half, mut half_far) = enter(&door).unwrap();
    half_far.write_all(&handshake()[..24]).await.unwrap();
    half.read_exact(&mut [0; 24]).await.unwrap();
    for stranger in [&mut silent, &mut half] {
        let told = stranger.read_u8().await.unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::TimedOut);
    }
    tokio::time::sleep(2 * door.patience).await;
    far.write_u8(7).await.unwrap();
    assert_eq!(guest.read_u8().await.unwrap(), 7);
}

#[tokio::test]
async fn where_signatures_count_a_handshake_settles_nobody() {
    let door = Arc::new(impatient(Settles::BySignature));
    let (mut peer, mut far) = settled(&door).await;
    let (mut stranger, _far) = settled(&door).await;
    assert_eq!(counts(&door), (2, 0, 2));
    let beside_a_request = peer.connect_info();
    beside_a_request.settle();
    beside_a_request.settle();
    assert_eq!(counts(&door), (2, 0, 1));
    assert!(stranger.read_u8().await.is_err());
    far.write_u8(7).await.unwrap();
    assert_eq!(peer.read_u8().await.unwrap(), 7);
    drop((peer, stranger));
    assert_eq!(counts(&door), (0, 0, 0), "requests hold no place");
}

#[tokio::test]
async fn a_connection_that_shows_who_it_is_too_late_goes_and_gives_back_one_place() {
    let door = Arc::new(Door::new("test", 1, Settles::BySignature));
    let (mut first, _far) = enter(&door).unwrap();
    let second = enter(&door).unwrap();
    first.guest.settle();
    assert_eq!(counts(&door), (2, 1, 1));
    assert!(first.read_u8().await.is_err());
    drop(first);
    drop(second);
    assert_eq!(counts(&door), (0, 0, 0));
}
