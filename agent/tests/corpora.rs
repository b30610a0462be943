//! The inputs that fuzzing has kept (agent/fuzz/corpus) hold what must hold for any input.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../fuzz/src/lib.rs"]
mod properties;

use std::{collections::BTreeSet, fs, path::Path};

/// Names of what a folder of agent/fuzz holds, sorted.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_kept_input_of_every_target_holds_what_must_hold() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (target, check) in properties::TARGETS {
        let corpus = fuzz.join("corpus").join(target);
        let inputs = names(&corpus);
        assert!(!inputs.is_empty(), "target {target} has inputs");
        for input in &inputs {
            // Shown with a failure: the input that failed is the last one.
            println!("{target}/{input}");
            check(&fs::read(corpus.join(input)).unwrap());
        }
    }
}

#[test]
fn every_target_has_its_entry_for_the_fuzzer_its_dictionary_and_its_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let targets = |suffix: &str| -> BTreeSet<String> {
        properties::TARGETS.iter().map(|(target, _)| format!("{target}{suffix}")).collect()
    };
    assert_eq!(names(&fuzz.join("fuzz_targets")), targets(".rs"));
    assert_eq!(names(&fuzz.join("corpus")), targets(""));
    // Binary forms have no words.
    let dictionaries: BTreeSet<String> = targets(".txt").into_iter().filter(|name| name != "btf.txt").collect();
    assert_eq!(names(&fuzz.join("dictionaries")), dictionaries);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (target, _) in properties::TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target} is built");
    }
}
