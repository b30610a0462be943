//! A file of rules with shorter times, so that what takes minutes on a cluster takes seconds in a test.

use serde_json::Value;

/// The same rules over this window in place of those from 5 minutes to an hour, each alert after it has been so for `hold`. JSON,
/// which is YAML as well.
pub fn shortened(rules: &str, window_seconds: u32, hold: &str) -> String {
    let mut rules: Value = serde_saphyr::from_str(rules).expect("rules are YAML");
    for group in rules["groups"].as_array_mut().expect("rules have groups") {
        for rule in group["rules"].as_array_mut().expect("a group has rules") {
            let mut expression = rule["expr"].as_str().expect("a rule has an expression").to_owned();
            for window in ["5m", "10m", "15m", "1h"] {
                expression = expression.replace(&format!("[{window}"), &format!("[{window_seconds}s"));
                expression = expression.replace(&format!("offset {window}"), &format!("offset {window_seconds}s"));
            }
            rule["expr"] = expression.into();
            if rule.get("for").is_some() {
                rule["for"] = hold.into();
            }
        }
    }
    rules.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    #[test]
    fn windows_and_holds_are_shorter_and_a_day_stays_one() {
        let rules = "groups: [{ name: g, rules: [{ alert: A, expr: 'rate(a[5m] offset 5m) > max_over_time(b[1d])', for: 15m }, { record: r, expr: 'a[1h]' }] }]";
        let short: Value = super::shortened(rules, 12, "1s").parse().unwrap();
        let rules = &short["groups"][0]["rules"];
        assert_eq!(rules[0]["expr"], "rate(a[12s] offset 12s) > max_over_time(b[1d])");
        assert_eq!((&rules[0]["for"], rules[1].get("for"), &rules[1]["expr"]), (&"1s".into(), None, &"a[12s]".into()));
    }
}
