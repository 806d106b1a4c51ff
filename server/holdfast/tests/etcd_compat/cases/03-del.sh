# del: single keys, ranges, prefixes, what was there before; keys that come back.
for key in d1 d2 d3 d4 e1 e2 f1 f2 f3; do e put $key "v$key"; done
e del nothing
e del nothing -w json
e del d1
e del d1
e del d2 --prev-kv
e del d3 -w json
e del d4 --prev-kv -w json
e del e1 --prev-kv -w fields
e put d1 again -w json
e get d1 -w json
e del d1 d3
e put d1 1
e put d2 2
e put d3 3
e del d1 d3 --prev-kv
e get d --prefix
e del f --prefix
e get f --prefix -w json
for key in f1 f2 f3; do e put $key "w$key"; done
e del f --prefix --prev-kv -w json
e del f --prefix
for key in x1 x2 x3; do e put $key "v$key"; done
e del x2 x1
e del x2 --from-key --prev-kv
e get x --prefix
if client_has 3.5; then
  e put x2 2
  e del x1 x3 --range
  e get x --prefix
fi
e del ''
e del
e del a b c
e del a --prefix --from-key
e del a b --prefix
e put zz1 1
e put zz2 1
e del zz --from-key
e get '' --prefix --keys-only
e del '' --prefix
e get '' --prefix -w json
e put back 1 -w json
e del back -w json
e put back 2 -w json
e get back -w json
