//! Whether a client has finished the handshake of HTTP/2: the preface, and the acknowledgement of the
//! server's settings, which shows that it reads (RFC 9113, 3.4 and 6.5.3). A request shows it too.

use crate::service::http2::{ACK, FRAME_HEADER, HEADERS, PREFACE, SETTINGS};

/// Follows the frames of one connection.
///
/// - `preface` bytes of the preface have come; while it is not complete nothing else has.
/// - `header` bytes of the next frame's header have come, after the payload of the one before.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    preface: usize,
    frame: [u8; FRAME_HEADER],
    header: usize,
    payload_left: usize,
    /// What came is no HTTP/2; the library closes the connection.
    broken: bool,
}

impl Handshake {
    /// Takes what came. Whether the handshake is done with it.
    pub(super) fn is_done_after(&mut self, mut bytes: &[u8]) -> bool {
        while !self.broken && !bytes.is_empty() {
            if self.preface < PREFACE.len() {
                let n = bytes.len().min(PREFACE.len() - self.preface);
                self.broken = bytes[..n] != PREFACE[self.preface..self.preface + n];
                self.preface += n;
                bytes = &bytes[n..];
            } else if self.payload_left > 0 {
                let n = bytes.len().min(self.payload_left);
                self.payload_left -= n;
                bytes = &bytes[n..];
            } else {
                let n = bytes.len().min(FRAME_HEADER - self.header);
                self.frame[self.header..self.header + n].copy_from_slice(&bytes[..n]);
                self.header += n;
                bytes = &bytes[n..];
                if self.header == FRAME_HEADER {
                    let [a, b, c, kind, flags, ..] = self.frame;
                    if kind == HEADERS || (kind == SETTINGS && flags & ACK != 0) {
                        return true;
                    }
                    self.header = 0;
                    self.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::http2::frame;

    /// The number of bytes after which the handshake is done, fed in pieces of any size.
    fn done_after(bytes: &[u8]) -> Option<usize> {
        let at = |step: usize| {
            let mut handshake = Handshake::default();
            let mut fed = 0;
            bytes.chunks(step).find_map(|piece| {
                fed += piece.len();
                handshake.is_done_after(piece).then_some(fed)
            })
        };
        let exact = at(1);
        for step in 2..40 {
            let found = at(step);
            assert_eq!(found.is_some(), exact.is_some(), "in pieces of {step}");
        }
        exact
    }

    #[test]
    fn a_handshake_ends_with_the_acknowledgement_of_the_settings() {
        let begun = [
            PREFACE,
            &frame(SETTINGS, 0, &[0xff; 18]),
            &frame(8, 0, &[0xff; 4]),
        ]
        .concat();
        assert_eq!(done_after(&begun), None);
        let done = [begun.clone(), frame(SETTINGS, ACK, &[])].concat();
        assert_eq!(done_after(&done), Some(done.len()));
        let asked = [begun.clone(), frame(HEADERS, 4, &[0xff; 30])].concat();
        assert_eq!(done_after(&asked), Some(begun.len() + FRAME_HEADER));
    }

    #[test]
    fn what_is_no_http2_never_ends_a_handshake() {
        assert_eq!(done_after(b"GET / HTTP/1.1\r\n\r\n"), None);
        let late = [&PREFACE[..10], &frame(SETTINGS, ACK, &[])].concat();
        assert_eq!(done_after(&late), None);
        assert_eq!(done_after(b""), None);
    }
}
