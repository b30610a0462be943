//! Tests of names from the bundles that a container runtime keeps on the node.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use serde_json::json;

use super::{BundleError, BundleSource, ContainerFacts, Unknown, decode, places};
use crate::{
    attribution::kubernetes::Names,
    signal::{Container, Entity, Naming as _},
};

const ID: &str = "3f1b0c5a9d7e2468ace013579bdf02468ace013579bdf02468ace013579bdf02";
const UID: &str = "0b1e7c52-6a3d-4c1f-9f7e-2d5a8b9c0d1e";

fn unknown() -> Unknown {
    Unknown { pod_uid: UID.into(), container_id: ID.into() }
}

fn containerd() -> serde_json::Value {
    json!({
        "ociVersion": "1.0.2",
        "process": { "args": ["/app"], "env": ["SECRET=s3cret"] },
        "annotations": {
            "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "app",
            "io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.sandbox-name": "web",
            "io.kubernetes.cri.sandbox-uid": UID, "io.kubernetes.cri.image-name": "registry/app:1",
        },
    })
}

fn crio() -> serde_json::Value {
    json!({
        "annotations": {
            "io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.container.name": "app",
            "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.name": "web",
            "io.kubernetes.pod.uid": UID, "io.kubernetes.cri-o.ImageName": "registry/app:1",
        },
    })
}

fn facts(container: Option<&str>) -> ContainerFacts {
    ContainerFacts {
        pod_uid: UID.into(),
        container_id: ID.into(),
        namespace: "shop".into(),
        pod: "web".into(),
        container: container.map(Into::into),
        image: if container.is_some() { "registry/app:1".into() } else { "".into() },
    }
}

fn read(bundle: &serde_json::Value) -> Result<ContainerFacts, BundleError> {
    decode(bundle.to_string().as_bytes(), &unknown())
}

#[test]
fn both_runtimes_annotations_name_a_container_and_a_sandbox() {
    for (bundle, kind) in
        [(containerd(), "io.kubernetes.cri.container-type"), (crio(), "io.kubernetes.cri-o.ContainerType")]
    {
        assert_eq!(read(&bundle).unwrap(), facts(Some("app")));
        let mut sandbox = bundle;
        sandbox["annotations"][kind] = json!("sandbox");
        assert_eq!(read(&sandbox).unwrap(), facts(None));
    }
    let mut old = containerd();
    old["annotations"].as_object_mut().unwrap().remove("io.kubernetes.cri.sandbox-uid");
    assert_eq!(read(&old).unwrap(), facts(Some("app")));
}

#[test]
fn annotations_of_another_pod_or_of_none_name_nothing() {
    let check = |key: &str, value: serde_json::Value, expected: fn(&BundleError) -> bool| {
        let mut bundle = containerd();
        bundle["annotations"][key] = value.clone();
        let error = read(&bundle).expect_err(key);
        assert!(expected(&error), "{key}={value}: {error}");
    };
    check("io.kubernetes.cri.sandbox-uid", json!("other"), |error| matches!(error, BundleError::OtherPod { .. }));
    for key in ["sandbox-namespace", "sandbox-name", "container-name", "container-type"] {
        check(&format!("io.kubernetes.cri.{key}"), json!(""), |error| matches!(error, BundleError::NoPod));
    }
    check("io.kubernetes.cri.sandbox-name", json!(7), |error| matches!(error, BundleError::Json(_)));
    for bundle in [json!({}), json!({ "annotations": null }), json!({ "annotations": {} })] {
        assert!(matches!(read(&bundle), Err(BundleError::NoPod)), "{bundle}");
    }
}

#[tokio::test]
async fn a_container_is_named_as_soon_as_it_is_born_and_a_late_file_is_found_too() {
    for place in ["containerd/io.containerd.runtime.v2.task/k8s.io", "io.containerd.runtime.v2.task/k8s.io"] {
        let root = tempfile::tempdir().unwrap();
        let bundle = root.path().join(place).join(ID);
        std::fs::create_dir_all(&bundle).unwrap();
        assert_eq!(places(root.path()), [root.path().join(place)]);
        let names = Arc::new(Names::new(Duration::from_mins(5)));
        let (_stop, shutdown) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(BundleSource::new(root.path(), Arc::clone(&names)).run(shutdown));
        while names.health().synced.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let entity = Entity::Container(Container {
            namespace: "".into(),
            pod: UID.into(),
            container: ID[..12].into(),
            pod_uid: UID.into(),
            container_id: ID.into(),
        });
        names.born(&entity, true);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(names.is_pending(&entity));
        std::fs::write(bundle.join("config.json"), containerd().to_string()).unwrap();
        for _ in 0..200 {
            if !names.is_pending(&entity) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let Entity::Container(told) = names.name(&entity) else { panic!("a unit") };
        assert_eq!((&*told.namespace, &*told.pod, &*told.container), ("shop", "web", "app"));
        let counts = [("absent", 1), ("garbage", 0), ("ok", 1), ("unreadable", 0)];
        assert_eq!(names.health().requests, counts.map(|(result, count)| ("bundle", "read", result, count)));
        task.abort();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes, &unknown());
    }

    #[test]
    fn damage_to_a_real_bundle_is_no_panic(at in 0_usize..2000, byte in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = containerd().to_string().into_bytes();
        let at = at % bytes.len();
        if cut {
            bytes.truncate(at);
            prop_assert!(decode(&bytes, &unknown()).is_err());
        } else {
            bytes[at] = byte;
            let _ = decode(&bytes, &unknown());
        }
    }
}
