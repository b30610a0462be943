//! What the collector `drops` is made of, and how it starts.

use std::{error::Error, sync::Arc};

use super::{Drops, metrics};
use crate::{
    collectors::spec::{Kind, Part, Program, Spec, Start, Started, Wish},
    kernel::maps::Map,
    signal::Loss,
};

/// The collector.
pub static SPEC: Spec = Spec {
    name: "drops",
    about: "packets that the kernel dropped, by its own reasons",
    kind: Kind::Programs,
    is_optional: true,
    switch: None,
    parts: &[Part {
        // The second one, where it was, has no type. Without a reason it tells of packets that are used up as well.
        programs: &[Program::on_tracepoint("packet_dropped", "kfree_skb", &["sk_buff", "", "skb_drop_reason"])],
        maps: &[Map::per_slot("DROPS", 1), Map::fixed("DROPS_LOST")],
        ..Part::BASE
    }],
    wishes: &[&[Wish {
        of: "kfree_skb(4)",
        without: "packets that are dropped on their way to a socket are unattributed",
    }]],
    without: None,
    metrics: &[&metrics::DROPS],
    records: &[],
    events: &[],
    losses: &[&MISSED_DROP, &NO_ROOM],
    start,
};

/// The program did not run.
pub(super) static MISSED_DROP: Loss = Loss {
    reason: "missed_drop",
    means: "a packet was dropped in an interrupt while another one was being counted on the same CPU: it is in no metric",
};

/// A drop is missing.
pub(super) static NO_ROOM: Loss = Loss {
    reason: "no_room",
    means: "a packet was dropped for a reason that was new for its container, while podlens was already counting as many pairs of container and reason as there are slots: the packet is in no metric",
};

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let (counts, lost) = (start.object.table("DROPS")?, start.object.array("DROPS_LOST")?);
    let missed = start.missed_runs()?;
    Ok(Started::whole(Drops::new(Arc::clone(&start.layout), counts, lost, missed)))
}
