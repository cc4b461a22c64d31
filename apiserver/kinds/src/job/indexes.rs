//! `1,3-5,7` -> how many indexes these are, or what is wrong with them. Source: `validateIndexesFormat` in `pkg/apis/batch/validation`.

/// How many there are.
///
/// # Errors
/// What is wrong, in upstream's words.
pub fn count(text: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut total) = (None, 0);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = parse(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        total += to - from + 1;
        last = Some(to);
    }
    Ok(total)
}

/// The first index that is in both, of those parts that can be read (`validateFailedIndexesNotOverlapCompleted`).
pub fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let read = |text: &str| -> Vec<(i64, i64)> { text.split(',').filter_map(|part| parse(part, completions).ok()).collect() };
    let (completed, failed) = (read(completed), read(failed));
    let (mut c, mut f) = (0, 0);
    while let (Some(&(from, to)), Some(&(other_from, other_to))) = (completed.get(c), failed.get(f)) {
        if from <= other_to && other_from <= to {
            return Some(from.max(other_from));
        }
        if from <= other_from {
            c += 1;
        } else {
            f += 1;
        }
    }
    None
}

fn parse(interval: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = interval.split('-').collect();
    let number = |text: &str| {
        let number: i64 = text.parse().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions { Err(format!("too large index: {text:?}")) } else { Ok(number) }
    };
    match parts.as_slice() {
        [one] => number(one).map(|n| (n, n)),
        [from, to] => match (number(from)?, number(to)?) {
            (from, to) if from >= to => Err(format!("non-increasing order, previous: {from}, current: {to}")),
            both => Ok(both),
        },
        _ => Err(format!(
            "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted_or_refused() {
        let cases = [
            ("", Ok(0)),
            ("1,3-5,7", Ok(5)),
            ("3,2", Err("non-increasing order, previous: 3, current: 2")),
            ("5-4", Err("non-increasing order, previous: 5, current: 4")),
            ("10", Err("too large index: \"10\"")),
            ("a", Err("cannot convert string to integer for index: \"a\"")),
            (
                "1-2-3",
                Err("the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'"),
            ),
        ];
        for (text, wanted) in cases {
            assert_eq!(count(text, 10), wanted.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn what_is_in_both_is_found() {
        let cases = [("1,3-5", "2,5", Some(5)), ("1-2", "3", None), ("", "1", None), ("x,1", "1", Some(1)), ("0-9", "4", Some(4))];
        for (completed, failed, wanted) in cases {
            assert_eq!(overlap(completed, failed, 10), wanted, "{completed} {failed}");
        }
    }
}
