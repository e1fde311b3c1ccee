//! The marked directories by file handle: the kernel names a directory by its handle, and a renamed one keeps it.

use std::collections::HashMap;

use super::patterns::Coverage;
use super::records::Handle;

/// Deepest path followed; the kernel itself allows no path longer than 4096 bytes.
const MAX_STEPS: usize = 2048;

/// One marked directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// The marked directory that holds it; `None` for one whose `name` is a whole path.
    pub(super) parent: Option<Handle>,
    pub(super) name: Vec<u8>,
    pub(super) coverage: Coverage,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: HashMap<Handle, Node>,
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn get(&self, handle: &Handle) -> Option<&Node> {
        self.nodes.get(handle)
    }

    pub(super) fn get_mut(&mut self, handle: &Handle) -> Option<&mut Node> {
        self.nodes.get_mut(handle)
    }

    /// The marked directory `name` in the marked directory `dir`. Looks at all of them: for renames on old kernels only.
    pub(super) fn child(&self, dir: &Handle, name: &[u8]) -> Option<Handle> {
        let found =
            self.nodes.iter().find(|(_, node)| node.name == name && node.parent.as_ref() == Some(dir));
        found.map(|(handle, _)| handle.clone())
    }

    pub(super) fn insert(&mut self, handle: Handle, node: Node) {
        self.nodes.insert(handle, node);
    }

    pub(super) fn remove(&mut self, handle: &Handle) -> Option<Node> {
        self.nodes.remove(handle)
    }

    /// The path of a marked directory now; `None` when a directory above it is not known any more.
    pub(super) fn path(&self, handle: &Handle) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = self.nodes.get(handle)?;
        for _ in 0..MAX_STEPS {
            names.push(at.name.as_slice());
            let Some(parent) = &at.parent else {
                let mut path = names.pop().unwrap_or_default().to_vec();
                names.iter().rev().for_each(|name| push(&mut path, name));
                return Some(path);
            };
            at = self.nodes.get(parent)?;
        }
        None
    }

    /// `handle` and every marked directory below it.
    pub(super) fn below(&self, handle: &Handle) -> Vec<Handle> {
        let inside = |start: &Handle| {
            let mut at = Some(start);
            for _ in 0..MAX_STEPS {
                match at {
                    Some(here) if here == handle => return true,
                    Some(here) => at = self.nodes.get(here).and_then(|node| node.parent.as_ref()),
                    None => return false,
                }
            }
            false
        };
        self.nodes.keys().filter(|start| inside(start)).cloned().collect()
    }
}

/// Adds a name to a path.
pub(super) fn push(path: &mut Vec<u8>, name: &[u8]) {
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// `name` in the directory `dir`.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = dir.to_vec();
    push(&mut path, name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(number: u8) -> Handle {
        Handle { fsid: [0; 8], kind: 1, bytes: [number].into() }
    }

    fn node(parent: Option<u8>, name: &str) -> Node {
        Node { parent: parent.map(handle), name: name.as_bytes().to_vec(), coverage: Coverage::default() }
    }

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.insert(handle(0), node(None, "/"));
        tree.insert(handle(1), node(Some(0), "etc"));
        tree.insert(handle(2), node(Some(1), "cron.d"));
        tree.insert(handle(3), node(Some(2), "x\n"));
        tree.insert(handle(9), node(None, "/srv/www"));
        tree
    }

    #[test]
    fn a_path_follows_its_directories_even_when_one_is_renamed() {
        let mut tree = tree();
        assert_eq!(tree.path(&handle(3)).unwrap(), b"/etc/cron.d/x\n");
        assert_eq!(tree.path(&handle(0)).unwrap(), b"/");
        assert_eq!(tree.path(&handle(9)).unwrap(), b"/srv/www");
        tree.insert(handle(1), node(Some(9), "moved"));
        assert_eq!(tree.path(&handle(3)).unwrap(), b"/srv/www/moved/cron.d/x\n");
        let mut below = tree.below(&handle(1));
        below.sort();
        assert_eq!(below, [handle(1), handle(2), handle(3)]);
        tree.remove(&handle(2));
        assert_eq!(tree.path(&handle(3)), None);
    }

    #[test]
    fn a_loop_has_no_path_and_ends() {
        let mut tree = tree();
        tree.insert(handle(1), node(Some(3), "loop"));
        assert_eq!(tree.path(&handle(2)), None);
        assert!(!tree.below(&handle(0)).contains(&handle(2)));
    }
}
