//! Proofs of a login, which show another agent that this one has the same login for a registry, without revealing the login.
//!
//! The secret is stretched first (PBKDF2 with HMAC-SHA-256, RFC 8018), since an agent that gets a proof could try passwords with it: each try costs as much CPU time as the stretching costs here, where it is done
//! once per login. Keys are only in memory.

use std::collections::HashMap;
use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA256, derive};
use darter_core::{Digest, DigestHasher};
use parking_lot::Mutex;
use url::Url;

use super::config::Login;

/// The text in every hash, so that these hashes can't be used for anything else.
const CONTEXT: &[u8] = b"darter 2026-11 proof of a login";
/// The number of iterations that OWASP's password storage cheat sheet recommends for PBKDF2 with HMAC-SHA-256. They take some tenths of a second.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).expect("it is not zero");
/// Most logins whose keys are kept. Helpers give new ones every few hours.
const MAX_KEYS: usize = 64;

type ProofKey = [u8; 32];

/// The stretched secrets of the logins for which proofs were made.
#[derive(Default)]
pub(super) struct LoginKeys(Mutex<HashMap<Digest, ProofKey>>);

impl LoginKeys {
    /// The proof for the registry with this base address. Two agents with the same login compute the same proof from the same `about`.
    pub(super) async fn proof(&self, login: &Login, base: &Url, about: [&[u8]; 2]) -> Digest {
        let [kind, user, secret] = match login {
            Login::Password { user, password } => ["password", user, password],
            Login::IdentityToken(token) => ["identity token", "", token],
            Login::RegistryToken(token) => ["registry token", "", token],
        };
        let salt = hash(&[CONTEXT, base.as_str().as_bytes(), kind.as_bytes(), user.as_bytes()]);
        let name = hash(&[salt.value(), secret.as_bytes()]);
        let known = self.0.lock().get(&name).copied();
        let key = match known {
            Some(key) => key,
            None => {
                let secret = secret.to_owned();
                let stretched = tokio::task::spawn_blocking(move || stretch(salt.value(), secret.as_bytes()));
                let key = stretched.await.expect("stretching does not panic");
                let mut keys = self.0.lock();
                if keys.len() >= MAX_KEYS {
                    keys.clear();
                }
                keys.insert(name, key);
                key
            }
        };
        let [first, second] = about;
        hash(&[CONTEXT, &key, first, second])
    }
}

fn stretch(salt: &[u8], secret: &[u8]) -> ProofKey {
    let mut key = ProofKey::default();
    derive(PBKDF2_HMAC_SHA256, ITERATIONS, salt, secret, &mut key);
    key
}

/// The SHA-256 of the parts, each preceded by its length.
fn hash(parts: &[&[u8]]) -> Digest {
    let mut hasher = DigestHasher::sha256();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_login_gives_the_same_proof_to_the_same_two_and_to_nobody_else() {
        let base = Url::parse("https://registry.example.com/").unwrap();
        let login = |password: &str| Login::Password { user: "alice".into(), password: password.into() };
        let (one, other) = (LoginKeys::default(), LoginKeys::default());
        let proof = one.proof(&login("sesame"), &base, [b"a", b"b"]).await;
        assert_eq!(other.proof(&login("sesame"), &base, [b"a", b"b"]).await, proof);
        assert_ne!(other.proof(&login("sesame"), &base, [b"b", b"a"]).await, proof);
        assert_ne!(other.proof(&login("sesam"), &base, [b"a", b"b"]).await, proof);
        let elsewhere = Url::parse("https://registry.example.org/").unwrap();
        assert_ne!(one.proof(&login("sesame"), &elsewhere, [b"a", b"b"]).await, proof);
        assert_ne!(one.proof(&Login::IdentityToken("sesame".into()), &base, [b"a", b"b"]).await, proof);
        assert_eq!((one.0.lock().len(), other.0.lock().len()), (3, 2), "a login is stretched once");
    }
}
