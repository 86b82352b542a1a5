//! `docs/unsafe.md` lists every `unsafe` block of the source.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Functions, and how many times `unsafe` stands in each.
type Functions = BTreeMap<String, usize>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The words of code, without comments. No string of the source has any of the words that matter here.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn unsafe_functions(source: &str) -> Functions {
    let mut functions = Functions::new();
    let mut function = String::new();
    for line in source.lines() {
        let mut previous = "";
        for word in words(line) {
            if previous == "fn" {
                function = word.to_owned();
            }
            if word == "unsafe" {
                *functions.entry(function.clone()).or_default() += 1;
            }
            previous = word;
        }
    }
    functions
}

/// What the page says: for each file a number, and the functions of its table.
fn page() -> BTreeMap<String, (usize, Vec<String>)> {
    let page = fs::read_to_string(root().join("docs/unsafe.md")).expect("there is such a page");
    let mut files: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    let mut file = String::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## `") {
            let (path, count) = heading.split_once("` (").expect("a path and a number");
            let count = count.trim_end_matches(')').parse().expect("a number");
            file = path.to_owned();
            files.insert(file.clone(), (count, Vec::new()));
        } else if let Some(row) = line.strip_prefix("| `") {
            let functions = row.split(" | ").next().unwrap_or_default();
            let names = functions.split(", ").map(|name| name.trim_matches('`').to_owned());
            files.get_mut(&file).expect("a table belongs to a file").1.extend(names);
        }
    }
    files
}

#[test]
fn the_page_lists_every_unsafe_block() {
    let mut paths = Vec::new();
    source_files(&root().join("src"), &mut paths);
    assert!(paths.len() > 50, "the source is somewhere else");
    let mut page = page();
    for path in paths {
        let functions = unsafe_functions(&fs::read_to_string(&path).expect("the file can be read"));
        let name =
            path.strip_prefix(root()).expect("it is here").to_str().expect("a name").replace('\\', "/");
        let (count, mut listed) = page.remove(&name).unwrap_or_default();
        listed.sort_unstable();
        let found: Vec<String> = functions.keys().cloned().collect();
        assert_eq!(listed, found, "functions of {name} with `unsafe`: docs/unsafe.md and the source");
        assert_eq!(count, functions.values().sum(), "`unsafe` in {name}: docs/unsafe.md and the source");
    }
    assert!(page.is_empty(), "docs/unsafe.md lists files that are not there: {page:?}");
}

#[test]
fn unsafe_is_counted_in_code_and_not_in_comments() {
    let source =
        "fn a() {\n    // unsafe\n    unsafe { b() }\n}\nunsafe fn c() {} fn d() { unsafe {} unsafe {} }";
    let found = unsafe_functions(source);
    assert_eq!(found, [("a".to_owned(), 2), ("d".to_owned(), 2)].into());
    assert_eq!(unsafe_functions("#![allow(unsafe_code)] // SAFETY: unsafe"), Functions::new());
}
