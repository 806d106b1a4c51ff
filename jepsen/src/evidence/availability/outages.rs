//! Times in which a quorum existed and no write succeeded, and whose they are.

use super::{FaultReport, Span, is_write};
use crate::history::Kind;

/// A time without a successful write and with a quorum.
#[derive(Clone, Copy, Debug)]
struct Outage {
    from: u64,
    to: u64,
    /// A write succeeded at its end.
    ended: bool,
    /// The fault whose it is, by position, and how far from its begin that began.
    owner: Option<(u64, usize)>,
}

/// Gives each outage of the load to one fault, and notes the longest of each. Returns the longest of
/// all, from the begin of the fault whose it is, if anything was broken.
pub(super) fn attribute(
    faults: &mut [FaultReport],
    load: &[&Span<'_>],
    without_quorum: &[(u64, u64)],
    (start, end): (u64, u64),
) -> Option<u64> {
    let writes = load.iter().filter(|span| is_write(span.op()));
    let mut successes: Vec<u64> = writes
        .filter(|span| span.kind() == Kind::Ok)
        .filter_map(|span| span.completed_at)
        .collect();
    successes.sort_unstable();
    let mut outages = outages(&successes, without_quorum, (start, end));
    let measured = |fault: &FaultReport| fault.rto_ns.is_some();
    for (number, fault) in faults.iter().enumerate().filter(|(_, f)| measured(f)) {
        let first = outages.partition_point(|outage| outage.to <= fault.begin_ns);
        let inside = outages[first..]
            .iter_mut()
            .take_while(|outage| outage.from < fault.window_end_ns);
        for outage in inside {
            let claim = (outage.from.abs_diff(fault.begin_ns), number);
            outage.owner = Some(outage.owner.map_or(claim, |owner| owner.min(claim)));
        }
    }
    let mut longest = 0;
    for outage in &outages {
        let Some((_, owner)) = outage.owner else {
            longest = longest.max(outage.to - outage.from);
            continue;
        };
        let fault = &mut faults[owner];
        let from = outage.from.max(fault.begin_ns);
        longest = longest.max(outage.to - from);
        let to = outage.to.min(fault.window_end_ns);
        if to - from > fault.rto_ns.unwrap_or(0) {
            fault.rto_ns = Some(to - from);
            fault.rto_open = !outage.ended || to < outage.to;
        }
    }
    faults.iter().any(measured).then_some(longest)
}

/// The times between successes, without those that had no quorum.
fn outages(
    successes: &[u64],
    without_quorum: &[(u64, u64)],
    (start, end): (u64, u64),
) -> Vec<Outage> {
    let mut outages = Vec::with_capacity(successes.len() + 1);
    let mut without = without_quorum.iter().copied().peekable();
    let mut from = start;
    let ends = successes.iter().map(|&at| (at, true));
    for (to, ended) in ends.chain([(end, false)]) {
        while let Some((lost, regained)) = without.next_if(|(lost, _)| *lost < to) {
            if from < lost {
                outages.push(Outage {
                    from,
                    to: lost,
                    ended: false,
                    owner: None,
                });
            }
            from = from.max(regained);
        }
        if from < to {
            outages.push(Outage {
                from,
                to,
                ended,
                owner: None,
            });
        }
        from = from.max(to);
    }
    outages
}
