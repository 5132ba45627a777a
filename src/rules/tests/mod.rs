//! The rules as a whole, on the quickstart's files: what is refused, and what compiled rules answer.

mod answers;
mod mistakes;

use super::{Bundle, SourceFile};

/// The quickstart's rule files.
pub fn quickstart() -> Vec<SourceFile> {
    [
        ("sources/hr.yaml", include_str!("../../../examples/quickstart/sources/hr.yaml")),
        ("sources/idp.yaml", include_str!("../../../examples/quickstart/sources/idp.yaml")),
        ("identity.yaml", include_str!("../../../examples/quickstart/identity.yaml")),
        ("entitlements.yaml", include_str!("../../../examples/quickstart/entitlements.yaml")),
        ("targets/directory.yaml", include_str!("../../../examples/quickstart/targets/directory.yaml")),
        ("targets/wiki.yaml", include_str!("../../../examples/quickstart/targets/wiki.yaml")),
    ]
    .into_iter()
    .map(|(path, text)| SourceFile::new(path, text))
    .collect()
}

/// The quickstart with one text replaced.
pub fn edited(path: &str, from: &str, to: &str) -> Vec<SourceFile> {
    let mut files = quickstart();
    let file = files.iter_mut().find(|file| file.path == path).expect("a file of the quickstart");
    assert!(file.text.contains(from), "{path} has no `{from}` to replace");
    file.text = file.text.replacen(from, to, 1);
    files
}

pub fn compiled(files: &[SourceFile]) -> Bundle {
    Bundle::compile(files).unwrap_or_else(|problems| panic!("{}", super::diagnostic::render(&problems)))
}
