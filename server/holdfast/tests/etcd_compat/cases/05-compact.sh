# compaction: what is refused afterwards, and what is still there.
revision() { "$etcdctl" --endpoints "$endpoints" get c -w fields | sed -n 's/^"Revision" : //p'; }
e put c 1
e put c 2
e put gone 1
e del gone
e put c 3
now=$(revision)
e compaction $((now - 3))
e get c --rev $((now - 4))
e get c --rev $((now - 4)) -w json
e get c --rev $((now - 4)) --consistency s
e get c --rev $((now - 3)) -w json
e get gone --rev $((now - 2)) -w json
e get gone --rev $((now - 1)) -w json
printf '\nget c --rev %d\n\n\n' $((now - 4)) | e_with txn
e compaction $((now - 3))
e compaction $((now - 4))
e compaction $((now + 1))
e compaction 0
e compaction -- -1
e compaction
e compaction x
e compaction $((now - 1)) --physical
e compaction $((now - 1)) --physical
e get gone --rev $((now - 1)) -w json
e get c --rev $((now - 1)) -w json
e get c --rev $((now - 2))
e compaction "$now" --physical
e get c -w json
e get c --rev "$now" -w json
e get '' --from-key --rev "$now" --limit 2 -w json
e put c 4 -w json
e get c --rev "$now" -w json
e get c --rev $((now + 1)) -w json
