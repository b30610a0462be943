//! The items that the workspace defines, by their whole paths, pure. Called by `names`.

use syn::{
    Field, ForeignItem, ImplItem, Item, ItemMacro, ItemMod, ItemUse, TraitItem, Type, UseTree, Variant,
    visit::{self, Visit},
};

use super::source::Source;

/// The paths of all modules, items, variants, fields, methods and public imports.
pub(super) fn items(sources: &[Source]) -> Vec<Vec<String>> {
    let mut index = Index { scope: Vec::new(), paths: Vec::new() };
    for source in sources {
        index.scope = module_of(&source.path);
        index.paths.push(index.scope.clone());
        index.visit_file(&source.syntax);
    }
    index.paths
}

/// `agent/src/kernel/btf/mod.rs` is `agent::kernel::btf`, `agent/tests/common/mod.rs` is `agent::tests::common`. Crates are
/// named by their folders, since documents do not name crates.
fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let names = path.split('/').filter(|name| !matches!(*name, "src" | "mod" | "lib" | "main"));
    names.map(str::to_owned).collect()
}

struct Index {
    scope: Vec<String>,
    paths: Vec<Vec<String>>,
}

impl Index {
    fn add(&mut self, name: &str) {
        self.paths.push([self.scope.as_slice(), &[name.to_owned()]].concat());
    }

    fn within(&mut self, name: &str, inner: impl FnOnce(&mut Self)) {
        self.scope.push(name.to_owned());
        inner(self);
        self.scope.pop();
    }

    fn add_imports(&mut self, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => self.add_imports(&path.tree),
            UseTree::Name(name) => self.add(&name.ident.to_string()),
            UseTree::Rename(rename) => self.add(&rename.rename.to_string()),
            UseTree::Glob(_) => {}
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_imports(tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Index {
    fn visit_item(&mut self, item: &'ast Item) {
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Mod(item) => &item.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Union(item) => &item.ident,
            Item::Impl(item) => {
                if let Type::Path(of) = item.self_ty.as_ref()
                    && let Some(last) = of.path.segments.last()
                {
                    self.within(&last.ident.to_string(), |index| visit::visit_item_impl(index, item));
                }
                return;
            }
            _ => return visit::visit_item(self, item),
        };
        let name = name.to_string();
        self.add(&name);
        match item {
            // Modules enter their own scope; what a function has inside is nobody's to name.
            Item::Mod(_) => visit::visit_item(self, item),
            Item::Fn(_) => {}
            _ => self.within(&name, |index| visit::visit_item(index, item)),
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let name = item.ident.to_string();
        self.within(&name, |index| visit::visit_item_mod(index, item));
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !matches!(item.vis, syn::Visibility::Inherited) {
            self.add_imports(&item.tree);
        }
    }

    fn visit_item_macro(&mut self, item: &'ast ItemMacro) {
        if let Some(name) = &item.ident {
            self.add(&name.to_string());
        }
    }

    fn visit_variant(&mut self, variant: &'ast Variant) {
        self.add(&variant.ident.to_string());
    }

    fn visit_field(&mut self, field: &'ast Field) {
        if let Some(name) = &field.ident {
            self.add(&name.to_string());
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        match item {
            ImplItem::Const(item) => self.add(&item.ident.to_string()),
            ImplItem::Fn(item) => self.add(&item.sig.ident.to_string()),
            ImplItem::Type(item) => self.add(&item.ident.to_string()),
            _ => {}
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        match item {
            TraitItem::Const(item) => self.add(&item.ident.to_string()),
            TraitItem::Fn(item) => self.add(&item.sig.ident.to_string()),
            TraitItem::Type(item) => self.add(&item.ident.to_string()),
            _ => {}
        }
    }

    fn visit_foreign_item(&mut self, _: &'ast ForeignItem) {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::items;
    use crate::tidy::source::Source;

    #[test]
    fn everything_that_has_a_name_is_listed_by_its_whole_path() {
        let text = "pub use self::inner::Thing as Other;
            use std::fmt::Debug;
            pub const MOST: u8 = 1;
            struct Object { maps: u8 }
            impl Object { const EMPTY: u8 = 0; fn load() { fn hidden() {} } }
            impl<T> Drop for super::Place<T> { fn drop(&mut self) {} }
            enum Kind { Check }
            trait Read { fn read(&self); }
            macro_rules! lose { () => {} }
            mod inner { pub fn deep() {} }";
        let source = Source::parse("agent/src/kernel/object.rs", text).unwrap();
        let found: Vec<String> = items(&[source]).iter().map(|path| path.join("::")).collect();
        let expected = [
            "",
            "Other",
            "MOST",
            "Object",
            "Object::maps",
            "Object::EMPTY",
            "Object::load",
            "Place::drop",
            "Kind",
            "Kind::Check",
            "Read",
            "Read::read",
            "lose",
            "inner",
            "inner::deep",
        ];
        let expected: Vec<String> = expected
            .iter()
            .map(|name| format!("agent::kernel::object::{name}").trim_end_matches("::").to_owned())
            .collect();
        assert_eq!(found, expected);
    }
}
