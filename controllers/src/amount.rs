//! `3` or `"30%"` of a number -> a number. Source: apimachinery `pkg/util/intstr`.

use api::k8s::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Up,
    Down,
}

/// `GetScaledValueFromIntOrPercent`; 0 where there is nothing.
pub fn scaled(value: Option<&IntOrString>, of: i32, round: Round) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            // No more than an i32 times an i32: what is larger ends at the largest in any case.
            let exact = percent.clamp(i32::MIN.into(), i32::MAX.into()) * i64::from(of);
            let rounded =
                if round == Round::Up { exact.div_euclid(100) + i64::from(exact.rem_euclid(100) > 0) } else { exact.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(if rounded < 0 { i32::MIN } else { i32::MAX })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_percentage_of_any_number_is_a_number() {
        let of = |text: &str, of, round| scaled(Some(&IntOrString::String(text.into())), of, round);
        assert_eq!((of("25%", 10, Round::Up), of("25%", 10, Round::Down), of("-25%", 10, Round::Down)), (3, 2, -3));
        for percent in ["2147483647%", "9223372036854775807%", "99999999999999999999%", "-9223372036854775808%", "%", ""] {
            for n in [i32::MIN, -1, 0, 1, i32::MAX] {
                let _ = (of(percent, n, Round::Up), of(percent, n, Round::Down));
            }
        }
        assert_eq!((of("2147483647%", i32::MAX, Round::Up), of("9223372036854775807%", 7, Round::Down)), (i32::MAX, 150_323_855));
    }
}
