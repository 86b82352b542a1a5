//! Logits of `f64`.

use xent::{Backend, CrossEntropy, Matrix, MatrixMut, Request};

#[test]
fn smoke() {
    let x: Vec<f64> = vec![1.0, 2.0, 3.0, 2.0, 1.0, 0.5];
    for backend in Backend::available() {
        let ce = CrossEntropy::builder().backend(backend).build().unwrap();
        let mut g = vec![0.0; 6];
        let (mut losses, mut lse, mut entropies, mut am, mut rk) =
            ([0.0; 2], [0.0; 2], [0.0; 2], [0; 2], [0; 2]);
        let r = Request::new()
            .grad(MatrixMut::new(&mut g, 2, 3).unwrap())
            .losses(&mut losses)
            .lse(&mut lse)
            .entropies(&mut entropies)
            .argmax(&mut am)
            .target_ranks(&mut rk);
        let s = ce.run(Matrix::new(&x, 2, 3).unwrap(), &[1_u8, 0], r).unwrap();
        println!("{backend} {s:?} {g:?} {losses:?} {lse:?} {entropies:?} {am:?} {rk:?}");
        let gap = [0.0, -700.0];
        let mut g = [0.0; 2];
        let l = ce.loss_and_grad(
            Matrix::new(&gap, 1, 2).unwrap(),
            &[0_u8],
            MatrixMut::new(&mut g, 1, 2).unwrap(),
        );
        println!("{l:?} {g:?} {:e}", (-700.0_f64).exp());
    }
}
