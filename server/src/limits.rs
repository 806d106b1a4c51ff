//! Every bound of the server.
//!
//! A node never holds an unbounded queue, buffer, batch or cache. This file is where the bounds
//! are, so that they can be read together and checked against each other: the compiler evaluates the
//! assertions of `relations`. Names end with the unit and `_MAX` (or `_MIN`); the
//! documentation says what happens at the bound, which is one of
//!
//! - **wait**: the producer is held back until there is room;
//! - **refuse**: the request is answered with `ResourceExhausted` (or etcd's own status where it has
//!   one) at once, with nothing half done;
//! - **cut**: the work is split and goes on in the next batch.
//!
//! Bounds that an operator may need to move are defaults of [`crate::config::Config`]; here they
//! carry `_DEFAULT`, and the range within which the configuration accepts them stands beside them.

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

// ---- requests of clients ---------------------------------------------------------------------

/// Largest request of a client, in encoded bytes. etcd's default. Beyond it: refused with
/// `InvalidArgument` and etcd's message `etcdserver: request is too large`.
pub const REQUEST_BYTES_DEFAULT: u64 = 3 * MIB / 2;
/// Smallest value that `limits.request_bytes_max` accepts.
pub const REQUEST_BYTES_MIN: u64 = KIB;
/// Largest value that `limits.request_bytes_max` accepts: one request is one Raft entry, and while
/// it is written and replicated no other entry of its group passes it.
pub const REQUEST_BYTES_CEILING: u64 = 16 * MIB;
/// What the wire may carry beyond a request, in bytes, before the connection itself refuses: so
/// that a request slightly too large gets etcd's status and not a transport error.
pub const REQUEST_OVERHEAD_BYTES_MAX: u64 = 512 * KIB;

/// Operations in one list of a transaction. etcd's default. Beyond it: refused with
/// `InvalidArgument` and etcd's message `etcdserver: too many operations in txn request`.
pub const TXN_OPS_DEFAULT: usize = 128;
/// Largest value that `limits.txn_ops_max` accepts: a transaction is applied in one step, during
/// which no other entry of its group is.
pub const TXN_OPS_CEILING: usize = 16 * 1024;

/// HTTP/2 streams (concurrent requests) of one client connection. At the bound the client's own
/// HTTP/2 stack waits for a stream to end.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 4096;
/// Requests of one connection that were given up before the server looked at them. At the bound the
/// connection is closed. All that a connection may carry may run out of time together; h2's own 20
/// would then break the connection, and with it the requests that still have time.
pub const STREAMS_GIVEN_UP_MAX: usize = STREAMS_PER_CONNECTION_MAX as usize;

/// Bytes of the metadata of one request, counted as HTTP/2 counts them. At the bound: refused.
pub const METADATA_BYTES_MAX: usize = 16 * KIB as usize;
/// The same on the wire, so that what is too large gets a status. Beyond: the stream or the connection ends.
pub const METADATA_WIRE_BYTES_MAX: u32 = MIB as u32;

/// Threads that serve requests on one node. Beyond: the configuration is refused.
pub const WORKER_THREADS_MAX: u64 = 1024;

/// How much before its deadline a request is answered, at most; of short times a twentieth. At the
/// bound: what is not done is given up.
pub const DEADLINE_MARGIN_MAX: Duration = Duration::from_millis(10);

// ---- connections -----------------------------------------------------------------------------

/// Connections of clients to one node, however many files it may open. At the bound: one that has not
/// finished its handshake is closed, or else the new one.
pub const CLIENT_CONNECTIONS_MAX: u64 = 16 * 1024;
/// Connections of clients below which a node warns that the limit of its files is low.
pub const CLIENT_CONNECTIONS_FEW: u64 = 512;
/// Connections of clients that a node takes even where files could run out: it must stay within reach.
pub const CLIENT_CONNECTIONS_MIN: u64 = 16;
/// Connections with each other member, in each direction: three at work, and those that broke and whose
/// end has not noticed yet.
pub const CONNECTIONS_PER_PEER_MAX: u64 = 12;
/// Connections to the port of peers that belong to no member, if all members have all of theirs. At
/// the bound: as with clients, where a call that a member has signed counts as the handshake.
pub const PEER_PORT_STRANGERS_MAX: u64 = 16;
/// Connections that were told to go and are not closed yet. At the bound the new one is closed.
pub const EVICTIONS_MAX: usize = 8;
/// Longest time in which a connection must finish its handshake. At the bound: closed.
pub const CONNECTION_SETTLES_MAX: Duration = Duration::from_secs(10);
/// Files that a node keeps open for itself: standard streams, sockets it listens on, events of the
/// runtime, the lock of its directory, and connections that were told to go.
pub const DESCRIPTORS_RESERVED: u64 = 32;
/// Time between two questions to a peer which groups it leads: so much later is known that a group has a leader.
pub const LEADERS_ASKED_EVERY: Duration = Duration::from_millis(500);
/// Groups of a node that start at the same time. At the bound: wait.
pub const GROUPS_STARTING_MAX: usize = 16;
/// Groups of a node that fetch a lost state from a peer at the same time. At the bound: wait.
pub const GROUPS_RESTORING_MAX: usize = 4;
/// A stop of a group is waited for so long, and a lost state by a start. Beyond: told; a stop goes on by itself.
pub const GROUP_CHANGE_MAX: Duration = Duration::from_secs(30);
/// Characters of the name of a keyspace (RFC 1035, 2.3.4). Beyond: refused.
pub const KEYSPACE_NAME_CHARACTERS_MAX: usize = 63;
/// Characters of the owner of a keyspace: a line. Beyond: refused.
pub const KEYSPACE_OWNER_CHARACTERS_MAX: usize = 256;
/// Characters of a zone that a keyspace names. Beyond: refused.
pub const KEYSPACE_ZONE_CHARACTERS_MAX: usize = 256;
/// Zones in the failover order of a keyspace. Beyond: refused.
pub const KEYSPACE_FAILOVER_ZONES_MAX: usize = 32;
/// Voters of a keyspace: more make writes slower and nothing safer. Beyond: refused.
pub const KEYSPACE_REPLICAS_MAX: u32 = 9;
/// A request for a keyspace that exists and does not run on the node yet waits so long. Beyond: refused.
pub const KEYSPACE_START_WAIT_MAX: Duration = Duration::from_secs(2);
/// Time between two looks at where the leaders of keyspaces are.
pub const PLACEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// The same while some are on their way.
pub const PLACEMENT_BUSY_INTERVAL: Duration = Duration::from_millis(200);
/// A node that does not tell within this time what it leads tells nothing in that look.
pub const PLACED_WITHIN: Duration = Duration::from_millis(500);
/// Decisions of placement that are kept on record. At the bound: the oldest go.
pub const PLACEMENT_RECORDS_MAX: usize = 1000;
/// Revisions of the system keyspace that are kept beside the present one. At the bound: it is compacted.
pub const SYSTEM_REVISIONS_MAX: i64 = 10_000;
/// The state machine of a group that stops goes on so long with what it was given. Beyond: given up.
pub const MACHINE_END_MAX: Duration = Duration::from_secs(5);
/// Files of the database of a node: those that it keeps open, and those that a compaction reads and writes.
pub const DESCRIPTORS_OF_STATE: u64 = LSM_OPEN_TABLES_MAX as u64 + 16;
/// Files of one group beside its log and its state: a snapshot that comes and one that goes to each of
/// some followers.
pub const DESCRIPTORS_PER_GROUP: u64 = 8;
/// Groups that have such files at the same time, and find some set aside. Others take from those of clients.
pub const DESCRIPTORS_GROUPS_MAX: u64 = 64;

// ---- proposals and reads ---------------------------------------------------------------------

/// Proposals of one group that are under way on this node. At the bound: refused at once.
pub const PROPOSALS_IN_FLIGHT_DEFAULT: usize = 4096;
/// Largest value that `limits.proposals_in_flight_max` accepts.
pub const PROPOSALS_IN_FLIGHT_CEILING: usize = 1024 * 1024;
/// Encoded bytes of the proposals of one group that are under way on this node. At the bound:
/// refused at once. Keeps a burst of large values from filling memory long before the count does.
pub const PROPOSALS_IN_FLIGHT_BYTES_DEFAULT: u64 = 64 * MIB;

/// Linearizable reads of one group that wait for their read index. At the bound: refused at once.
/// They cost little while they wait, because they share the rounds. Who gives up leaves its place.
pub const READS_WAITING_DEFAULT: usize = 16 * 1024;
/// Longest time that a node works on a request whose client set no deadline, and that a request of
/// any client waits for a leader. etcd allows itself 5 s and twice its election timeout. At the
/// bound: refused with etcd's `request timed out`.
pub const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(7);
/// Time in which reads find no leader with a quorum before it counts as lost, if nothing else shows it.
pub const LEADER_SILENCE_MAX: Duration = Duration::from_secs(1);
/// The same time if this node knows of no leader, holds it for dead, or leads and hears no quorum.
pub const LEADER_LOSS_SHOWN_AFTER: Duration = Duration::from_millis(200);
/// Time between two looks at whether a leader that is waited for is lost.
pub const LEADER_LOSS_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Age up to which a read index proves that there is a leader, to requests that want one.
pub const LEADER_PROOF_AGE_MAX: Duration = Duration::from_millis(160);
/// Time after which a leader that waits for a quorum to confirm a read asks it again, and again.
pub const READ_BEAT_EVERY: Duration = Duration::from_millis(50);
/// Longest wait of a leader for such a confirmation. At the bound the read asks anew who leads.
pub const READ_INDEX_MAX: Duration = Duration::from_secs(2);
/// Longest round of reads: at the bound all its callers have given up. It ends with
/// `etcdserver: no leader`.
pub const READ_ROUND_MAX: Duration = REQUEST_TIMEOUT_DEFAULT;

/// Clients in the retry table of a keyspace. At the bound the one idle for longest gives way: its
/// requests are refused until it registers again. A client takes about 1 KiB of memory on every node.
pub const RETRY_CLIENTS_DEFAULT: usize = 4096;
/// Memory that all groups of a node take to remember the newest versions of keys that were written last. At
/// the bound: some are forgotten, and sought in the store when they are written again. A key of 16 bytes takes
/// about 48, so it holds a million of them.
pub const NEWEST_VERSIONS_BYTES_MAX: usize = 48 * MIB as usize;
/// Memory of the filter that tells which keys were never written, of all groups of a node. At the bound: it
/// takes more and more keys for written, whose versions are then sought in the store.
pub const WRITTEN_KEYS_BYTES: usize = 4 * MIB as usize;
/// Versions that a group walks after a start to learn its keys for that filter. At the bound: it goes without.
pub const LEARNING_RECORDS_MAX: usize = 8_000_000;
/// Versions that it reads at a time. At the bound: others get the processor and the disk.
pub const LEARNING_PIECE_RECORDS_MAX: usize = 4096;
/// How long they have them.
pub const LEARNING_PAUSE: Duration = Duration::from_millis(20);
/// Longest key whose newest version is remembered, in bytes: that of a longer one is sought in the store.
pub const NEWEST_KEY_BYTES_MAX: usize = KIB as usize;
/// Largest value that `limits.retry_clients_max` accepts: the index of the table is in memory.
pub const RETRY_CLIENTS_CEILING: usize = 256 * 1024;
/// Bytes of the records of the retry table of a keyspace. At the bound the clients idle for longest
/// give way.
pub const RETRY_BYTES_DEFAULT: u64 = 64 * MIB;
/// Smallest value that `limits.retry_bytes_max` accepts.
pub const RETRY_BYTES_MIN: u64 = MIB;
/// Largest value that `limits.retry_bytes_max` accepts: a snapshot copies the table.
pub const RETRY_BYTES_CEILING: u64 = GIB;

/// Reads of more than single keys, and hashes, that are worked on at a time: they take a thread and
/// the processor. At the bound: wait for a place in turn, as long as the client does.
pub const READS_WORKING_MAX: usize = 16;
/// Such reads that wait to be worked on. At the bound: refused at once.
pub const READS_FOR_A_PLACE_MAX: usize = 16 * 1024;
/// Records that such a read walks between two looks at whether anybody still waits for it.
pub const WALK_RECORDS_MAX: usize = 256;
/// Memory for the answers of all such reads of a node, in bytes, until they are sent; each counts
/// twice, as it is encoded. At the bound one of them may go beyond it, because it could be larger than
/// the bound itself; the others wait, and are refused when none was given back for
/// [`REQUEST_TIMEOUT_DEFAULT`].
pub const READ_MEMORY_BYTES_MAX: usize = 256 * MIB as usize;
/// Bytes of an answer that are not counted, so that small ones never wait.
pub const READ_FREE_BYTES_MAX: usize = MIB as usize;
/// Bytes by which an answer takes up more of that memory.
pub const READ_STEP_BYTES: usize = MIB as usize;
/// Bytes of a large answer that its connection gets at a time. At the bound: cut.
pub const RESPONSE_SLICE_BYTES: usize = 64 * KIB as usize;

// ---- between nodes ---------------------------------------------------------------------------

/// Requests queued for one peer before they are packed into batches. At the bound: refused at once.
pub const FORWARD_QUEUE_REQUESTS_DEFAULT: usize = 8192;
/// Requests in one batch to a peer. At the bound: cut.
pub const FORWARD_BATCH_REQUESTS_MAX: usize = 256;
/// Bytes of the requests in one batch to a peer, unless a single request is larger. At the bound: cut.
pub const FORWARD_BATCH_BYTES_MAX: u64 = 2 * MIB;

/// Entries in one append message to a peer. At the bound: cut.
pub const APPEND_ENTRIES_DEFAULT: u64 = 512;
/// Largest value that `raft.max_payload_entries` accepts.
pub const APPEND_ENTRIES_CEILING: u64 = 65_536;
/// Bytes of the entries in one append message to a peer, unless one entry is larger. At the bound: cut.
pub const APPEND_BYTES_MAX: u64 = 4 * MIB;
/// Longest time in which a peer confirms none of the entries that it was sent, before its stream is given
/// up. While a stream is open the log is not purged past what its peer has confirmed, so the log of a
/// leader may grow past its bounds by what is written in this time.
pub const APPEND_SILENCE_MAX: Duration = Duration::from_secs(10);
/// Silences of a peer in a row each of which may be twice as long as the one before. A link that
/// carries the largest append message in the longest of them is wide enough.
pub const APPEND_SILENCES_DOUBLED_MAX: u32 = 3;
/// Largest message between nodes, in bytes. A larger one is refused by the receiver's transport;
/// the bounds above keep every message below it.
pub const PEER_MESSAGE_BYTES_MAX: u64 = 32 * MIB;

/// Interval between two HTTP/2 pings to a peer, and to a client.
pub const PEER_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Time in which a peer must answer a ping; then its connection is given up.
pub const PEER_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval between two HTTP/2 pings to a client that is silent.
pub const CLIENT_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// Time in which a client must answer a ping; then its connection is given up.
pub const CLIENT_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks at whether a peer can be reached.
pub const PEER_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time in which a peer must answer such a look.
pub const PEER_PROBE_MAX: Duration = Duration::from_secs(2);
/// Time after which a peer that does not answer is told of.
pub const PEER_LOST_AFTER: Duration = Duration::from_secs(3);
/// Time after which a group without a leader is told of.
pub const LEADERLESS_TOLD_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for a connection to a peer, and for the first answer on a stream of requests to it.
pub const PEER_CONNECT_MAX: Duration = Duration::from_secs(1);
/// First pause before a peer that could not be reached is tried again; each is twice the one before.
pub const PEER_RETRY_MIN: Duration = Duration::from_millis(40);
/// The longest such pause: a peer that comes back is found within it.
pub const PEER_RETRY_MAX: Duration = Duration::from_millis(160);
/// How long groups of a node take an attempt to reach a peer that failed for their own. A peer that comes
/// back is found so much later at most.
pub const PEER_ATTEMPT_SHARED_FOR: Duration = Duration::from_millis(30);
/// Bytes on their way to a peer that it has not yet read, for each stream. At the bound: wait.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 8 * MIB as u32;
/// The same for each connection, all its streams together. At the bound: wait. A stream whose
/// reader hangs keeps its own window and no more, so this is the number of such streams beside which
/// the others of a connection still pass; an append stream that hangs is given up besides. Memory is
/// taken only by what has arrived and waits to be read.
pub const PEER_CONNECTION_WINDOW_BYTES: u32 = 64 * PEER_STREAM_WINDOW_BYTES;
/// Heartbeats waiting for one peer. At the bound the heartbeat fails, and the next one follows.
pub const HEARTBEAT_QUEUE_MAX: usize = 4096;
/// Forwarded requests of one stream that are being worked on. At the bound: wait.
pub const FORWARDS_WORKING_MAX: usize = 16 * 1024;

/// Bytes of records in one chunk of a snapshot, unless a single record is larger. At the bound: cut.
pub const SNAPSHOT_CHUNK_BYTES: u64 = MIB;
/// Largest chunk of a snapshot, in bytes: one that was full but for a byte when the largest record came,
/// with its encoding. A larger one is refused when appended, and damage when read.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize =
    (SNAPSHOT_CHUNK_BYTES + REQUEST_BYTES_CEILING + REQUEST_OVERHEAD_BYTES_MAX) as usize;
/// Bytes of the id of a snapshot. A longer one is refused.
pub const SNAPSHOT_ID_BYTES_MAX: usize = 1024;
/// Bytes of snapshots that a node sends per second, all receivers together. At the bound: wait.
/// Keeps the catch-up of one node from starving the replication of the others.
pub const SNAPSHOT_BYTES_PER_SECOND_DEFAULT: u64 = 64 * MIB;

/// Chunks of a snapshot that were sent and are not acknowledged. At the bound: wait.
pub const SNAPSHOT_WINDOW_CHUNKS_MAX: usize = 8;
/// Times in a row that one transfer of a snapshot is resumed and gets nowhere before it is begun anew.
pub const SNAPSHOT_RESUMES_MAX: u32 = 10;
/// Longest silence of the receiver of a snapshot. At the bound the transfer is resumed. A receiver that
/// gets on with installing is not silent, however long it takes.
pub const SNAPSHOT_STALL_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a checkpoint before its purge is put off.
pub const CHECKPOINT_WAIT_MAX: Duration = Duration::from_secs(60);

/// Commands that share an entry of the log because they arrive together. At the bound: cut.
pub const ENTRY_COMMANDS_MAX: usize = 128;
/// Their bytes. At the bound: cut.
pub const ENTRY_SHARED_BYTES_MAX: u64 = 64 * KIB;
/// Entries applied before their answers go out. At the bound: cut.
pub const APPLY_CHUNK_ENTRIES_MAX: usize = 256;
/// Bytes that the entries of one chunk may write before their answers go out and room in the memory
/// tables is awaited again, unless a single entry writes more. At the bound: cut.
pub const APPLY_CHUNK_BYTES_MAX: u64 = MIB;
/// Records that a scan copies out of a memory table at first, while it holds the table's lock.
pub const TABLE_SCAN_FIRST_RECORDS: usize = 2;
/// The same, of a scan that has gone on for a while. At the bound: the lock is let go in between.
pub const TABLE_SCAN_RECORDS_MAX: usize = 128;
/// Records looked at in one step of removing superseded versions, between which entries are applied.
pub const SCRUB_STEP_RECORDS_MAX: usize = 512;

/// Batches of a link that are on their way to the send buffer of its stream. At the bound the link waits,
/// and its batches become larger.
pub const PEER_BATCHES_QUEUED_MAX: usize = 4;

// ---- the log ---------------------------------------------------------------------------------

/// Size of a segment file of the log, in bytes; it is allocated as a whole. A batch that does not
/// fit goes to the next segment.
pub const LOG_SEGMENT_BYTES_DEFAULT: u64 = 16 * MIB;
/// Smallest value that `storage.log_segment_bytes` accepts.
pub const LOG_SEGMENT_BYTES_MIN: u64 = MIB;
/// Largest value that `storage.log_segment_bytes` accepts: allocation of a segment must stay short.
pub const LOG_SEGMENT_BYTES_CEILING: u64 = GIB;

/// Bytes of commands of all groups that wait to be written to the log. At the bound: wait. One command
/// that is larger waits for an empty queue.
pub const LOG_QUEUE_BYTES_MAX: u32 = 32 * MIB as u32;
/// Commands of all groups that wait to be written to the log. At the bound: wait.
pub const LOG_QUEUE_COMMANDS_MAX: usize = 16 * 1024;
/// Bytes of one write to the log and its sync, unless a single command is larger. At the bound: cut.
pub const LOG_BATCH_BYTES_MAX: u32 = 4 * MIB as u32;
/// Bytes of recent entries of all groups that stay in memory for replication and applying. At the
/// bound the oldest leave, and are read from disk. Entries that are not written yet come on top; the
/// bound of the queue is theirs.
pub const LOG_CACHE_BYTES_MAX: u64 = 64 * MIB;
/// Appends whose entries stay in memory, however small they are. At the bound the oldest leave.
pub const LOG_CACHED_APPENDS_MAX: usize = 256 * 1024;
/// Files of purged segments that are kept to be used again. More are deleted.
pub const LOG_FREE_SEGMENTS_MAX: usize = 4;
/// Longest time that a committed mark waits for another write to the log to ride with.
pub const LOG_MARK_DELAY_MAX: Duration = Duration::from_millis(100);

/// Entries of a group that stay in the log behind its checkpoint, for followers that were away. At
/// the bound: purged, and a follower that needs them gets a snapshot.
pub const LOG_ENTRIES_DEFAULT: u64 = 200_000;
/// Bytes of a group that stay in the log behind its checkpoint. At the bound: as above.
pub const LOG_BYTES_DEFAULT: u64 = 256 * MIB;

/// Segments more than two groups with full logs that the log of a node may have, unless
/// `storage.log_bytes_max` says otherwise: the active one, the prepared one, those kept to be used again,
/// and some that are partly live.
pub const LOG_BUDGET_SLACK_SEGMENTS: u64 = 8;
/// Interval between two looks at the size of a node's log.
pub const LOG_BUDGET_INTERVAL: Duration = Duration::from_secs(1);
/// A segment of which at most one part in so many is live is emptied by writing that part again. At the
/// bound: the groups that hold it are purged instead.
pub const LOG_VACATE_FRACTION: u64 = 8;
/// Longest time that a log is over its budget before that is told, and between two times.
pub const LOG_OVER_BUDGET_MAX: Duration = Duration::from_secs(60);

/// Bytes of the log that one read from the disk covers; a longer record is read alone. At the bound: cut.
pub const LOG_READ_SPAN_BYTES_MAX: usize = MIB as usize;
/// Bytes of records of other groups that are read over; longer ones are jumped.
pub const LOG_READ_GAP_BYTES_MAX: usize = 32 * KIB as usize;
/// Bytes of entries that one command moves out of an old segment, unless one is longer. At the bound: cut.
pub const LOG_MOVE_BYTES_MAX: u64 = MIB;

// ---- state -----------------------------------------------------------------------------------

/// Bytes of the memory tables of all groups. When they are full they go to the database while others fill;
/// when those are full too, applying waits.
pub const TABLE_BYTES_DEFAULT: u64 = 32 * MIB;
/// Smallest value that `storage.table_bytes_max` accepts.
pub const TABLE_BYTES_MIN: u64 = 4 * MIB;
/// Runs of ascending records that a received snapshot may consist of. At the bound: the rest is collected.
pub const LOAD_RUNS_MAX: u32 = 8;
/// Bytes of a received snapshot that are collected before they go to the engine, unless one chunk is
/// larger. At the bound: cut.
pub const LOAD_BYTES_MAX: u64 = 4 * MIB;
/// Records of a state that nobody uses that are deleted in one batch. At the bound: the next is begun.
pub const SWEPT_RECORDS_MAX: usize = 32_768;
/// Tables of groups that hold something and were not cut yet. At the bound: all are cut.
pub const FILLING_TABLES_MAX: usize = 4096;
/// How often the copy of a state into another database tells how far it is.
pub const IMPORT_TOLD_EVERY: Duration = Duration::from_secs(5);
/// Runs of unmerged tables in an LSM tree, each looked at by every read. At the bound: a batch waits.
pub const LSM_RUNS_MAX: usize = 12;
/// Unmerged tables in an LSM tree at which they are merged, with all that they overlap: fewer cost more merging,
/// more cost more looks of every read.
pub const LSM_TABLES_MERGED_AT: u8 = 8;
/// Niceness of the thread that merges, as of nice(2). What serves goes first; a batch that waits for
/// [`LSM_RUNS_MAX`] bounds how far it falls behind.
pub const LSM_MERGING_NICENESS: i32 = 5;
/// Records of an LSM tree for each deletion in it, at most, when it is rewritten without them.
pub const LSM_REWRITE_RECORDS_PER_DELETION: u64 = 5;
/// Bytes of an LSM tree that is rewritten. Beyond: what is deleted goes as levels grow.
pub const LSM_REWRITE_BYTES_MAX: u64 = 4 * 1024 * MIB;
/// Files of tables that an LSM tree keeps open. At the bound: the least used is closed.
pub const LSM_OPEN_TABLES_MAX: usize = 48;
/// Records that are counted for a figure of how much of a table is whose. At the bound: the rest is shared out.
pub const SIZE_COUNTED_RECORDS_MAX: usize = 500;
/// Size of a table that a compaction writes, and of the least that is merged. At the bound: the next is begun.
pub const LSM_TABLE_BYTES: u64 = 32 * MIB;
/// Bytes of pages that the database of a node keeps in memory. At the bound: the least used go.
pub const CACHE_BYTES_DEFAULT: u64 = 64 * MIB;
/// Smallest value that `storage.cache_bytes` accepts.
pub const CACHE_BYTES_MIN: u64 = 4 * MIB;

/// Bytes that stay free on the disk, and at most a quarter of it. At the bound: what grows the data is
/// refused. What was acknowledged still goes down, and deletions and compactions pass.
pub const RESERVE_BYTES_DEFAULT: u64 = 256 * MIB;
/// Time between two looks at the free space of the disk.
pub const ROOM_LOOK_EVERY: Duration = Duration::from_millis(250);
/// Shortest time between two attempts to hand a leadership over because the disk is nearly full.
pub const ROOM_HAND_OVER_EVERY: Duration = Duration::from_secs(10);

/// Bytes from which on a value that was read keeps the block of lsm-tree's cache that it lies in. A smaller
/// one is copied, so that it does not hold the memory of the values around it.
pub const LSM_SHARED_VALUE_BYTES_MIN: usize = 4 * KIB as usize;
/// Bytes from which on a value that was read keeps its page of sled. A smaller one is copied.
pub const SLED_SHARED_VALUE_BYTES_MIN: usize = 32 * KIB as usize;
/// Longest wait for the lock of a sled database just closed: sled's own threads let go of it a moment
/// after the last handle is dropped. At the bound: the database is not opened.
pub const SLED_LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

// ---- output of the log -------------------------------------------------------------------------

/// Bytes of lines that wait to be written to standard error. At the bound: lost, and counted.
pub const LOG_QUEUE_OUTPUT_BYTES_MAX: usize = MIB as usize;
/// Bytes of one line. At the bound: cut, and marked.
pub const LOG_LINE_BYTES_MAX: usize = 16 * KIB as usize;
/// Shortest time between two lines that tell how many others were lost.
pub const LOG_LOST_NOTICE_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time that a process which ends waits for standard error. At the bound: lost.
pub const LOG_FLUSH_MAX: Duration = Duration::from_secs(1);
/// Time in which lines that are the same are counted together.
pub const LOG_REPEAT_WINDOW: Duration = Duration::from_secs(60);
/// Lines that are the same and logged one by one when a condition begins. At the bound: counted, and
/// summed up at the end of the window.
pub const LOG_REPEATS_MAX: u32 = 3;
/// Different lines that are told apart in a window. What comes beyond is counted together.
pub const LOG_REPEATS_TRACKED_MAX: usize = 1024;
/// Lines in a window that are not told apart and still logged. At the bound: counted, and summed up.
pub const LOG_UNTRACKED_LINES_MAX: u32 = 60;
/// Bytes of the line that a summary quotes. At the bound: cut.
pub const LOG_SUMMARY_BYTES_MAX: usize = 512;

// ---- memory of nodes -------------------------------------------------------------------------

/// Sessions that a node tells by name when it introduces itself. At the bound the oldest is left
/// out; a peer that met the node longer ago cannot judge its chain.
pub const SESSIONS_TOLD_MAX: usize = 256;
/// Longest wait for the answer to an introduction. At the bound it is sent again.
pub const HELLO_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest time that a node whose memory enough members know waits for the others to object.
pub const HELLO_GRACE: Duration = Duration::from_millis(500);
/// Interval at which what peers have promised is written down. A crash of all nodes forgets as much.
pub const PROMISES_SAVED_EVERY: Duration = Duration::from_secs(2);

// ---- failure detection -----------------------------------------------------------------------

/// Interval between two messages of a detector to each peer.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(40);
/// What a peer may be silent beyond its round trip, two beats and the measured delays of both ends,
/// before it is suspected.
pub const SILENCE_SLACK: Duration = Duration::from_millis(120);
/// By how much more than the lateness of a detector silence is borne: it may be late when it sends, and
/// again when it answers.
pub const LATENESS_FACTOR: u32 = 2;
/// Longest lateness of a detector that is counted. At the bound: cut.
pub const LATENESS_COUNTED_MAX: Duration = Duration::from_millis(300);
/// Lateness of a detector beyond which its process was stopped rather than late: not counted.
pub const LATENESS_STOPPED_MIN: Duration = Duration::from_millis(700);
/// Longest round trip that is counted. At the bound: cut.
pub const ROUND_TRIP_COUNTED_MAX: Duration = Duration::from_secs(2);
/// Delay of a detector after which the silence of all peers counts anew.
pub const OWN_DELAY_MIN: Duration = Duration::from_millis(30);
/// Times in a row that the silence of a peer counts anew. At the bound the delay alone is left out, so
/// that a machine which always has too much to do suspects in the end.
pub const SILENCE_RESTARTS_MAX: u32 = 3;
/// Shortest time without a message on a connection of the peer's own before a peer is suspected that
/// answers on those of this node: it could not lead anybody.
pub const ONE_WAY_SILENCE_MIN: Duration = Duration::from_secs(1);
/// Time after the start of a detector in which a peer that was never heard is not called silent.
pub const MEETING_GRACE: Duration = Duration::from_secs(2);
/// Suspicions that a message of a detector tells. At the bound: left out.
pub const SUSPICIONS_TOLD_MAX: usize = 64;
/// Longest time until a connection of a detector is made. At the bound: given up.
pub const DIAL_MAX: Duration = Duration::from_secs(1);
/// Longest time until a connection of a detector that is made is answered. At the bound: closed.
pub const DIAL_ANSWER_MAX: Duration = Duration::from_secs(3);
/// Shortest life of a connection after whose end a detector dials again without a pause.
pub const DIAL_LASTS_MIN: Duration = Duration::from_secs(1);
/// Pause before a detector dials again after the second failure; it doubles with each one.
pub const DIAL_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause before a detector dials a peer again whose port refuses or closes.
pub const DIAL_PAUSE_REFUSED_MAX: Duration = Duration::from_millis(250);
/// Longest pause before a detector dials a peer again that does not answer: each attempt stays in the
/// queue of a process that is stopped.
pub const DIAL_PAUSE_SILENT_MAX: Duration = Duration::from_secs(3);
/// Connections to the detector that one peer has open. At the bound the oldest is closed.
pub const DETECTOR_INCOMING_PER_PEER_MAX: usize = 4;
/// Connections to the detector of this node whose ends have not said yet who they are. At the bound the
/// new one is closed.
pub const DETECTOR_STRANGERS_MAX: usize = 16;
/// Files of a detector beside its connections with peers: strangers, and what it waits with.
pub const DETECTOR_DESCRIPTORS: u64 = DETECTOR_STRANGERS_MAX as u64 + 4;
/// Longest time until such a connection says who it is. At the bound: closed.
pub const DETECTOR_GREETING_MAX: Duration = Duration::from_secs(2);
/// Sockets that a detector serves in one turn. The others follow in the next one.
pub const DETECTOR_EVENTS_MAX: usize = 256;
/// Reads of one socket of a detector in one turn. At the bound: the others come first.
pub const DETECTOR_READS_PER_TURN_MAX: usize = 16;
/// Niceness that the thread of a detector asks for.
pub const DETECTOR_NICE: i32 = -10;
/// Addresses of one peer that a detector dials. At the bound: left out.
pub const ADDRESSES_PER_PEER_MAX: usize = 8;
/// Shortest time between two look-ups of the name of a peer.
pub const LOOKUP_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// State machines at work at a time whose progress is watched. At the bound: not watched.
pub const APPLIES_WATCHED_MAX: usize = 64;
/// Shortest stall of a part of a node that the node tells its peers of.
pub const STALL_TOLD_MIN: Duration = Duration::from_millis(200);

// ---- failover ----------------------------------------------------------------------------------

/// How late the timers of groups fire at most, so that those of many fire together, in milliseconds.
pub const TIMER_GRAIN_MAX_MS: u64 = 64;
/// Heartbeats of a leader that may be missed before its followers ask whether it leads.
pub const HEARTBEATS_MISSED_MAX: u32 = 2;
/// How late a heartbeat may be beside that.
pub const HEARTBEAT_DELAY_MAX: Duration = Duration::from_millis(500);
/// Time in which an election finds a leader, or else is held to have found none. A leader that has won
/// is heard within it; before, nobody stands against it.
pub const ELECTION_SETTLES_WITHIN: Duration = Duration::from_millis(120);
/// Longest wait for a vote that is on its way to the disk before this node stands for election. At the
/// bound it does not.
pub const CAMPAIGN_BEGINS_WITHIN: Duration = Duration::from_millis(200);
/// Longest time that a vote of a candidate for itself takes to reach the disk. At the bound others stand.
pub const CAMPAIGN_SYNC_MAX: Duration = Duration::from_millis(500);
/// Longest time that a campaign waits for others of its node before other nodes stand.
pub const CAMPAIGN_QUEUED_MAX: Duration = Duration::from_secs(1);
/// Campaigns under way on a node. At the bound: wait.
pub const CAMPAIGNS_MAX: usize = 32;
/// Time that a voter which is better placed has to stand before the next one does, beside four round
/// trips.
pub const CAMPAIGN_TURN_MIN: Duration = Duration::from_millis(60);
/// The longest such time, for voters that stood in vain.
pub const CAMPAIGN_TURN_MAX: Duration = Duration::from_secs(1);
/// Turns of others that a voter waits for at most.
pub const CAMPAIGN_TURNS_MAX: u32 = 8;
/// Groups in one message of a survey. At the bound: cut.
pub const SURVEY_GROUPS_MAX: usize = 1024;
/// Longest wait for the answer of a voter to a survey, beside four round trips. It is doubled for each
/// survey in a row that the voter did not answer.
pub const SURVEY_WAIT_MIN: Duration = Duration::from_millis(60);
/// The longest such wait.
pub const SURVEY_WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause between two surveys of a group, doubled each time, beside a round trip.
pub const SURVEY_PAUSE_MIN: Duration = Duration::from_millis(4);
/// The longest such pause.
pub const SURVEY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Longest time between two looks at the groups of a node: one for all of them.
pub const FAILOVER_LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look that comes so late shows that the node did not run: it makes sure that it still leads.
pub const FAILOVER_OVERSLEPT_MIN: Duration = Duration::from_millis(200);
/// Time after which a leader that reaches no quorum refuses requests.
pub const POWERLESS_AFTER: Duration = Duration::from_millis(200);
/// Time after which a leader whose transfer found nobody says that it leads no longer.
pub const HAND_OVER_STUCK_AFTER: Duration = Duration::from_secs(1);
/// Leaderships that a sick node hands over at a time. At the bound: wait.
pub const HAND_OVERS_MAX: usize = 16;
/// A node whose parts all get on within this time is well: it may lead.
pub const WELL_STALL_MAX: Duration = Duration::from_millis(300);
/// A leader of which a part has not got on for so long hands over.
pub const SICK_AFTER: Duration = Duration::from_millis(800);
/// If it still leads after this time, the others stand against it.
pub const SICK_OVERDUE_AFTER: Duration = Duration::from_millis(1_600);
/// Shortest time between two attempts to hand over because of that.
pub const SICK_HAND_OVER_EVERY: Duration = Duration::from_secs(2);
/// Time between two looks at a stall that goes on.
pub const SICK_LOOK_EVERY: Duration = Duration::from_millis(100);

/// Entries that a voter may lack and still be handed the leadership: it gets them within the transfer.
/// Beyond: another voter is chosen, or none.
pub const HAND_OVER_LAG_ENTRIES_MAX: u64 = 1_000;
/// Longest time that a leadership is handed over in on request. At the bound: the request fails.
pub const HAND_OVER_REQUEST_MAX: Duration = Duration::from_secs(5);

// ---- shutdown --------------------------------------------------------------------------------

/// Longest time that a node which was asked to stop spends on handing its leaderships over, in
/// milliseconds. At the bound it stops without.
pub const HANDOVER_MS_MAX: u64 = 2_000;
/// Longest time that a server which takes no more requests waits for those under way.
pub const DRAIN_MAX: Duration = Duration::from_secs(2);
/// The same for peers: their streams have no end of their own, and the groups behind have stopped.
pub const PEER_DRAIN_MAX: Duration = Duration::from_millis(100);
/// Longest time that a node takes to stop from the first signal on, in milliseconds. At the bound its
/// process ends by force, with exit code 5: the log has what the checkpoint lacks.
pub const STOP_MS_MAX: u64 = 10_000;
/// Longest time that a supervisor waits for a node which was asked to stop, in milliseconds. At the
/// bound it is killed.
pub const NODE_STOP_MS_MAX: u64 = 12_000;

mod relations;
