//! All rules together: read, checked against each other, compiled, and found by name.
//!
//! A bundle is made from texts and never changes. Its hash names it on the bus, so that every partition knows by which
//! rules it decides.

use super::check::{self, CheckedKind};
use super::diagnostic::{Diagnostic, SourceFile, did_you_mean};
use super::entitlement::{GrantDraft, read_grants, read_tables};
use super::example::{Example, TestReport, read_example};
use super::expression::{Language, Tables};
use super::identity::{GuardDraft, KindDraft, read_guard, read_kinds};
use super::kind::KindRules;
use super::merged::Slots;
use super::read::{Page, Placed};
use super::source::{SourceDraft, SourceRules};
use super::target::TargetRules;
use super::target_draft::{TargetDraft, read_target};
use super::yaml::{self, Node};
use crate::model::{BundleHash, SourceName, TargetName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Compiled rules.
#[derive(Debug)]
pub struct Bundle {
    hash: BundleHash,
    mark: RulesMark,
    files: Vec<SourceFile>,
    sources: Vec<SourceRules>,
    kinds: Vec<KindRules>,
    targets: Vec<TargetRules>,
    source_index: HashMap<SourceName, usize>,
    target_index: HashMap<TargetName, usize>,
    /// The kind that a source belongs to.
    kind_index: HashMap<SourceName, usize>,
    guard: GuardLimit,
    target_guards: BTreeMap<String, GuardLimit>,
    examples: Vec<Example>,
}

/// Names rules together with the release that reads them: within one mark the same attributes always get the same answer.
/// A release that reads the same texts in another way is another release, so an upgrade takes nothing for decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesMark([u8; 16]);

/// So many removals within a sliding window, per tenant, source and target, before the Guard holds the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardLimit {
    pub limit: u32,
    pub window: Duration,
}

/// What a file of the folder is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    Installation,
    Source,
    Identity,
    Entitlements,
    Target,
}

impl FileRole {
    pub fn of(path: &str) -> Option<Self> {
        let stem = path.strip_suffix(".yaml").or_else(|| path.strip_suffix(".yml"))?;
        match stem.split_once('/') {
            None => match stem {
                "lockstep" => Some(Self::Installation),
                "identity" => Some(Self::Identity),
                "entitlements" => Some(Self::Entitlements),
                _ => None,
            },
            Some(("sources", name)) if !name.contains('/') => Some(Self::Source),
            Some(("targets", name)) if !name.contains('/') => Some(Self::Target),
            Some(_) => None,
        }
    }
}

impl Bundle {
    /// Reads, checks and compiles every file of the config folder but lockstep.yaml. All mistakes come at once.
    pub fn compile(files: &[SourceFile]) -> Result<Self, Vec<Diagnostic>> {
        let files = normalised(files);
        let mut problems = missing_files(&files);
        let pages: Vec<Page<'_>> = files.iter().map(Page::new).collect();
        let mut nodes = Vec::new();
        for page in &pages {
            match yaml::parse(page.file) {
                Ok(node) => nodes.push((page, node)),
                Err(diagnostic) => page.report(diagnostic),
            }
        }
        let complete = nodes.len() == pages.len() && problems.is_empty();
        let drafts = Drafts::read(&nodes);
        let parts = if complete { drafts.compile(&pages) } else { None };
        drop(nodes);
        problems.extend(pages.into_iter().flat_map(Page::into_problems));
        problems.sort_by(|a, b| (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message)));
        problems.dedup();
        match parts {
            Some(parts) if problems.is_empty() => Ok(parts.into_bundle(files)),
            _ => Err(problems),
        }
    }

    pub fn hash(&self) -> &BundleHash {
        &self.hash
    }

    pub fn mark(&self) -> RulesMark {
        self.mark
    }

    /// Sorted by path, with `\n` at the ends of lines.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    pub fn sources(&self) -> &[SourceRules] {
        &self.sources
    }

    pub fn source(&self, name: &SourceName) -> Option<&SourceRules> {
        self.source_index.get(name).map(|index| &self.sources[*index])
    }

    pub fn targets(&self) -> &[TargetRules] {
        &self.targets
    }

    pub fn target(&self, name: &TargetName) -> Option<&TargetRules> {
        self.target_index.get(name).map(|index| &self.targets[*index])
    }

    pub fn kinds(&self) -> &[KindRules] {
        &self.kinds
    }

    pub fn kind(&self, name: &str) -> Option<&KindRules> {
        self.kinds.iter().find(|kind| kind.name == name)
    }

    /// The kind that a source's records belong to: as its anchor, or by the attributes they give.
    pub fn kind_of(&self, source: &SourceName) -> Option<&KindRules> {
        self.kind_index.get(source).map(|index| &self.kinds[*index])
    }

    pub fn guard(&self, target: &TargetName) -> GuardLimit {
        self.target_guards.get(target.as_str()).copied().unwrap_or(self.guard)
    }

    /// Runs the tests of all files, in the order of the files.
    pub fn run_tests(&self) -> Vec<TestReport> {
        self.examples.iter().map(|example| example.run(self)).collect()
    }
}

/// Sorted by path; Windows' line ends and a byte order mark don't make another bundle.
fn normalised(files: &[SourceFile]) -> Vec<SourceFile> {
    let mut files: Vec<_> = files
        .iter()
        .map(|file| SourceFile {
            path: file.path.clone(),
            text: file.text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n"),
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// SHA-256 over paths and texts, each with its length before it, so that no two folders give the same bytes.
fn hash(files: &[SourceFile]) -> BundleHash {
    let mut hasher = Sha256::new();
    for part in files.iter().flat_map(|file| [&file.path, &file.text]) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    BundleHash(hex::encode(hasher.finalize()).into())
}

impl RulesMark {
    fn new(hash: &BundleHash) -> Self {
        let digest = Sha256::new().chain_update(env!("CARGO_PKG_VERSION")).chain_update(hash.as_str()).finalize();
        let mut mark = [0; 16];
        mark.copy_from_slice(&digest[..16]);
        Self(mark)
    }
}

fn missing_files(files: &[SourceFile]) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let roles: Vec<_> = files.iter().map(|file| (file, FileRole::of(&file.path))).collect();
    for (file, role) in &roles {
        let help = match role {
            Some(FileRole::Installation) => "lockstep.yaml is no part of the rules",
            Some(_) => continue,
            None => match did_you_mean(&file.path, ["identity.yaml", "entitlements.yaml", "lockstep.yaml"]) {
                Some("identity.yaml") => "did you mean `identity.yaml`?",
                Some("entitlements.yaml") => "did you mean `entitlements.yaml`?",
                Some(_) => "did you mean `lockstep.yaml`?",
                None => {
                    "the folder holds lockstep.yaml, identity.yaml, entitlements.yaml, sources/*.yaml and targets/*.yaml"
                }
            },
        };
        problems.push(Diagnostic::of_file(&file.path, "this file has no place here", Some(help.to_owned())));
    }
    for (index, (file, role)) in roles.iter().enumerate() {
        let single = matches!(role, Some(FileRole::Identity | FileRole::Entitlements));
        if single && roles[..index].iter().any(|(_, other)| other == role) {
            let help = "keep one of the `.yaml` and the `.yml`".to_owned();
            problems.push(Diagnostic::of_file(&file.path, "this file stands twice", Some(help)));
        }
    }
    let has = |wanted| roles.iter().any(|(_, role)| *role == Some(wanted));
    if !has(FileRole::Source) {
        let help =
            "write sources/hr.yaml: `source:`, `topic:`, `tenant:`, `event:`, `record:`, `attributes:`".to_owned();
        problems.push(Diagnostic::of_file("sources/", "there is no source", Some(help)));
    }
    if !has(FileRole::Identity) {
        let help =
            "write it: `kinds: { person: { anchor: hr, attributes: { givenName: [hr.givenName] } } }`".to_owned();
        problems.push(Diagnostic::of_file("identity.yaml", "the file is missing", Some(help)));
    }
    problems
}

/// A part of a file, with the page that takes complaints about it.
#[derive(Debug)]
pub(super) struct On<'f, T> {
    pub page: &'f Page<'f>,
    pub value: T,
}

/// All files as read.
#[derive(Debug, Default)]
pub(super) struct Drafts<'f> {
    pub sources: Vec<On<'f, SourceDraft>>,
    pub kinds: Vec<On<'f, KindDraft>>,
    pub guard: Option<On<'f, GuardDraft>>,
    pub tables: Tables,
    pub grants: Vec<On<'f, GrantDraft>>,
    pub targets: Vec<On<'f, TargetDraft>>,
    /// A target's file doesn't say its name, so that nobody knows which names are wrong elsewhere.
    pub a_target_is_nameless: bool,
    pub tests: Vec<On<'f, &'f Node>>,
}

struct Parts {
    sources: Vec<SourceRules>,
    kinds: Vec<KindRules>,
    targets: Vec<TargetRules>,
    guard: GuardLimit,
    target_guards: BTreeMap<String, GuardLimit>,
    examples: Vec<Example>,
}

impl<'f> Drafts<'f> {
    fn read(nodes: &'f [(&'f Page<'f>, Node)]) -> Self {
        let mut drafts = Self::default();
        for (page, node) in nodes {
            let page: &'f Page<'f> = page;
            let Some(role) = FileRole::of(&page.file.path) else { continue };
            let Some(mut fields) = page.fields(node) else { continue };
            match role {
                FileRole::Installation => continue,
                FileRole::Source => {
                    drafts.sources.extend(SourceDraft::read(&mut fields).map(|value| On { page, value }));
                }
                FileRole::Identity => {
                    drafts.kinds.extend(read_kinds(&mut fields).into_iter().map(|value| On { page, value }));
                    drafts.guard = Some(On { page, value: read_guard(&mut fields) });
                }
                FileRole::Entitlements => {
                    drafts.tables.extend(read_tables(&mut fields));
                    drafts.grants.extend(read_grants(&mut fields).into_iter().map(|value| On { page, value }));
                }
                FileRole::Target => {
                    let target = read_target(&mut fields);
                    drafts.a_target_is_nameless |= target.is_none();
                    drafts.targets.extend(target.map(|value| On { page, value }));
                }
            }
            drafts.tests.extend(fields.items("tests").iter().map(|value| On { page, value }));
            fields.finish();
        }
        drafts
    }

    /// Checks the drafts against each other, in steps: where sources or kinds are wrong, every rule that uses them would
    /// seem wrong too, and its mistakes would hide the one that matters.
    fn compile(self, pages: &[Page<'_>]) -> Option<Parts> {
        let wrong = |roles: &[FileRole]| {
            let of_role = |page: &&Page<'_>| FileRole::of(&page.file.path).is_some_and(|role| roles.contains(&role));
            pages.iter().filter(of_role).any(Page::has_problems)
        };
        let declared = self.kinds.iter().flat_map(|on| &on.value.attributes);
        let slots = Slots::new(declared.map(|attribute| attribute.name.value.as_str()));
        let language = Language::new(&self.tables, slots);
        check::unique(self.sources.iter().map(|on| (on.page, &on.value.name)), "source");
        check::unique(self.targets.iter().map(|on| (on.page, &on.value.name)), "target");
        check::topics(&self.sources);
        if wrong(&[FileRole::Source, FileRole::Identity]) {
            return None;
        }
        let kinds: Vec<CheckedKind> =
            self.kinds.iter().filter_map(|draft| check::kind(&self, draft, &language)).collect();
        let kind_index = check::kinds_of_sources(&self, &kinds);
        if wrong(&[FileRole::Identity]) {
            return None;
        }
        let targets: Vec<TargetRules> =
            self.targets.iter().filter_map(|draft| check::target(&self, draft, &kinds, &language)).collect();
        let guard = self.guard.as_ref().map(|on| check::guard(&self, on));
        let (guard, target_guards) = guard.unwrap_or((GuardDraft::default().default, BTreeMap::new()));
        check::grants(&self);
        if pages.iter().any(Page::has_problems) {
            return None;
        }
        let kinds: Vec<KindRules> = kinds.into_iter().map(|(kind, _)| kind).collect();
        let tests = self.tests.iter();
        let examples = tests.filter_map(|on| read_example(on.page, on.value, &self, &kinds, &kind_index)).collect();
        let sources = self.sources.into_iter().map(|on| on.value.rules).collect();
        Some(Parts { sources, kinds, targets, guard, target_guards, examples })
    }

    /// The names of all sources.
    pub(super) fn source(&self, name: &str) -> Option<&On<'f, SourceDraft>> {
        self.sources.iter().find(|on| on.value.name.value == name)
    }

    pub(super) fn source_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.sources.iter().map(|on| on.value.name.value.as_str())
    }

    pub(super) fn target_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.targets.iter().map(|on| on.value.name.value.as_str())
    }

    pub(super) fn kind_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.kinds.iter().map(|on| on.value.name.value.as_str())
    }

    pub(super) fn target(&self, name: &Placed<String>) -> Option<&On<'f, TargetDraft>> {
        self.targets.iter().find(|on| on.value.name.value == name.value)
    }
}

impl Parts {
    fn into_bundle(self, files: Vec<SourceFile>) -> Bundle {
        let index = self.kinds.iter().enumerate();
        let kind_index = index
            .flat_map(|(index, kind)| kind.sources().into_iter().map(move |source| (source.clone(), index)))
            .collect();
        let hash = hash(&files);
        Bundle {
            mark: RulesMark::new(&hash),
            hash,
            files,
            source_index: self.sources.iter().enumerate().map(|(i, source)| (source.name.clone(), i)).collect(),
            target_index: self.targets.iter().enumerate().map(|(i, target)| (target.name.clone(), i)).collect(),
            kind_index,
            sources: self.sources,
            kinds: self.kinds,
            targets: self.targets,
            guard: self.guard,
            target_guards: self.target_guards,
            examples: self.examples,
        }
    }
}
