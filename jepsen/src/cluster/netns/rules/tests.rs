use super::*;

fn link(from: End, to: End) -> Link {
    Link { from, to }
}

#[test]
fn no_faults_are_no_rules() {
    assert_eq!(ruleset(&Faults::new()), NO_RULES);
}

#[test]
fn faults_are_rules_of_one_direction() {
    let cut = LinkFault {
        cut: true,
        loss: 0.5,
        reset: true,
        ..LinkFault::default()
    };
    let slow = LinkFault {
        loss: 0.25,
        bytes_per_second: 500_000,
        reset: true,
        ..LinkFault::default()
    };
    let faults = Faults::from([
        (link(End::Node(1), End::Node(2)), cut),
        (link(End::Clients, End::Node(3)), slow),
    ]);
    let expected = "\
table bridge holdfast {
  chain links {
    type filter hook forward priority 0; policy accept;
    ip saddr 198.18.0.1 ip daddr 198.18.0.2 drop
    ip saddr 198.18.0.254 ip daddr 198.18.0.3 numgen random mod 1000000 < 250000 drop
    ip saddr 198.18.0.254 ip daddr 198.18.0.3 limit rate over 500000 bytes/second burst 16384 bytes drop
  }
}
table netdev holdfast {
  chain clients {
    type filter hook ingress device \"clients\" priority 0; policy accept;
    ip daddr 198.18.0.3 tcp flags & rst == 0 limit rate 4/second burst 8 packets reject with tcp reset
  }
}
";
    assert_eq!(ruleset(&faults), format!("{NO_RULES}{expected}"));
}

#[test]
fn delays_change_only_the_ports_that_they_concern() {
    let slow = |millis, jitter| LinkFault {
        delay: Duration::from_millis(millis),
        jitter: Duration::from_millis(jitter),
        ..LinkFault::default()
    };
    let mut faults = Faults::from([
        (link(End::Node(1), End::Node(2)), slow(10, 0)),
        (link(End::Clients, End::Node(1)), slow(5, 0)),
    ]);
    let old = delays(&faults);
    assert_eq!(delay_commands(&old, &old), "");
    faults.remove(&link(End::Clients, End::Node(1)));
    faults.insert(link(End::Clients, End::Node(2)), slow(20, 4));
    let expected = "\
qdisc del dev n1 root
qdisc del dev n2 root
qdisc add dev n2 root handle 1: htb
class add dev n2 parent 1: classid 1:2 htb rate 100gbit quantum 60000
qdisc add dev n2 parent 1:2 handle 2: netem limit 100000 delay 10000us 0us
filter add dev n2 parent 1: protocol ip u32 match ip src 198.18.0.1/32 flowid 1:2
class add dev n2 parent 1: classid 1:3 htb rate 100gbit quantum 60000
qdisc add dev n2 parent 1:3 handle 3: netem limit 100000 delay 22000us 2000us
filter add dev n2 parent 1: protocol ip u32 match ip src 198.18.0.254/32 flowid 1:3
";
    assert_eq!(delay_commands(&old, &delays(&faults)), expected);
}
