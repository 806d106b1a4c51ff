//! What must hold between the bounds. The compiler evaluates it.

use super::*;

const _: () = {
    // The defaults lie within what the configuration accepts.
    assert!(REQUEST_BYTES_MIN <= REQUEST_BYTES_DEFAULT);
    assert!(REQUEST_BYTES_DEFAULT <= REQUEST_BYTES_CEILING);
    assert!(TXN_OPS_DEFAULT <= TXN_OPS_CEILING);
    assert!(PROPOSALS_IN_FLIGHT_DEFAULT <= PROPOSALS_IN_FLIGHT_CEILING);
    assert!(APPEND_ENTRIES_DEFAULT <= APPEND_ENTRIES_CEILING);
    assert!(LOG_SEGMENT_BYTES_MIN <= LOG_SEGMENT_BYTES_DEFAULT);
    assert!(LOG_SEGMENT_BYTES_DEFAULT <= LOG_SEGMENT_BYTES_CEILING);
    assert!(TABLE_BYTES_MIN <= TABLE_BYTES_DEFAULT);
    assert!(CACHE_BYTES_MIN <= CACHE_BYTES_DEFAULT);

    assert!(RETRY_CLIENTS_DEFAULT <= RETRY_CLIENTS_CEILING);
    assert!(RETRY_BYTES_MIN <= RETRY_BYTES_DEFAULT && RETRY_BYTES_DEFAULT <= RETRY_BYTES_CEILING);

    // Every message between nodes passes: a full batch and one request of the largest size on top
    // of it, because the request that reaches the bound is still in the batch.
    let request = REQUEST_BYTES_CEILING + REQUEST_OVERHEAD_BYTES_MAX;
    assert!(APPEND_BYTES_MAX + request <= PEER_MESSAGE_BYTES_MAX);
    assert!(FORWARD_BATCH_BYTES_MAX + request <= PEER_MESSAGE_BYTES_MAX);
    assert!(SNAPSHOT_CHUNK_BYTES + request <= PEER_MESSAGE_BYTES_MAX);

    // A request of the default size fits the smallest structures that hold it whole.
    assert!(2 * REQUEST_BYTES_DEFAULT <= LOG_SEGMENT_BYTES_DEFAULT);
    assert!(2 * REQUEST_BYTES_DEFAULT <= TABLE_BYTES_MIN);
    // A table passes its bound by a part of it, and one entry.
    assert!(2 * APPLY_CHUNK_BYTES_MAX <= TABLE_BYTES_MIN);
    assert!(2 * REQUEST_BYTES_DEFAULT <= LOG_BATCH_BYTES_MAX as u64);
    assert!(REQUEST_BYTES_DEFAULT <= PROPOSALS_IN_FLIGHT_BYTES_DEFAULT);

    // Merging begins before a batch waits for it.
    assert!((LSM_TABLES_MERGED_AT as usize) < LSM_RUNS_MAX);

    // Reads at work hold less than the bound in what is not counted.
    assert!(READS_WORKING_MAX * READ_FREE_BYTES_MAX < READ_MEMORY_BYTES_MAX);
    assert!(READ_STEP_BYTES <= READ_MEMORY_BYTES_MAX);
    assert!(RESPONSE_SLICE_BYTES <= READ_FREE_BYTES_MAX);

    // An append message of the largest size finds room in the log's queue beside another, and what
    // was written last is still in memory when it is applied.
    assert!(APPEND_BYTES_MAX + request <= LOG_QUEUE_BYTES_MAX as u64);
    assert!(LOG_BATCH_BYTES_MAX <= LOG_QUEUE_BYTES_MAX);
    assert!(LOG_QUEUE_BYTES_MAX as u64 <= LOG_CACHE_BYTES_MAX);

    // A log at its smallest budget is not over it when nothing is live.
    assert!(LOG_FREE_SEGMENTS_MAX as u64 + 2 < LOG_BUDGET_SLACK_SEGMENTS);

    // The log is purged in whole segments, so it cannot keep to less than two.
    assert!(2 * LOG_SEGMENT_BYTES_DEFAULT <= LOG_BYTES_DEFAULT);

    // The largest message fits the window of its stream twice, and no stream fills its connection.
    assert!(2 * APPEND_BYTES_MAX <= PEER_STREAM_WINDOW_BYTES as u64);
    assert!(2 * SNAPSHOT_CHUNK_BYTES <= PEER_STREAM_WINDOW_BYTES as u64);
    assert!(8 * PEER_STREAM_WINDOW_BYTES <= PEER_CONNECTION_WINDOW_BYTES);
    // What HTTP/2 allows.
    assert!(PEER_CONNECTION_WINDOW_BYTES < 1 << 31);

    // A peer's queue holds at least one full batch; a rate of snapshots at least one chunk.
    assert!(FORWARD_BATCH_REQUESTS_MAX <= FORWARD_QUEUE_REQUESTS_DEFAULT);
    assert!(SNAPSHOT_CHUNK_BYTES <= SNAPSHOT_BYTES_PER_SECOND_DEFAULT);

    assert!(METADATA_BYTES_MAX < METADATA_WIRE_BYTES_MAX as usize);

    // Those that are on their way out have descriptors, at both ports.
    assert!(2 * EVICTIONS_MAX as u64 <= DESCRIPTORS_RESERVED / 2);
    assert!(CLIENT_CONNECTIONS_MIN < CLIENT_CONNECTIONS_FEW);
    assert!(CLIENT_CONNECTIONS_FEW < CLIENT_CONNECTIONS_MAX);
    // A client whose connection is given up by a ping is noticed after strangers are.
    assert!(CONNECTION_SETTLES_MAX.as_secs() < CLIENT_KEEPALIVE_INTERVAL.as_secs());

    // A peer that looks at this node, as all do, is heard of before it counts as silent.
    assert!(PEER_PROBE_INTERVAL.as_secs() < PEER_LOST_AFTER.as_secs());

    // One line of the log finds room in its queue, and one that sums up others in a line.
    assert!(LOG_LINE_BYTES_MAX <= LOG_QUEUE_OUTPUT_BYTES_MAX);
    assert!(LOG_SUMMARY_BYTES_MAX < LOG_LINE_BYTES_MAX);

    // A node has time to hand over, to drain, and still to close its files; the supervisor lets it end
    // by itself, so that its message and exit code tell what it waited for.
    assert!(
        HANDOVER_MS_MAX + DRAIN_MAX.as_millis() as u64 + PEER_DRAIN_MAX.as_millis() as u64
            <= STOP_MS_MAX / 2
    );
    assert!(STOP_MS_MAX < NODE_STOP_MS_MAX);

    // Who does not object at once may be asked again before the answer is given up.
    assert!(HELLO_GRACE.as_millis() < HELLO_WAIT_MAX.as_millis());
};
