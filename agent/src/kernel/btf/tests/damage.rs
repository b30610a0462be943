//! Damaged and hostile files.

use super::super::{Btf, BtfError};
use super::blob::{ARRAY, Blob, STRUCT, TYPEDEF, rich};

#[test]
fn every_truncation_is_refused_or_answers_without_panic() {
    let whole = rich().bytes();
    for length in 0..whole.len() {
        let error = Btf::parse(whole[..length].to_vec()).expect_err("a cut file must be refused");
        assert!(matches!(error, BtfError::Malformed { .. }), "{length}: {error}");
    }
}

#[test]
fn every_flipped_byte_leaves_an_answer_or_an_error() {
    let whole = rich().bytes();
    for position in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[position] = value;
            if let Ok(btf) = Btf::parse(bytes) {
                for path in ["task.se.queue", "task.right", "task.matrix", "bits.three", "old_bits.five"] {
                    let _ = btf.member(path);
                }
                let _ =
                    (btf.enum_value("task", "x"), btf.tracepoint("x"), btf.function("x"), btf.function_exists("task"));
            }
        }
    }
}

#[test]
fn a_bad_header_is_named() {
    let whole = rich().bytes();
    let patched = |position: usize, new: &[u8]| {
        let mut bytes = whole.clone();
        bytes[position..position + new.len()].copy_from_slice(new);
        Btf::parse(bytes).unwrap_err().to_string()
    };
    for (position, new, part) in [
        (0, &b"\x7fE"[..], "no BTF magic number"),
        (0, &[0xeb, 0x9f], "the other byte order"),
        (2, &[2], "a version other than 1"),
        (4, &[8, 0, 0, 0], "a header that is too short"),
        (12, &[0xff, 0xff, 0xff, 0xff], "a type section beyond the end"),
        (20, &[0xff, 0xff, 0xff, 0xff], "a string section beyond the end"),
    ] {
        let text = patched(position, new);
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_name_outside_the_strings_is_refused() {
    let mut blob = Blob::new();
    blob.aggregate("task", STRUCT, 4, &[("flags", 1, 0)]);
    let member_name = blob.types.len() - 12;
    let structure_name = member_name - 12;
    for (position, at_parse) in [(structure_name, true), (member_name, false)] {
        let mut damaged = Blob { types: blob.types.clone(), strings: blob.strings.clone(), count: blob.count };
        damaged.types[position..position + 4].copy_from_slice(&0x00ff_fff0_u32.to_le_bytes());
        let answer = Btf::parse(damaged.bytes());
        assert_eq!(answer.is_err(), at_parse);
        let error = answer.and_then(|btf| btf.member("task.flags")).unwrap_err();
        assert!(error.to_string().contains("a string that is outside its section"), "{error}");
    }
}

#[test]
fn circles_and_fans_of_types_end_in_an_error() {
    let mut blob = Blob::new();
    let next = blob.count + 1;
    blob.add("a_t", TYPEDEF, 0, next + 1, &[]);
    blob.add("b_t", TYPEDEF, 0, next, &[]);
    blob.aggregate("loops", STRUCT, 4, &[("inside", next, 0)]);
    let own = blob.count + 1;
    blob.aggregate("self", STRUCT, 4, &[("", own, 0)]);
    let fan = blob.count + 1;
    let members: Vec<(&str, u32, u32)> = (0..30).map(|_| ("", fan + 1, 0)).collect();
    blob.aggregate("fan", STRUCT, 4, &members);
    let back: Vec<(&str, u32, u32)> = (0..30).map(|_| ("", fan, 0)).collect();
    blob.aggregate("fan_back", STRUCT, 4, &back);
    let array = blob.count + 1;
    blob.add("", ARRAY, 0, 0, &[array, 1, 1]);
    blob.aggregate("endless_array", STRUCT, 4, &[("rows", array, 0)]);
    let pointers = blob.count + 1;
    blob.add("btf_trace_round", TYPEDEF, 0, pointers, &[]);
    let btf = blob.parse();
    for path in ["loops.inside", "self.lost", "fan.lost", "endless_array.rows"] {
        let error = btf.member(path).unwrap_err();
        assert!(matches!(error, BtfError::Endless { .. }), "{path}: {error}");
    }
    assert!(matches!(btf.tracepoint("round"), Err(BtfError::Endless { .. })));
}

#[test]
fn a_reference_to_a_type_that_is_not_there_is_refused() {
    let mut blob = Blob::new();
    blob.aggregate("task", STRUCT, 4, &[("flags", 999, 0), ("huge", 5, 0)]);
    let row = blob.add("", ARRAY, 0, 0, &[1, 1, u32::MAX]);
    assert_eq!(row, 4);
    blob.aggregate("unsized", STRUCT, 4, &[("rows", row, 0), ("nothing", 0, 0)]);
    let btf = blob.parse();
    for (path, part) in [
        ("task.flags", "a reference to a type that is not there"),
        ("unsized.rows", "an array beyond 4 GiB"),
        ("unsized.nothing", "a type without size"),
    ] {
        let error = btf.member(path).unwrap_err();
        assert!(error.to_string().contains(part), "{path}: {error}");
    }
}

#[test]
fn an_unknown_kind_is_skipped_by_the_sizes_in_the_file_or_refused() {
    let mut blob = Blob::new();
    blob.add("novel", 21, 2, 0, &[1, 2, 3, 4, 5]);
    blob.aggregate("task", STRUCT, 4, &[("flags", 1, 0)]);
    let error = Btf::parse(blob.bytes()).unwrap_err();
    assert!(matches!(error, BtfError::UnknownKind { kind: 21, type_id: 3 }), "{error}");
    let mut layout = vec![0; 22 * 4];
    layout[21 * 4] = 4;
    layout[21 * 4 + 1] = 8;
    let btf = Btf::parse(blob.bytes_with_layout(&layout)).unwrap();
    assert_eq!(btf.member("task.flags").unwrap().size_bytes, 4);
}
