//! The limit of open files -> as high as it may be, as Go's runtime sets it at start: every connection is a file.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for all that is not a connection: the store, tasks' pipes, sockets to node agents and etcd.
const OWN_FILES: u64 = 256;
/// Where there is no limit at all.
const UNLIMITED: u64 = 1 << 20;

/// Raises the soft limit to the hard one, and returns how many connections' files may be open.
pub fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, ?maximum, "the limit of open files stays as it is");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED).saturating_sub(OWN_FILES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let files = raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(files, limit.maximum.unwrap_or(UNLIMITED).saturating_sub(OWN_FILES));
    }
}
