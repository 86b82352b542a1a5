//! The committed header is what cbindgen makes of the sources.

use std::path::Path;
use std::{env, fs};

const RENEW: &str = "XENT_RENEW_HEADER=1 cargo test -p xent-c --test header";

#[test]
fn the_header_is_that_of_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("the configuration is valid");
    // Its modules come with it.
    let builder = cbindgen::Builder::new().with_config(config).with_src(root.join("src/lib.rs"));
    let mut header = Vec::new();
    builder.generate().expect("cbindgen understands the sources").write(&mut header);
    let header = String::from_utf8(header).expect("the sources are UTF-8");

    let path = root.join("include/xent.h");
    if env::var_os("XENT_RENEW_HEADER").is_some() {
        fs::write(&path, &header).expect("the header can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == header, "include/xent.h is stale. Renew it with\n    {RENEW}");
}
