//! A set of paths as a tree: union, difference, intersection. Source: structured-merge-diff `fieldpath/set.go`.

use std::{cmp::Ordering, ops::ControlFlow};

use super::Element;

/// From the object's root to a field.
pub type Path = Vec<Element>;

/// A place in an object, whether it is in the set, and the places below it that are. The root itself is never in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub(super) is_member: bool,
    /// Sorted, no element twice, none without members.
    pub(super) children: Vec<(Element, Set)>,
}

/// What becomes of the sets below an element that both have.
type Below = fn(&Set, &Set) -> Set;

impl Set {
    pub fn of(paths: impl IntoIterator<Item = Path>) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(path);
        }
        set
    }

    /// Of paths of field names.
    pub fn named(paths: &[&[&str]]) -> Self {
        Self::of(paths.iter().map(|path| path.iter().map(|name| Element::field(name)).collect()))
    }

    pub fn insert(&mut self, path: Path) {
        if path.is_empty() {
            return;
        }
        let mut at = self;
        for element in path {
            let place = match at.children.binary_search_by(|(one, _)| one.cmp(&element)) {
                Ok(place) => place,
                Err(place) => {
                    at.children.insert(place, (element, Self::default()));
                    place
                }
            };
            at = &mut at.children.get_mut(place).expect("was found or just put there").1;
        }
        at.is_member = true;
    }

    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Whether the place or anything below is in it.
    pub(super) fn has_any(&self) -> bool {
        self.is_member || !self.children.is_empty()
    }

    pub fn has(&self, path: &[Element]) -> bool {
        let mut at = self;
        for element in path {
            match at.below(element) {
                Some(below) => at = below,
                None => return false,
            }
        }
        at.is_member && !path.is_empty()
    }

    pub(super) fn below(&self, element: &Element) -> Option<&Self> {
        let at = self.children.binary_search_by(|(one, _)| one.cmp(element)).ok()?;
        self.children.get(at).map(|(_, set)| set)
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.zip(other, true, true, |one, two| (one || two, Self::union))
    }

    /// The union of all of them: each place is looked at once, however many sets there are.
    #[must_use]
    pub fn united(sets: Vec<Self>) -> Self {
        let is_member = sets.iter().any(|set| set.is_member);
        let mut all: Vec<(Element, Self)> = sets.into_iter().flat_map(|set| set.children).collect();
        api::steps::took(all.len());
        all.sort_by(|one, two| one.0.cmp(&two.0));
        let mut out = Self { is_member, children: Vec::new() };
        let mut all = all.into_iter().peekable();
        while let Some((element, first)) = all.next() {
            let mut same = vec![first];
            while let Some((_, other)) = all.next_if(|(other, _)| *other == element) {
                same.push(other);
            }
            let set = if same.len() == 1 { same.remove(0) } else { Self::united(same) };
            out.children.push((element, set));
        }
        out
    }

    /// Whether any path is in both: costs what the smaller has.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (few, many) = if self.children.len() <= other.children.len() { (self, other) } else { (other, self) };
        few.children.iter().any(|(element, set)| {
            api::steps::took(1);
            many.below(element).is_some_and(|below| set.is_member && below.is_member || set.overlaps(below))
        })
    }

    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, false, false, |one, two| (one && two, Self::intersection))
    }

    /// What is in this and not in the other. A field's place in the other takes nothing away that is below it.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, true, false, |one, two| (one && !two, Self::difference))
    }

    /// As [`Set::difference`], with all that is below the places of the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        let kept = |(element, set): &(Element, Self)| match other.below(element) {
            Some(other) if other.is_member => None,
            Some(other) => {
                Some((element.clone(), Self { is_member: set.is_member, ..set.without(other) })).filter(|(_, set)| set.has_any())
            }
            None => Some((element.clone(), set.clone())),
        };
        Self { is_member: self.is_member, children: self.children.iter().filter_map(kept).collect() }
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.children.iter().map(|(_, set)| usize::from(set.is_member) + set.len()).sum()
    }

    /// Tells each path, members of a place before what is below them (`Iterate`), until that is enough.
    pub fn each<B>(&self, tell: &mut impl FnMut(&[&Element]) -> ControlFlow<B>) -> ControlFlow<B> {
        self.visit(&mut Vec::new(), tell)
    }

    fn visit<'s, B>(&'s self, path: &mut Vec<&'s Element>, tell: &mut impl FnMut(&[&Element]) -> ControlFlow<B>) -> ControlFlow<B> {
        for (element, _) in self.children.iter().filter(|(_, set)| set.is_member) {
            path.push(element);
            tell(path)?;
            path.pop();
        }
        for (element, set) in self.children.iter().filter(|(_, set)| !set.children.is_empty()) {
            path.push(element);
            set.visit(path, tell)?;
            path.pop();
        }
        ControlFlow::Continue(())
    }

    fn zip(&self, other: &Self, keep_one: bool, keep_two: bool, both: fn(bool, bool) -> (bool, Below)) -> Self {
        let (is_member, below) = both(self.is_member, other.is_member);
        let (one, two) = (&self.children, &other.children);
        let mut out = Self { is_member, children: Vec::with_capacity(if keep_two { one.len().max(two.len()) } else { 0 }) };
        let (mut i, mut j) = (0, 0);
        while let (Some(first), Some(second)) = (one.get(i), two.get(j)) {
            api::steps::took(1);
            match first.0.cmp(&second.0) {
                Ordering::Less if keep_one => {
                    out.children.push(first.clone());
                    i += 1;
                }
                Ordering::Less => i = reach(one, i, &second.0),
                Ordering::Greater if keep_two => {
                    out.children.push(second.clone());
                    j += 1;
                }
                Ordering::Greater => j = reach(two, j, &first.0),
                Ordering::Equal => {
                    let set = below(&first.1, &second.1);
                    if set.has_any() {
                        out.children.push((first.0.clone(), set));
                    }
                    (i, j) = (i + 1, j + 1);
                }
            }
        }
        one.get(i..).unwrap_or_default().iter().for_each(|child| out.keep(child, keep_one));
        two.get(j..).unwrap_or_default().iter().for_each(|child| out.keep(child, keep_two));
        out
    }

    fn keep(&mut self, child: &(Element, Self), is_kept: bool) {
        if is_kept {
            self.children.push(child.clone());
        }
    }

    /// Puts what is below `element`, in whatever order; [`Set::sort`] has to follow.
    pub(super) fn put(&mut self, element: &Element, below: Self) {
        if below.has_any() {
            self.children.push((element.clone(), below));
        }
    }

    pub(super) fn sort(&mut self) {
        if self.children.is_sorted_by(|one, two| one.0 < two.0) {
            return;
        }
        self.children.sort_by(|one, two| one.0.cmp(&two.0));
        // As upstream reads what stands there several times: the last says what is below.
        self.children.dedup_by(|next, kept| {
            let is_same = next.0 == kept.0;
            if is_same {
                let is_member = kept.1.is_member || next.1.is_member;
                if !next.1.children.is_empty() {
                    std::mem::swap(&mut kept.1, &mut next.1);
                }
                kept.1.is_member = is_member;
            }
            is_same
        });
    }
}

/// Where in `children`, from `from` on, the first is that is not before `element`: costs the logarithm of how far that is.
fn reach(children: &[(Element, Set)], from: usize, element: &Element) -> usize {
    let left = children.get(from..).unwrap_or_default();
    let mut end = 1;
    while left.get(end).is_some_and(|(one, _)| one < element) {
        end *= 2;
    }
    let (start, end) = (end / 2, end.min(left.len()));
    from + start + left.get(start..end).unwrap_or_default().partition_point(|(one, _)| one < element)
}
