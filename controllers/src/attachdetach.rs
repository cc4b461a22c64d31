//! Pods on nodes, and the volumes of CSI drivers that they use -> these attached to the nodes, and detached once nobody wants them there.
//!
//! Two loops over one view. The one of volumes makes and deletes `VolumeAttachment`s, which the driver's external-attacher carries out; the one of nodes says in
//! `status.volumesAttached` what is attached. A node mounts nothing that is not listed there, and lists what it has mounted in `status.volumesInUse`: a volume that is to
//! go first leaves the list, is then asked about once more at the server, and only then is detached. From before that question on, and until the cache shows that the
//! attachment goes, no list names it (`View::leave`, `View::list`): its node would mount what is being detached.
//!
//! Source: `pkg/controller/volume/attachdetach`, `pkg/volume/csi/csi_attacher.go`, `GenerateAttachVolumeFunc` in `pkg/volume/util/operationexecutor`.

mod memory;
mod node;
#[cfg(test)]
mod tests;
mod told;
mod view;
mod volume;

pub use node::Reports;
pub use view::View;
pub use volume::Attachments;
