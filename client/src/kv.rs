//! Requests of the KV API as builders.
//!
//! A builder made by a [`Client`] method is a request that can be awaited. The same builder made
//! with `new` has no client and serves as an operation of a [`Txn`](crate::Txn).
//!
//! ```no_run
//! # async fn example(client: holdfast_client::Client) -> holdfast_client::Result<()> {
//! use holdfast_client::{Get, Op, Put, SortOrder, SortTarget};
//!
//! client.put("stock/7", "12").prev_kv().await?;
//! let newest = client
//!     .get("stock/")
//!     .prefix()
//!     .sort(SortTarget::Mod, SortOrder::Descend)
//!     .limit(3)
//!     .await?;
//! let ops: [Op; 2] = [Put::new("a", "1").into(), Get::new("b").into()];
//! # Ok(()) }
//! ```

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use holdfast_proto::{
    etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
        PutResponse, RangeRequest, RangeResponse,
    },
    mvccpb::KeyValue,
};

use crate::{
    Result,
    client::{BoxFuture, Client},
};

pub use holdfast_proto::etcdserverpb::range_request::{SortOrder, SortTarget};

/// The client a request builder is bound to, or none.
pub trait Binding {}
impl Binding for Client {}
impl Binding for Unbound {}

/// Marks a request builder that is an operation of a transaction and has no client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unbound;

/// End of the range of all keys that start with `prefix`: the smallest key above them all. One
/// zero byte, which means "to the last key", if there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix
        .iter()
        .rposition(|&byte| byte != 0xff)
        .map_or(0, |last| last + 1);
    match prefix[..kept].split_last() {
        None => Bytes::from_static(b"\0"),
        Some((last, head)) => [head, &[last + 1]].concat().into(),
    }
}

/// The empty key cannot be asked for: the first possible key stands in for it.
fn first_key(key: &mut Bytes) {
    if key.is_empty() {
        *key = Bytes::from_static(b"\0");
    }
}

/// Reads a key or a range of keys.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless awaited"]
pub struct Get<C: Binding = Unbound> {
    pub(crate) client: C,
    pub(crate) request: RangeRequest,
}

impl Get {
    /// Reads one key, unless widened by [`prefix`](Self::prefix), [`from_key`](Self::from_key) or
    /// [`range_end`](Self::range_end).
    pub fn new(key: impl Into<Bytes>) -> Self {
        Get::bound(Unbound, key.into())
    }
}

impl<C: Binding> Get<C> {
    pub(crate) fn bound(client: C, key: Bytes) -> Self {
        Self {
            client,
            request: RangeRequest {
                key,
                ..Default::default()
            },
        }
    }

    /// Reads all keys that start with the key; all keys if it is empty.
    pub fn prefix(mut self) -> Self {
        self.request.range_end = prefix_end(&self.request.key);
        first_key(&mut self.request.key);
        self
    }

    /// Reads all keys from the key on.
    pub fn from_key(mut self) -> Self {
        self.request.range_end = Bytes::from_static(b"\0");
        first_key(&mut self.request.key);
        self
    }

    /// Reads the keys from the key up to, not including, `end`.
    pub fn range_end(mut self, end: impl Into<Bytes>) -> Self {
        self.request.range_end = end.into();
        self
    }

    /// At most this many keys; 0 for all.
    pub fn limit(mut self, keys: i64) -> Self {
        self.request.limit = keys;
        self
    }

    /// As of this revision; 0 for the present.
    pub fn revision(mut self, revision: i64) -> Self {
        self.request.revision = revision;
        self
    }

    /// Order of the answer; by default ascending by key.
    pub fn sort(mut self, target: SortTarget, order: SortOrder) -> Self {
        self.request.set_sort_target(target);
        self.request.set_sort_order(order);
        self
    }

    /// Leaves the values out.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Only counts the keys.
    pub fn count_only(mut self) -> Self {
        self.request.count_only = true;
        self
    }

    /// Answered by the node that gets the request from what it has, perhaps stale. Without it the
    /// read is linearizable.
    pub fn serializable(mut self) -> Self {
        self.request.serializable = true;
        self
    }

    /// Only keys last written at this revision or later.
    pub fn min_mod_revision(mut self, revision: i64) -> Self {
        self.request.min_mod_revision = revision;
        self
    }

    /// Only keys last written at this revision or earlier.
    pub fn max_mod_revision(mut self, revision: i64) -> Self {
        self.request.max_mod_revision = revision;
        self
    }

    /// Only keys created at this revision or later.
    pub fn min_create_revision(mut self, revision: i64) -> Self {
        self.request.min_create_revision = revision;
        self
    }

    /// Only keys created at this revision or earlier.
    pub fn max_create_revision(mut self, revision: i64) -> Self {
        self.request.max_create_revision = revision;
        self
    }

    /// The message that is sent.
    pub fn into_request(self) -> RangeRequest {
        self.request
    }
}

impl Get<Client> {
    /// The first key of the answer, if there is one.
    pub async fn first(self) -> Result<Option<KeyValue>> {
        let limited = if self.request.limit == 0 {
            self.limit(1)
        } else {
            self
        };
        Ok(limited.await?.kvs.into_iter().next())
    }
}

/// Writes one key.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless awaited"]
pub struct Put<C: Binding = Unbound> {
    pub(crate) client: C,
    pub(crate) request: PutRequest,
}

impl Put {
    /// Writes `value` to `key`.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Put::bound(Unbound, key.into(), value.into())
    }
}

impl<C: Binding> Put<C> {
    pub(crate) fn bound(client: C, key: Bytes, value: Bytes) -> Self {
        Self {
            client,
            request: PutRequest {
                key,
                value,
                ..Default::default()
            },
        }
    }

    /// Hangs the key on a lease.
    pub fn lease(mut self, id: i64) -> Self {
        self.request.lease = id;
        self
    }

    /// Answers with what the key held before.
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// Keeps the present value; the key must exist and the value given be empty.
    pub fn ignore_value(mut self) -> Self {
        self.request.ignore_value = true;
        self
    }

    /// Keeps the present lease; the key must exist.
    pub fn ignore_lease(mut self) -> Self {
        self.request.ignore_lease = true;
        self
    }

    /// The message that is sent.
    pub fn into_request(self) -> PutRequest {
        self.request
    }
}

/// Deletes a key or a range of keys.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless awaited"]
pub struct Delete<C: Binding = Unbound> {
    pub(crate) client: C,
    pub(crate) request: DeleteRangeRequest,
}

impl Delete {
    /// Deletes one key, unless widened.
    pub fn new(key: impl Into<Bytes>) -> Self {
        Delete::bound(Unbound, key.into())
    }
}

impl<C: Binding> Delete<C> {
    pub(crate) fn bound(client: C, key: Bytes) -> Self {
        Self {
            client,
            request: DeleteRangeRequest {
                key,
                ..Default::default()
            },
        }
    }

    /// Deletes all keys that start with the key; all keys if it is empty.
    pub fn prefix(mut self) -> Self {
        self.request.range_end = prefix_end(&self.request.key);
        first_key(&mut self.request.key);
        self
    }

    /// Deletes all keys from the key on.
    pub fn from_key(mut self) -> Self {
        self.request.range_end = Bytes::from_static(b"\0");
        first_key(&mut self.request.key);
        self
    }

    /// Deletes the keys from the key up to, not including, `end`.
    pub fn range_end(mut self, end: impl Into<Bytes>) -> Self {
        self.request.range_end = end.into();
        self
    }

    /// Answers with what the deleted keys held.
    pub fn prev_kv(mut self) -> Self {
        self.request.prev_kv = true;
        self
    }

    /// The message that is sent.
    pub fn into_request(self) -> DeleteRangeRequest {
        self.request
    }
}

/// Forgets all versions that were superseded at or before a revision.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing unless awaited"]
pub struct Compact {
    pub(crate) client: Client,
    pub(crate) request: CompactionRequest,
}

impl Compact {
    /// Answers only when the versions are gone from storage.
    pub fn physical(mut self) -> Self {
        self.request.physical = true;
        self
    }
}

/// Makes a bound builder awaitable and gives it a deadline of its own.
macro_rules! awaitable {
    ($builder:ty => $response:ty) => {
        impl $builder {
            /// How long this request may take, retries included.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.client = self.client.with_timeout(timeout);
                self
            }
        }

        impl IntoFuture for $builder {
            type Output = Result<$response>;
            type IntoFuture = BoxFuture<Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                let Self {
                    client, request, ..
                } = self;
                Box::pin(async move { client.run(request).await })
            }
        }
    };
}
pub(crate) use awaitable;

/// Gives an unbound builder a client.
macro_rules! bindable {
    ($builder:ident) => {
        impl $builder {
            /// The same request, bound to a client, so that it can be awaited.
            pub fn on(self, client: &Client) -> $builder<Client> {
                $builder {
                    client: client.clone(),
                    request: self.request,
                }
            }
        }
    };
}
pub(crate) use bindable;

bindable!(Get);
bindable!(Put);
bindable!(Delete);

awaitable!(Get<Client> => RangeResponse);
awaitable!(Put<Client> => PutResponse);
awaitable!(Delete<Client> => DeleteRangeResponse);
awaitable!(Compact => CompactionResponse);

#[cfg(test)]
mod tests;
