//! Expressions with names, each worked out at most once, and when it is first asked for. Source: apiserver `pkg/admission/plugin/cel/composition.go`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    rc::Rc,
};

use super::{
    eval::Run,
    syntax::Expr,
    value::{Evaluated, Failure, V, Variables},
};

/// One of them; an error where it cannot be compiled.
pub struct Named {
    pub name: String,
    pub expr: Result<Expr, String>,
}

/// What `variables` stands for.
pub struct Composed<'v> {
    named: &'v [Named],
    /// What all of them see.
    scope: Vec<(String, V<'v>)>,
    done: RefCell<HashMap<&'v str, Evaluated<'v>>>,
    /// What one may cost, and what all together still may.
    each: u64,
    left: Cell<u64>,
}

impl fmt::Debug for Composed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Composed")
    }
}

impl<'v> Composed<'v> {
    /// Of expressions that name only those before them. `each` is what one may cost, `left` what all may.
    pub fn new(named: &'v [Named], scope: Vec<(String, V<'v>)>, each: u64, left: u64) -> Rc<Self> {
        Rc::new(Self { named, scope, done: RefCell::default(), each, left: Cell::new(left) })
    }

    /// What is left to spend; who runs what names them takes its own cost from it as well.
    pub fn left(&self) -> u64 {
        self.left.get()
    }

    pub fn spend(&self, cost: u64) {
        self.left.set(self.left.get().saturating_sub(cost));
    }
}

impl<'v> Variables<'v> for Composed<'v> {
    fn get(self: Rc<Self>, name: &str) -> Evaluated<'v> {
        if let Some(done) = self.done.borrow().get(name) {
            return done.clone();
        }
        let Some(named) = self.named.iter().rev().find(|named| named.name == name) else {
            return Failure::of(format!("no such key: {name}"));
        };
        let found = match &named.expr {
            Err(why) => Failure::of(format!("composited variable {name:?} fails to compile: {why}")),
            Ok(expr) => {
                let given = self.each.min(self.left());
                let mut scope = self.scope.clone();
                scope.push(("variables".to_owned(), V::Variables(self.clone())));
                let mut run = Run::new(scope, given);
                let found = run.eval(expr);
                self.spend(given - run.meter.left);
                found.map_err(|failure| match failure {
                    Failure::Error(why) => Failure::Error(format!("composited variable {name:?} fails to evaluate: {why}")),
                    Failure::Cost => Failure::Cost,
                })
            }
        };
        self.done.borrow_mut().insert(&named.name, found.clone());
        found
    }
}
