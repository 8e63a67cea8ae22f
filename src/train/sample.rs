//! Generates text, token by token.

use std::ops::ControlFlow;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::base::{Error, Result};
use crate::engine::Trainer;

/// Draws tokens from logits.
#[derive(Clone, Debug)]
pub struct Sampler {
    temperature: f64,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// Creates a sampler. The temperature must be at least 0; 0 takes the most likely token. Equal
    /// seeds draw equal tokens.
    pub fn new(temperature: f64, seed: u64) -> Result<Sampler> {
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::argument(format!(
                "the temperature is {temperature}; it must be finite and at least 0"
            )));
        }
        Ok(Sampler { temperature, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// Draws a token with probability softmax(logits / temperature), in f64. Temperature 0 takes
    /// the first of the most likely tokens.
    ///
    /// # Panics
    /// If `logits` is empty.
    pub fn draw(&mut self, logits: &[f32]) -> usize {
        let (first, largest) = logits
            .iter()
            .enumerate()
            .fold(None, |best, (token, &logit)| match best {
                Some((_, most)) if most >= logit => best,
                _ => Some((token, logit)),
            })
            .expect("a model has tokens");
        if self.temperature == 0.0 {
            return first;
        }
        let weight = |&logit: &f32| ((f64::from(logit) - f64::from(largest)) / self.temperature).exp();
        let total: f64 = logits.iter().map(weight).sum();
        let mut rest = self.rng.random::<f64>() * total;
        for (token, logit) in logits.iter().enumerate() {
            rest -= weight(logit);
            if rest < 0.0 {
                return token;
            }
        }
        first
    }
}

/// Continues `prompt` by at most `count` tokens. Calls `emit` with each; `ControlFlow::Break` ends
/// the text. Only tokens below `limit` are drawn. The model sees at most the last T tokens, T being
/// the trainer's sequence length.
pub fn continue_text(
    trainer: &mut Trainer,
    prompt: &[i32],
    count: usize,
    limit: usize,
    sampler: &mut Sampler,
    mut emit: impl FnMut(usize) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let seq_len = trainer.plan().policy.numeric.shape.t;
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let context = &tokens[tokens.len().saturating_sub(seq_len)..];
        let logits = trainer.logits(context)?;
        let token = sampler.draw(&logits[..limit.min(logits.len())]);
        tokens.push(token as i32);
        if emit(token)?.is_break() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_zero_takes_the_first_of_the_largest() {
        let mut sampler = Sampler::new(0.0, 1).unwrap();
        assert_eq!(sampler.draw(&[0.0, 3.0, -1.0, 3.0]), 1);
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0f32, 1.0, f32::NEG_INFINITY, -1.0];
        for temperature in [0.5, 1.0, 2.0] {
            let mut sampler = Sampler::new(temperature, 42).unwrap();
            let mut counts = [0usize; 4];
            const DRAWS: usize = 20_000;
            (0..DRAWS).for_each(|_| counts[sampler.draw(&logits)] += 1);
            let weights = logits.map(|l| (f64::from(l) / temperature).exp());
            let total: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let (p, found) = (weight / total, *count as f64 / DRAWS as f64);
                // Five standard errors.
                let bound = 5.0 * (p * (1.0 - p) / DRAWS as f64).sqrt();
                assert!((found - p).abs() <= bound, "temperature {temperature}: {found}, expected {p}");
            }
        }
    }

    #[test]
    fn tokens_depend_on_the_seed() {
        let draw = |seed| {
            let mut sampler = Sampler::new(1.0, seed).unwrap();
            (0..50).map(|_| sampler.draw(&[0.0; 10])).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert!(Sampler::new(-0.5, 0).is_err() && Sampler::new(f64::NAN, 0).is_err());
    }
}
