//! Nothing is refused: a plugin of old that other configurations name. Source: `plugin/pkg/admission/admit`.

use apiserver::identity::Admission;

pub struct AlwaysAdmit;

impl Admission for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
}
