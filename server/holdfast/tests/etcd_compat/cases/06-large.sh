# Sizes: the limit of a request is 1.5 MiB. Values are shown by their length.
sized() { head -c "$1" /dev/zero | tr '\0' x >"$work/value"; }
sized 1000000
echo '# a value of 1000000 bytes'; e put large <"$work/value"
e get large --keys-only
echo "# of length $("$etcdctl" --endpoints "$endpoints" get large --print-value-only | tr -d '\n' | wc -c)"
sized 1572000
echo '# a value of 1572000 bytes'; e put large <"$work/value"
sized 1572900
echo '# a value of 1572900 bytes'; e put large <"$work/value"
sized 2000000
echo '# a value of 2000000 bytes'; e put large <"$work/value"
sized 2100000
echo '# a value of 2100000 bytes'; e put large <"$work/value"
echo "# of length $("$etcdctl" --endpoints "$endpoints" get large --print-value-only | tr -d '\n' | wc -c)"
e del large
