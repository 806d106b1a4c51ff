//! A connection of the detector: what was read and is no whole message yet, what does not go out yet.
//!
//! - What waits to go out is a greeting and a message at most; a message that finds another waiting is
//!   dropped, as the next one says more.
//! - What waits to be understood is less than a message.

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
};

use mio::{Interest, Poll, Token, net::TcpStream};

use super::{Dialed, resolve::Addresses};
use crate::{
    detector::{
        message::{GREETING_BYTES, Greeting, LONGEST_MESSAGE_BYTES, Malformed, Message},
        peer::ConnectionId,
        time::Time,
    },
    raft::NodeId,
};

/// How far a connection is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// Somebody has connected and not greeted yet.
    Stranger { since: Time },
    /// It is being made.
    Dialing { id: ConnectionId, peer: NodeId },
    /// Both ends know each other.
    Open { id: ConnectionId },
}

/// What a read gave.
pub(super) enum Read {
    Some,
    Nothing,
    End,
}

pub(super) struct Socket {
    pub stage: Stage,
    /// Its other end.
    pub address: Option<SocketAddr>,
    stream: TcpStream,
    /// Other addresses of the peer, should this one not be reached.
    left: Addresses,
    read: Vec<u8>,
    unsent: Vec<u8>,
}

impl Socket {
    /// A connection that the peer has made.
    pub fn accepted(
        stream: std::net::TcpStream,
        poll: &Poll,
        token: Token,
        now: Time,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream);
        let stage = Stage::Stranger { since: now };
        Self::new(stream, poll, token, stage)
    }

    /// A connection that is being made to `address`.
    pub fn dial(
        address: SocketAddr,
        poll: &Poll,
        token: Token,
        (id, peer): (ConnectionId, NodeId),
        left: Addresses,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        let socket = Self::new(stream, poll, token, Stage::Dialing { id, peer })?;
        Ok(Self {
            address: Some(address),
            left,
            ..socket
        })
    }

    fn new(mut stream: TcpStream, poll: &Poll, token: Token, stage: Stage) -> io::Result<Self> {
        let interests = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, token, interests)?;
        // One that is gone already fails at its first read.
        let _ = stream.set_nodelay(true);
        Ok(Self {
            stage,
            address: None,
            stream,
            left: Addresses::default(),
            read: Vec::new(),
            unsent: Vec::new(),
        })
    }

    pub fn is_stranger(&self) -> bool {
        matches!(self.stage, Stage::Stranger { .. })
    }

    /// Whether it is made, or why it never will be.
    pub fn is_connected(&self) -> Result<bool, Dialed> {
        let failed = |error| Dialed {
            error,
            left: self.left.clone(),
        };
        if let Some(error) = self.stream.take_error().map_err(failed)? {
            return Err(failed(error));
        }
        match self.stream.peer_addr() {
            // The system may connect a socket to itself where nobody listens; that is a refusal.
            Ok(peer) if self.stream.local_addr().is_ok_and(|own| own == peer) => {
                Err(failed(io::ErrorKind::ConnectionRefused.into()))
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// Reads once.
    pub fn read(&mut self) -> io::Result<Read> {
        let mut bytes = [0; 2 * LONGEST_MESSAGE_BYTES];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(Read::End),
                Ok(n) => {
                    self.read.extend_from_slice(&bytes[..n]);
                    return Ok(Read::Some);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Read::Nothing);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub fn take_greeting(&mut self) -> Result<Option<Greeting>, Malformed> {
        let taken = Greeting::decode(&self.read)?;
        Ok(taken.map(|(greeting, length)| {
            self.read.drain(..length);
            greeting
        }))
    }

    pub fn take_message(&mut self) -> Result<Option<Message>, Malformed> {
        let taken = Message::decode(&self.read)?;
        Ok(taken.map(|(message, length)| {
            self.read.drain(..length);
            message
        }))
    }

    pub fn queue(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// Queues a message, or drops it if another one waits.
    pub fn queue_message(&mut self, message: &Message) {
        if self.unsent.len() <= GREETING_BYTES {
            message.encode(&mut self.unsent);
        }
    }

    /// Writes what waits, as far as it goes.
    pub fn write(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
