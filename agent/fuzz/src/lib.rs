//! What must hold for any input of what podlens reads from others: one function a target, which panics where it does
//! not hold.
//!
//! The fuzzer calls it (`fuzz_targets/`, `cargo xtask fuzz`), and agent/tests/corpora.rs with each kept input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]
#![allow(unreachable_pub, reason = "this file is also a module of a test")]

use std::{path::Path, time::Duration};

use podlens::{
    attribution::{
        entity::entity,
        kubernetes::{
            Names, bundle,
            event::{Event, Lines},
            pod::{Pod, PodList},
            table::Unknown,
        },
        path::{CgroupKind, parse, read, segments},
    },
    config::{Config, WebFile},
    kernel::{btf::Btf, events::Record},
    signal::{Container, Entity, Naming as _},
};
use podlens_common::{
    cpu::Bandwidth,
    event::{EventHeader, PATH_BYTES},
    path::{Lineage, kind},
};

/// A target's name and what must hold for an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("path", path),
    ("pods", pods),
    ("bundle", bundle),
    ("watch", watch),
    ("config", config),
    ("btf", btf),
    ("event", event),
];

const UID: &str = "0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e";
const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";

/// A cgroup's path; what follows a NUL is also put below a pod, and what stands before it above one.
pub fn path(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (above, below) = text.split_once('\0').unwrap_or((text, text));
    for path in [text, above, below] {
        check_place(path);
    }
    // The deepest pod wins, whatever is above it.
    for pod in ["kubepods/burstable/pod", "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"] {
        let (uid, end) =
            if pod.ends_with("burstable-pod") { (UID.replace('-', "_"), ".slice") } else { (UID.into(), "") };
        let pod = format!("{above}/{pod}{uid}{end}");
        assert_eq!(uid_and_id(&pod), Some((UID.to_owned(), String::new())), "{pod:?}");
        let container = format!("{pod}/{ID}");
        assert_eq!(uid_and_id(&container), Some((UID.to_owned(), ID.to_owned())), "{container:?}");
        // Below its container everything is that container's, unless there is a deeper pod.
        let inner = format!("{container}/{below}");
        let (uid, id) = uid_and_id(&inner).expect("a place in a pod");
        let is_outer = (uid.as_str(), id.as_str()) == (UID, ID);
        assert!(is_outer || below.contains("pod") && is_in(&uid, below), "{inner:?} is {uid} {id}");
    }
}

/// The kernel programs' way up a path finds the names that the daemon's way down finds.
fn check_lineage(path: &str) {
    let names: Vec<&str> = segments(path).collect();
    let mut lineage = Lineage::START;
    for (index, name) in names.iter().enumerate().rev() {
        if lineage.meet(kind(name), index as u64 + 1) {
            break;
        }
    }
    let down = read(path);
    assert_eq!(lineage.end(), (down.group_at as u64, down.container_at as u64), "{path:?} is {down:?}");
}

/// A place is made of its own path's parts, and the entity says the same.
fn check_place(path: &str) {
    check_lineage(path);
    let (uid, id) = match parse(path) {
        CgroupKind::Container { pod_uid, container_id, .. } => (pod_uid.into_owned(), container_id.to_owned()),
        CgroupKind::Pod { pod_uid, .. } => (pod_uid.into_owned(), String::new()),
        CgroupKind::StandaloneContainer { container_id, .. } => {
            let is_ecs = (41..=43).contains(&container_id.len()) && container_id.contains('-');
            assert!((is_ecs || is_id(container_id)) && path.contains(container_id), "{path:?}");
            return check_unit(path);
        }
        CgroupKind::Unit { name, manager } => {
            let mut segments = path.split('/');
            assert!(segments.any(|segment| segment == name), "{path:?}");
            assert!(manager.is_none_or(|manager| path.split('/').any(|segment| segment == manager)), "{path:?}");
            return check_unit(path);
        }
        CgroupKind::Plain(whole) => {
            assert_eq!(whole, path);
            return check_unit(path);
        }
        CgroupKind::Root => {
            assert!(path.bytes().all(|byte| byte == b'/'), "{path:?}");
            return check_unit(path);
        }
    };
    assert!(!uid.is_empty() && is_in(&uid, path), "{path:?}");
    assert!(id.is_empty() || is_id(&id) && path.contains(&id), "{path:?}");
    let Entity::Container(found) = entity(path) else { panic!("{path:?} is no container") };
    assert_eq!((&*found.pod_uid, &*found.pod, &*found.container_id), (&*uid, &*uid, &*id), "{path:?}");
    assert_eq!((&*found.namespace, &*found.container), ("", &id[..id.len().min(12)]), "{path:?}");
    // A plain cgroup below, and slashes, change nothing.
    for other in [format!("{path}/x"), format!("/{path}//")] {
        assert_eq!(uid_and_id(&other), Some((uid.clone(), id.clone())), "{other:?}");
    }
}

fn check_unit(path: &str) {
    assert!(matches!(entity(path), Entity::Unit(unit) if !unit.is_empty()), "{path:?}");
}

fn uid_and_id(path: &str) -> Option<(String, String)> {
    match entity(path) {
        Entity::Container(container) => Some((container.pod_uid.to_string(), container.container_id.to_string())),
        Entity::Unit(_) | Entity::Workload(_) => None,
    }
}

fn is_in(uid: &str, path: &str) -> bool {
    path.contains(uid) || path.contains(&uid.replace('-', "_"))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The kubelet's or the API server's list of pods.
pub fn pods(input: &[u8]) {
    let Ok(list) = PodList::decode(input) else { return };
    assert!(list.odd.iter().all(|what| !what.is_empty()));
    for pod in &list.pods {
        check_pod(pod, input);
    }
    let names = Names::new(Duration::from_mins(5));
    names.replace_all(list.pods.clone());
    for pod in &list.pods {
        check_names(&names, pod, &list.pods);
    }
}

/// Nothing that names a pod is made up. Where the input escapes characters it need not have it literally.
fn check_pod(pod: &Pod, input: &[u8]) {
    let input = std::str::from_utf8(input).unwrap_or_default();
    let is_told = |text: &str| input.is_empty() || input.contains('\\') || input.contains(text);
    for text in [&pod.uid, &pod.namespace, &pod.name] {
        assert!(!text.is_empty() && text.len() <= 253 && is_told(text), "{pod:?}");
    }
    assert!(pod.cgroup_uid.as_ref().is_none_or(|uid| !uid.is_empty() && *uid != pod.uid && is_told(uid)), "{pod:?}");
    for container in &pod.containers {
        for id in [&container.id, &container.previous_id].into_iter().flatten() {
            assert!(is_id(id) && is_told(id), "{container:?}");
        }
    }
    for resources in pod.containers.iter().map(|container| &container.resources).chain([&pod.resources]) {
        for amount in [
            resources.cpu_request_cores,
            resources.cpu_limit_cores,
            resources.memory_request_bytes,
            resources.memory_limit_bytes,
        ] {
            assert!(amount.is_none_or(f64::is_finite), "{resources:?}");
        }
    }
}

/// Whatever is listed beside it, a pod's uid has that pod's names, and an id that of a container which has it.
fn check_names(names: &Names, pod: &Pod, all: &[Pod]) {
    for id in pod.containers.iter().filter_map(|container| container.id.as_ref()) {
        let entity = Entity::Container(Container {
            namespace: "".into(),
            pod: pod.uid.clone(),
            container: id[..12].into(),
            pod_uid: pod.uid.clone(),
            container_id: id.clone(),
        });
        let Entity::Container(found) = names.name(&entity) else { panic!("{entity:?} became a unit") };
        assert_eq!((&found.pod_uid, &found.container_id), (&pod.uid, id), "identities stay");
        let same_pods = || all.iter().filter(|other| other.uid == pod.uid);
        assert!(
            same_pods().any(|other| (&other.namespace, &other.name) == (&found.namespace, &found.pod)),
            "{found:?}"
        );
        let with_id = same_pods().flat_map(|other| &other.containers).filter(|container| {
            [&container.id, &container.previous_id].into_iter().flatten().any(|listed| listed == id)
        });
        let is_short_id = *found.container == id[..12];
        assert!(
            is_short_id || with_id.map(|container| &container.name).any(|name| *name == found.container),
            "{found:?}"
        );
    }
}

/// The annotations that a container runtime writes beside a container.
pub fn bundle(input: &[u8]) {
    let unknown = Unknown { pod_uid: UID.into(), container_id: ID.into() };
    let Ok(facts) = bundle::decode(input, &unknown) else { return };
    assert_eq!((&facts.pod_uid, &facts.container_id), (&unknown.pod_uid, &unknown.container_id));
    let input = std::str::from_utf8(input).unwrap_or_default();
    let is_told = |text: &str| input.is_empty() || input.contains('\\') || input.contains(text);
    for text in [&facts.namespace, &facts.pod].into_iter().chain(&facts.container) {
        assert!(!text.is_empty() && text.len() <= 253 && is_told(text), "{facts:?}");
    }
    assert!(facts.container.is_some() || facts.image.is_empty(), "a sandbox has no image: {facts:?}");
    let names = Names::new(Duration::from_mins(5));
    names.learn(&facts);
    assert_eq!(names.health().conflicts, 0);
}

/// The answer to a watch: the first byte tells how it is cut into parts.
pub fn watch(input: &[u8]) {
    let Some((size, stream)) = input.split_first() else { return };
    let cut = |size: usize| {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for part in stream.chunks(size.max(1)) {
            lines.push(part);
            while let Some(line) = lines.take() {
                found.push(line);
            }
        }
        let whole: usize = found.iter().map(Vec::len).sum();
        assert_eq!(whole + lines.pending(), stream.len(), "no byte is lost");
        found
    };
    let found = cut(usize::from(*size));
    assert_eq!(found, cut(stream.len()), "where it is cut does not matter");
    assert!(found.iter().all(|line| line.iter().position(|byte| *byte == b'\n') == Some(line.len() - 1)));
    let names = Names::new(Duration::from_mins(5));
    let mut applied: Vec<Pod> = Vec::new();
    for line in &found {
        match Event::decode(line) {
            Ok(Event::Applied { pod, .. }) => {
                check_pod(&pod, line);
                names.apply(pod.clone());
                applied.push(pod);
            }
            Ok(Event::Deleted { pod, .. }) => {
                check_pod(&pod, line);
                names.delete(&pod.uid);
            }
            Ok(Event::Bookmark { version }) => assert!(version.is_none_or(|version| !version.is_empty())),
            Ok(Event::Odd { what, .. }) => assert!(!what.is_empty()),
            Ok(Event::Refused { .. }) | Err(_) => {}
        }
        assert!(names.health().pods.is_none_or(|pods| pods <= applied.len() as u64));
    }
    for pod in &applied {
        check_names(&names, pod, &applied);
    }
}

/// The configuration file, and the text as a web configuration file.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let place = Path::new("/etc/podlens.yaml");
    let defaults = Config::defaults(&["scheduler"]);
    let mut config = defaults.clone();
    match config.set_from_file(place, text) {
        Ok(()) => {
            let once = config.clone();
            config.set_from_file(place, text).expect("what was right stays right");
            assert!(config == once, "a second reading changes nothing");
            assert_eq!(config.collectors.len(), defaults.collectors.len(), "no collector is made up");
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("/etc/podlens.yaml"), "{message:?} names the file");
            assert!(!message.contains('\n') && message.len() < 2000, "{message:?} fits into a line");
        }
    }
    if let Err(error) = WebFile::parse(place, text) {
        let message = error.to_string();
        assert!(message.contains("/etc/podlens.yaml"), "{message:?} names the file");
        assert!(!message.contains('\n') && message.len() < 2000, "{message:?} fits into a line");
    }
}

/// The kernel's types.
pub fn btf(input: &[u8]) {
    let Ok(btf) = Btf::parse(input.to_vec()) else { return };
    for path in ["task_struct.pid", "task_struct.se.sum_exec_runtime", "a.b", "s.m", "rq.clock_task"] {
        let member = btf.member(path);
        assert_eq!(member.is_ok(), btf.first_member(&[path]).is_ok());
        if let Ok(member) = member {
            assert!(btf.struct_size(path.split('.').next().unwrap()).is_ok(), "{path} is {member:?}");
        }
    }
    for name in ["sched_switch", "t"] {
        if let Ok(arguments) = btf.tracepoint(name) {
            assert!(arguments.len() < 1 << 16);
        }
        let _ = btf.function_exists(name);
    }
    let _ = btf.enum_value("e", "A");
    let _ = btf.struct_size("s");
}

/// An event of the kernel programs.
pub fn event(input: &[u8]) {
    const HEADER_BYTES: usize = size_of::<EventHeader>();
    let Ok(record) = Record::decode(input) else { return };
    let body = &input[HEADER_BYTES..];
    assert_eq!(record.kind.to_ne_bytes(), input[..4], "the kind is the first word");
    assert_eq!(u32::from_ne_bytes(input[4..8].try_into().unwrap()) as usize, input.len(), "no byte is left over");
    assert_eq!(record.body::<Bandwidth>().is_ok(), body.len() == size_of::<Bandwidth>());
    match record.path() {
        Ok(path) => {
            assert!(!body.is_empty() && body.len() <= PATH_BYTES);
            assert_eq!(path, String::from_utf8_lossy(body));
        }
        Err(_) => assert!(body.is_empty() || body.len() > PATH_BYTES),
    }
}
