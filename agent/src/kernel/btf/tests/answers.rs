//! What each question answers.

use super::super::{BtfError, Member, Shape};
use super::blob::{ARRAY, Blob, ENUM, ENUM64, FLAG, FUNC, FUNC_PROTO, PTR, STRUCT, TYPEDEF, rich};

fn check(path: &str, expected: Result<(u32, u32, Shape), &str>) {
    let answer = rich().parse().member(path);
    match (answer, expected) {
        (Ok(member), Ok((offset_bytes, size_bytes, shape))) => {
            assert_eq!(member, Member { offset_bytes, size_bytes, shape }, "{path}");
        }
        (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{path}: {error}"),
        (answer, expected) => panic!("{path}: got {answer:?}, expected {expected:?}"),
    }
}

#[test]
fn a_path_walks_embedded_and_unnamed_structures_and_all_aliases() {
    let integer = Shape::Integer { signed: false };
    check("task.flags", Ok((0, 4, integer)));
    check("task.se", Ok((8, 16, Shape::Structure)));
    check("task.se.weight", Ok((8, 4, integer)));
    check("task.se.queue", Ok((16, 8, Shape::Pointer)));
    check("task.whole", Ok((24, 4, integer)));
    check("task.right", Ok((28, 4, integer)));
    check("task.alias", Ok((32, 8, Shape::Pointer)));
    check("task.array", Ok((40, 40, Shape::Array { element_bytes: 8, elements: 5 })));
    check("task.matrix", Ok((80, 120, Shape::Array { element_bytes: 8, elements: 15 })));
    check("task.ready", Ok((200, 1, Shape::Boolean)));
    check("bits.plain", Ok((0, 4, integer)));
    check("old_bits.plain", Ok((0, 4, integer)));
}

#[test]
fn an_array_of_arrays_is_the_same_however_the_kernel_writes_it() {
    let mut blob = Blob::new();
    let flat = blob.add("", ARRAY, 0, 0, &[1, 1, 25]);
    let row = blob.add("", ARRAY, 0, 0, &[1, 1, 5]);
    let nested = blob.add("", ARRAY, 0, 0, &[row, 1, 5]);
    blob.aggregate("group", STRUCT, 200, &[("flat", flat, 0), ("nested", nested, 800)]);
    let btf = blob.parse();
    for (path, offset_bytes) in [("group.flat", 0), ("group.nested", 100)] {
        let shape = Shape::Array { element_bytes: 4, elements: 25 };
        assert_eq!(btf.member(path).unwrap(), Member { offset_bytes, size_bytes: 100, shape }, "{path}");
    }
}

#[test]
fn a_modules_types_go_on_where_the_kernels_end() {
    let base = rich();
    let kernel = base.parse();
    // Ids and places of strings continue: what the module writes first has the id behind the kernel's last.
    let mut module = Blob { types: Vec::new(), strings: base.strings.clone(), count: base.count };
    let task = base.count - 2;
    let pointer = module.add("", PTR, 0, task, &[]);
    module.aggregate("veth", STRUCT, 16, &[("peer", pointer, 0), ("flags", 1, 64)]);
    module.strings.drain(..base.strings.len());
    let joined = kernel.with_module(&module.bytes()).unwrap();
    assert_eq!(joined.member("veth.peer").unwrap().shape, Shape::Pointer);
    assert_eq!(joined.member("veth.flags").unwrap().offset_bytes, 8);
    assert_eq!(joined.member("task.se.queue").unwrap(), kernel.member("task.se.queue").unwrap());
    assert!(kernel.member("veth.peer").is_err(), "the kernel's own types stay as they were");
    assert!(kernel.with_module(&module.bytes()[..20]).is_err());
    assert!(kernel.with_module(&[0; 64]).is_err());
}

#[test]
fn a_refusal_names_the_structure_and_the_member() {
    check("nothing.at", Err("no structure `nothing`"));
    check("task.lost", Err("no member `lost` in `task`"));
    check("task.se.lost", Err("no member `lost` in `task.se`"));
    check("task.se.queue.clock", Err("`clock` behind `task.se.queue`"));
    check("task.array.clock", Err("`clock` behind `task.array`"));
    check("bits.one", Err("`bits.one`: it is a bit field (1 bits from bit 32)"));
    check("bits.three", Err("`bits.three`: it is a bit field (3 bits from bit 33)"));
    check("old_bits.five", Err("`old_bits.five`: it is a bit field (5 bits from bit 35)"));
    check("task", Err("structure.member"));
    check("task.", Err("structure.member"));
    check(".flags", Err("structure.member"));
    check("task..flags", Err("structure.member"));
}

#[test]
fn a_renamed_member_is_found_by_the_name_that_exists() {
    let btf = rich().parse();
    assert_eq!(btf.first_member(&["task.__flags", "task.flags"]).unwrap().offset_bytes, 0);
    let error = btf.first_member(&["task.newest", "task.older"]).unwrap_err();
    assert!(error.to_string().contains("`newest`"), "{error}");
    assert!(matches!(btf.first_member(&[]), Err(BtfError::Path { .. })));
}

#[test]
fn of_two_structures_with_one_name_the_one_with_the_member_answers() {
    let mut blob = Blob::new();
    blob.aggregate("twin", STRUCT, 4, &[("first", 1, 0)]);
    blob.aggregate("twin", STRUCT, 8, &[("first", 1, 0), ("second", 1, 32)]);
    let btf = blob.parse();
    assert_eq!(btf.member("twin.second").unwrap().offset_bytes, 4);
    assert_eq!(btf.struct_size("twin").unwrap(), 4);
    assert!(matches!(btf.struct_size("int"), Err(BtfError::MissingStructure { .. })));
}

#[test]
fn enumerators_are_read_in_all_widths_and_signs() {
    let mut blob = Blob::new();
    let names = ["low", "high"].map(|name| blob.text(name));
    blob.add("plain", ENUM, 2, 4, &[names[0], 7, names[1], u32::MAX]);
    blob.add("signed", ENUM | FLAG, 2, 4, &[names[0], 7, names[1], u32::MAX]);
    blob.add("wide", ENUM64, 2, 8, &[names[0], 7, 0, names[1], 1, 2]);
    blob.add("wide_signed", ENUM64 | FLAG, 1, 8, &[names[1], u32::MAX, u32::MAX]);
    let btf = blob.parse();
    for (enumeration, enumerator, value) in [
        ("plain", "low", 7),
        ("plain", "high", 0xffff_ffff),
        ("signed", "high", -1),
        ("wide", "low", 7),
        ("wide", "high", 0x2_0000_0001),
        ("wide_signed", "high", -1),
    ] {
        assert_eq!(btf.enum_value(enumeration, enumerator).unwrap(), value, "{enumeration}.{enumerator}");
    }
    for (enumeration, enumerator) in [("plain", "middle"), ("absent", "low"), ("_Bool", "low")] {
        let error = btf.enum_value(enumeration, enumerator).unwrap_err();
        assert!(matches!(error, BtfError::MissingEnumerator { .. }), "{enumeration}.{enumerator}: {error}");
    }
}

#[test]
fn an_enumeration_lists_its_constants_with_their_values() {
    let mut blob = Blob::new();
    let names = ["A_LOW", "A_HIGH"].map(|name| blob.text(name));
    blob.aggregate("twin", STRUCT, 4, &[("first", 1, 0)]);
    blob.add("twin", ENUM, 2, 4, &[names[0], 7, names[1], 3]);
    let btf = blob.parse();
    assert_eq!(btf.enumerators("twin").unwrap(), [("A_LOW".to_owned(), 7), ("A_HIGH".to_owned(), 3)]);
    for absent in ["absent", "_Bool"] {
        let error = btf.enumerators(absent).unwrap_err();
        assert!(error.to_string().contains(&format!("no `enum {absent}`")), "{error}");
    }
}

#[test]
fn a_tracepoint_lists_its_arguments_without_the_private_pointer() {
    let mut blob = Blob::new();
    let task = blob.aggregate("task", STRUCT, 4, &[("flags", 1, 0)]);
    let pointer = blob.add("", PTR, 0, task, &[]);
    let private = blob.add("", PTR, 0, 0, &[]);
    let names = ["__data", "preempt", "next"].map(|name| blob.text(name));
    let parameters = [names[0], private, names[1], 2, names[2], pointer, 0, 1];
    let prototype = blob.add("", FUNC_PROTO, 4, 0, &parameters);
    let function = blob.add("", PTR, 0, prototype, &[]);
    blob.add("btf_trace_switch", TYPEDEF, 0, function, &[]);
    blob.add("btf_trace_number", TYPEDEF, 0, 1, &[]);
    blob.add("throttle", FUNC, 1, prototype, &[]);
    let btf = blob.parse();
    let arguments: Vec<(String, Shape, String)> = btf
        .tracepoint("switch")
        .unwrap()
        .into_iter()
        .map(|argument| (argument.name, argument.shape, argument.type_name))
        .collect();
    let expected = [
        ("preempt", Shape::Boolean, "_Bool"),
        ("next", Shape::Pointer, "task"),
        ("", Shape::Integer { signed: false }, "unsigned int"),
    ];
    assert_eq!(arguments, expected.map(|(name, shape, kind)| (name.to_owned(), shape, kind.to_owned())));
    for absent in ["absent", "number"] {
        assert!(matches!(btf.tracepoint(absent), Err(BtfError::MissingTracepoint { .. })), "{absent}");
    }
    assert!(btf.function_exists("throttle"));
    let names: Vec<String> = btf.function("throttle").unwrap().into_iter().map(|argument| argument.name).collect();
    assert_eq!(names, ["__data", "preempt", "next", ""], "a function has no private pointer");
    assert!(matches!(btf.function("task"), Err(BtfError::MissingFunction { .. })));
    assert!(!btf.function_exists("task"), "a structure is no function");
}
