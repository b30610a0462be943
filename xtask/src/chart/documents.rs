//! What is made from the chart's values.yaml, as functions from text to text: the table in the chart's README and the
//! defaults that the templates fill in. Called by [`super`].

use std::fmt::Write as _;

use anyhow::{Result, bail};

const TABLE_BEGIN: &str = "<!-- values: made from values.yaml by `cargo xtask chart` -->\n";
const TABLE_END: &str = "<!-- end of values -->\n";

/// Values that `null` takes away, as helm's documentation promises, rather than putting them back to their defaults:
/// whoever wants no memory limit writes `resources.limits.memory: null`.
const REMOVABLE: &[&str] = &["resources", "nodeSelector", "tolerations"];

/// Whether a null at this path of values.yaml means "without".
pub(super) fn is_removable(path: &[&str]) -> bool {
    path.first().is_some_and(|group| REMOVABLE.contains(group))
}

/// The paths of all values and of all groups of values.
pub(super) fn paths(values: &str) -> Vec<Vec<&str>> {
    let mut paths = Vec::new();
    let mut groups: Vec<(usize, &str)> = Vec::new();
    for line in values.lines() {
        let text = line.trim_start();
        let Some((key, _)) = text.split_once(':').filter(|_| !text.starts_with('#')) else { continue };
        let indentation = line.len() - text.len();
        groups.retain(|(outer, _)| *outer < indentation);
        groups.push((indentation, key));
        paths.push(groups.iter().map(|(_, group)| *group).collect());
    }
    paths
}

/// What stands where a value is null or lacking: the values without their comments and without what null takes away.
pub(super) fn defaults(values: &str) -> String {
    let mut defaults =
        "# Made from values.yaml by `cargo xtask chart`: what stands where a value is null or lacking.\n".to_owned();
    let mut removable = false;
    for line in values.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        if let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with(' ')) {
            removable = is_removable(&[key]);
        }
        if !removable {
            defaults.push_str(line);
            defaults.push('\n');
        }
    }
    defaults
}

/// The README with another table.
pub(super) fn spliced(readme: &str, table: &str) -> Result<String> {
    let parts = readme.split_once(TABLE_BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(TABLE_END)?.1)));
    let Some((before, after)) = parts else {
        bail!("cannot find the place of the table in the chart's README.md: its marks are gone")
    };
    Ok(format!("{before}{TABLE_BEGIN}\n{table}\n{TABLE_END}{after}"))
}

/// The table of all values: each `key: value` line with the comment above it. Values that are maps or lists
/// stand on one line, in braces or brackets, so that a line that ends in a colon is always a group.
pub(super) fn table(values: &str) -> Result<String> {
    let mut table = String::from("| value | default | |\n| --- | --- | --- |\n");
    let mut groups: Vec<(usize, &str)> = Vec::new();
    let mut comment = String::new();
    for line in values.lines() {
        let text = line.trim_start();
        if text.is_empty() {
            comment.clear();
        } else if let Some(words) = text.strip_prefix("# ") {
            if !comment.is_empty() {
                comment.push(' ');
            }
            comment.push_str(words);
        } else {
            let indentation = line.len() - text.len();
            let Some((key, value)) = text.split_once(':') else {
                bail!("cannot read values.yaml: `{line}` is not `key: value`")
            };
            groups.retain(|(outer, _)| *outer < indentation);
            if value.trim().is_empty() {
                groups.push((indentation, key));
            } else {
                if comment.is_empty() {
                    bail!("cannot read values.yaml: `{key}` has no comment above it");
                }
                let path: String = groups.iter().map(|(_, group)| [group, "."].concat()).collect();
                let value = value.trim().replace('|', "\\|");
                writeln!(table, "| `{path}{key}` | `{value}` | {} |", comment.replace('|', "\\|"))?;
            }
            comment.clear();
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{TABLE_BEGIN, TABLE_END, defaults, paths, spliced, table};

    #[test]
    fn a_values_path_goes_through_its_groups() {
        let values = "# Head.\n\n# First.\na: 1\nouter:\n  inner:\n    # Deep,\n    # on two lines.\n    b: [x]\n  # Beside.\n  c: \"\"\n";
        let wanted = "| value | default | |\n| --- | --- | --- |\n| `a` | `1` | First. |\n\
                      | `outer.inner.b` | `[x]` | Deep, on two lines. |\n| `outer.c` | `\"\"` | Beside. |\n";
        assert_eq!(table(values).unwrap(), wanted);
    }

    #[test]
    fn a_value_without_a_comment_is_refused() {
        assert!(table("# Only this one.\na: 1\nb: 2\n").unwrap_err().to_string().contains("`b`"));
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let readme = format!("before\n{TABLE_BEGIN}old\n{TABLE_END}after\n");
        let wanted = format!("before\n{TABLE_BEGIN}\nnew\n\n{TABLE_END}after\n");
        assert_eq!(spliced(&readme, "new\n").unwrap(), wanted);
        assert!(spliced("no marks", "new").is_err());
    }

    #[test]
    fn defaults_are_the_values_without_comments_and_without_what_null_takes_away() {
        let values =
            "# Head.\na: 1\n\nresources:\n  # Deep.\n  limits: { memory: 1Mi }\nouter:\n  # Deep.\n  b: \"\"\n";
        assert!(defaults(values).ends_with("lacking.\na: 1\nouter:\n  b: \"\"\n"), "{}", defaults(values));
    }

    #[test]
    fn groups_have_paths_as_values_do() {
        let values = "a: 1\nouter:\n  inner:\n    # c: no.\n    b: [x]\n  c: { d: 1 }\n";
        let wanted: [&[&str]; 5] = [&["a"], &["outer"], &["outer", "inner"], &["outer", "inner", "b"], &["outer", "c"]];
        assert_eq!(paths(values), wanted);
    }
}
