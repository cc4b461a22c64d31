//! Container + environment -> its command, its arguments, its stop signal.

use api::k8s::api::core::v1::Container;

use super::expand::expand;
use crate::env::Environment;

/// The CRI numbers the real-time signals one by one, SIGRTMIN to SIGRTMAX.
const SIGRTMIN: i32 = 35;
const SIGRTMAX: i32 = 65;

/// Command and arguments with `$(NAME)` replaced.
pub fn expanded(container: &Container, environment: &Environment) -> (Vec<String>, Vec<String>) {
    let each = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|word| expand(word, &mut |name| environment.get(name).cloned())).collect()
    };
    (each(&container.command), each(&container.args))
}

/// The CRI's number of `lifecycle.stopSignal`; 0 leaves it to the image.
pub fn stop_signal(container: &Container) -> i32 {
    let name = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref()).unwrap_or_default();
    let real_time = |base: i32, sign: i32, rest: &str| match rest {
        "" => Some(base),
        rest => rest.get(1..)?.parse().ok().map(|n: u8| base + sign * i32::from(n)),
    };
    let number = match (name.strip_prefix("SIGRTMIN"), name.strip_prefix("SIGRTMAX")) {
        (Some(rest), _) => real_time(SIGRTMIN, 1, rest),
        (_, Some(rest)) => real_time(SIGRTMAX, -1, rest),
        _ => cri::Signal::from_str_name(name).map(|s| s as i32),
    };
    number.unwrap_or(0)
}
