//! What those who look at the bytes of a connection know of HTTP/2 before the library sees them.

/// What a client sends before its first frame (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of the header of a frame (RFC 9113, 4.1).
pub(super) const FRAME_HEADER: usize = 9;
/// Kind of the frame that begins a request (RFC 9113, 6.2).
pub(super) const HEADERS: u8 = 1;
/// Kind of the frame that tells or acknowledges settings (RFC 9113, 6.5).
pub(super) const SETTINGS: u8 = 4;
/// Flag of the frame that acknowledges settings (RFC 9113, 6.5).
pub(super) const ACK: u8 = 1;

/// A frame as a client sends it: of the connection, or of its first request.
#[cfg(test)]
pub(super) fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    // Data is of kind 0.
    let stream = u8::from(kind <= HEADERS);
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
#[test]
fn a_handshake_is_made_of_these_bytes() {
    let handshake = [PREFACE, &frame(SETTINGS, ACK, &[])].concat();
    let bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\x01\0\0\0\0";
    assert_eq!(handshake, bytes);
    assert_eq!(handshake.len(), PREFACE.len() + FRAME_HEADER);
}
