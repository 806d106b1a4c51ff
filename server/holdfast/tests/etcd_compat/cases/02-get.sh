# get: ranges, orders, limits, revisions, output forms. The keys differ in each thing to sort by.
e put k/c 3
e put k/a 9
e put k/b 1
e put k/d 5
e put k/b 7
e put k/b 0
e put k/a 8
e put l 1
e put k 0
e get k/b
e get k/b --print-value-only
e get k/b --keys-only
e get k/b -w json
e get k/b -w fields
e get k/b --hex
e get k/b --hex -w fields
e get k/b --keys-only -w json
e get k/b --print-value-only -w json
e get k/b --print-value-only --keys-only
e get k/ --prefix
e get k/ --prefix --keys-only
e get k/ --prefix --print-value-only
e get k/ --prefix -w json
e get k/ --prefix -w fields
e get k/ --prefix --hex
e get k --prefix --keys-only
e get k/a k/c
e get k/c k/a
e get k/a k/a
e get k/a k/c --keys-only -w json
e get k/b --from-key --keys-only
e get k/zzz --from-key
e get '' --from-key --keys-only
e get '' --prefix --keys-only
e get '' --from-key --limit 1 -w json
for limit in 0 1 3 4 5 100; do e get k/ --prefix --limit $limit -w json; done
e get k/ --prefix --limit -1 --keys-only
for target in KEY CREATE MODIFY VERSION VALUE; do
  for order in ASCEND DESCEND; do
    e get k/ --prefix --order $order --sort-by $target
    e get k/ --prefix --order $order --sort-by $target --limit 2 -w json
  done
  e get k/ --prefix --sort-by $target
  e get k/ --prefix --sort-by $target --limit 2 -w fields
done
e get k/ --prefix --order DESCEND
e get k/ --prefix --order descend --sort-by key
e get k/ --prefix --order SIDEWAYS
e get k/ --prefix --sort-by COLOUR
for consistency in l s; do
  e get k/a --consistency $consistency
  e get k/ --prefix --consistency=$consistency -w json
done
e get k/a --consistency x
now=$("$etcdctl" --endpoints "$endpoints" get k/a -w fields | sed -n 's/^"Revision" : //p')
for back in 0 1 2 4 6 7 8; do
  e get k/a --rev $((now - back))
  e get k/ --prefix --rev $((now - back)) -w json
done
e get k/ --prefix --rev $((now - 2)) --limit 2 --order DESCEND --sort-by MODIFY -w json
e get k/a --rev $((now + 1))
e get k/a --rev $((now + 1)) -w json
e get k/a --rev $((now + 1)) --consistency s
e get k/a --rev 1
e get k/a --rev -1
e get k/a --rev 9223372036854775807
e get k/a --prefix --from-key
e get k/a k/b --prefix
e get k/a k/b --from-key
e get
e get ''
e get a b c
# The number of keys stands in the field Count, whatever the limit.
e get k/ --prefix --limit 1 -w fields
e get k/ --prefix --keys-only --limit 1 -w fields
e get nothing/ --prefix -w fields
if client_has 3.5; then
  e get k/ --prefix --count-only
  e get k/ --prefix --count-only -w fields
  e get k/ --prefix --count-only -w json
  e get k/ --prefix --count-only --limit 1 -w json
  e get nothing --count-only -w fields
  e get '' --from-key --count-only -w fields
  e get k/ --prefix --count-only --rev $((now - 8)) -w fields
  e get k/ --prefix --count-only --keys-only
fi
