//! Messages as gRPC sends them: each with a flag and its length before it.
//!
//! ```text
//!   0 (not compressed)   length, 4 bytes, big-endian   message
//! ```
//!
//! Protocol: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Length-Prefixed-Message"

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

/// Length of what stands before a message.
pub const PREFIX_BYTES: usize = 5;

/// A message that is not compressed, with what stands before it. `None` if it has 4 GiB or more, whose length
/// cannot be said.
pub fn framed(message: &impl Message) -> Option<Bytes> {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).ok()?);
    message.encode_raw(&mut frame);
    Some(frame.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::PutRequest;

    #[test]
    fn a_message_stands_behind_its_length() {
        let put = PutRequest {
            value: vec![7; 300].into(),
            ..Default::default()
        };
        let message = put.encode_to_vec();
        let length = [0, 0, (message.len() >> 8) as u8, message.len() as u8];
        let expected = [&[0][..], &length, &message].concat();
        assert_eq!(framed(&put).unwrap(), expected);
    }
}
