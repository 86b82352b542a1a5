//! Builds the library as users get it, and programs with it in C and C++; runs them plain, under valgrind and under
//! AddressSanitizer.
//!
//! gcc and g++ must be there. Without valgrind, pkg-config or CMake, what needs them is not tested, and the output says
//! so.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

const C: [&str; 7] = ["gcc", "-Wall", "-Wextra", "-Werror", "-pedantic", "-std=c11", "-g"];
const CPP: [&str; 6] = ["g++", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g"];
/// What a program with the static library is linked with as well.
const SYSTEM_LIBRARIES: [&str; 4] = ["-lpthread", "-ldl", "-lm", "-lgcc_s"];
/// It knows no AVX-512: the library finds AVX2 under it.
const VALGRIND: [&str; 6] = [
    "valgrind",
    "--quiet",
    "--error-exitcode=99",
    "--leak-check=full",
    "--show-leak-kinds=definite",
    "--errors-for-leak-kinds=definite",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where the libraries are, of the profile that this test has.
fn libraries() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // <target>/<profile>/deps/<this test>
        let test = env::current_exe().expect("the test has a path");
        let profile = test.ancestors().nth(2).expect("the test lies in its profile's directory");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--locked", "-p", "xent-c", "--lib"]).current_dir(root());
        // With a test, dependencies have the features that they have for tests, and are not compiled once more.
        cargo.args(["--test", "header", "--target-dir"]);
        cargo.arg(profile.parent().expect("the profile lies in the target directory"));
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        run(&mut cargo);
        profile.to_owned()
    })
}

/// An empty directory for one test.
fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("xent-c-{name}"));
    // It may not exist yet.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("the target directory can be written");
    directory
}

/// What it wrote to its standard output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not run: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed, {}:\n{out}\n{err}", output.status);
    // Programs say here what they did not test.
    for line in err.lines().filter(|line| line.contains("NOT tested")) {
        say(line);
    }
    out.into_owned()
}

/// Past the capture of the test's output, which nobody sees when it passes.
fn say(line: &str) {
    writeln!(io::stderr(), "{line}").expect("the standard error can be written");
}

/// Whether a tool that may be missing is there.
fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        say(&format!("{tool} is missing: what needs it is NOT tested"));
    }
    there
}

/// A program with the static library.
fn build(compiler: &[&str], source: &str, flags: &[&str], to: &Path) {
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).args(flags).arg("-I").arg(root().join("include")).arg(root().join(source));
    command.arg(libraries().join("libxent_c.a")).args(SYSTEM_LIBRARIES).arg("-o").arg(to);
    run(&mut command);
}

fn valgrind(program: &Path) -> Command {
    let mut command = Command::new(VALGRIND[0]);
    command.args(&VALGRIND[1..]).arg(program);
    command
}

/// Plain, under valgrind, and again with the program's own code under AddressSanitizer.
fn check(compiler: &[&str], name: &str, source: &str) {
    let directory = directory(name);
    let passed = |output: String| assert!(output.contains("passed"), "{output}");
    let program = directory.join(name);
    build(compiler, source, &["-O1"], &program);
    passed(run(&mut Command::new(&program)));
    if has(VALGRIND[0]) {
        passed(run(&mut valgrind(&program)));
    }
    let sanitized = directory.join("sanitized");
    build(compiler, source, &["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover"], &sanitized);
    // What leaks, valgrind finds: the sanitizer needs a right to trace for it that containers lack.
    passed(run(Command::new(&sanitized).env("ASAN_OPTIONS", "detect_leaks=0")));
}

#[test]
fn c_calls_compute_what_the_reference_does() {
    check(&C, "results", "tests/c/results.c");
}

#[test]
fn c_errors_are_typed_and_write_nothing() {
    check(&C, "errors", "tests/c/errors.c");
}

#[test]
fn the_cpp_17_wrapper_has_all_calls() {
    check(&[&CPP[..], &["-std=c++17"]].concat(), "wrapper", "tests/cpp/wrapper.cpp");
}

#[test]
fn the_cpp_wrapper_takes_spans_of_cpp_20() {
    let program = directory("wrapper_20").join("wrapper");
    build(&[&CPP[..], &["-std=c++20"]].concat(), "tests/cpp/wrapper.cpp", &[], &program);
    run(&mut Command::new(&program));
}

#[test]
fn a_c_program_learns_the_digits() {
    let directory = directory("train");
    let program = directory.join("train_digits");
    build(&C, "examples/train_digits.c", &["-O2"], &program);
    let digits = directory.join("digits.csv");
    let mut gzip = Command::new("gzip");
    let file = root().join("../../examples/data/digits.csv.gz");
    fs::write(&digits, run(gzip.arg("-dc").arg(file))).expect("the target directory can be written");
    let input = || fs::File::open(&digits).expect("it has just been written");

    // It fails below the accuracy that it requires.
    let output = run(Command::new(&program).stdin(input()));
    say(output.lines().last().unwrap_or_default());
    assert_eq!(output, run(Command::new(&program).stdin(input())), "two runs are the same");
    if has(VALGRIND[0]) {
        let first_epoch = run(valgrind(&program).arg("1").stdin(input()));
        let same = output.lines().zip(first_epoch.lines()).take(3).all(|(plain, other)| plain == other);
        assert!(same, "with AVX2 the bits are the same:\n{output}\n{first_epoch}");
    }
}

/// The first block of code in a language in the README.
fn from_readme(language: &str) -> String {
    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README");
    let block = readme.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
    block.expect("the README has such a block").to_owned()
}

#[test]
fn the_programs_in_the_readme_run() {
    let directory = directory("readme");
    let (c, cpp) = (directory.join("readme.c"), directory.join("readme.cpp"));
    fs::write(&c, from_readme("c")).expect("the target directory can be written");
    let (include, body) = {
        let whole = from_readme("cpp");
        let (include, body) = whole.split_once('\n').expect("it has several lines");
        (include.to_owned(), body.to_owned())
    };
    let main =
        format!("{include}\n#include <cstdio>\nint main() {{{body}std::printf(\"%.4f\\n\", loss); }}\n");
    fs::write(&cpp, main).expect("the target directory can be written");
    let program = directory.join("program");
    build(&C, &c.display().to_string(), &[], &program);
    let loss = run(&mut Command::new(&program));
    build(&[&CPP[..], &["-std=c++17"]].concat(), &cpp.display().to_string(), &[], &program);
    assert_eq!(loss, run(&mut Command::new(&program)));
    // The mean over both rows of 0.9 (-ln p_y) + (0.1 / 3) sum_c (-ln p_c).
    assert_eq!(loss, "0.5277\n");
}

#[test]
fn an_installed_library_is_found() {
    let prefix = directory("installed");
    run(Command::new(root().join("install.sh")).arg(&prefix).arg(libraries()));
    if has("pkg-config") {
        let words = run(Command::new("pkg-config")
            .args(["--cflags", "--libs", "xent"])
            .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")));
        let program = prefix.join("errors");
        let mut command = Command::new(C[0]);
        command.args(&C[1..]).arg(root().join("tests/c/errors.c")).arg("-o").arg(&program);
        run(command.args(words.split_whitespace()).args(["-lm", "-lpthread"]));
        let output = run(Command::new(&program).env("LD_LIBRARY_PATH", prefix.join("lib")));
        assert!(output.contains("passed"));
    }
    if has("cmake") {
        let build = directory("cmake");
        run(Command::new("cmake")
            .arg("-S")
            .arg(root().join("tests/cmake"))
            .arg("-B")
            .arg(&build)
            .arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())));
        run(Command::new("cmake").arg("--build").arg(&build));
        let output = run(Command::new("ctest").current_dir(&build));
        assert!(output.contains("100% tests passed"), "{output}");
    }
}
