//! What detectors say to each other, as bytes.
//!
//! ```text
//!   greeting   magic 8 │ cluster 8 │ from 8 │ to 8 │ session 8 │ crc 4           once, by who dialed
//!   message    kind 1 │ count 1 │ part 1 │ 0 │ stall ms 4 │ session 8 │ sent at 8 │ echo 8 │ held 4 │ late 4
//!              │ count × (subject 8 │ session 8 │ age ms 4 │ evidence 1 │ 0 0 0) │ crc 4
//! ```
//!
//! All numbers are little-endian; the checksums are CRC32C of everything before them. Times are
//! microseconds of the sender's own clock; nobody compares them with another's. Those that may be missing
//! are one more than they are, and 0 if missing.
//! Bytes that are none of this end the connection.

use std::time::Duration;

use super::{time::Time, views::Evidence, vitals::Part};
use crate::{limits::SUSPICIONS_TOLD_MAX, raft::NodeId};

/// What a connection of the detector begins with. HTTP/2 begins with a `P`.
pub(super) const MAGIC: [u8; 8] = *b"holdfdt1";
/// Length of a greeting.
pub(super) const GREETING_BYTES: usize = 44;
const HEADER_BYTES: usize = 40;
const SUSPICION_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 4;
/// Length of the longest message.
pub(super) const LONGEST_MESSAGE_BYTES: usize =
    HEADER_BYTES + SUSPICIONS_TOLD_MAX * SUSPICION_BYTES + CHECKSUM_BYTES;

const BEAT: u8 = 1;
const GOODBYE: u8 = 2;

/// Bytes of a peer that are not what detectors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of a detector: {0}")]
pub(super) struct Malformed(&'static str);

/// Who dials, and whom it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub cluster_id: u64,
    pub from: NodeId,
    pub to: NodeId,
    pub session: u64,
}

impl Greeting {
    pub fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        let fields = [self.cluster_id, self.from, self.to, self.session];
        for (place, field) in bytes[8..40].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&bytes[..40]);
        bytes[40..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Takes a greeting off the front of `bytes`, and how long it is, once it is there as a whole.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let begun = bytes.len().min(MAGIC.len());
        if bytes[..begun] != MAGIC[..begun] {
            return Err(Malformed("magic"));
        }
        let Some(bytes) = bytes.get(..GREETING_BYTES) else {
            return Ok(None);
        };
        if crc32c::crc32c(&bytes[..40]) != u32_at(bytes, 40) {
            return Err(Malformed("checksum of a greeting"));
        }
        let greeting = Self {
            cluster_id: u64_at(bytes, 8),
            from: u64_at(bytes, 16),
            to: u64_at(bytes, 24),
            session: u64_at(bytes, 32),
        };
        Ok(Some((greeting, GREETING_BYTES)))
    }
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The sender lives.
    Beat,
    /// The sender stops, and serves nothing any more.
    Goodbye,
}

/// That the sender suspects somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub subject: NodeId,
    pub evidence: Evidence,
    pub session: u64,
    pub age: Duration,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: Kind,
    /// The start of the sender.
    pub session: u64,
    /// When it was sent, by the sender's clock.
    pub sent_at: Time,
    /// `sent_at` of the latest message that the sender had from the receiver on this connection.
    pub echo: Option<Time>,
    /// How long ago that one had come, if the sender knows.
    pub held: Option<Duration>,
    /// How late the sender's detector gets to run.
    pub lateness: Duration,
    /// The part of the sender that has not got on for longest.
    pub stall: Option<(Part, Duration)>,
    /// Whom the sender suspects.
    pub suspicions: Vec<Told>,
}

impl Message {
    /// Appends the bytes of this message. Suspicions beyond the bound are left out.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        let told = &self.suspicions[..self.suspicions.len().min(SUSPICIONS_TOLD_MAX)];
        let (part, stalled) = self
            .stall
            .map_or((0, Duration::ZERO), |(part, age)| (part_to_wire(part), age));
        let kind = match self.kind {
            Kind::Beat => BEAT,
            Kind::Goodbye => GOODBYE,
        };
        let count = u8::try_from(told.len()).expect("the bound of suspicions is less than 256");
        bytes.extend_from_slice(&[kind, count, part, 0]);
        bytes.extend_from_slice(&millis(stalled).to_le_bytes());
        bytes.extend_from_slice(&self.session.to_le_bytes());
        bytes.extend_from_slice(&(self.sent_at.as_micros() + 1).to_le_bytes());
        let echo = self.echo.map_or(0, |echo| echo.as_micros() + 1);
        bytes.extend_from_slice(&echo.to_le_bytes());
        let held = self.held.map_or(0, |held| micros(held).saturating_add(1));
        bytes.extend_from_slice(&held.to_le_bytes());
        bytes.extend_from_slice(&micros(self.lateness).to_le_bytes());
        for told in told {
            bytes.extend_from_slice(&told.subject.to_le_bytes());
            bytes.extend_from_slice(&told.session.to_le_bytes());
            bytes.extend_from_slice(&millis(told.age).to_le_bytes());
            let evidence = match told.evidence {
                Evidence::Silent => 1,
                Evidence::Gone => 2,
            };
            bytes.extend_from_slice(&[evidence, 0, 0, 0]);
        }
        let checksum = crc32c::crc32c(&bytes[start..]);
        bytes.extend_from_slice(&checksum.to_le_bytes());
    }

    /// Takes a message off the front of `bytes`, and how long it is, once it is there as a whole.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            return Ok(None);
        };
        let kind = match header[0] {
            BEAT => Kind::Beat,
            GOODBYE => Kind::Goodbye,
            _ => return Err(Malformed("kind")),
        };
        let count = usize::from(header[1]);
        if count > SUSPICIONS_TOLD_MAX {
            return Err(Malformed("number of suspicions"));
        }
        let body = HEADER_BYTES + count * SUSPICION_BYTES;
        let length = body + CHECKSUM_BYTES;
        let Some(bytes) = bytes.get(..length) else {
            return Ok(None);
        };
        if crc32c::crc32c(&bytes[..body]) != u32_at(bytes, body) {
            return Err(Malformed("checksum"));
        }
        let stall = match header[2] {
            0 => None,
            part => Some((
                part_from_wire(part).ok_or(Malformed("part"))?,
                Duration::from_millis(u32_at(header, 4).into()),
            )),
        };
        let suspicions = bytes[HEADER_BYTES..body].chunks_exact(SUSPICION_BYTES);
        let suspicions = suspicions.map(|told| {
            Ok(Told {
                subject: u64_at(told, 0),
                session: u64_at(told, 8),
                age: Duration::from_millis(u32_at(told, 16).into()),
                evidence: match told[20] {
                    1 => Evidence::Silent,
                    2 => Evidence::Gone,
                    _ => return Err(Malformed("evidence")),
                },
            })
        });
        let message = Self {
            kind,
            session: u64_at(header, 8),
            sent_at: time_at(header, 16).ok_or(Malformed("time"))?,
            echo: time_at(header, 24),
            held: u32_at(header, 32)
                .checked_sub(1)
                .map(|held| Duration::from_micros(held.into())),
            lateness: Duration::from_micros(u32_at(header, 36).into()),
            stall,
            suspicions: suspicions.collect::<Result<_, _>>()?,
        };
        Ok(Some((message, length)))
    }
}

fn part_to_wire(part: Part) -> u8 {
    match part {
        Part::LogSync => 1,
        Part::Apply => 2,
        Part::EventLoop => 3,
    }
}

fn part_from_wire(part: u8) -> Option<Part> {
    Part::ALL
        .into_iter()
        .find(|known| part_to_wire(*known) == part)
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn time_at(bytes: &[u8], at: usize) -> Option<Time> {
    u64_at(bytes, at).checked_sub(1).map(Time::from_micros)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::detector::machine::Machine;

    fn message() -> Message {
        let told = |subject, evidence| Told {
            subject,
            evidence,
            session: 77,
            age: Duration::from_millis(1234),
        };
        Message {
            kind: Kind::Beat,
            session: u64::MAX,
            sent_at: Time::from_micros(5),
            echo: Some(Time::from_micros(0)),
            held: Some(Duration::from_micros(9)),
            lateness: Duration::from_micros(10),
            stall: Some((Part::Apply, Duration::from_millis(300))),
            suspicions: vec![told(3, Evidence::Gone), told(4, Evidence::Silent)],
        }
    }

    fn bytes(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_written_is_read_once_it_is_whole() {
        let message = message();
        let bytes = [bytes(&message), vec![9, 9]].concat();
        let length = bytes.len() - 2;
        assert_eq!(Message::decode(&bytes), Ok(Some((message, length))));
        for cut in 0..length {
            assert_eq!(Message::decode(&bytes[..cut]), Ok(None), "{cut} bytes");
        }
        let greeting = Greeting {
            cluster_id: 1,
            from: 2,
            to: 3,
            session: 4,
        };
        let bytes = greeting.encode();
        assert_eq!(
            Greeting::decode(&bytes),
            Ok(Some((greeting, GREETING_BYTES)))
        );
        for cut in 0..GREETING_BYTES {
            assert_eq!(Greeting::decode(&bytes[..cut]), Ok(None), "{cut} bytes");
        }
    }

    #[test]
    fn a_byte_that_is_wrong_is_noticed_or_waits_for_more() {
        let good = bytes(&message());
        for at in 0..good.len() {
            for wrong in [0x00, 0x01, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= wrong;
                let read = Message::decode(&bytes);
                assert_eq!(matches!(read, Ok(Some(_))), wrong == 0, "byte {at}");
            }
        }
    }

    #[test]
    fn more_suspicions_than_the_bound_are_left_out_and_never_read() {
        let mut message = message();
        message.suspicions = vec![message.suspicions[0]; SUSPICIONS_TOLD_MAX + 5];
        let mut bytes = bytes(&message);
        assert_eq!(bytes.len(), LONGEST_MESSAGE_BYTES);
        message.suspicions.truncate(SUSPICIONS_TOLD_MAX);
        assert_eq!(Message::decode(&bytes).unwrap().unwrap().0, message);
        bytes[1] += 1;
        assert!(Message::decode(&bytes).is_err());
    }

    /// With checksums that fit, as who means harm would make them; and the machine takes what comes of it.
    #[test]
    fn whatever_comes_is_read_or_refused() {
        let greeting = Greeting {
            cluster_id: 1,
            from: 2,
            to: 1,
            session: 4,
        };
        let written = [bytes(&message()), greeting.encode().to_vec()];
        crate::fuzz::check("detector-message", written, |read| {
            let mut sealed = read[..read.len().saturating_sub(CHECKSUM_BYTES)].to_vec();
            let checksum = crc32c::crc32c(&sealed);
            sealed.extend_from_slice(&checksum.to_le_bytes());
            for bytes in [read, &sealed] {
                let _ = Greeting::decode(bytes);
                let Ok(Some((message, length))) = Message::decode(bytes) else {
                    continue;
                };
                assert!(length <= bytes.len() && length <= LONGEST_MESSAGE_BYTES);
                let now = Time::from_micros(7_000_000);
                let mut machine = Machine::new(1, 9, [2, 3], Time::default());
                let id = machine.accepted(2, message.session, now).unwrap();
                for _ in 0..2 {
                    machine.received(id, &message, now);
                    machine.tick(None, now);
                }
                machine.views(Instant::now());
            }
        });
    }

    #[test]
    fn http_is_no_greeting() {
        assert!(Greeting::decode(b"PRI * HTTP/2.0").is_err());
        assert!(Greeting::decode(b"").unwrap().is_none());
    }
}
