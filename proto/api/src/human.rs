//! Durations as `kubectl get` shows them.

/// `5s`, `3m20s`, `47h`, `3d4h`, `2y10d`. Source: apimachinery `pkg/util/duration/duration.go`, `HumanDuration`.
pub fn duration(seconds: i64) -> String {
    // A second of clock skew is forgiven; more is shown as upstream does.
    match seconds {
        s if s < -1 => return "<invalid>".into(),
        s if s < 0 => return "0s".into(),
        s if s < 120 => return format!("{s}s"),
        _ => {}
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    if minutes < 10 {
        return two(minutes, 'm', seconds % 60, 's');
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    if hours < 8 {
        return two(hours, 'h', minutes % 60, 'm');
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    if hours < 24 * 8 {
        return two(hours / 24, 'd', hours % 24, 'h');
    }
    if hours < 24 * 365 * 2 {
        return format!("{}d", hours / 24);
    }
    if hours < 24 * 365 * 8 {
        let days = hours / 24;
        return two(days / 365, 'y', days % 365, 'd');
    }
    format!("{}y", hours / 24 / 365)
}

fn two(big: i64, big_unit: char, small: i64, small_unit: char) -> String {
    if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn ages_read_as_kubectl_shows_them() {
        let cases = [(0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (600, "10m"), (10_800, "3h"), (11_000, "3h3m")];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(duration(48 * 3600), "2d");
        assert_eq!(duration(-5), "<invalid>");
    }
}
