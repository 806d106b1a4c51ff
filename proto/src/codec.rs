//! The codec of the services: prost's, with buffers of the size of the messages.
//!
//! tonic makes a buffer for each direction of each call. Its own are 8 KiB, and most messages here are a
//! few hundred bytes; a larger message makes its buffer grow.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// What a buffer starts with.
const BUFFER_BYTES: usize = 1024;
/// What a stream gathers before it sends, as tonic's own buffers do.
const STREAM_CHUNK_BYTES: usize = 32 * 1024;

/// Encodes `T` and decodes `U`.
pub struct MessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        MessageCodec(PhantomData)
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, STREAM_CHUNK_BYTES)
}

impl<T, U> Codec for MessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(buffers())
    }
}
