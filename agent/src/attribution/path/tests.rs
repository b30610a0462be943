//! Every form of cgroup path that a runtime, a kubelet or systemd makes, and those that nobody should.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_assume, prop_oneof, proptest};

use podlens_common::path::{IN_CONTAINER, IN_NO_CONTAINER, IN_POD, Lineage, NAME_BYTES, kind};

use super::{CgroupKind, Qos, Runtime, parse, read, segments};

const UID: &str = "0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e";
const UID_IN_SLICE: &str = "0b1e7c52_6a3d_4c1f_9f7e_2d5a8b9c0d1e";
const STATIC_UID: &str = "89f4f2cb511c3b0b7e5272cff5ec37bf";
const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";
const OTHER_ID: &str = "aa00bb11cc22dd33ee44ff5566778899aa00bb11cc22dd33ee44ff5566778899";

/// `{U}`, `{V}`, `{S}`, `{I}`, `{O}` stand for the uid with dashes, with underscores, the static uid and the two ids.
fn expand(template: &str) -> String {
    [("{U}", UID), ("{V}", UID_IN_SLICE), ("{S}", STATIC_UID), ("{I}", ID), ("{O}", OTHER_ID)]
        .iter()
        .fold(template.to_owned(), |text, (mark, value)| text.replace(mark, value))
}

#[track_caller]
fn check(template: &str, expected: &CgroupKind<'_>) {
    let path = expand(template);
    assert_eq!(&parse(&path), expected, "{path}");
}

fn container(pod_uid: &'static str, qos: Qos) -> CgroupKind<'static> {
    CgroupKind::Container { pod_uid: pod_uid.into(), container_id: ID, qos }
}

fn pod(pod_uid: &'static str, qos: Qos) -> CgroupKind<'static> {
    CgroupKind::Pod { pod_uid: pod_uid.into(), qos }
}

fn standalone(runtime: Runtime) -> CgroupKind<'static> {
    CgroupKind::StandaloneContainer { runtime, container_id: ID }
}

fn unit(name: &'static str) -> CgroupKind<'static> {
    CgroupKind::Unit { name, manager: None }
}

#[test]
fn each_driver_and_class_names_the_pod() {
    for (template, qos) in [
        ("/kubepods/pod{U}", Qos::Guaranteed),
        ("/kubepods/burstable/pod{U}", Qos::Burstable),
        ("/kubepods/besteffort/pod{U}", Qos::BestEffort),
        ("/kubepods.slice/kubepods-pod{V}.slice", Qos::Guaranteed),
        ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{V}.slice", Qos::Burstable),
        ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{V}.slice", Qos::BestEffort),
    ] {
        check(template, &pod(UID, qos));
        check(&format!("{template}/init"), &pod(UID, qos));
        check(&format!("{template}/kata_overhead/sub"), &pod(UID, qos));
        check(&format!("{template}/crio-conmon-{{I}}.scope"), &pod(UID, qos));
        check(&format!("{template}/crio-conmon-{{I}}"), &pod(UID, qos));
        for name in
            ["cri-containerd-{I}.scope", "crio-{I}.scope", "docker-{I}.scope", "libpod-{I}.scope", "crio-{I}", "{I}"]
        {
            check(&format!("{template}/{name}"), &container(UID, qos));
            check(&format!("{template}/{name}/container"), &container(UID, qos));
            check(&format!("{template}/{name}/system.slice/nginx.service"), &container(UID, qos));
        }
    }
}

#[test]
fn a_prefix_before_the_kubelets_tree_changes_nothing() {
    for template in [
        "/kubelet/kubepods/burstable/pod{U}/{I}",
        "/podruntime/kubelet/kubepods/burstable/pod{U}/{I}",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{V}.slice/cri-containerd-{I}.scope",
        "/system.slice/docker-{O}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{V}.slice/cri-containerd-{I}.scope",
        "/docker/{O}/kubelet/kubepods/burstable/pod{U}/{I}",
        "/../../kubepods/burstable/pod{U}/{I}",
        "kubepods/burstable/pod{U}/{I}/",
        "//kubepods//burstable//pod{U}//{I}//",
    ] {
        check(template, &container(UID, Qos::Burstable));
    }
}

#[test]
fn mixed_drivers_name_pod_and_container_in_one_segment() {
    for template in [
        "/system.slice/containerd.service/kubepods-burstable-pod{V}.slice:cri-containerd:{I}",
        "/kubepods-burstable-pod{V}.slice:cri-containerd:{I}",
        "/system.slice/containerd.service/kubepods-burstable-pod{V}.slice:cri-containerd:{I}/sub/nginx.service",
        "/system.slice/docker.service/kubelet-kubepods-burstable-pod{V}.slice:docker:{I}",
    ] {
        check(template, &container(UID, Qos::Burstable));
    }
    check("/system.slice/containerd.service/system.slice:docker:{I}", &standalone(Runtime::Docker));
    check("/system.slice/containerd.service/kubepods-pod{V}.slice:cri-containerd:short", &unit("containerd.service"));
}

#[test]
fn a_static_pod_keeps_its_uid_without_dashes() {
    check("/kubepods/burstable/pod{S}/{I}", &container(STATIC_UID, Qos::Burstable));
    check(
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{S}.slice/crio-{I}.scope",
        &container(STATIC_UID, Qos::BestEffort),
    );
    check("/kubepods.slice/kubepods-pod{S}.slice", &pod(STATIC_UID, Qos::Guaranteed));
}

#[test]
fn the_deepest_pod_wins() {
    check(
        "/kubepods/pod11111111-2222-3333-4444-555555555555/{O}/docker/{O}/kubepods/burstable/pod{U}/{I}",
        &container(UID, Qos::Burstable),
    );
    check(
        "/kubepods/pod11111111-2222-3333-4444-555555555555/{O}/kubepods/besteffort/pod{U}",
        &pod(UID, Qos::BestEffort),
    );
}

#[test]
fn an_engine_inside_a_pods_container_works_for_that_container() {
    check("/kubepods/burstable/pod{U}/{I}/docker/{O}", &container(UID, Qos::Burstable));
    check("/kubepods/burstable/pod{U}/{I}/libpod_parent/libpod-{O}", &container(UID, Qos::Burstable));
}

#[test]
fn containers_outside_pods_tell_their_runtime() {
    for (template, runtime) in [
        ("/system.slice/docker-{I}.scope", Runtime::Docker),
        ("/docker/{I}", Runtime::Docker),
        ("/docker/{I}/system.slice/containerd.service", Runtime::Docker),
        ("/system.slice/docker-{I}.scope/kubelet.slice/kubelet-kubepods.slice", Runtime::Docker),
        ("/docker/{O}/docker/{I}", Runtime::Docker),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{I}.scope", Runtime::Docker),
        ("/machine.slice/libpod-{I}.scope", Runtime::Podman),
        ("/machine.slice/libpod-{I}.scope/container", Runtime::Podman),
        ("/machine.slice/machine-libpod_pod_{O}.slice/libpod-{I}.scope/container", Runtime::Podman),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{I}.scope/container", Runtime::Podman),
        ("/libpod_parent/libpod-{I}", Runtime::Podman),
        ("/libpod_parent/{O}/libpod-{I}", Runtime::Podman),
        ("/system.slice/cri-containerd-{I}.scope", Runtime::Containerd),
        ("/system.slice/nerdctl-{I}.scope", Runtime::Containerd),
        ("/default/{I}", Runtime::Containerd),
        ("/k8s.io/{I}", Runtime::Containerd),
        ("/system.slice/crio-{I}.scope", Runtime::Crio),
        ("/actions_job/{I}", Runtime::Unknown),
    ] {
        check(template, &standalone(runtime));
    }
}

#[test]
fn a_monitor_or_a_podman_pod_is_no_container() {
    for template in ["/system.slice/crio-conmon-{I}.scope", "/machine.slice/libpod-conmon-{I}.scope"] {
        let path = expand(template);
        let name = path.rsplit('/').next().unwrap();
        assert_eq!(parse(&path), CgroupKind::Unit { name, manager: None });
    }
    let path = expand("/libpod_parent/{I}");
    assert_eq!(parse(&path), CgroupKind::Plain(&path));
}

#[test]
fn a_unit_is_the_deepest_one_and_owns_plain_cgroups_below_it() {
    for (path, name) in [
        ("/init.scope", "init.scope"),
        ("/system.slice", "system.slice"),
        ("/system.slice/kubelet.service", "kubelet.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/system.slice/docker.socket", "docker.socket"),
        ("/system.slice/var-lib-data.mount", "var-lib-data.mount"),
        (r"/system.slice/dev-disk-by\x2duuid-1.swap", r"dev-disk-by\x2duuid-1.swap"),
        ("/system.slice/systemd-udevd.service/udev", "systemd-udevd.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/user.slice/user-1000.slice/user@1000.service", "user@1000.service"),
        (r"/machine.slice/machine-qemu\x2d1\x2dweb.scope/libvirt/emulator", r"machine-qemu\x2d1\x2dweb.scope"),
        ("/kubepods.slice/kubepods-burstable.slice", "kubepods-burstable.slice"),
        ("/kubelet.slice/kubelet-kubepods.slice", "kubelet-kubepods.slice"),
    ] {
        check(path, &unit(name));
    }
}

#[test]
fn a_unit_of_a_users_manager_tells_the_manager() {
    for (path, name) in [
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service", "foo.service"),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", "init.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service/child/grandchild", "foo.service"),
    ] {
        check(path, &CgroupKind::Unit { name, manager: Some("user@1000.service") });
    }
}

#[test]
fn units_of_a_second_systemd_are_not_the_nodes() {
    check("/machine.slice/machine-web.scope/payload/system.slice/cron.service", &unit("machine-web.scope"));
    check(
        "/machine.slice/systemd-nspawn@web.service/payload/system.slice/cron.service",
        &unit("systemd-nspawn@web.service"),
    );
    check("/lxc/101/ns/system.slice/cron.service", &CgroupKind::Plain("/lxc/101/ns/system.slice/cron.service"));
    check("/lxc.payload.web/init.scope", &CgroupKind::Plain("/lxc.payload.web/init.scope"));
}

#[test]
fn a_plain_cgroup_is_its_whole_path() {
    for path in [
        "/kubepods",
        "/kubepods/burstable",
        "/podruntime/runtime",
        "/a/b/c",
        "/..",
        "/../..",
        "/.service",
        "/.slice",
        "/\u{1}\n\t/\u{7f}",
        "/Grüße/世界",
        "/\u{fffd}\u{fffd}",
        "/kubepods/burstable/pod",
        "/burstable/pod0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e",
        "/other/burstable/pod0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e",
        "/kubepods/burstable/pod../x",
        "/kubepods/burstable/pod\u{1}",
        "/docker/3F1B0C5A9D7E2468ACE013579BDF02468ACE013579BDF02468ACE013579BDF02",
        "/docker/3f1b0c5a9d7e",
    ] {
        check(path, &CgroupKind::Plain(path));
    }
}

#[test]
fn what_only_resembles_a_pods_slice_is_a_unit() {
    for name in [
        "kubepods-pod.slice",
        "kubepods-burstable-pod.slice",
        "mykubepods-pod1.slice",
        "kubepods-pod1-2.slice",
        "kubepods-podé.slice",
    ] {
        check(&format!("/{name}"), &CgroupKind::Unit { name, manager: None });
    }
}

#[test]
fn no_segment_is_the_root() {
    for path in ["", "/", "///"] {
        check(path, &CgroupKind::Root);
    }
}

#[test]
fn a_very_long_path_is_read_to_its_end() {
    let deep = "/x".repeat(500_000);
    assert_eq!(parse(&deep), CgroupKind::Plain(&deep));
    let path = expand(&format!("{deep}/kubepods/pod{{U}}/{{I}}{deep}"));
    assert_eq!(parse(&path), container(UID, Qos::Guaranteed));
}

#[test]
fn a_unit_below_a_plain_cgroup_of_a_slice_is_a_second_systemds() {
    check("/machine.slice/lxc-101/init.scope", &unit("machine.slice"));
    check("/system.slice/plain/cron.service", &unit("system.slice"));
    check("/plain/cron.service", &CgroupKind::Plain("/plain/cron.service"));
}

#[test]
fn a_container_of_ecs_is_told_by_its_task_and_number() {
    let task = "3f1b0c5a9d7e2468ace013579bdf0246";
    for number in ["26592782", "265927825", "2659278251"] {
        let id = format!("{task}-{number}");
        let container = CgroupKind::StandaloneContainer { runtime: Runtime::Ecs, container_id: &id };
        assert_eq!(parse(&format!("/ecs/{task}/{id}")), container);
        assert_eq!(parse(&format!("/ecs/{task}/{id}/inner")), container);
    }
    for odd in ["2659278", "26592782510", "26592782x", ""] {
        let path = format!("/ecs/{task}/{task}-{odd}");
        assert_eq!(parse(&path), CgroupKind::Plain(&path));
    }
}

#[test]
fn all_containers_in_one_directory_of_a_virtual_machine_are_its_pods() {
    // Kata's machine holds all containers of its pod; gVisor's is the directory of the pod's sandbox.
    check("/kubepods/burstable/pod{U}/kata_{I}", &pod(UID, Qos::Burstable));
    check("/kubepods/burstable/pod{U}/kata_overhead", &pod(UID, Qos::Burstable));
    check("/kubepods/burstable/pod{U}/{I}", &container(UID, Qos::Burstable));
    // What Kata keeps for itself outside of the pod tells the sandbox only.
    check("/kata_overhead/{I}", &standalone(Runtime::Unknown));
}

#[test]
fn a_kubelet_systemd_and_docker_inside_a_container() {
    let kind = "/system.slice/docker-{O}.scope";
    check(&format!("{kind}/kubelet.slice/kubelet.service"), &{
        CgroupKind::StandaloneContainer { runtime: Runtime::Docker, container_id: OTHER_ID }
    });
    check(&format!("{kind}/kubelet/kubepods/burstable/pod{{U}}/{{I}}/init.scope"), &container(UID, Qos::Burstable));
    check("/kubepods/pod{U}/{I}/system.slice/docker-{O}.scope", &container(UID, Qos::Guaranteed));
    check("/kubepods/pod{U}/{I}/user.slice/user@0.service/app.slice", &container(UID, Qos::Guaranteed));
}

#[test]
fn the_kernels_way_up_finds_what_the_daemons_way_down_finds() {
    for template in [
        "/",
        "/kubepods/burstable/pod{U}/{I}",
        "/kubepods/pod{U}/init",
        "/system.slice/containerd.service/kubepods-burstable-pod{V}.slice:cri-containerd:{I}",
        "/kubepods-burstable-pod{V}.slice:cri-containerd:{I}/inner",
        "/kubepods-pod{V}.slice:crio:{I}",
        "/system.slice/containerd.service/system.slice:docker:{I}",
        "/kubepods/pod{U}/{I}/docker/{O}",
        "/kubepods/pod{U}/{I}/system.slice/docker-{O}.scope",
        "/docker/{O}/kubelet/kubepods/burstable/pod{U}/{I}",
        "/docker/{O}/docker/{I}",
        "/libpod_parent/{I}/libpod-{O}",
        "/kubepods/pod{U}/libpod_parent/{I}",
        "/system.slice/kubelet.service/inner",
        "/system.slice/plain/cron.service",
        "/machine.slice/machine-web.scope/payload/system.slice/cron.service",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service/child",
        "/kubepods/burstable/podé/{I}",
        "/burstable/pod{U}",
        "/a/kubepods/pod{U}/kubepods/burstable/pod{S}",
        "/ecs/{S}/{S}-265927825",
        "/kubepods/pod{U}/{S}-265927825",
    ] {
        compare(&expand(template));
    }
}

/// The kernel programs' way up a path.
fn up(path: &str) -> Lineage {
    let names: Vec<&str> = segments(path).collect();
    let mut lineage = Lineage::START;
    for (index, name) in names.iter().enumerate().rev() {
        if lineage.meet(kind(name), index as u64 + 1) {
            break;
        }
    }
    lineage
}

#[track_caller]
fn compare(path: &str) {
    let down = read(path);
    assert_eq!(up(path).end(), (down.group_at as u64, down.container_at as u64), "{path} is {down:?}");
    let says = match down.kind {
        CgroupKind::Container { .. } | CgroupKind::Pod { .. } => IN_POD,
        CgroupKind::StandaloneContainer { .. } => IN_CONTAINER,
        CgroupKind::Unit { .. } | CgroupKind::Plain(_) | CgroupKind::Root => IN_NO_CONTAINER,
    };
    assert_eq!(up(path).says(), says, "{path} is {down:?}");
}

/// Paths made of the pieces that the grammar knows, cut and joined in every order, and of arbitrary text.
fn any_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => proptest::sample::select(vec![
            "/", "/", "/", "kubepods", "kubepods.slice", "kubepods-burstable-pod{V}.slice", "kubepods-pod{S}.slice", "pod{U}", "pod",
            "burstable", "besteffort", "{I}", "{O}", "cri-containerd-", "crio-", "crio-conmon-", "docker", "docker-", "libpod-", ".scope",
            ".slice", ".slice:", ":", "system.slice", "user@1000.service", "foo.service", "..", "-pod", "_", "é",
            "libpod_parent", "-265927825", "kubepods-pod{V}.slice:crio:{I}", "kubepods/burstable/pod{U}", "/{I}/",
        ]).prop_map(expand),
        1 => any::<String>(),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// Paths of names that the grammar knows, in every order.
fn path_of_names() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(vec![
        "kubepods",
        "burstable",
        "besteffort",
        "pod{U}",
        "pod{S}",
        "kubepods.slice",
        "kubepods-pod{V}.slice",
        "kubelet-kubepods-besteffort-pod{V}.slice",
        "kubepods-pod{V}.slice:docker:{I}",
        "x.slice:docker:{O}",
        "{I}",
        "{O}",
        "cri-containerd-{I}.scope",
        "crio-{O}",
        "crio-conmon-{I}.scope",
        "libpod_parent",
        "docker",
        "x",
        "system.slice",
        "a.slice",
        "a.service",
        "b.scope",
        "user@7.service",
        "{S}-265927825",
        "init.scope",
    ]);
    proptest::collection::vec(name, 0..9).prop_map(|names| expand(&format!("/{}", names.join("/"))))
}

proptest! {
    #[test]
    fn any_text_has_a_place_made_of_its_own_parts(path in any_path()) {
        match parse(&path) {
            CgroupKind::Container { pod_uid, container_id, .. } => {
                prop_assert_eq!(container_id.len(), 64);
                prop_assert!(path.contains(container_id));
                prop_assert!(path.contains(&*pod_uid) || path.contains(&pod_uid.replace('-', "_")));
            }
            CgroupKind::Pod { pod_uid, .. } => {
                prop_assert!(!pod_uid.is_empty());
                prop_assert!(path.contains(&*pod_uid) || path.contains(&pod_uid.replace('-', "_")));
            }
            CgroupKind::StandaloneContainer { runtime, container_id } => {
                let is_ecs = runtime == Runtime::Ecs && (41..=43).contains(&container_id.len());
                prop_assert!(container_id.len() == 64 || is_ecs);
                prop_assert!(path.contains(container_id));
            }
            CgroupKind::Unit { name, manager } => {
                prop_assert!(path.split('/').any(|segment| segment == name));
                prop_assert!(manager.is_none_or(|manager| path.split('/').any(|segment| segment == manager)));
            }
            CgroupKind::Plain(whole) => prop_assert_eq!(whole, &path),
            CgroupKind::Root => prop_assert!(path.bytes().all(|byte| byte == b'/')),
        }
    }

    #[test]
    fn both_ways_through_any_path_meet(path in any_path()) {
        compare(&path);
    }

    #[test]
    fn both_ways_through_a_path_of_whole_names_meet(path in path_of_names()) {
        compare(&path);
    }

    #[test]
    fn a_name_that_is_too_long_for_a_directory_denotes_nothing(more in NAME_BYTES..600) {
        prop_assert_eq!(kind(&format!("{}.service", "x".repeat(more))), podlens_common::path::OTHER);
    }

    #[test]
    fn a_cgroup_below_a_pods_container_is_that_containers(below in "[a-z0-9./:@_-]{0,80}") {
        prop_assume!(!below.contains("pod"));
        let path = format!("/kubepods/burstable/pod{UID}/{ID}/{below}");
        prop_assert_eq!(parse(&path), container(UID, Qos::Burstable));
    }
}
