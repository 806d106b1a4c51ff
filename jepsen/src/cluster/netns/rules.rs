//! The faults of links, as rules of the hub's bridge.
//!
//! All rules are made from the full set of present faults and replace the ones before in one
//! transaction of nftables: a partition takes effect at the same moment on all links, and a set that
//! the kernel refuses changes nothing.
//!
//! ```text
//!   from ──▶ port of `from` ──▶ br0 ──▶ port of `to` ──▶ to
//!            netdev, ingress    bridge, forward    tc, egress
//!            reset              cut, loss, rate    delay, jitter
//! ```
//!
//! - A packet is dropped on its way, so its sender is not told, as a local firewall would do.
//! - A reset answers a packet in the name of its receiver, some times a second and at once when it
//!   begins; other packets pass.
//! - What exceeds a rate is dropped, not queued. A link that was idle lets a second's bytes pass at
//!   once.
//! - A link that is cut is cut, whatever else is wrong with it.
//! - Delays need `netem`, which a kernel may lack; nothing of a set with a delay is done then.

use std::{collections::BTreeMap, fmt::Write, sync::OnceLock, time::Duration};

use parking_lot::Mutex;

use super::{
    tools::{Refusal, Tools, run},
    topology::{Topology, address, port},
};
use crate::cluster::{End, FaultError, Link, LinkFault};

/// Loss is decided by a random number below this.
const LOSS_PARTS: u32 = 1_000_000;
/// Resets in a second on a link, and at once.
const RESETS: &str = "4/second burst 8 packets";
/// Bytes that may pass a link with a rate at once, besides those of a second that nftables always
/// lets pass after a link was idle: some frames, so that the slowest link lets whole ones pass.
const BURST_BYTES: u64 = 16 << 10;
/// Packets that a delayed link holds: more than a gigabit in a second.
const DELAYED_PACKETS_MAX: u32 = 100_000;
/// Takes all rules away; the first line of each pair lets the second succeed.
const NO_RULES: &str = "table bridge holdfast\n\
                        delete table bridge holdfast\n\
                        table netdev holdfast\n\
                        delete table netdev holdfast\n";

/// Faults of links by link, in the order of their rules.
pub(super) type Faults = BTreeMap<Link, LinkFault>;

/// The rules in force in a hub.
#[derive(Debug)]
pub(super) struct Rules {
    tools: Tools,
    hub: String,
    nodes: u64,
    present: Mutex<Faults>,
    netem: OnceLock<Result<(), String>>,
}

impl Rules {
    pub fn new(tools: Tools, topology: &Topology) -> Self {
        Self {
            tools,
            hub: topology.hub(),
            nodes: topology.nodes() as u64,
            present: Mutex::default(),
            netem: OnceLock::new(),
        }
    }

    /// Sets what is wrong with these links; others stay as they are. Blocks for some milliseconds.
    pub fn set(&self, links: &[(Link, LinkFault)]) -> Result<(), FaultError> {
        let mut wanted = self.present.lock().clone();
        for (link, fault) in links {
            self.check(link, fault)?;
            match *fault == LinkFault::default() {
                true => wanted.remove(link),
                false => wanted.insert(*link, *fault),
            };
        }
        self.replace(wanted)
    }

    /// Heals all links. Blocks for some milliseconds.
    pub fn heal(&self) -> Result<(), FaultError> {
        self.replace(Faults::new())
    }

    fn check(&self, link: &Link, fault: &LinkFault) -> Result<(), FaultError> {
        let known = |end: End| match end {
            End::Node(id) => (1..=self.nodes).contains(&id),
            End::Clients => true,
        };
        if !known(link.from) || !known(link.to) || link.from == link.to {
            return Err(FaultError::Failed(format!("there is no link {link:?}")));
        }
        if !(0.0..=1.0).contains(&fault.loss) {
            let loss = fault.loss;
            return Err(FaultError::Failed(format!(
                "a loss of {loss} is no share from 0 to 1"
            )));
        }
        Ok(())
    }

    fn replace(&self, wanted: Faults) -> Result<(), FaultError> {
        let before = self.present.lock().clone();
        if before == wanted {
            return Ok(());
        }
        let (old_delays, new_delays) = (delays(&before), delays(&wanted));
        if !new_delays.is_empty() {
            self.check_netem()?;
        }
        self.nft(&ruleset(&wanted)).map_err(refused)?;
        if old_delays != new_delays {
            self.tc(&delay_commands(&old_delays, &new_delays))
                .map_err(|refusal| FaultError::Failed(refusal.to_string()))?;
        }
        *self.present.lock() = wanted;
        Ok(())
    }

    fn check_netem(&self) -> Result<(), FaultError> {
        let probe = || {
            // The hub's loopback device carries nothing.
            let probe = "qdisc add dev lo root netem delay 1us\nqdisc del dev lo root\n";
            self.tc(probe).map_err(|refusal| {
                format!("this machine cannot delay packets, which takes tc and netem: {refusal}")
            })
        };
        let able = self.netem.get_or_init(probe);
        able.clone().map_err(FaultError::Skipped)
    }

    fn nft(&self, rules: &str) -> Result<(), Refusal> {
        nft(&self.tools, &self.hub, rules)
    }

    fn tc(&self, commands: &str) -> Result<(), Refusal> {
        let tc = self.tools.tc.as_ref().ok_or_else(|| Refusal {
            command: "tc".to_owned(),
            output: "there is no such program; install iproute2".to_owned(),
        })?;
        run(tc, &["-n", &self.hub, "-batch", "-"], commands).map(|_| ())
    }
}

/// What it means that the kernel refuses rules: it knows no such, or something is wrong.
fn refused(refusal: Refusal) -> FaultError {
    let lacking = [
        "Could not process rule: No such file or directory",
        "Could not process rule: Operation not supported",
    ];
    match lacking.iter().any(|text| refusal.output.contains(text)) {
        true => FaultError::Skipped(format!("this kernel lacks a part of nftables: {refusal}")),
        false => FaultError::Failed(refusal.to_string()),
    }
}

fn nft(tools: &Tools, hub: &str, rules: &str) -> Result<(), Refusal> {
    let nft = tools.nft.to_string_lossy();
    let args = ["netns", "exec", hub, &nft, "-f", "-"];
    run(&tools.ip, &args, rules).map(|_| ())
}

/// Tries the rules that no fault can be made without.
pub(super) fn probe(tools: &Tools, hub: &str) -> Result<(), Refusal> {
    let link = Link {
        from: End::Node(1),
        to: End::Clients,
    };
    let cut = LinkFault {
        cut: true,
        ..LinkFault::default()
    };
    nft(tools, hub, &ruleset(&Faults::from([(link, cut)])))?;
    nft(tools, hub, NO_RULES)
}

/// Input for `nft -f` that replaces all rules by those of these faults.
fn ruleset(faults: &Faults) -> String {
    let mut on_the_way = String::new();
    let mut at_ports: BTreeMap<String, String> = BTreeMap::new();
    for (link, fault) in faults {
        let to = address(link.to);
        let packets = format!("    ip saddr {} ip daddr {to}", address(link.from));
        let mut drop = |which: &str| {
            writeln!(on_the_way, "{packets} {which}drop").expect("a string takes all text");
        };
        if fault.cut {
            drop("");
            continue;
        }
        if fault.loss > 0.0 {
            let parts = (fault.loss * f64::from(LOSS_PARTS)).round();
            match parts < f64::from(LOSS_PARTS) {
                true => drop(&format!("numgen random mod {LOSS_PARTS} < {parts} ")),
                // nftables refuses comparisons that are always true.
                false => drop(""),
            }
        }
        if fault.bytes_per_second > 0 {
            let rate = fault.bytes_per_second;
            drop(&format!(
                "limit rate over {rate} bytes/second burst {BURST_BYTES} bytes "
            ));
        }
        if fault.reset {
            let rules = at_ports.entry(port(link.from)).or_default();
            writeln!(
                rules,
                "    ip daddr {to} tcp flags & rst == 0 limit rate {RESETS} reject with tcp reset"
            )
            .expect("a string takes all text");
        }
    }
    let mut text = NO_RULES.to_owned();
    if !on_the_way.is_empty() {
        text += &format!(
            "table bridge holdfast {{\n  chain links {{\n    \
             type filter hook forward priority 0; policy accept;\n{on_the_way}  }}\n}}\n"
        );
    }
    for (port, rules) in at_ports {
        text += &format!(
            "table netdev holdfast {{\n  chain {port} {{\n    \
             type filter hook ingress device \"{port}\" priority 0; policy accept;\n{rules}  \
             }}\n}}\n"
        );
    }
    text
}

/// Delay and jitter of what leaves each port, by sender.
type Delays = BTreeMap<End, BTreeMap<End, (Duration, Duration)>>;

fn delays(faults: &Faults) -> Delays {
    let mut delays = Delays::new();
    for (link, fault) in faults {
        if !fault.delay.is_zero() || !fault.jitter.is_zero() {
            let port = delays.entry(link.to).or_default();
            port.insert(link.from, (fault.delay, fault.jitter));
        }
    }
    delays
}

/// Input for `tc -batch` that gets from the old delays to the new ones. What waits at a port whose
/// delays change is lost.
fn delay_commands(old: &Delays, new: &Delays) -> String {
    let mut text = String::new();
    let mut line = |line: String| text += &(line + "\n");
    let changed = |end: &&End| old.get(end) != new.get(end);
    for end in old.keys().filter(changed) {
        line(format!("qdisc del dev {} root", port(*end)));
    }
    for end in new.keys().filter(changed) {
        let dev = port(*end);
        line(format!("qdisc add dev {dev} root handle 1: htb"));
        for (class, (from, (delay, jitter))) in (2..).zip(&new[end]) {
            // netem spreads evenly around a mean, in both directions.
            let (mean, spread) = (*delay + *jitter / 2, *jitter / 2);
            let (mean, spread) = (mean.as_micros(), spread.as_micros());
            let from = address(*from);
            line(format!(
                "class add dev {dev} parent 1: classid 1:{class} htb rate 100gbit quantum 60000"
            ));
            line(format!(
                "qdisc add dev {dev} parent 1:{class} handle {class}: netem limit \
                 {DELAYED_PACKETS_MAX} delay {mean}us {spread}us"
            ));
            line(format!(
                "filter add dev {dev} parent 1: protocol ip u32 match ip src {from}/32 flowid \
                 1:{class}"
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests;
