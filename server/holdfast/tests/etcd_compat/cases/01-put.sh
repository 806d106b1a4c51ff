# put: each flag, values from standard input, refusals.
e get nothing
e get nothing -w json
e put a 1
e put a 2 --prev-kv
e put a 3 --prev-kv -w json
e put a 4 -w json
e put a 5 --prev-kv -w fields
e put new 1 --prev-kv
e put new 2 --prev-kv --hex
e put empty ''
e get empty
e get empty -w json
e put empty '' --prev-kv -w json
e put a --ignore-value
e put a --ignore-value --prev-kv -w json
e put a 6 --ignore-value
e put a 7 --ignore-lease
e put a --ignore-value --ignore-lease
e put missing --ignore-value
e put missing 1 --ignore-lease
e put a 8 --ignore-lease --lease 1
e put a 9 --lease 123
e put a 9 --lease 123 -w json
e put a 9 --lease zz
printf 'from standard input' | e_with put stdin
e get stdin
printf 'two\nlines\n' | e_with put lines
e get lines --print-value-only
printf '' | e_with put nothing-in
e get nothing-in -w json
e put -- -dash value
e get -- -dash
e put 'key with spaces' 'and a value, with "quotes"'
e get 'key with spaces' -w fields
e put $'caf\xc3\xa9' $'\xff\xfe'
e get $'caf\xc3\xa9'
e get $'caf\xc3\xa9' --hex
e get $'caf\xc3\xa9' -w json
e get $'caf\xc3\xa9' -w fields
e put '' value
e put
e put a b c
e get a -w json
