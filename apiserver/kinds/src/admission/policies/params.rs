//! A policy's `paramKind` and a binding's `paramRef` -> the objects of parameters. Source: apiserver `pkg/admission/plugin/policy/generic/policy_dispatcher.go`
//! (`CollectParams`).

use std::{collections::HashMap, sync::Arc};

use api::{Gvk, Key, selector::Labels};
use apiserver::{
    engine::{Engine, Object},
    kind::{Kind, Scope},
};
use parking_lot::Mutex;
use serde_json::Value;

/// Objects that a binding's selector may select for one request.
const PARAMS_MAX: usize = 1_000;
/// Of objects that are kept as they were read, in bytes of JSON.
const PARSED_BYTES_MAX: usize = 4 << 20;

/// `paramRef`
pub(super) struct ParamRef {
    pub name: String,
    pub namespace: String,
    pub selector: Option<Result<Option<Labels>, String>>,
    pub denies_absence: bool,
}

/// Objects of parameters, each read once per revision.
#[derive(Default)]
pub(super) struct Parsed(Mutex<Kept>);

/// Of which revision, as which kind shows it.
type Shown = (u64, Arc<Kind>, Arc<Value>);

#[derive(Default)]
struct Kept {
    values: HashMap<(Gvk, Key), Shown>,
    bytes: usize,
}

impl Parsed {
    async fn value(&self, engine: &Arc<Engine>, kind: &Arc<Kind>, object: &Object) -> Result<Arc<Value>, String> {
        let key = (kind.gvk(), object.key.clone());
        if let Some((rev, of, value)) = self.0.lock().values.get(&key)
            && *rev == object.rev
            && Arc::ptr_eq(of, kind)
        {
            return Ok(value.clone());
        }
        let value = Arc::new(engine.shown(kind, object).await.map_err(|status| status.message)?);
        let bytes = object.stored().len();
        let mut kept = self.0.lock();
        if kept.bytes + bytes > PARSED_BYTES_MAX {
            *kept = Kept::default();
        }
        if bytes <= PARSED_BYTES_MAX / 4 {
            kept.bytes += bytes;
            kept.values.insert(key, (object.rev, kind.clone(), value.clone()));
        }
        Ok(value)
    }

    /// The objects for a write in `namespace`; one that is none where there are no parameters to be had.
    ///
    /// # Errors
    /// What is wrong with the binding, in upstream's words.
    pub async fn collect(
        &self,
        engine: &Arc<Engine>,
        kind: Option<&Arc<Kind>>,
        reference: Option<&ParamRef>,
        namespace: &str,
    ) -> Result<Vec<Option<Arc<Value>>>, String> {
        let (Some(kind), Some(reference)) = (kind, reference) else { return Ok(vec![None]) };
        let place = match kind.scope {
            Scope::Namespaced if !reference.namespace.is_empty() => reference.namespace.as_str(),
            Scope::Namespaced if namespace.is_empty() => {
                return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
            }
            Scope::Namespaced => namespace,
            Scope::Cluster if !reference.namespace.is_empty() => {
                return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
            }
            Scope::Cluster => "",
        };
        let gr = kind.group_resource();
        // What cannot be decrypted is not absent: the policy would not apply.
        engine.whole(&gr).map_err(|status| status.message)?;
        let objects: Vec<Arc<Object>> = match &reference.selector {
            _ if !reference.name.is_empty() => engine.cached(&gr, &Key::new(place, &reference.name)).into_iter().collect(),
            Some(selector) => {
                let selector = selector.clone()?.unwrap_or_default();
                let all = engine.cached_list(&gr, (!place.is_empty()).then_some(place));
                all.into_iter().filter(|object| selector.matches_with(|key| object.label(key))).take(PARAMS_MAX + 1).collect()
            }
            None => return Err("one of name or selector must be provided".into()),
        };
        if objects.len() > PARAMS_MAX {
            return Err(format!("paramRef.selector selects more than {PARAMS_MAX} objects"));
        }
        if objects.is_empty() && reference.denies_absence {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        let mut out = Vec::with_capacity(objects.len());
        for object in objects {
            out.push(Some(self.value(engine, kind, &object).await?));
        }
        Ok(out)
    }
}
