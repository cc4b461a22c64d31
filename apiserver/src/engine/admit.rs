//! What every write carries, and the admission chain it passes.

use std::sync::Arc;

use api::{Status, time::Timestamp};
use parking_lot::Mutex;
use serde_json::Value;

use super::{Engine, registry::Served};
use crate::{
    identity::{Operation, Review, Reviewed, User},
    kind::Ctx,
};

/// Texts for `Warning` headers, gathered along the way.
pub(crate) type Warnings = Mutex<Vec<String>>;

/// Who wants what written, and how.
pub(crate) struct Asked<'a> {
    pub served: &'a Served,
    pub namespace: &'a str,
    /// Empty for a create whose name is to be generated.
    pub name: &'a str,
    pub subresource: &'a str,
    pub user: &'a User,
    /// CreateOptions, UpdateOptions, DeleteOptions as sent.
    pub options: &'a Value,
    pub dry_run: bool,
    pub warnings: &'a Warnings,
    pub now: Timestamp,
}

impl<'a> Asked<'a> {
    pub fn ctx(&'a self, engine: &'a Arc<Engine>) -> Ctx<'a> {
        self.ctx_named(engine, self.name)
    }

    pub fn ctx_named(&'a self, engine: &'a Arc<Engine>, name: &'a str) -> Ctx<'a> {
        Ctx {
            engine,
            kind: &self.served.kind,
            user: self.user,
            namespace: self.namespace,
            name,
            subresource: self.subresource,
            now: self.now,
            dry_run: self.dry_run,
        }
    }

    pub fn warn(&self, texts: Vec<String>) {
        self.warnings.lock().extend(texts);
    }
}

/// The mutating half.
pub(crate) async fn mutate(
    ctx: &Ctx<'_>,
    operation: Operation,
    object: Option<&mut Value>,
    old: Option<&Value>,
    options: &Value,
) -> Result<(), Status> {
    let object = object.map_or(Reviewed::Nothing, Reviewed::Admitted);
    let mut review = Review { ctx, operation, object, old, options };
    for plugin in &ctx.engine.auth.admission {
        plugin.admit(&mut review).await?;
    }
    Ok(())
}

/// The validating half.
pub(crate) async fn validate(
    ctx: &Ctx<'_>,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
    options: &Value,
) -> Result<(), Status> {
    let object = object.map_or(Reviewed::Nothing, Reviewed::Validated);
    let review = Review { ctx, operation, object, old, options };
    for plugin in &ctx.engine.auth.admission {
        plugin.validate(&review).await?;
    }
    Ok(())
}
