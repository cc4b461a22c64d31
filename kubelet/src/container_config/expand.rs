//! `$(NAME)` -> its value: upstream's expansion of commands, arguments, variables and subPathExpr.
//!
//! Source: `third_party/forked/golang/expansion/expand.go`.

/// Replaces each `$(NAME)` that `lookup` knows; what it does not know stays as written, and `$$` reads as `$`.
pub fn expand(input: &str, lookup: &mut dyn FnMut(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        rest = one(rest, &mut out, lookup);
    }
    out.push_str(rest);
    out
}

/// What follows a `$`: writes its reading and gives what is left.
fn one<'a>(rest: &'a str, out: &mut String, lookup: &mut dyn FnMut(&str) -> Option<String>) -> &'a str {
    if let Some(after) = rest.strip_prefix('$') {
        out.push('$');
        return after;
    }
    let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) else {
        out.push('$');
        return rest;
    };
    match lookup(name) {
        Some(value) => out.push_str(&value),
        None => out.push_str(&format!("$({name})")),
    }
    after
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn references_read_as_upstream_reads_them() {
        let mut lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            "B" => Some("$(A)".to_owned()),
            _ => None,
        };
        let cases = [
            ("plain", "plain"),
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$", "$$"),
            ("$", "$"),
            ("$(", "$("),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("a$(EMPTY)b", "ab"),
            ("$(B)", "$(A)"),
            ("ü$(A)ü", "ü1ü"),
            ("$()", "$()"),
        ];
        for (input, wanted) in cases {
            assert_eq!(expand(input, &mut lookup), wanted, "{input}");
        }
    }
}
