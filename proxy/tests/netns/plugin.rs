//! The CNI plugin alone, for tests: what the front door does when it is called as `skiff-cni`.

use std::process::ExitCode;

fn main() -> ExitCode {
    proxy::cni::main_cni()
}
