//! StatefulSets against pods that obey. The cases are those of `pkg/controller/statefulset`.

mod claims;
mod cluster;
mod order;
mod rollouts;
