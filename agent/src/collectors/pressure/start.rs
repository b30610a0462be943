//! What the collector `pressure` is made of, and how it starts.

use std::{error::Error, fs, iter, path::Path, sync::Arc};

use podlens_common::pressure::LAST_WORDS;

use super::{Pressure, Reader, States, metrics};
use crate::{
    collectors::{
        lifecycle,
        losses::{late_file, walk_unfinished},
        spec::{Kind, Part, Program, Spec, Start, Started},
        tree::TreeReader,
    },
    kernel::{hooks::Hook, maps::Map},
    signal::Loss,
};

/// The kernel makes it where it counts pressure.
const OF_NODE: &str = "/proc/pressure";

/// The collector.
pub static SPEC: Spec = Spec {
    name: "pressure",
    about: "time in which tasks stalled for want of CPU, memory or a disk (PSI)",
    kind: Kind::Files,
    is_optional: true,
    switch: None,
    parts: &[
        Part {
            without: Some("pressure is read from files, every 5 s"),
            programs: &[Program::on("pressure_walk", Hook::TaskIterator)],
            maps: &[Map::fixed("PRESSURE_WALK"), Map::fixed("PRESSURE_RECORDS")],
            ..Part::BASE
        },
        Part {
            without: Some(NO_LAST_WORDS),
            programs: &[Program::on_tracepoint("pressure_last_words", lifecycle::REMOVAL, &["cgroup", "char"])],
            maps: &[Map::fixed("PRESSURE_PARTS")],
            ..Part::BASE
        },
    ],
    wishes: &[],
    without: None,
    metrics: &[&metrics::PRESSURE],
    records: &[LAST_WORDS],
    events: &[],
    losses: &[&WALK_UNFINISHED, &LATE_FILE],
    start,
};

/// The values are not those of now.
pub(super) static WALK_UNFINISHED: Loss = walk_unfinished!("the version 2 tree");

/// A value is older than it should be.
pub(super) static LATE_FILE: Loss = late_file!(
    "where there is no walk: the pressure of a cgroup was older than 20 s when a sweep asked for it, because",
    "podlens serves the value read last"
);

const NO_LAST_WORDS: &str = "stalls between the last reading and the cgroup's end are missing";

fn start(start: &mut Start<'_>) -> Result<Started, Box<dyn Error>> {
    let btf = start.answers.btf();
    let states = States::new(|name| btf.enum_value("psi_states", name).ok());
    let lacks: Vec<String> = nobody_counts(start).map(str::to_owned).into_iter().collect();
    let reader = if !lacks.is_empty() {
        Reader::Nobody
    } else if start.runs("pressure_walk") {
        let iterator = start.object.iterator("pressure_walk")?;
        let (walk, records) = (start.object.array("PRESSURE_WALK")?, start.object.array("PRESSURE_RECORDS")?);
        Reader::Walk(TreeReader::new(iterator, walk, records))
    } else {
        Reader::Files(start.files()?)
    };
    let pressure = Pressure::new(Arc::clone(&start.layout), start.hierarchies.clone(), reader, states);
    Ok(Started { lacks, ..Started::whole(pressure) })
}

/// Why there is no pressure by cgroup on this node, in words.
fn nobody_counts(start: &Start<'_>) -> Option<&'static str> {
    let Some(tree) = start.hierarchies.v2() else {
        return Some(
            "the node has no version 2 cgroup tree, the only one with pressure by cgroup: there are no values",
        );
    };
    if !Path::new(OF_NODE).exists() {
        return Some(
            "this kernel counts no pressure (psi=0, or no psi=1 where that is not the default): there are no values",
        );
    }
    (!has_files(&tree.directory("/"))).then_some(
        "this kernel counts no pressure by cgroup (cgroup_disable=pressure, or switched off by cgroup.pressure): there are no values",
    )
}

/// The root of a tree or some directory in it tells of pressure. One of them may have it switched off.
fn has_files(root: &Path) -> bool {
    let directories = fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    iter::once(root.to_owned())
        .chain(directories.map(|entry| entry.path()))
        .any(|directory| directory.join("cpu.pressure").exists())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_tree_tells_of_pressure_where_any_of_its_directories_does() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("system.slice");
        fs::create_dir(&below).unwrap();
        assert!(!has_files(root.path()));
        fs::write(below.join("cpu.pressure"), "").unwrap();
        assert!(has_files(root.path()));
        assert!(!has_files(&root.path().join("nowhere")));
    }
}
