//! Lets clients in whose `:authority` is not one.
//!
//! Several releases of etcd's own client put the endpoints as the user gave them where HTTP/2 wants
//! a host and a port: `http://10.0.0.1:2379` (etcdctl 3.4, for everything it asks one endpoint in
//! particular), `#initially=[http://a:2379;http://b:2379]` (3.5.0, for every request). etcd's server
//! takes what it gets; the HTTP/2 library here resets such a stream (RFC 9113, 8.3.1). So the value
//! is replaced before the library sees it.
//!
//! ```text
//!   socket ─▶ Seeking  forwards frames up to the first HEADERS ─▶ a host and port: Through, for good
//!                                                              └▶ anything else:   Mending
//!             Mending  forwards frames, replaces the value in every HEADERS
//!             Through  reads straight into the caller's buffer
//! ```
//!
//! Promises:
//!
//! - a connection whose first request has a proper authority is not touched, and costs nothing more;
//! - a replaced value is as long as the one it stands for, because both ends account the decoded
//!   length in their tables of header fields (RFC 7541, 4.1) and must not drift apart;
//! - it names the first endpoint of the list, so that a keyspace chosen by its host is found;
//! - whatever is not understood is forwarded as it came, and the library judges it;
//! - no more than one frame of [`FRAME_BYTES_MAX`] is held back.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::http2::{FRAME_HEADER, HEADERS, PREFACE};

#[cfg(test)]
mod fuzz;
mod hpack;

/// Longest payload of a frame that a client may send, for the server announces no other (RFC 9113, 4.2).
const FRAME_BYTES_MAX: usize = 16_384;
/// Bytes read at once while frames are looked at.
const READ_BYTES: usize = 16_384;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Seeking,
    Mending,
    Through,
}

/// Follows the frames of one connection and mends what passes.
///
/// - `held` is the beginning of a frame, or of the preface, that cannot be judged yet.
/// - `payload_left` bytes of the present frame are to be forwarded as they come; then `held` is empty.
#[derive(Debug)]
struct AuthorityRewriter {
    stage: Stage,
    preface_left: usize,
    payload_left: usize,
    held: BytesMut,
}

impl AuthorityRewriter {
    fn new() -> Self {
        AuthorityRewriter {
            stage: Stage::Seeking,
            preface_left: PREFACE.len(),
            payload_left: 0,
            held: BytesMut::new(),
        }
    }

    /// Takes what came from the socket and appends to `out` what the library is to see.
    fn push(&mut self, mut input: &[u8], out: &mut BytesMut) {
        while !input.is_empty() {
            if self.stage == Stage::Through {
                out.extend_from_slice(&self.held.split());
                out.extend_from_slice(input);
                return;
            }
            if self.preface_left > 0 {
                let seen = PREFACE.len() - self.preface_left;
                let n = self.preface_left.min(input.len());
                if input[..n] != PREFACE[seen..seen + n] {
                    self.stage = Stage::Through;
                    continue;
                }
                self.preface_left -= n;
                out.extend_from_slice(&input[..n]);
                input.advance(n);
                continue;
            }
            if self.payload_left > 0 {
                assert!(
                    self.held.is_empty(),
                    "a frame is forwarded or held, not both"
                );
                let n = self.payload_left.min(input.len());
                self.payload_left -= n;
                out.extend_from_slice(&input[..n]);
                input.advance(n);
                continue;
            }
            // Until the header of the frame is here, then until the frame is.
            let wanted = if self.held.len() < FRAME_HEADER {
                FRAME_HEADER
            } else {
                FRAME_HEADER + payload_length(&self.held)
            };
            let n = (wanted - self.held.len()).min(input.len());
            self.held.extend_from_slice(&input[..n]);
            input.advance(n);
            if self.held.len() >= FRAME_HEADER {
                self.judge(out);
            }
        }
        if self.stage == Stage::Through {
            out.extend_from_slice(&self.held.split());
        }
    }

    /// Decides about the frame in `held`, whose header is complete.
    fn judge(&mut self, out: &mut BytesMut) {
        let payload = payload_length(&self.held);
        if self.held[3] != HEADERS {
            self.payload_left = payload - (self.held.len() - FRAME_HEADER);
            out.extend_from_slice(&self.held.split());
            return;
        }
        if payload > FRAME_BYTES_MAX {
            self.stage = Stage::Through;
            return;
        }
        if self.held.len() < FRAME_HEADER + payload {
            return;
        }
        let frame = self.held.split();
        match mend_frame(&frame) {
            Some(mended) => {
                self.stage = Stage::Mending;
                out.extend_from_slice(&mended);
            }
            None => {
                if self.stage == Stage::Seeking {
                    self.stage = Stage::Through;
                }
                out.extend_from_slice(&frame);
            }
        }
    }
}

fn payload_length(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

/// The HEADERS frame with another authority, if it has one that is to be replaced.
fn mend_frame(frame: &[u8]) -> Option<Vec<u8>> {
    let (header, payload) = frame.split_at(FRAME_HEADER);
    let flags = header[4];
    // A block that goes on in other frames is not looked into: no client sends one for its first
    // request. Nor are paddings, which no client of etcd sends.
    if flags & END_HEADERS == 0 || flags & PADDED != 0 {
        return None;
    }
    let block_at = if flags & PRIORITY == 0 { 0 } else { 5 };
    let block = payload.get(block_at..)?;
    let literal = hpack::authority(block)?;
    let proper = replacement(&literal.value)?;
    assert_eq!(
        proper.len(),
        literal.value.len(),
        "the tables of both ends stay equal"
    );
    let mut mended = header.to_vec();
    mended.extend_from_slice(&payload[..block_at]);
    mended.extend_from_slice(&block[..literal.at.start]);
    hpack::write_string(&proper, &mut mended);
    mended.extend_from_slice(&block[literal.at.end..]);
    let length = mended.len() - FRAME_HEADER;
    if length > FRAME_BYTES_MAX {
        return None;
    }
    mended[..3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
    Some(mended)
}

fn is_authority(value: &[u8]) -> bool {
    http::uri::Authority::try_from(value).is_ok()
}

/// A proper authority of the same length, if this one is not proper: the first endpoint that it
/// names, behind user information that fills the room.
fn replacement(value: &[u8]) -> Option<Vec<u8>> {
    if value.is_empty() || is_authority(value) {
        return None;
    }
    let list = match value.iter().position(|byte| *byte == b'[') {
        // Only the list of `#initially=[…]`: a bracket further on belongs to an IPv6 address.
        Some(at) if value.starts_with(b"#") => &value[at + 1..],
        _ => value,
    };
    let after_scheme = list
        .windows(3)
        .position(|window| window == b"://")
        .map_or(list, |at| &list[at + 3..]);
    let end = after_scheme
        .iter()
        .position(|byte| matches!(byte, b';' | b',' | b'/'))
        .unwrap_or(after_scheme.len());
    let mut endpoint = &after_scheme[..end];
    if !is_authority(endpoint) {
        // The bracket that ends the list.
        endpoint = endpoint.strip_suffix(b"]").unwrap_or(endpoint);
    }
    let filled = match value.len().checked_sub(endpoint.len() + 1) {
        Some(room) if room > 0 && !endpoint.contains(&b'@') => {
            [&vec![b'x'; room][..], b"@", endpoint].concat()
        }
        _ => Vec::new(),
    };
    Some(if is_authority(&filled) {
        filled
    } else {
        // It names no endpoint that could be told.
        vec![b'x'; value.len()]
    })
}

/// A connection of a client, with proper authorities.
#[derive(Debug)]
pub(super) struct AuthorityStream<S> {
    socket: S,
    rewriter: AuthorityRewriter,
    /// What the reader did not take yet.
    ready: BytesMut,
}

impl<S> AuthorityStream<S> {
    pub(super) fn new(socket: S) -> Self {
        AuthorityStream {
            socket,
            rewriter: AuthorityRewriter::new(),
            ready: BytesMut::new(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let n = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready.split_to(n));
                return Poll::Ready(Ok(()));
            }
            if this.rewriter.stage == Stage::Through && this.rewriter.held.is_empty() {
                this.ready = BytesMut::new();
                return Pin::new(&mut this.socket).poll_read(cx, buf);
            }
            let mut chunk = [std::mem::MaybeUninit::uninit(); READ_BYTES];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // The end: what is held goes as it is.
                this.rewriter.stage = Stage::Through;
                this.ready = this.rewriter.held.split();
                if this.ready.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.rewriter.push(chunk.filled(), &mut this.ready);
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for AuthorityStream<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.socket.connect_info()
    }
}

#[cfg(test)]
mod tests;
