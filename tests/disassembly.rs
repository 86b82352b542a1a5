//! What the compiler made of the kernels: their loops are fused multiply-adds on whole registers, and call nothing.
//!
//! A closure between a `#[target_feature]` entry and an intrinsic, or a missing `#[inline(always)]`, turns each
//! intrinsic into a function call. Results stay right and speed drops by a factor of 27, so no other test would notice.
#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use xent::{CrossEntropy, Matrix, MatrixMut};

/// Exponentials take 8 fused multiply-adds; a loop with as many works on logits.
const MULTIPLY_ADDS_OF_EXP: usize = 8;

/// The main loops of the sums take so many at a time, on either instruction set, or several times as many. Where a loop
/// over rows shows no other loop inside, because the compiler put that elsewhere, it has those of a row's ends besides.
const EXPONENTIALS_OF_SUM: usize = 8;

/// Instructions for each exponential of those loops on AVX-512: 34.9 when this was written, of which 14 are the
/// exponential and some 5 look for the maximum of columns to come, and 3% for another compiler's taste. They are counted in
/// release builds, as users have them: with checks of overflow there are more, and not as many in each build (37.5 once).
/// `benches/instructions.rs` counts for AVX2.
const MOST_INSTRUCTIONS: f64 = 35.9;

/// Row loops that there are at least: the sum of exponentials, kept or not, with and without the gaps of label
/// smoothing, and the passes of the gradient.
const LEAST_ROW_LOOPS: usize = 10;

struct Function {
    name: String,
    instructions: Vec<Instruction>,
}

/// The functions of this very program, the kernels among them, whose demangled name has `part`.
fn functions_named(part: &str) -> Vec<Function> {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let object = object::File::parse(&*program).unwrap();
    // By address: identical functions have several names.
    let mut functions = BTreeMap::new();
    for symbol in object.symbols() {
        let Ok(mangled) = symbol.name() else { continue };
        let name = format!("{:#}", rustc_demangle::demangle(mangled));
        if !name.contains(part) || symbol.size() == 0 || symbol.kind() != SymbolKind::Text {
            continue;
        }
        let section = object.section_by_index(symbol.section_index().unwrap()).unwrap();
        let code = section.data_range(symbol.address(), symbol.size()).unwrap().unwrap();
        let decoder = Decoder::with_ip(64, code, symbol.address(), DecoderOptions::NONE);
        functions.insert(symbol.address(), Function { name, instructions: decoder.into_iter().collect() });
    }
    functions.into_values().collect()
}

/// What a call calls, directly or by way of the table that the loader fills.
fn name_of_called(call: &Instruction) -> String {
    if !call.is_ip_rel_memory_operand() {
        return name_at(call.near_branch_target());
    }
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let object = object::File::parse(&*program).unwrap();
    let mut filled = object.dynamic_relocations().unwrap();
    let entry = call.ip_rel_memory_address();
    let relocation = filled.find(|&(at, _)| at == entry).map(|(_, relocation)| relocation);
    relocation.map_or_else(|| format!("[{entry:#x}]"), |relocation| name_at(relocation.addend() as u64))
}

/// Whether a function of this name is where a mistake ends. The compiler may put the call of one between the blocks of a
/// loop that it is no part of.
fn never_returns(name: &str) -> bool {
    name.starts_with("core::panicking::") || name.starts_with("core::slice::index::slice_")
}

/// The function at an address.
fn name_at(address: u64) -> String {
    let functions = functions_named("");
    let function = functions.iter().find(|function| function.instructions[0].ip() == address);
    function.map_or_else(|| format!("{address:#x}"), |function| function.name.clone())
}

/// The bodies of the innermost loops: what lies between a backward jump and its target, with no other such inside.
fn innermost_loops(function: &Function) -> Vec<&[Instruction]> {
    let instructions = &function.instructions;
    let index_of = |address: u64| instructions.binary_search_by_key(&address, Instruction::ip).ok();
    let mut ranges = Vec::new();
    for (end, instruction) in instructions.iter().enumerate() {
        // What is rare stands behind the loops, and jumps back without a condition.
        if instruction.flow_control() == FlowControl::ConditionalBranch
            && let Some(start) = index_of(instruction.near_branch_target())
            && start <= end
        {
            ranges.push((start, end));
        }
    }
    let is_innermost = |&(start, end): &(usize, usize)| {
        !ranges.iter().any(|&(s, e)| start <= s && e <= end && (s, e) != (start, end))
    };
    ranges
        .iter()
        .filter(|range| is_innermost(range))
        .map(|&(start, end)| &instructions[start..=end])
        .collect()
}

fn is_multiply_add(instruction: &Instruction) -> bool {
    let name = format!("{:?}", instruction.mnemonic());
    name.starts_with("Vfm") && name.ends_with("ps")
}

/// Whether it makes a power of 2, the last step of an exponential.
fn is_exponent(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Vpslld
}

fn is_call(instruction: &Instruction) -> bool {
    matches!(instruction.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
        || instruction.mnemonic() == Mnemonic::Call
}

/// Every loop of `module`'s functions that takes exponentials uses `register` and calls nothing.
fn check(module: &str, register: &str) {
    // The kernels must be in this program.
    let logits = [0.5_f32; 300];
    let mut grad = [0.0; 300];
    CrossEntropy::default()
        .loss_and_grad(
            Matrix::new(&logits, 3, 100).unwrap(),
            &[1, 2, 3],
            MatrixMut::new(&mut grad, 3, 100).unwrap(),
        )
        .unwrap();
    let curvature = CrossEntropy::default();
    let curvature = curvature.curvature(Matrix::new(&logits, 3, 100).unwrap(), &[1, 2, 3]).unwrap();
    let direction = Matrix::new(&logits, 3, 100).unwrap();
    curvature.hessian_vector_product(direction, MatrixMut::new(&mut grad, 3, 100).unwrap()).unwrap();

    let functions = functions_named(&format!("x86_64::{module}::run"));
    assert!(!functions.is_empty(), "no function of {module} in this program");
    let intrinsics = functions_named("core_arch");
    let (mut row_loops, mut main_loops, mut most_instructions) = (0, 0, 0.0_f64);
    for function in &functions {
        for instruction in function.instructions.iter().filter(|i| is_call(i)) {
            let called =
                intrinsics.iter().find(|i| i.instructions[0].ip() == instruction.near_branch_target());
            assert!(called.is_none(), "{} is called by {}", called.unwrap().name, function.name);
        }
        for body in innermost_loops(function) {
            let multiply_adds: Vec<_> = body.iter().filter(|i| is_multiply_add(i)).collect();
            if multiply_adds.len() < MULTIPLY_ADDS_OF_EXP {
                continue;
            }
            row_loops += 1;
            let at = format!("the loop at {:#x} of {}", body[0].ip(), function.name);
            for instruction in multiply_adds {
                let used = format!("{:?}", instruction.op0_register()).to_lowercase();
                assert!(used.starts_with(register), "{used} instead of {register} in {at}");
            }
            for call in body.iter().filter(|i| is_call(i)) {
                let name = name_of_called(call);
                assert!(never_returns(&name), "{name} is called in {at}");
            }
            let exponentials = body.iter().filter(|i| is_exponent(i)).count();
            // Of capped logits the sums take hyperbolic tangents as well, which divide.
            let has_tanh = body.iter().any(|i| i.mnemonic() == Mnemonic::Vdivps);
            if exponentials > 0 && exponentials.is_multiple_of(EXPONENTIALS_OF_SUM) && !has_tanh {
                main_loops += 1;
                let each = body.len() as f64 / exponentials as f64;
                most_instructions = most_instructions.max(each);
                let is_counted = module == "avx512" && !cfg!(debug_assertions);
                assert!(
                    !is_counted || each <= MOST_INSTRUCTIONS,
                    "{each} instructions for each exponential in {at}"
                );
            }
        }
    }
    println!(
        "{module}: {} functions, {row_loops} row loops on {register}, none with a call",
        functions.len()
    );
    println!(
        "{module}: at most {most_instructions:.1} instructions for each exponential in {main_loops} sums"
    );
    assert!(main_loops > 0, "no loop of {module} sums up exponentials");
    assert!(row_loops >= LEAST_ROW_LOOPS, "{module} has only {row_loops} loops of multiply-adds");
}

#[test]
fn row_loops_of_avx512_are_zmm_multiply_adds_without_calls() {
    check("avx512", "zmm");
}

#[test]
fn row_loops_of_avx2_are_ymm_multiply_adds_without_calls() {
    check("avx2", "ymm");
}
