# endpoint, member, alarm, move-leader: ids, versions, sizes and log positions are masked.
by_name() { sed 's/},{/},\n{/g; s/\[{/[\n{/; s/}\]/}\n]/' | sed -E 's/},$/}/' | sort; }
ids() { sed -E 's/^[0-9a-f]+, /#, /; s/^\| [0-9a-f]+ \|/| # |/' | sort; }
e member list | ids
e member list -w json | by_name
e member list -w table | squeezed | ids
e member list -w fields | sort
state() { sed -E 's/^([^,]*), [0-9a-f]+, [0-9.]+, [0-9.]+ [kKMG]?i?B, (true|false), (true|false), [0-9]+, [0-9]+, [0-9]+/\1, #, #, #, \2, \3, #, #, #/'; }
own=$endpoints
endpoints=$all
echo '# every endpoint'
e endpoint status | state
e endpoint status -w json
e endpoint status -w fields
e endpoint status -w table | squeezed | sed -E 's/^\| (ENDPOINT-.) \| [0-9a-f]+ \| [0-9.]+ \| [0-9.]+ [kKMG]?i?B \| (true|false) \| (true|false) \| [0-9]+ \| [0-9]+ \| [0-9]+/| \1 | # | # | # | \2 | \3 | # | # | #/'
e endpoint health | sort
e endpoint health -w json | by_name
e endpoint hashkv | sed -E 's/, [0-9]+$/, #/'
e endpoint hashkv -w json
e endpoint hashkv -w fields
e endpoint hashkv -w table | squeezed | sed -E 's/\| [0-9]+ /| # /'
now=$("$etcdctl" --endpoints "$endpoints" get c -w fields | sed -n 's/^"Revision" : //p')
e endpoint hashkv --rev $((now - 1)) | sed -E 's/, [0-9]+$/, #/'
e endpoint hashkv --rev $((now + 1))
echo "# different hashes: $("$etcdctl" --endpoints "$endpoints" endpoint hashkv | cut -d, -f2 | sort -u | wc -l)"
e endpoint hashkv --rev 1
endpoints=$own
e endpoint health
e endpoint health --cluster | sort
e endpoint status --cluster | state | sort
e alarm list
e alarm list -w json
e alarm disarm
# Leadership goes to node 2, to node 3 and home again.
hexless() { sed -E 's/[0-9a-f]{12,}|\b[123]\b/#/g'; }
for to in 2 3 1; do
  id=$(member $to)
  endpoints=$all
  "$etcdctl" --endpoints "$all" move-leader "$id" >"$work/out" 2>&1; code=$?
  echo "# move-leader to node $to: exit code $code"
  sed -E 's/[0-9a-f]{12,}/#/g; s/(from|to) [0-9a-f]+/\1 #/g' "$work/out"
  e endpoint status | state
  endpoints=$own
  e put moved "$to" -w json
done
endpoints=$all
e move-leader 1234abcd
endpoints=$own
e move-leader zz
e move-leader
e get moved -w json
