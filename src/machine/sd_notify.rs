//! We are up -> the service manager knows (`Type=notify`). Source: sd_notify(3).

use std::{
    env,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

const SOCKET: &str = "NOTIFY_SOCKET";

/// Nothing where nobody waits for it.
pub fn ready() {
    if let Some(name) = env::var_os(SOCKET)
        && let Err(error) = tell(name.as_encoded_bytes(), b"READY=1")
    {
        tracing::warn!(%error, "failed to tell the service manager that we are ready");
    }
}

/// A path, or with `@` an abstract name.
fn tell(name: &[u8], state: &[u8]) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("skiff-notify-{}", std::process::id());
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path.as_os_str().as_encoded_bytes().to_vec()),
            (
                UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(abstract_name.as_bytes()).unwrap()).unwrap(),
                format!("@{abstract_name}").into_bytes(),
            ),
        ];
        for (socket, name) in sockets {
            tell(&name, b"READY=1").unwrap();
            let mut seen = [0; 16];
            let length = socket.recv(&mut seen).unwrap();
            assert_eq!(&seen[..length], b"READY=1");
        }
        assert!(tell(b"/nowhere/at/all", b"READY=1").is_err());
    }
}
