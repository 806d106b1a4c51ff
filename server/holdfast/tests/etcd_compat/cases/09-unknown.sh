# Words that etcdctl itself refuses, so that a change of its exit codes is noticed.
e nonsense
e get --nonsense
e get k/a -w nonsense
