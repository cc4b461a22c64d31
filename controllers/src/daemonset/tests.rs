//! DaemonSets against nodes and pods that obey. The cases are those of `pkg/controller/daemon/daemon_controller_test.go` and `update_test.go`.

mod cluster;
mod history;
mod placing;
mod rollouts;
