//! What the running kernel calls the values of a label: the constants of an enumeration, from BTF.
//!
//! Pure. The start asks it for the layout of each collector's rows.

use super::btf::{Btf, BtfError};
use crate::signal::KernelEnum;

/// What counts from [`KernelEnum::most`] on, and what this kernel has no constant for.
const OTHER: &str = "other";

/// The names of a label's values, each at the position of its constant's value, and `other` behind them: see
/// [`crate::signal::Column::combination_of`].
///
/// # Errors
/// The kernel has no such enumeration.
pub fn names(btf: &Btf, of: &KernelEnum) -> Result<Vec<Box<str>>, BtfError> {
    btf.enumerators(of.name).map(|constants| named(&constants, of))
}

/// A constant without the prefix keeps its whole name, a value without a constant its number.
fn named(constants: &[(String, i64)], of: &KernelEnum) -> Vec<Box<str>> {
    let mut names: Vec<Option<Box<str>>> = Vec::new();
    for (constant, value) in constants {
        let Some(position) = usize::try_from(*value).ok().filter(|value| *value < of.most) else { continue };
        names.resize(names.len().max(position + 1), None);
        if let Some(name @ None) = names.get_mut(position) {
            *name = Some(constant.strip_prefix(of.prefix).unwrap_or(constant).to_lowercase().into());
        }
    }
    let named = names.into_iter().enumerate().map(|(value, name)| name.unwrap_or_else(|| value.to_string().into()));
    named.chain([OTHER.into()]).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::path::Path;

    use super::{Btf, KernelEnum, named, names};

    #[track_caller]
    fn check(constants: &[(&str, i64)], most: usize, expected: &[&str]) {
        let constants: Vec<(String, i64)> =
            constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let found = named(&constants, &KernelEnum { name: "any", prefix: "A_", most });
        assert_eq!(found.iter().map(|name| &**name).collect::<Vec<_>>(), expected, "{constants:?}");
    }

    #[test]
    fn each_name_stands_at_its_constants_value() {
        check(&[], 9, &["other"]);
        check(&[("A_NO_SOCKET", 1), ("A_NONE", 0)], 9, &["none", "no_socket", "other"]);
        check(&[("A_NONE", 0), ("CONSUMED", 1)], 9, &["none", "consumed", "other"]);
        check(&[("A_TWO", 2)], 9, &["0", "1", "two", "other"]);
        check(&[("A_ONE", 0), ("A_FIRST", 0)], 9, &["one", "other"]);
    }

    #[test]
    fn what_is_beyond_the_most_or_negative_is_other() {
        check(&[("A_X", 0), ("A_Y", 1), ("A_MASK", 0xffff_0000), ("A_ERROR", -1)], 1, &["x", "other"]);
        check(&[("A_X", 0)], 0, &["other"]);
    }

    #[test]
    fn the_running_kernel_is_asked() {
        let btf = Btf::read_file(Path::new("/sys/kernel/btf/vmlinux")).unwrap();
        // Their values are the kernel's interface: linux/bpf.h.
        let found = names(&btf, &KernelEnum { name: "xdp_action", prefix: "XDP_", most: 3 }).unwrap();
        assert_eq!(found.iter().map(|name| &**name).collect::<Vec<_>>(), ["aborted", "drop", "pass", "other"]);
        let error = names(&btf, &KernelEnum { name: "no_such", prefix: "", most: 9 }).unwrap_err();
        assert!(error.to_string().contains("no `enum no_such`"), "{error}");
    }
}
